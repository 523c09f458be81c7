"""Both directions of a model as one picture."""

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS

from mmseg_semflow.apis import SemFlowInferencer, gallery
from mmseg_semflow.pixels import paint
from mmseg_semflow.synthesis import image_and_labels


def test_what_the_gallery_shows(shared_files, monkeypatch):
    inferencer = SemFlowInferencer(*shared_files, channel_order='rgb')
    dataset = DATASETS.build(inferencer.model.cfg.test_dataloader.dataset)
    shown = {}
    monkeypatch.setattr(
        gallery, 'to_gallery', lambda rows, legend: shown.update(rows))
    gallery.make_gallery(inferencer, dataset, [2, 0], num_samples=2, seed=3)
    assert [*shown] == [
        'image', 'truth', 'prediction', 'truth to image 1', 'truth to image 2']
    for column, index in enumerate((2, 0)):
        image, labels = image_and_labels(dataset[index])
        image = image.permute(1, 2, 0).numpy()
        expected = [
            image,
            paint(labels, inferencer.palette).numpy(),
            paint(inferencer.segment(image, return_datasamples=True).pred_sem_seg
                  .data[0], inferencer.palette).numpy(),
            *inferencer.synthesize(labels.numpy(), num_samples=2, seed=3)
        ]
        for row, picture in zip(shown.values(), expected, strict=True):
            np.testing.assert_array_equal(row[column], picture)


def test_the_gallery_of_the_tool(run_tool, tmp_path):
    out = tmp_path / 'new/gallery.png'
    said = run_tool('gallery.py', '--images', 1, 0, 2, '--out', out)
    assert f'wrote {out}' in said
    assert cv2.imread(str(out)).shape[1] > 3 * 32
    said = run_tool('gallery.py', '--images', 9, '--out', tmp_path / 'no.png',
                    fails=True)
    assert 'indices must be in [0, ' in said and 'but got 9' in said
    assert not (tmp_path / 'no.png').exists()


@pytest.mark.parametrize('num_samples', [0, -1])
def test_a_gallery_of_no_samples(run_tool, tmp_path, num_samples):
    said = run_tool('gallery.py', '--num-samples', num_samples, '--out',
                    tmp_path / 'no.png', fails=True)
    assert f'but got {num_samples}' in said
