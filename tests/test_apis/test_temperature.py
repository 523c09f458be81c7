"""The temperature of a segmentor, from its test data."""

import json

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_semflow.apis import load_model
from mmseg_semflow.apis.calibration import TemperatureFit, fit_temperature
from mmseg_semflow.evaluation.calibration import count_bins


def test_the_fit_is_that_of_all_pixels_and_measured_on_others(shared_files):
    model = load_model(*shared_files, device='cpu')
    model.test_cfg.temperature = 9.  # of an earlier fit
    fit = TemperatureFit(model)
    assert model.test_cfg.temperature == 9
    model.test_cfg.temperature = 1.
    cfg = Config.fromfile(shared_files[0])
    loader = Runner.build_dataloader(cfg.test_dataloader)
    parts = []
    for data in loader:
        found, = model.test_step(data)
        labels = found.gt_sem_seg.data[0].long()
        valid = labels != 255
        parts.append((found.seg_logits.data[:, valid].T, labels[valid]))
    logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    torch.testing.assert_close(fit.bins['before'], count_bins(logits, labels))
    assert fit.temperature == pytest.approx(fit_temperature(logits, labels), rel=1e-3)
    after = 0
    for half in (0, 1):
        other = fit_temperature(*(
            torch.cat(part) for part in zip(*parts[1 - half::2], strict=True)))
        after = after + sum(
            count_bins(logits / other, labels) for logits, labels in parts[half::2])
    torch.testing.assert_close(fit.bins['after'], after)


def test_the_tool_and_the_metric_tell_the_same(shared_files, run_tool, tmp_path):
    said = run_tool('calibrate.py', '--out', tmp_path / 'out')
    found = json.loads((tmp_path / 'out/calibration.json').read_text())
    assert f'model.test_cfg.temperature={found["temperature"]:.3f}' in said
    assert cv2.imread(str(tmp_path / 'out/calibration.png')) is not None
    cfg = Config.fromfile(shared_files[0])
    cfg.work_dir, cfg.load_from = str(tmp_path), shared_files[1]
    cfg.test_evaluator = [dict(type='IoUMetric'), dict(type='CalibrationError')]
    metrics = Runner.from_cfg(cfg).test()
    before = found['figures']['before']
    assert {key: metrics[key] for key in before} == pytest.approx(before, abs=0.01)


@pytest.mark.parametrize('args, reason', [
    (['--num-images', 1], 'num_images must be >= 2, but got 1'),
    (['--num-pixels', 0], 'num_pixels must be >= 1, but got 0'),
])
def test_too_little_to_fit(run_tool, args, reason):
    assert reason in run_tool('calibrate.py', *args, fails=True)
