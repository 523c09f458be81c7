"""Every part of the GPU's report, rehearsed with tiny sizes on the device here."""

import json
import math
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from shipped import load, shrink
from torch import nn

import layouts
from mmseg_semflow.benchmark import measure, parts
from mmseg_semflow.benchmark.parts import PARTS, REHEARSAL, largest_that_fits
from mmseg_semflow.benchmark.report import PartResults
from mmseg_semflow.networks import TinyAutoencoder

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools/gpu_report.py'


@pytest.fixture
def quick(monkeypatch):
    """What has tests of its own and takes long: FLOPs, peaks, compilers."""
    compiled = []
    monkeypatch.setattr(
        measure, 'count_flops',
        lambda *_: dict(encode=2, network=3, training=9, decode=1))
    monkeypatch.setattr(measure, 'matmul_peak', lambda _: 1e3)
    monkeypatch.setattr(
        parts, 'estimate_training_memory', lambda *_, **__: dict(total=2**20))
    monkeypatch.setattr(
        nn.Module, 'compile', lambda self, **kwargs: compiled.append(kwargs))
    return compiled


def rehearse(name, out, sizes=REHEARSAL, root=ROOT):
    """Run a part; all its cases must have worked, and all figures be numbers."""
    part, = (part for part in PARTS if part.name == name)
    results = PartResults(out, name)
    part.run(results, sizes, root)
    assert not results.failures, results.found
    figures = [
        value for case in results.found['cases'].values()
        for rows in case['tables'].values() for row in rows
        for value in row.values() if isinstance(value, (int, float))
    ]
    assert figures and all(map(math.isfinite, figures))
    # As the command reads them.
    assert PartResults(out, name).found == json.loads(json.dumps(results.found))
    return results


def column(results, table, key):
    return [row[key] for row in results.rows(table)]


def test_the_parts_of_the_command_are_these_in_order_of_worth():
    names = [part.name for part in PARTS]
    assert names == ['tests', 'step', 'released', 'inference', 'memory', 'pipeline',
                     'camvid']
    assert runpy.run_path(str(TOOL))['PARTS'] == tuple(names)
    page = (ROOT / 'docs/performance.md').read_text()
    rows = re.findall(r'^\| \d \| `(\w+)` \| (\d+) \|', page, re.MULTILINE)
    assert rows == [(part.name, str(part.seconds)) for part in PARTS]


def test_step(tmp_path, quick, monkeypatch):
    names = ('recipe', 'compiled, channels_last, fused AdamW')
    monkeypatch.setattr(
        parts, 'STEP_OPTIONS', {name: parts.STEP_OPTIONS[name] for name in names})
    built = []
    train = parts.Benchmark._train
    monkeypatch.setattr(
        parts.Benchmark, '_train', staticmethod(
            lambda model, wrapper, loss:
            (built.append((model, wrapper)), train(model, wrapper, loss))))
    results = rehearse('step', tmp_path)
    assert len(quick) == 1
    (first, plain), (last, fused) = built[0], built[-1]
    unets = [model.semflow.network.unet for model in (first, last)]
    assert [unet.is_gradient_checkpointing for unet in unets] == [True, False]
    assert [unet.conv_in.weight.is_contiguous() for unet in unets] == [True, False]
    assert [w.optimizer.defaults['fused'] for w in (plain, fused)] == [None, True]
    reached = results.rows('reached')
    assert [(row['case'], row['asked']) for row in reached] == [
        (name, asked) for name in names for asked in (2., 0.45)]
    for case in names:
        ratios = {row['what']: row['ratio'] for row in results.rows('ratios')
                  if row['case'] == case}
        of_unet = sum(row['seconds'] for row in results.rows('profile')
                      if row['case'] == case and row['part'] in ('forward', 'backward'))
        found = [row['found'] for row in reached if row['case'] == case]
        assert found == pytest.approx([
            ratios['rate: step from cached latents / plain step'],
            2 * 9 / of_unet / 1e3])
    assert set(column(results, 'conditions', 'size')) == {'16x16'}


def test_released(tmp_path, quick):
    results = rehearse('released', tmp_path)
    assert column(results, 'steps', 'what') == [
        'released step', 'step', 'step from cached latents'] * 2
    assert column(results, 'reached', 'what') == [
        'rate: step / released step',
        'rate: step from cached latents / released step'] * 2


def test_inference(tmp_path, quick):
    results = rehearse('inference', tmp_path)
    assert quick == [dict(mode='reduce-overhead'), {}]
    found = [(row['case'], row['num_steps'], row['batch_size'])
             for row in results.rows('inference')]
    assert found == [
        (case, n, batch) for case, batches in {
            'bfloat16': (1, 2),
            'bfloat16, CUDA graphs': (1, ),
            'bfloat16, compiled': (1, ),
            'bfloat16, channels_last': (1, 2),
            'float32': (1, )
        }.items() for batch in batches for n in (1, 2)
    ]
    assert column(results, 'synthesis', 'batch_size') == [1, 2] * 4


def test_memory(tmp_path, quick, monkeypatch):
    tried = []
    train_batch = parts.Benchmark.train_batch

    def train(bench, count):
        tried.append(count)
        if count > 2:
            raise torch.OutOfMemoryError
        train_batch(bench, count)

    monkeypatch.setattr(parts.Benchmark, 'train_batch', train)
    results = rehearse('memory', tmp_path)
    steps = results.rows('steps')
    assert [(row['case'], row['batch_size']) for row in steps] == [
        ('recipe', 2), ('no checkpointing', 1)]
    for row in steps:
        assert row['images_per_second'] == pytest.approx(
            row['batch_size'] / row['seconds'])
        assert row['measured_over_estimated'] == pytest.approx(
            row['memory_GiB'] / row['estimated_GiB'])
    assert tried[-2:] == [2, 3]
    assert column(results, 'largest', 'found')[0] == 2


@pytest.mark.parametrize('start', [1, 7, 32])
def test_the_largest_that_fits(start):
    for limit in range(34):
        tried = []

        def fits(number, limit=limit, tried=tried):
            tried.append(number)
            return number <= limit

        assert largest_that_fits(fits, start, 32) == min(limit, 32)
        assert len(set(tried)) == len(tried) and tried[0] == start


def test_pipeline(tmp_path, quick):
    step = PartResults(tmp_path, 'step')
    step.measure('recipe', lambda: dict(steps=[
        dict(what='plain step', images_per_second=1.),
        dict(what='step', images_per_second=1e6)]))
    results = rehearse('pipeline', tmp_path)
    cases = [f'{name}, {how}' for name in (parts.CITYSCAPES, parts.FACES)
             for how in ('recipe', 'opencv')]
    assert [row['case'] for row in results.rows('pipeline')
            if row['transform'] == 'all'] == cases
    assert column(results, 'loader', 'num_workers') == [0] * 4
    milliseconds = {row['decoder']: row.get('milliseconds')
                    for row in results.rows('decoders')}
    assert milliseconds['cv2'] > 0 and milliseconds['pillow'] > 0
    asked = results.rows('num_workers')
    assert [(row['recipe'], row['resize']) for row in asked] == [
        (parts.FACES, 'recipe'), (parts.FACES, 'opencv')]
    for row in asked:
        assert row['num_workers'] == math.ceil(
            1e6 / row['made_per_second_and_core'])


def test_tests(tmp_path):
    """Each is a case; what has passed is not run again."""
    (tmp_path / 'tests').mkdir()
    (tmp_path / 'pyproject.toml').write_text(
        '[tool.pytest.ini_options]\nmarkers = ["cuda"]\n')
    path = tmp_path / 'tests/test_cuda.py'
    path.write_text('''
import pytest
pytestmark = pytest.mark.cuda
def test_good(): open("runs", "a").write("x")
def test_bad(): assert False, "too far"
@pytest.mark.skip(reason="no device")
def test_skipped(): pass
''')
    results = PartResults(tmp_path, 'tests')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.delitem(sys.modules, 'test_cuda', raising=False)
        parts.run_tests(results, REHEARSAL, tmp_path)
        assert results.failures == ['test_bad']
        assert 'too far' in results.found['cases']['test_bad']['error']
        assert [(row['case'], row['outcome'], row.get('why'))
                for row in results.rows('tests')] == [
                    ('test_good', 'passed', None),
                    ('test_skipped', 'skipped', 'Skipped: no device')]
        parts.run_tests(PartResults(tmp_path, 'tests'), REHEARSAL, tmp_path)
        sys.modules.pop('test_cuda', None)
    assert (tmp_path / 'runs').read_text() == 'x'


def test_a_recipe_ends_after_another_number_of_iterations():
    cfg = load('semflow_camvid_taef2')
    parts.rescale(cfg, 6800)
    assert cfg.train_cfg.max_iters == cfg.train_cfg.val_interval == 6800
    assert [part.end for part in cfg.param_scheduler] == [100, 6800]
    assert cfg.model.semflow.losses[-1].begin == 4722  # 2500 of 3600
    parts.rescale(cfg, 2)
    # A schedule may not end before it begins.
    assert cfg.param_scheduler[-1].end == 101 and cfg.train_cfg.max_iters == 2


def test_camvid(tmp_path, monkeypatch):
    """Both trainings resumed and compared, the tools in this process."""
    pytest.importorskip('efficientnet_lite_pytorch')
    monkeypatch.setattr(layouts, 'SIZES', [(48, 64)])
    layouts.write_camvid(tmp_path / 'camvid')
    monkeypatch.setenv('CAMVID', str(tmp_path / 'camvid'))
    autoencoder = TinyAutoencoder(latent_channels=32, pooled=True)
    for part in ('encoder', 'decoder'):
        torch.save(
            getattr(autoencoder, part).state_dict(), tmp_path / f'taef2_{part}.pth')
    monkeypatch.setattr(parts, 'CAMVID', {
        name: parts.CAMVID[name] for name in ('semflow', 'segformer')})
    read, called = parts._read, []

    def read_small(root, name):
        cfg = shrink(read(root, name))
        cfg.train_dataloader.batch_size = 2
        if 'semflow' in cfg.model:
            cfg.model.semflow.autoencoder.weights = str(tmp_path / 'taef2')
            cfg.custom_hooks.pop()  # SynthesisEvalHook
        return cfg

    monkeypatch.setattr(parts, '_read', read_small)

    def run_tool(root, name, *args):
        called.append((name, *args[1:]))
        args = list(map(str, args))
        if name == 'train.py':
            own = f'gpu{len(called)}'
            args += [
                '--cfg-options', f'experiment_name={own}', f'visualizer.name={own}'
            ]
        with monkeypatch.context() as patch:
            patch.setattr(sys, 'argv', [name, *args])
            runpy.run_path(str(root / 'tools' / name), run_name='__main__')

    monkeypatch.setattr(parts, 'run_tool', run_tool)
    out = tmp_path / 'out'
    results = rehearse('camvid', out)
    assert [call[0] for call in called] == [
        'cache_latents.py', *['train.py'] * 4, 'compare.py']
    # The trial starts anew, the training goes on.
    assert [call[1:] for call in called[1:5]] == [(), ('--resume', )] * 2
    cfg = Config.fromfile(out / 'camvid/semflow.py')
    assert cfg.train_dataloader.dataset.cache == str(out / 'camvid/latents')
    assert column(results, 'training', 'iterations') == [2, 2]
    segmented = results.rows('segmentation')
    assert [(row['method'], row.get('num_steps')) for row in segmented] == [
        *(('semflow', float(n)) for n in (1, 3, 25)), ('segformer', None)]
    assert all('mIoU' in row for row in segmented)
    synthesised = results.rows('synthesis')
    assert [row['num_steps'] for row in synthesised] == [1, 3, 25]
    for row in results.rows('pictures'):
        assert (out / row['file']).is_file()
    # What is there is not trained again.
    rehearse('camvid', out)
    assert len(called) == 6
    # What is gone, as on another machine, is, from latents that are cached again.
    (out / 'camvid/semflow/last_checkpoint').unlink()
    rehearse('camvid', out)
    assert [call[0] for call in called[6:]] == ['cache_latents.py', 'train.py']


def test_longer_trainings_follow_their_pace(tmp_path, monkeypatch):
    """Equal time: as many iterations as fit, by the pace that was seen."""
    written, dtypes = {}, {}

    def run_tool(root, name, path, *args):
        if name == 'train.py':
            cfg = Config.fromfile(path)
            written[Path(path).stem] = cfg.train_cfg.max_iters
            dtypes[Path(path).stem] = cfg.optim_wrapper.get('dtype')
            log = Path(cfg.work_dir) / 'run/vis_data/scalars.json'
            log.parent.mkdir(parents=True, exist_ok=True)
            seconds = 0.1 if 'semflow' in str(path) else 0.05
            lines = [dict(time=9., loss=1.), dict(time=seconds, loss=1.),
                     dict(mIoU=3., time=7.)]
            log.write_text(''.join(json.dumps(line) + '\n' for line in lines))

    monkeypatch.setattr(parts, 'run_tool', run_tool)
    monkeypatch.setattr(parts, '_compare', lambda *_: {})
    # As on a GPU, where the recipes would train in float16.
    monkeypatch.setattr(parts, 'CUDA', True)
    results = PartResults(tmp_path, 'camvid')
    parts.run_camvid(results, replace(REHEARSAL, train_seconds=60.), ROOT)
    assert written == dict(
        semflow_trial=2, semflow=600, segformer_trial=2, segformer=1200,
        maskformer_trial=2, maskformer=1200)
    assert dtypes == {
        name: 'float32' if 'maskformer' in name else 'bfloat16' for name in written}


def test_what_a_tool_says_is_there_at_once(tmp_path, capfd):
    tool = tmp_path / 'tools/fails.py'
    tool.parent.mkdir()
    tool.write_text('print("one", flush=True)\nraise SystemExit("no such thing")\n')
    with pytest.raises(RuntimeError, match=r'fails\.py failed: no such thing'):
        parts.run_tool(tmp_path, 'fails.py')
    assert capfd.readouterr().out == 'one\nno such thing\n'


@pytest.mark.process
def test_the_command_rehearses_goes_on_and_writes_a_page(tmp_path, call_tool):
    out = tmp_path / 'out'
    call = ('gpu_report.py', '--rehearse', '--parts', 'pipeline', '--out', out)
    assert 'pipeline: done' in call_tool(*call)
    page = (out / 'gpu.md').read_text()
    assert 'no figure here means anything' in page
    assert page.count('No figure was measured.') == len(PARTS) - 1
    assert [line[6:] for line in page.splitlines() if line.startswith('## ')] == [
        part.title for part in PARTS]
    written = (out / 'pipeline.json').stat().st_mtime_ns
    call_tool(*call)
    assert (out / 'pipeline.json').stat().st_mtime_ns == written


@pytest.mark.process
def test_the_command_rehearses_what_needs_a_gpu(tmp_path, call_tool):
    """The tests of the device and what memory takes, as they are."""
    said = call_tool('gpu_report.py', '--rehearse', '--parts', 'tests', 'memory',
                     '--out', tmp_path)
    for name in ('tests', 'memory'):
        assert f'"{name}": "done"' in said


def test_the_command_wants_a_gpu_or_a_rehearsal(tmp_path, call_tool, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    said = call_tool('gpu_report.py', '--out', tmp_path, fails=True)
    assert 'there is no GPU here: --rehearse runs all parts' in said
