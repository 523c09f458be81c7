"""Tables and pictures by number of steps."""

import csv

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmseg_semflow.apis import SemFlowInferencer, load_model
from mmseg_semflow.apis.sweep import StepSweep
from mmseg_semflow.apis.tables import to_csv, to_markdown


def test_sweep_equals_the_runner(files, run_tool, tmp_path):
    said = run_tool('sweep_steps.py', '--steps', 1, 3, '--solvers', 'euler',
                    'heun', '--out', tmp_path / 'out')
    with open(tmp_path / 'out/sweep.csv') as file:
        rows = list(csv.DictReader(file))
    assert [(r['solver'], r['num_steps']) for r in rows] == [
        ('euler', '1'), ('euler', '3'), ('heun', '1'), ('heun', '3')]
    for row in rows:
        calls = int(row['num_steps']) * (2 if row['solver'] == 'heun' else 1)
        assert float(row['segmentation_nfe']) == calls
        assert float(row['synthesis_nfe']) == calls
    cfg = Config.fromfile(files[0])
    cfg.work_dir = str(tmp_path / 'runner')
    cfg.load_from = files[1]
    cfg.model.test_cfg = dict(num_steps=3, solver='heun')
    expected = Runner.from_cfg(cfg).test()['mIoU']
    assert float(rows[3]['mIoU']) == pytest.approx(expected, abs=0.01)
    assert (tmp_path / 'out/sweep.md').read_text() in said
    assert cv2.imread(str(tmp_path / 'out/sweep.png')) is not None


def test_an_adaptive_solver_has_one_row(files):
    sweep = StepSweep(load_model(*files, device='cpu'), num_images=1)
    nn.init.zeros_(sweep.model.semflow.velocity_net.unet.conv_out.weight)
    rows = list(sweep.rows([1, 5], ['dopri5']))
    assert [row['num_steps'] for row in rows] == ['-']
    assert rows[0]['segmentation_nfe'] >= 7


@pytest.mark.parametrize('args, message', [
    (('--steps', 0), 'num_steps must be an integer >= 1, but got 0'),
    (('--solvers', 'rk9'), 'solver must be one of'),
    (('--num-images', 0), 'num_images must be >= 1, but got 0'),
    (('--num-samples', 1), 'at least 2 samples'),
    (('--metrics', 'Beauty'), 'Beauty is not in the'),
])
def test_wrong_arguments_of_the_sweep(run_tool, tmp_path, args, message):
    said = run_tool(
        'sweep_steps.py', '--out', tmp_path / 'out', '--steps', 1, *args,
        fails=True)
    assert message in said
    assert not (tmp_path / 'out').exists()


def test_tables():
    rows = [dict(solver='euler', num_steps=1, mIoU=1 / 3),
            dict(solver='rk4', num_steps=2, FID=12345.678)]
    assert to_markdown(rows) == (
        '| solver | num_steps | mIoU | FID |\n| --- | --- | --- | --- |\n'
        '| euler | 1 | 0.3333 |  |\n| rk4 | 2 |  | 1.235e+04 |\n')
    assert to_csv(rows).splitlines()[1] == f'euler,1,{1 / 3},'


def test_trajectory_of_the_tool(files, run_tool, street, tmp_path):
    image = street / 'img_dir/val/0.jpg'
    mask = street / 'ann_dir/val/1.png'
    said = run_tool('visualize_trajectory.py', '--image', image, '--mask', mask,
                    '--num-steps', 10, '--out', tmp_path / 'out')
    inferencer = SemFlowInferencer(*files, channel_order='rgb')
    for name, frames in dict(
            **{'0_from_image': inferencer.trajectory(image=image, num_steps=10)},
            **{'1_from_mask': inferencer.trajectory(mask=mask, num_steps=10)},
    ).items():
        assert f'{name}.png and' in said
        strip = cv2.imread(str(tmp_path / f'out/{name}.png'))[..., ::-1]
        assert strip.shape == (24, 8 * 32, 3)
        np.testing.assert_array_equal(strip[:, :32], frames[0])
        np.testing.assert_array_equal(strip[:, -32:], frames[-1])
        with Image.open(tmp_path / f'out/{name}.gif') as animation:
            assert animation.n_frames == 11


def test_trajectory_of_nothing(run_tool):
    said = run_tool('visualize_trajectory.py', fails=True)
    assert 'give --image, --mask or both' in said
