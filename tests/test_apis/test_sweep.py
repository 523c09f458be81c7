"""Tables, plots and pictures by number of steps."""

import csv
import io

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from mmseg_semflow.apis import SemFlowInferencer, load_model
from mmseg_semflow.apis.sweep import StepSweep, to_plot
from mmseg_semflow.apis.tables import to_csv, to_markdown
from tiny import process_cfg, runner_cfg, save_checkpoint, segmentor_cfg


def test_sweep_equals_the_runner(shared_files, tmp_path):
    sweep = StepSweep(load_model(*shared_files, device='cpu'))
    row, = sweep.rows([3], ['heun'])
    assert row['segmentation_nfe'] == row['synthesis_nfe'] == 6
    cfg = Config.fromfile(shared_files[0])
    cfg.work_dir = str(tmp_path)
    cfg.load_from = shared_files[1]
    cfg.model.test_cfg = dict(num_steps=3, solver='heun')
    expected = Runner.from_cfg(cfg).test()['mIoU']
    assert row['mIoU'] == pytest.approx(expected, abs=0.01)


def test_tool_writes_what_it_says(shared_files, run_tool, tmp_path):
    said = run_tool('sweep_steps.py', '--steps', 2, '--num-images', 1,
                    '--num-samples', 3, '--out', tmp_path / 'out')
    sweep = StepSweep(
        load_model(*shared_files, device='cpu'), num_images=1,
        synthesis=dict(num_samples=3))
    with open(tmp_path / 'out/sweep.csv') as file:
        found = list(csv.DictReader(file))
    for row, expected in zip(found, sweep.rows([2], ['euler']), strict=True):
        assert row['solver'] == 'euler' and row['synthesis_nfe'] == '2.0'
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            if not key.endswith('_seconds'):
                assert row[key] == str(value), key
    assert (tmp_path / 'out/sweep.md').read_text() in said
    assert cv2.imread(str(tmp_path / 'out/sweep.png')) is not None


def test_figures_that_want_more_of_a_synthesis(run_tool, tmp_path):
    pytest.importorskip('torchmetrics')
    run_tool('sweep_steps.py', '--steps', 1, '--num-images', 1, '--metrics',
             'NoiseGain', 'RoundTrip', '--out', tmp_path / 'out')
    with open(tmp_path / 'out/sweep.csv') as file:
        row, = csv.DictReader(file)
    assert float(row['noise_gain']) > 0 and float(row['round_trip_PSNR']) > 0


def test_an_adaptive_solver_has_one_row(shared_files):
    sweep = StepSweep(load_model(*shared_files, device='cpu'), num_images=1)
    nn.init.zeros_(sweep.model.semflow.network.unet.conv_out.weight)
    rows = list(sweep.rows([1, 5], ['dopri5']))
    assert [row['num_steps'] for row in rows] == ['-']
    assert rows[0]['segmentation_nfe'] >= 7


def test_only_segmentors_of_both_directions_are_swept(street, tmp_path):
    other = nn.Module()
    other.cfg = Config(dict(model=dict(type='SemFlowGenerator')))
    with pytest.raises(ValueError, match="the config must have model.type='SemF"):
        StepSweep(other)
    of_process = process_cfg('dsm')
    save_checkpoint(tmp_path / 'model.pth', **of_process)
    cfg = runner_cfg(street, tmp_path, model=segmentor_cfg(**of_process))
    model = load_model(cfg, tmp_path / 'model.pth', 'cpu')
    with pytest.raises(ValueError, match='image_to_mask alone, but StepSweep'):
        StepSweep(model)


@pytest.mark.parametrize('args, message', [
    (('--steps', 0), 'num_steps must be an integer >= 1, but got 0'),
    (('--solvers', 'rk9'), 'solver must be one of'),
    (('--num-images', 0), 'num_images must be >= 1, but got 0'),
    (('--num-samples', 1), 'at least 2 samples per mask'),
    (('--metrics', 'Beauty'), 'Beauty is not in the'),
])
def test_wrong_arguments_of_the_sweep(run_tool, tmp_path, args, message):
    said = run_tool(
        'sweep_steps.py', '--out', tmp_path / 'out', '--steps', 1, *args,
        fails=True)
    assert message in said
    assert not (tmp_path / 'out').exists()


def test_plots_wrap_into_rows_of_four():
    """All plots of a row are as large as one alone."""
    def size(*names):
        metrics = {name: 1. for name in names}
        rows = [dict(solver='euler', num_steps=n, mIoU=n, segmentation_nfe=n,
                     segmentation_seconds=1., **metrics, synthesis_nfe=n,
                     synthesis_seconds=1.) for n in (1, 2)]
        with Image.open(io.BytesIO(to_plot(rows))) as plot:
            return plot.size

    assert size() == (320, 300)
    assert size(*'abc') == (4 * 320, 300)
    assert size(*'abcdefg') == (4 * 320, 2 * 300)


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
        assert strip.shape[1:] == (8 * 32, 3)
        np.testing.assert_array_equal(strip[:24, :32], frames[0])
        np.testing.assert_array_equal(strip[:24, -32:], frames[-1])
        with Image.open(tmp_path / f'out/{name}.gif') as animation:
            assert animation.n_frames == 11
    # Images begin at t = 0, masks at t = 1.
    captions = [cv2.imread(str(tmp_path / f'out/{name}.png'))[24:]
                for name in ('0_from_image', '1_from_mask')]
    np.testing.assert_array_equal(captions[0][:, :32], captions[1][:, -32:])
    assert (captions[0][:, :32] != captions[1][:, :32]).any()


def test_trajectory_of_nothing(run_tool):
    said = run_tool('visualize_trajectory.py', fails=True)
    assert 'give --image, --mask or both' in said
