"""The command line tools, as a user calls them, on a small toy street."""

import argparse
import gc
import io
import itertools
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.config import config as dumping
from mmengine.registry import OPTIM_WRAPPERS

import _startup
from _options import add_cfg_options, read_config
from mmseg_semflow.apis import load_model
from mmseg_semflow.apis.costs import estimate_training_memory
from mmseg_semflow.apis.sweep import StepSweep
from mmseg_semflow.safe_loading import load_from_local
from tiny import UNET, VAE, runner_cfg

ROOT = Path(__file__).parents[1]
TOOLS = sorted(
    path.relative_to(ROOT / 'tools').as_posix()
    for path in (ROOT / 'tools').rglob('[!_]*.py'))
PACKAGE = Path(find_spec('mmseg').origin).parent
MMSEG_TOOLS = next(
    (folder for folder in (PACKAGE / '.mim/tools', PACKAGE.parent / 'tools')
     if (folder / 'train.py').is_file()), None)
NUMBERS = itertools.count()

SMALL = '''
_base_ = '{base}'
generate = dict(num_train=8, num_val=5, size=(32, 48), seed=0)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='street', generate=generate))
val_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False,
    dataset=dict(data_root='street', generate=generate))
test_dataloader = val_dataloader
wrappers = _base_.model.semflow.wrappers
wrappers[1].token_channels = 128
model = dict(semflow=dict(wrappers=wrappers, network=dict(unet=dict(
    block_out_channels=(32, 32, 32)))))
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(checkpoint=dict(interval=2))
work_dir = '{work_dir}'
'''
# Three of five images are synthesised: an odd share, and one repeated.
THREE_IMAGES = """
custom_hooks = _base_.custom_hooks
custom_hooks[-1]['num_images'] = 3
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with configs of the toy street with fewer, smaller pictures."""
    folder = tmp_path_factory.mktemp('tools')
    (folder / 'small.py').write_text(
        SMALL.format(base=ROOT / 'configs/semflow_toy.py', work_dir='work'))
    (folder / 'small_generator.py').write_text(
        SMALL.format(
            base=ROOT / 'configs/semflow_generator_toy.py',
            work_dir='work_generator').replace(
                'model = dict(', 'model = dict(test_cfg=dict(num_steps=2), '))
    return folder


def run_here(tool, *args, cwd):
    """Run a tool in this process; return what it prints."""
    with pytest.MonkeyPatch.context() as patch, \
            redirect_stdout(io.StringIO()) as said, redirect_stderr(said):
        patch.chdir(cwd)
        patch.setenv('LOCAL_RANK', '0')
        patch.setattr(sys, 'argv', [tool, *map(str, args)])
        # Of a training this small, laying out the config would take most.
        patch.setattr(dumping, 'FormatCode', lambda text, **kwargs: (text, True))
        runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
    return said.getvalue()


def run_runner(tool, *args, cwd):
    """Run a tool with a runner, whose parts' names are global in a process."""
    name = f'run{next(NUMBERS)}'
    return run_here(
        tool, *args, '--cfg-options', f'experiment_name={name}',
        f'visualizer.name={name}', cwd=cwd)


def call(*command, cwd, fails=False, **env):
    """Run a command in a process of its own; return what it prints."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = dict(
        os.environ,
        PATH=f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        PORT=str(port)) | env
    done = subprocess.run([str(part) for part in command],
                          cwd=cwd, env=env, text=True, timeout=300,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert (done.returncode != 0) == fails, done.stdout[-3000:]
    return done.stdout


def figure(name, output):
    return float(re.findall(rf'\b{name}: ([\d.]+)', output)[-1])


def miou(output):
    return figure('mIoU', output)


PLAIN = ('--amp', '--cfg-options', 'optim_wrapper.type=OptimWrapper')


@pytest.fixture(scope='module')
def trained(folder):
    """What a training of two iterations and its resumption printed."""
    first = run_runner('train.py', 'small.py', *PLAIN, 'train_cfg.max_iters=2',
                       'train_cfg.val_interval=2', cwd=folder)
    return first, run_runner('train.py', 'small.py', '--resume', *PLAIN, cwd=folder)


@pytest.mark.process
def test_help_imports_nothing():
    """``--help`` answers before anything that takes long is imported."""
    code = """
import runpy, sys
for name in ('torch', 'numpy', 'mmengine', 'mmcv', 'mmseg', 'mmseg_semflow'):
    sys.modules[name] = None
for tool in sys.argv[1:]:
    sys.argv = [tool, '--help']
    try:
        runpy.run_path(tool, run_name='__main__')
    except SystemExit as end:
        assert not end.code, (tool, end.code)
"""
    tools = [ROOT / 'tools' / tool for tool in TOOLS]
    said = call(sys.executable, '-c', code, *tools, cwd=ROOT / 'tools')
    assert [line.split()[1] for line in said.splitlines()
            if line.startswith('usage: ')] == [path.name for path in tools]


def options_of(path, monkeypatch):
    """Run a tool up to its parser; return the parser's actions."""
    parsers = []

    def parse_args(parser, *_):
        parsers.append(parser)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse_args)
        with pytest.raises(SystemExit):
            runpy.run_path(str(path), run_name='__main__')
    return parsers[0]._actions


@pytest.mark.parametrize('tool', [
    'train.py', 'test.py', 'dataset_converters/cityscapes.py',
    'dataset_converters/coco_stuff164k.py'])
def test_options_are_those_of_mmseg(tool, monkeypatch):
    # What the converter of Cityscapes imports before it parses.
    for name in ('', '.preparation', '.preparation.json2labelImg'):
        module = ModuleType(f'cityscapesscripts{name}')
        module.json2labelImg = None
        monkeypatch.setitem(sys.modules, module.__name__, module)
    if MMSEG_TOOLS is None:
        pytest.skip('this mmsegmentation came without its tools')
    ours = options_of(ROOT / 'tools' / tool, monkeypatch)
    theirs = options_of(MMSEG_TOOLS / tool, monkeypatch)
    named = {name: action for action in ours for name in action.option_strings}
    positional = iter(a for a in ours if not a.option_strings)
    for action in theirs:
        twins = [named[name] for name in action.option_strings]
        for twin in twins or [next(positional)]:
            for key in ('dest', 'nargs', 'const', 'default', 'choices', 'required'):
                assert getattr(twin, key) == getattr(action, key), (action, key)
            if action.dest != 'cfg_options':  # text until mmengine is imported
                assert (twin.type or str) is (action.type or str), action
    assert next(positional, None) is None


@pytest.mark.parametrize('options', [
    [],
    ['a.b=1', 'a.c=1e-3', 'd=text', 'e=True', 'f=None', 'g=x=y', 'h='],
    ['a=1,2,3', 'b=[a, b]', 'c=(1,2)', "d='[(1,2),(3,4)]'", 'e="0.5"'],
    ['a=1', '--cfg-options', 'a=2', 'b=3'],
])
def test_cfg_options_are_those_of_mmengine(options, tmp_path):
    theirs = argparse.ArgumentParser()
    theirs.add_argument('--cfg-options', nargs='+', action=DictAction)
    ours = argparse.ArgumentParser()
    add_cfg_options(ours)
    options = options and ['--cfg-options', *options]
    (tmp_path / 'config.py').write_text('a = dict(b=0, c=0)\n')
    expected = Config(dict(a=dict(b=0, c=0)))
    expected.merge_from_dict(theirs.parse_args(options).cfg_options or {})
    found = read_config(
        tmp_path / 'config.py', ours.parse_args(options).cfg_options)
    assert found.to_dict() == expected.to_dict()


def test_wrong_cfg_options(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    add_cfg_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(['--cfg-options', 'a'])
    assert "'a' must be KEY=VALUE" in capsys.readouterr().err
    (tmp_path / 'config.py').write_text('a = [0]\n')
    for option, reason in {
            'a.1=0': 'Index 1 exceeds the length', 'a=[(1,2': 'Imbalanced brackets',
            'a.b=0': 'list indices'}.items():
        with pytest.raises(
                ValueError, match=f'--cfg-options .* cannot be .*: .*{reason}'):
            read_config(tmp_path / 'config.py', [option])


def test_threads_sleep_where_others_are_busy(monkeypatch):
    monkeypatch.setattr(_startup, 'GPU_DRIVERS', ())
    monkeypatch.setattr(_startup, 'busy_cores', lambda: 0.1)
    assert _startup.openmp_settings({}) == {}
    monkeypatch.setattr(_startup, 'busy_cores', lambda: 1.)
    assert _startup.openmp_settings({}) == dict(OMP_WAIT_POLICY='PASSIVE')
    for name in _startup.WAITING:
        assert _startup.openmp_settings({name: '7'}) == {}
    assert _startup.openmp_settings(dict(OMP_NUM_THREADS='1')) == {}
    assert _startup.openmp_settings(dict(OMP_NUM_THREADS='2'))


@pytest.mark.skipif(
    not os.path.exists('/proc/stat'), reason='the system has no /proc/stat')
def test_busy_cores_are_counted(monkeypatch):
    """Of two cores one and a half were busy; a wait for a disk is none."""
    lines = iter(['cpu 100 0 100 800 0 0', 'cpu 105 5 105 803 2 0'])
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    monkeypatch.setattr(
        'builtins.open', lambda path: io.StringIO(next(lines) + '\ncpu0 7'))
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    assert _startup.busy_cores() == 1.5


def test_a_gpu_is_left_alone(monkeypatch, tmp_path):
    monkeypatch.setattr(_startup, 'busy_cores', lambda: 1.)
    monkeypatch.setattr(_startup, 'GPU_DRIVERS', (str(tmp_path), ))
    assert _startup.openmp_settings({}) == {}
    assert _startup.openmp_settings(dict(CUDA_VISIBLE_DEVICES='0')) == {}
    hidden = _startup.openmp_settings(dict(CUDA_VISIBLE_DEVICES=''))
    monkeypatch.setattr(_startup, 'GPU_DRIVERS', ())
    assert hidden == _startup.openmp_settings({})


@pytest.mark.parametrize('given, left', [
    ({}, '1'), (dict(NO_ALBUMENTATIONS_UPDATE='0'), '0')])
def test_imports_are_prepared(given, left, monkeypatch):
    """As where nothing is imported yet."""
    monkeypatch.setattr(
        _startup, 'openmp_settings', lambda environ: dict(GOMP_SPINCOUNT='7'))
    before = gc.get_freeze_count()
    with monkeypatch.context() as patch:
        patch.setattr(os, 'environ', dict(given))
        with _startup.imports():  # torch is loaded here: too late
            assert gc.isenabled()
        assert os.environ == given and gc.get_freeze_count() == before
        patch.delitem(sys.modules, 'torch')
        with _startup.imports():
            assert not gc.isenabled()
            assert os.environ == dict(
                NO_ALBUMENTATIONS_UPDATE=left,
                GOMP_SPINCOUNT='7',
                OPENCV_IO_MAX_IMAGE_PIXELS=str(2**28))
        assert gc.isenabled() and gc.get_freeze_count() > before
        gc.unfreeze()


def test_errors_end_in_one_line(monkeypatch, capsys):
    def fail():
        raise error

    def fails(**kwargs):
        with pytest.raises(SystemExit) as end:
            _startup.run(fail, **kwargs)
        return end.value.code

    error = FileNotFoundError(2, 'No such file', 'a.py')
    assert fails() == "error: [Errno 2] No such file: 'a.py'"
    loader = torch.utils.data.DataLoader(Damaged(), num_workers=1)
    with pytest.raises(ValueError) as caught:
        next(iter(loader))
    error = caught.value
    assert 'Traceback' in str(error) and fails() == 'error: a.png: is damaged'
    assert 'Traceback' not in capsys.readouterr().err
    monkeypatch.setenv('SEMFLOW_TRACE', '1')
    assert fails() == 'error: a.png: is damaged'
    assert 'Traceback' in capsys.readouterr().err
    error = KeyError('there is no such metric')
    assert fails(errors=(KeyError, )) == 'error: there is no such metric'
    error = KeyboardInterrupt()
    assert fails(interrupted='go on') == '\ninterrupted: go on'
    error = RuntimeError('a fault of ours')
    with pytest.raises(RuntimeError, match='of ours'):
        _startup.run(fail)


class Damaged:

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError('a.png: is damaged')


def test_amp():
    use_mixed_precision = runpy.run_path(
        str(ROOT / 'tools/train.py'))['use_mixed_precision']
    for wrapper in (dict(type='OptimWrapper'), dict()):
        cfg = Config(dict(optim_wrapper=dict(wrapper, clip_grad=dict(max_norm=1.))))
        use_mixed_precision(cfg)
        assert cfg.optim_wrapper == dict(
            type='AutocastOptimWrapper', loss_scale='dynamic',
            clip_grad=dict(max_norm=1.))
        parameter = torch.nn.Parameter(torch.zeros(1))
        OPTIM_WRAPPERS.build(
            dict(cfg.optim_wrapper, optimizer=torch.optim.SGD([parameter], 0.1)))
    for kind in ('AutocastOptimWrapper', 'AmpOptimWrapper'):
        cfg = Config(dict(optim_wrapper=dict(type=kind, dtype='bfloat16')))
        use_mixed_precision(cfg)
        assert cfg.optim_wrapper == dict(type=kind, dtype='bfloat16')
    for wrapper, kind in ((dict(type='ApexOptimWrapper'), 'ApexOptimWrapper'),
                          (dict(constructor='TwoWrappers'), None)):
        cfg = Config(dict(optim_wrapper=wrapper))
        with pytest.raises(ValueError, match=f'--amp needs .* but got {kind!r}'):
            use_mixed_precision(cfg)


def test_train_and_resume(trained, folder):
    first, resumed = trained
    assert 'resumed' not in first and 'resumed' in resumed
    assert 'Iter(train) [4/4]' in resumed.replace('[   4', '[4')
    assert {p.name for p in (folder / 'work').glob('*.pth')} == {
        'iter_2.pth', 'iter_4.pth'}
    settings = load_from_local(folder / 'work/iter_4.pth')['meta']['settings']
    assert settings['optim_wrapper.type'] == "'AutocastOptimWrapper'"


@pytest.mark.parametrize('content', ['', 'work_flexible/iter_9.pth'])
def test_a_torn_pointer_and_the_flexible_runner(folder, content):
    """It reads ``last_checkpoint`` before any hook can look."""
    flexible = (*PLAIN, 'runner_type=FlexibleRunner', 'work_dir=work_flexible',
                'strategy.type=SingleDeviceStrategy')
    # mmengine's EMAHook cannot resume there.
    (folder / 'flexible.py').write_text("_base_ = './small.py'\ncustom_hooks = []\n")
    if not (folder / 'work_flexible').exists():
        run_runner('train.py', 'flexible.py', *flexible, 'train_cfg.max_iters=2',
                   'train_cfg.val_interval=2', cwd=folder)
    (folder / 'work_flexible/iter_4.pth').unlink(missing_ok=True)
    (folder / 'work_flexible/last_checkpoint').write_text(content)
    said = run_runner('train.py', 'flexible.py', '--resume', *flexible, cwd=folder)
    assert 'work_flexible/iter_2.pth is the newest complete checkpoint' in said
    assert 'resumed epoch: 0, iter: 2' in said
    assert (folder / 'work_flexible/iter_4.pth').is_file()


def test_work_dir(tmp_path, monkeypatch):
    """From the command line, else of the config, else after its name."""
    tool = runpy.run_path(str(ROOT / 'tools/train.py'))
    named, nameless = tmp_path / 'named.py', tmp_path / 'nameless.py'
    named.write_text("work_dir = 'work'\n")
    nameless.write_text('work_dir = None\n')
    for config, given, expected in (
            (named, ['--work-dir', 'there'], 'there'), (named, [], 'work'),
            (nameless, [], 'work_dirs/nameless')):
        monkeypatch.setattr(
            sys, 'argv',
            ['train.py', str(config), '--local-rank', '3', *given])
        monkeypatch.setenv('LOCAL_RANK', '5')
        cfg = tool['runner_config'](tool['parse_args']())
        assert cfg.work_dir == expected and cfg.launcher == 'none'
        assert os.environ['LOCAL_RANK'] == '5'
        monkeypatch.delenv('LOCAL_RANK')
        tool['runner_config'](tool['parse_args']())
        assert os.environ['LOCAL_RANK'] == '3'


def test_runner_of_the_config(folder, tmp_path):
    """A ``runner_type`` is built, by its own ``from_cfg``."""
    (tmp_path / 'runner_of_a_test.py').write_text("""
from mmseg.registry import RUNNERS
@RUNNERS.register_module(force=True)
class RunnerOfATest:
    @classmethod
    def from_cfg(cls, cfg):
        print('built with resume =', cfg.resume)
        return cls()
    def train(self):
        print('trained by', type(self).__name__)
""")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        (tmp_path / 'config.py').write_text(
            "custom_imports = dict(imports=['runner_of_a_test'])\n"
            "runner_type = 'RunnerOfATest'\nresume = True\n")
        said = run_here('train.py', tmp_path / 'config.py', cwd=tmp_path)
    assert 'built with resume = False\ntrained by RunnerOfATest' in said


def test_test(trained, folder):
    checkpoint = 'work/iter_4.pth'
    # The interval of the recipe would paint none of the five.
    tested = run_runner(
        'test.py', 'small.py', checkpoint, '--out', 'labels', '--show-dir',
        'shown', '--cfg-options', 'default_hooks.visualization.interval=50',
        cwd=folder)
    assert miou(tested) == miou(trained[1])
    assert len(list((folder / 'labels').glob('*.png'))) == 5
    assert len(list((folder / 'shown').rglob('*.png'))) == 5
    augmented = run_runner('test.py', 'small.py', checkpoint, '--tta', cwd=folder)
    other = run_runner(
        'test.py', 'small.py', checkpoint, '--cfg-options',
        'model.test_cfg.num_steps=2', 'model.test_cfg.solver=heun', cwd=folder)
    assert len({miou(tested), miou(augmented), miou(other)}) > 1


def test_shown_in_a_window(folder):
    """``--show`` keeps the interval, and tells the hook how long."""
    tool = runpy.run_path(str(ROOT / 'tools/test.py'))
    cfg = Config.fromfile(folder / 'small.py')
    cfg.default_hooks.visualization.interval = 50
    tool['show_predictions'](
        cfg, argparse.Namespace(show=True, show_dir=None, wait_time=0.5))
    assert cfg.default_hooks.visualization == dict(
        type='SegVisualizationHook', interval=50, draw=True, show=True,
        wait_time=0.5)
    assert 'save_dir' not in cfg.visualizer


HOOK = 'default_hooks = dict(visualization=dict(type="SegVisualizationHook"))'


@pytest.mark.parametrize('text, args, reason', [
    ('', ['--show'], '--show and --show-dir need a SegVisualizationHook'),
    (f'{HOOK}; default_scope = "mmagic"', ['--show-dir', 'x'],
     '--show and --show-dir need a SegVisualizationHook'),
    ('tta_model = dict()', ['--tta'], '--tta needs tta_pipeline'),
    ('tta_pipeline = []', ['--tta'], '--tta needs tta_model'),
    ('test_evaluator = [dict(type="IoUMetric")]', ['--out', 'x'],
     '--out needs one metric'),
    ('test_evaluator = dict(type="Evaluator", metrics=[])', ['--out', 'x'],
     '--out needs one metric')])
def test_what_a_config_cannot_do(text, args, reason, tmp_path):
    (tmp_path / 'config.py').write_text(f'{text}\n')
    with pytest.raises(SystemExit, match=f'^error: {reason}'):
        run_here('test.py', 'config.py', 'x.pth', *args, cwd=tmp_path)


def test_errors_of_files(folder):
    with pytest.raises(SystemExit, match="^error: .*'none.py'"):
        run_here('train.py', 'none.py', cwd=folder)
    with pytest.raises(SystemExit, match='^error: none.pth can not be found'):
        run_runner('test.py', 'small.py', 'none.pth', cwd=folder)
    with pytest.raises(SystemExit, match='^error: .*amplitude must be in'):
        run_runner('test.py', 'small.py', 'none.pth', '--cfg-options',
                   'model.semflow.codec.amplitude=500', cwd=folder)


def test_synthesis_in_batches(trained, folder):
    shape = ('--masks', 'street/ann_dir/val', '--num-samples', 2, '--device', 'cpu')
    for out, options in (('alone', ()), ('batches', ('--batch-size', 3))):
        run_here('synthesize.py', 'small.py', 'work/iter_4.pth', *shape, '--out',
                 out, *options, cwd=folder)
    names = [{p.name for p in (folder / out).glob('*.png')}
             for out in ('alone', 'batches')]
    assert names[0] == names[1] and len(names[0]) == 10
    with pytest.raises(SystemExit, match='batch_size was 3 and is'):
        run_here('synthesize.py', 'small.py', 'work/iter_4.pth', *shape, '--out',
                 'batches', '--batch-size', 2, cwd=folder)
    with pytest.raises(SystemExit, match='batch_size must be an integer >= 1'):
        run_here('synthesize.py', 'small.py', 'work/iter_4.pth', *shape, '--out',
                 'batches', '--batch-size', 0, cwd=folder)


def test_benchmark_of_a_busy_machine():
    """The step that it times, and its table; nothing is timed here."""
    bench = runpy.run_path(str(ROOT / 'benchmarks/busy_machine.py'))
    first, = bench['measure'](iterations=1, seconds=60)
    assert first > 0 and bench['measure'](iterations=9, seconds=0) == []
    alone, beside = ('', 0), ('python', 2)
    times = {(alone, 'unset'): [1., 3.], (alone, 'A=1'): [1., 1.],
             (beside, 'unset'): [8., 8.], (beside, 'A=1'): [3., 5.]}
    table = bench['to_table'](times, ['unset', 'A=1'], [alone, beside], max)
    assert table.splitlines() == [
        '| setting | alone | 2 python |', '| --- | --- | --- |',
        '| unset | 3.000 (1.00) | 8.000 (2.67) |',
        '| A=1 | 1.000 (0.33) | 5.000 (1.67) |']
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'environ', dict(PATH='p', OMP_NUM_THREADS='4'))
        assert bench['environment']('unset') == dict(PATH='p')
        assert bench['environment']('A=1,B=2') == dict(PATH='p', A='1', B='2')
        patch.setattr(_startup, 'GPU_DRIVERS', ())
        patch.setattr(_startup, 'busy_cores', lambda: 1.)
        assert bench['environment']('tools') == dict(
            PATH='p', OMP_WAIT_POLICY='PASSIVE')


def test_benchmark_of_a_bases_time():
    """Its trainings are of the same draws; nothing is measured here."""
    bench = runpy.run_path(str(ROOT / 'benchmarks/base_time.py'))
    args = SimpleNamespace(pretrain=2, train=4, streets=4, held_out=2, batch_size=2,
                           width=16, layers=1, rate=1e-3, seed=0)
    found = bench['compare'](args)
    assert found == bench['compare'](args)
    assert [*found] == ['scratch', 'kept', 'turned']
    assert all([*losses] == [0, 1, 2, 3, 4] for losses in found.values())
    assert found['kept'][4] != found['turned'][4]
    for by_iteration in found.values():
        assert by_iteration[4] != by_iteration[0]
    rows = bench['to_rows'](found)
    assert len(rows) == 15 and rows[5]['start'] == 'kept'
    assert rows[5]['mean'] == pytest.approx(sum(found['kept'][0]) / 5)
    # Turned twice, a base is as it was.
    network = bench['build'](16, 1)
    zt, t = torch.randn(2, 48, 4, 6), torch.tensor([0.25, 0.5])
    twice = bench['Turned'](bench['Turned'](network))
    torch.testing.assert_close(twice(zt, t), network(zt, t))


def test_benchmark_of_the_costs_of_bases(tmp_path):
    bench = runpy.run_path(str(ROOT / 'benchmarks/base_costs.py'))
    files = {path.stem for path in (ROOT / 'configs/_base_/models').glob('semflow_*')}
    assert files - {f'semflow_{base}' for base in bench['BASES']} == {
        'semflow_tiny', 'semflow_taef2', 'semflow_sd15_text_lora'}
    # Where gradients are small, the estimate tells the same.
    cfg, size = runner_cfg(tmp_path, tmp_path), (64, 96)
    one, two = (
        estimate_training_memory(cfg, count, size)['activations'] for count in (1, 2))
    assert bench['memory_of'](cfg, size) == pytest.approx(two - one, rel=0.02)


def test_generator_by_the_tools(folder):
    pytest.importorskip('mmagic')
    generator = 'small_generator.py'
    trained = run_runner('train.py', generator, cwd=folder)
    checkpoint = 'work_generator/iter_4.pth'
    tested = run_runner('test.py', generator, checkpoint, cwd=folder)
    for name in ('mask_mIoU', 'diversity', 'round_trip_PSNR'):
        assert figure(name, tested) == figure(name, trained), name
    assert 'InceptionDistance is left out: there is no file' in tested
    assert len(list((folder / 'work_generator').rglob('vis_image/*'))) == 10
    # The segmentor takes the same checkpoint.
    segmented = run_runner(
        'test.py', 'small.py', checkpoint, '--out', 'of_generator', cwd=folder)
    assert 'mIoU' in segmented
    assert len(list((folder / 'of_generator').glob('*.png'))) == 5


@pytest.fixture
def config(folder, tmp_path):
    """The config and its street in a folder of its own."""
    path = tmp_path / 'small.py'
    path.write_text((folder / 'small.py').read_text())
    return path


@pytest.mark.process
def test_two_processes(config, tmp_path, monkeypatch):
    config.write_text(config.read_text() + THREE_IMAGES)
    trained = call(ROOT / 'tools/dist_train.sh', config, 2, cwd=tmp_path)
    checkpoint = tmp_path / 'work/iter_4.pth'
    tested = call(
        ROOT / 'tools/dist_test.sh', config, checkpoint, 2, cwd=tmp_path)
    single = run_runner('test.py', config, checkpoint, cwd=tmp_path)
    assert miou(trained) == miou(tested) == miou(single)
    keys = load_from_local(checkpoint)['state_dict']
    assert not any(key.startswith('module.') for key in keys)
    # The synthesis that two ranks shared, by one process.
    monkeypatch.chdir(tmp_path)
    sweep = StepSweep(
        load_model(config, checkpoint, 'cpu'), synthesis=dict(num_samples=3),
        num_images=3)
    row, = sweep.rows([sweep.synthesis['num_steps']], ['euler'])
    for name in ('mask_mIoU', 'mask_aAcc', 'diversity', 'brightness'):
        assert figure(name, trained) == pytest.approx(row[name], abs=1e-3), name


@pytest.mark.process
def test_what_is_missing_is_said_once_and_last(tmp_path):
    """The first line of the README for 8 GPUs, without data and weights."""
    (tmp_path / 'config.py').write_text(f'''
_base_ = '{ROOT}/configs/semflow_cityscapes.py'
model = dict(semflow=dict(
    network=dict(unet=dict(_delete_=True, **{UNET})),
    autoencoder=dict(vae=dict(_delete_=True, **{VAE}))))
''')
    said = call(ROOT / 'tools/dist_train.sh', 'config.py', 2, cwd=tmp_path,
                fails=True)
    last = said.strip().splitlines()[-4:]
    assert last[0].startswith('error: CheckedCityscapesDataset finds no pair')
    assert last[1].startswith('expected: ') and last[2].startswith('found: ')
    assert last[3] == ('To see at once what else is missing: python '
                       f'{ROOT}/tools/check_setup.py config.py --gpus 2')
    for line in last:
        assert said.count(line) == 1
    usage = call(ROOT / 'tools/dist_train.sh', cwd=tmp_path, fails=True)
    assert usage.startswith('Usage: tools/dist_train.sh CONFIG GPUS')


def test_a_line_is_left_for_the_launcher(monkeypatch, tmp_path):
    """By the first process; another line is said by its own process."""
    def fail():
        raise ValueError(reason)

    def fails():
        with pytest.raises(SystemExit) as end:
            _startup.run(fail)
        return end.value.code

    monkeypatch.setenv('SEMFLOW_ERROR_FILE', str(tmp_path / 'error'))
    reason = 'no data'
    assert fails() == 1 and fails() == 1
    assert (tmp_path / 'error').read_text() == 'error: no data\n'
    reason = 'no space'
    assert fails() == 'error: no space'
    assert (tmp_path / 'error').read_text() == 'error: no data\n'


@pytest.mark.process
def test_two_processes_on_cached_latents(config, tmp_path):
    cached = tmp_path / 'cached.py'
    cached.write_text("""
_base_ = './small.py'
train_dataloader = dict(dataset=dict(
    _delete_=True, type='CachedLatentsDataset', cache='latents',
    dataset=_base_.train_dataloader.dataset))
""")
    call(sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node', 2,
         ROOT / 'tools/cache_latents.py', cached, '--num-draws', 2,
         cwd=tmp_path)
    assert {p.name for p in (tmp_path / 'latents').iterdir()} == {
        'key.json', '00000.safetensors'}
    call(ROOT / 'tools/dist_train.sh', cached, 2, cwd=tmp_path)
    checkpoint = load_from_local(tmp_path / 'work/iter_4.pth')
    assert len(checkpoint['meta']['dataset_meta']['classes']) == 8


@pytest.mark.process
def test_a_rank_that_dies_ends_the_other(folder, tmp_path):
    """Without a launcher that would see to it, and while the other waits for it."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = dict(os.environ, MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
               WORLD_SIZE='2', CUDA_VISIBLE_DEVICES='')
    command = [sys.executable, ROOT / 'tools/train.py', 'small.py', '--launcher',
               'pytorch', '--work-dir', tmp_path, '--cfg-options',
               'train_cfg.max_iters=10000', 'train_cfg.val_interval=10000']
    said = tmp_path / 'said'
    with said.open('w') as file:
        ranks = [
            subprocess.Popen(command, cwd=folder, stdout=file, stderr=file,
                             env=env | dict(RANK=rank, LOCAL_RANK=rank))
            for rank in '01'
        ]
    try:
        end = time.monotonic() + 300
        while not (tmp_path / 'iter_4.pth').exists():
            assert time.monotonic() < end and ranks[0].poll() is None, said.read_text()
            time.sleep(0.05)
        ranks[1].send_signal(signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            ranks[0].wait(3)
        ranks[1].kill()
        assert ranks[0].wait(60) == 1
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    assert re.search(r'RuntimeError: .*gloo.*(closed|reset) by peer', said.read_text())
    for path in tmp_path.glob('*.pth'):
        load_from_local(path)
    assert not list(tmp_path.glob('*.partial'))


@pytest.mark.process
def test_mmsegmentations_own_tools(tmp_path):
    """They train and test a recipe, changed by nothing but options."""
    if MMSEG_TOOLS is None:
        pytest.skip('this mmsegmentation came without its tools')
    recipe = ROOT / 'configs/semflow_toy.py'
    options = ['--work-dir', 'work', '--cfg-options', *(
        f'{split}_dataloader.{key}' for split in ('train', 'val', 'test')
        for key in (
            'num_workers=0', 'persistent_workers=False', 'batch_size=2',
            'dataset.data_root=street', 'dataset.generate.num_train=4',
            'dataset.generate.num_val=3', 'dataset.generate.size=(32,48)')),
        'model.semflow.network.unet.block_out_channels=(32,32,32)',
        'model.semflow.wrappers.1.token_channels=128',
        'default_hooks.checkpoint.interval=2', 'train_cfg.max_iters=2',
        'train_cfg.val_interval=2', 'custom_hooks.2.num_images=1']
    trained = call(
        sys.executable, MMSEG_TOOLS / 'train.py', recipe, *options, cwd=tmp_path)
    tested = call(
        sys.executable, MMSEG_TOOLS / 'test.py', recipe, 'work/iter_2.pth', '--out',
        'labels', *options, cwd=tmp_path)
    assert miou(trained) == miou(tested) and 'mask_mIoU' in trained
    assert len(list((tmp_path / 'labels').glob('*.png'))) == 3


@pytest.mark.process
@pytest.mark.parametrize('tool, files', [('train', ['c.py']),
                                         ('test', ['c.py', 'w.pth'])])
def test_slurm_twins(tmp_path, tool, files):
    """What they ask of srun, which here only prints its arguments."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    printed = call(
        ROOT / f'tools/slurm_{tool}.sh',
        'gpus',
        'job',
        *files,
        '--work-dir',
        'w',
        cwd=tmp_path,
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        GPUS='8',
        GPUS_PER_NODE='8')
    assert printed.startswith('-p gpus --job-name=job --gres=gpu:8 --ntasks=8')
    assert printed.strip().endswith(
        f'tools/{tool}.py {" ".join(files)} --launcher=slurm --work-dir w')
