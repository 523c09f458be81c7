"""What all metrics have in common, and all of them together."""

import json
import multiprocessing
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.registry import METRICS, init_default_scope
from torch import nn

from mmseg_semflow.compat.mmagic import supply_mmagic_names
from mmseg_semflow.evaluation import (
    InceptionDistance,
    MaskConsistency,
    NoiseGain,
    PerceptualDistance,
    RoundTrip,
    SampleDiversity,
)

for package in ('torchmetrics', 'torch_fidelity', 'lpips'):
    pytest.importorskip(package)

CLASSES = ('sky', 'road', 'tree', 'car')
NAMES = [
    'InceptionDistance', 'PerceptualDistance', 'MaskConsistency',
    'SampleDiversity', 'RoundTrip'
]


class Colors(nn.Module):
    """Features of an image: the means of its rows, in each colour."""

    def forward(self, image):
        return (image.double().mean(-1).flatten(1), )


def evaluator(alexnet_file):
    """All metrics; the Inception network is replaced by a quick one."""
    made = Evaluator([
        dict(type=name) if name != 'PerceptualDistance' else dict(
            type=name, weights=alexnet_file) for name in NAMES
    ])
    made.dataset_meta = dict(classes=CLASSES)
    made.metrics[0].network = Colors()
    made.metrics[0].missing = None
    return made


def test_registered_for_both_libraries(hub):
    for name in NAMES:
        assert METRICS.build(dict(type=name)).prefix is None


def test_protocol_and_results(results, alexnet_file, hub, log):
    made = evaluator(alexnet_file)
    state = torch.get_rng_state()
    made.process(results)
    figures = made.evaluate(3)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(figures) == [
        'FID', 'KID', 'KID_std', 'LPIPS', 'LPIPS_diversity', 'round_trip_LPIPS',
        'label_round_trip_LPIPS', 'mask_mIoU', 'mask_aAcc', 'diversity',
        'brightness', 'gt_brightness', 'relative_diversity', 'round_trip_PSNR',
        'label_round_trip_PSNR'
    ]
    lines = log[-5:]
    for name, line in zip(NAMES, lines, strict=True):
        assert line.startswith(
            f'{name}: 3 masks and real images, 2 samples per mask, size 40x48; ')
        assert line.endswith('; euler 25, seed 0')
    assert '(alex.pth)' in lines[1] and 'forward flow' in lines[2]
    assert not any(metric.results for metric in made.metrics)


def test_no_images_are_kept(results, alexnet_file, hub):
    made = evaluator(alexnet_file)
    made.process(results)
    for metric in made.metrics:
        assert len(metric.results) == 3
        for result in metric.results:
            # A picture has 5760 bytes for each of real image and samples.
            assert sum(
                getattr(value, 'nbytes', 8)
                for value in result['measure'].values()) < 8000


def test_building_leaves_random_numbers_alone(alexnet_file):
    state = torch.get_rng_state()
    PerceptualDistance(weights=alexnet_file)
    assert torch.equal(torch.get_rng_state(), state)


def share(rank, path, results, alexnet_file):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{path}/meet', rank=rank, world_size=2)
    made = evaluator(alexnet_file)
    # As DefaultSampler deals out three masks: the first one once more.
    made.process([results[i % 3] for i in (rank, rank + 2)])
    figures = made.evaluate(3)
    (path / f'{rank}.json').write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


@pytest.mark.process
def test_two_processes(results, alexnet_file, hub, tmp_path, monkeypatch):
    single = evaluator(alexnet_file)
    single.process(results)
    monkeypatch.chdir(tmp_path)
    fork = multiprocessing.get_context('fork')
    processes = [
        fork.Process(target=share, args=(rank, tmp_path, results, alexnet_file))
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    expected = single.evaluate(3)
    for rank in range(2):
        assert json.loads((tmp_path / f'{rank}.json').read_text()) == expected


def test_channels_of_other_toolboxes(results, alexnet_file, hub):
    """Results that say BGR, as mmagic's, are measured as those in RGB."""
    figures = []
    for flip in (False, True):
        made = evaluator(alexnet_file)
        made.process([
            sample if not flip else dict(
                sample,
                gt_channel_order='BGR',
                **{key: value.flip(-3) for key, value in sample.items()
                   if key.endswith('img') or key == 'samples'})
            for sample in results
        ])
        figures.append(made.evaluate(3))
    assert figures[0] == figures[1]
    # The channels are not of one kind: unsaid it would make a difference.
    made = PerceptualDistance(weights=alexnet_file)
    made.process(None, [dict(sample, gt_img=sample['gt_img'].flip(0))
                        for sample in results])
    assert made.evaluate(3)['LPIPS'] != figures[0]['LPIPS']


def test_batches_do_not_matter(results, alexnet_file, hub):
    figures = []
    for size in (1, 2):
        made = evaluator(alexnet_file)
        for start in range(0, 3, size):
            made.process(results[start:start + size])
        figures.append(made.evaluate(3))
    assert figures[0] == figures[1]


@pytest.mark.parametrize('type_, name, url', [
    (InceptionDistance, 'weights-inception-2015-12-05-6726825d.pth',
     'https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/'),
    (PerceptualDistance, 'alexnet-owt-7be5be79.pth',
     'https://download.pytorch.org/models/'),
])
def test_missing_weights(results, hub, log, type_, name, url):
    made = Evaluator([type_(), SampleDiversity()])
    made.process(results)
    assert set(made.evaluate(3)) == {
        'diversity', 'brightness', 'gt_brightness', 'relative_diversity'}
    found = [line for line in log if 'left out' in line]
    assert len(found) == 1
    for part in (type_.__name__, str(hub / name), url + name, 'weights='):
        assert part in found[0]


def test_missing_in_another_process(results, hub, log, alexnet_file):
    here = PerceptualDistance(weights=alexnet_file)
    other = PerceptualDistance(weights='nowhere/alexnet.pth')
    for metric, sample in zip((here, other), results, strict=False):
        metric.process(None, [sample])
    log.clear()
    assert here.compute_metrics(here.results + other.results) == {}
    assert 'nowhere/alexnet.pth' in log[0] and len(log) == 1


@pytest.mark.parametrize('type_, package', [
    (InceptionDistance, 'torch_fidelity'), (InceptionDistance, 'torchmetrics'),
    (PerceptualDistance, 'lpips'), (RoundTrip, 'torchmetrics')])
def test_missing_package(results, hub, log, monkeypatch, type_, package):
    monkeypatch.setitem(sys.modules, package, None)
    metric = type_()
    metric.process(None, results)
    assert metric.evaluate(3) == {}
    found = [line for line in log if 'left out' in line]
    assert len(found) == 1 and package in found[0]
    assert "pip install 'mmseg_semflow[metrics]'" in found[0]


def test_download(results, hub, log, monkeypatch, alexnet_file):
    def fetch(url, check_hash, **kwargs):
        assert check_hash and kwargs['weights_only']
        (hub / url.rpartition('/')[2]).write_bytes(Path(alexnet_file).read_bytes())

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', fetch)
    metric = PerceptualDistance(download=True)
    monkeypatch.undo()
    metric.process(None, results)
    given = PerceptualDistance(weights=alexnet_file)
    given.process(None, results)
    assert metric.evaluate(3) == given.evaluate(3)


def test_failed_download(hub, log, monkeypatch):
    def fail(url, **kwargs):
        raise URLError('no network')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', fail)
    assert PerceptualDistance(download=True).network is None
    assert 'no network' in log[-1] and str(hub) in log[-1]


@pytest.mark.parametrize('type_', [InceptionDistance, PerceptualDistance])
@pytest.mark.parametrize('content', [
    b'', b'<html>404</html>', [1], torch.ones(3), dict(other=torch.ones(3)), {
        'features.0.weight': torch.ones(64, 3, 3, 3)
    }
])
def test_wrong_weights(tmp_path, type_, content):
    path = tmp_path / 'wrong.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r'wrong\.pth (must|cannot) be'):
        type_(weights=str(path))


@pytest.mark.parametrize('type_, key, hint', [
    (MaskConsistency, 'sample_label_maps', 'segment_steps=25'),
    (RoundTrip, 'round_trip_img', 'round_trip=True'),
    (RoundTrip, 'label_round_trip_img', 'round_trip=True'),
    (SampleDiversity, 'samples', ''),
    (NoiseGain, 'sample_spread', 'noise_gain=True'),
])
def test_missing_results(results, type_, key, hint):
    results[0].pop(key, None)
    with pytest.raises(ValueError, match=f'{type_.__name__} needs {key}.*{hint}'):
        type_().process(None, results)


@pytest.mark.parametrize('change', [
    lambda image: image.float() / 255, lambda image: image[:, 1:],
])
def test_wrong_images(results, change):
    results[0]['gt_img'] = change(results[0]['gt_img'])
    with pytest.raises(ValueError, match='uint8, but got'):
        SampleDiversity().process(None, results)


def test_unknown_size():
    with pytest.raises(ValueError, match='size must be given'):
        SampleDiversity().evaluate()


def test_under_mmagic(results, alexnet_file, hub, log):
    pytest.importorskip('mmagic')
    supply_mmagic_names()
    from mmagic.registry import EVALUATORS
    from mmagic.structures import DataSample
    init_default_scope('mmagic')
    plain = evaluator(alexnet_file)
    plain.process(results)
    made = EVALUATORS.build(
        dict(type='Evaluator', metrics=[*plain.metrics[1:], dict(type='PSNR')]))
    made.dataset_meta = dict(classes=CLASSES)
    expected = plain.evaluate(3)
    model = nn.Module()
    model.data_preprocessor = nn.Identity()
    loader = torch.utils.data.DataLoader(range(3))
    made.prepare_metrics(model, loader)
    [(metrics, sampler)] = made.prepare_samplers(model, loader)
    assert sampler is loader and len(metrics) == 5
    log.clear()
    for fields in results:
        protocol = fields.pop('protocol')
        fields = {
            key: value if 'label_map' in key else value.flip(-3)
            for key, value in fields.items()
        }
        made.process([
            DataSample(
                **fields,
                output=DataSample(pred_img=fields['fake_img']),
                metainfo=dict(protocol=protocol, gt_channel_order='BGR'))
        ], None, metrics)
    figures = made.evaluate()
    psnr = figures.pop('PSNR')
    assert figures == {
        key: value
        for key, value in expected.items() if key[:3] not in ('FID', 'KID')
    }
    assert 5 < psnr < 12  # of noise
    assert all(line.endswith(protocol) for line in log[-4:])
