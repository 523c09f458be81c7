"""After a fault: a whole old or a whole new state, and the next call goes on."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine import fileio
from mmengine.runner.checkpoint import save_checkpoint

from faults import DONE, KINDS, RAISED, contents, run_forked
from mmseg_semflow.apis import latent_cache
from mmseg_semflow.datasets.camvid import GROUPS, LABELED, STILLS, convert_camvid
from mmseg_semflow.files import written_whole
from mmseg_semflow.generation.labelled_set import LabelledSet
from mmseg_semflow.safe_loading import load_from_local
from mmseg_semflow.synthesis.folder import synthesize_folder

# How many faults of each operation the suite survives.
COUNT = int(os.environ.get('SEMFLOW_FAULTS', 6))
SEED = int(os.environ.get('SEMFLOW_FAULTS_SEED', 0))


def checkpoints(out, version):
    """As mmengine's hook writes: a checkpoint, then who is the newest."""
    for number in (1, 2):
        weight = torch.full((50, ), float(10 * version + number))
        save_checkpoint(
            dict(state_dict=dict(weight=weight), meta=dict(iter=number)),
            str(out / f'iter_{number}.pth'))
        fileio.put_text(f'iter_{number}.pth', out / 'last_checkpoint')


def whole_folder(out, version):
    """As the converters of models write: a folder that replaces another."""
    with written_whole(out / 'model', overwrite=True) as folder:
        (folder / 'unet').mkdir(parents=True)
        for name in ('config.json', 'unet/weights'):
            (folder / name).write_text(f'{name} {version}')


def camvid(out, version):
    """Convert to a folder of its own: there is one version."""
    source = out.parent / 'source'
    if not source.exists():
        colours = [c for g in GROUPS.values() for c in g.values()]
        for folder in (STILLS, LABELED):
            (source / folder).mkdir(parents=True)
        for number, split in enumerate(('train', 'val', 'test')):
            (source / f'{split}.txt').write_text(f'{number}\n')
            image = np.full((36, 48, 3), colours[number][::-1], np.uint8)
            cv2.imwrite(str(source / STILLS / f'{number}.png'), image)
            cv2.imwrite(str(source / LABELED / f'{number}_L.png'), image)
    convert_camvid(source, source, out)


class Synthesizer:
    """Paints labels, without a network."""

    num_samples, batch_size, seed, style = 2, 2, 0, None
    semflow = SimpleNamespace(
        codec=SimpleNamespace(num_classes=5, ignore_index=255))

    def __init__(self, version=0):
        self.settings = dict(seed=version)

    def size_of(self, label_map):
        return tuple(label_map.shape)

    def synthesize(self, requests):
        seed = self.settings['seed']
        return [(labels[None].expand(3, -1, -1) + number + seed).to(torch.uint8)
                for labels, number in requests]


def synthesis(out, version):
    masks = out.parent / 'masks'
    masks.mkdir(exist_ok=True)
    for number in range(2):
        (masks / f'{number}.png').touch()
    synthesize_folder(
        Synthesizer(version), lambda path: torch.full((6, 7), int(path.stem)), masks,
        out, overwrite=True)


class Pairs(list):
    """Three real pictures."""

    metainfo = dict(classes=tuple('abcde'))


class Views:
    """Makes masks of one class each."""

    label_maps = SimpleNamespace(
        counts=np.ones((3, 5), np.int64), dataset=Pairs(range(3)))

    def __call__(self, number):
        return SimpleNamespace(
            label_map=np.full((6, 7), number, np.uint8), record={})


def labelled_set(out, version):
    """Three pictures; of the second version one more."""
    labelled = LabelledSet(
        out, Views(), Synthesizer(), tuple('abcde'), [[i, 0, 0] for i in range(5)],
        dict(seed=0), dict(type='BaseSegDataset', pipeline=[]),
        lambda picture, label_map: dict(
            agreement=0. if label_map[0, 0] == 1 else 1.))
    labelled.generate(3 + version)
    labelled.finish(3 + version, 0.5)


class Writer:
    """Encodes nothing, but as the real one does it: the same for the same image."""

    size, num_draws, bytes_per_image = (4, 4), 1, 100
    views = SimpleNamespace(probabilities=[1.])

    def __init__(self, *_):
        settings = dict(factor=2, latent_channels=1)
        self.key = dict(
            dataset=dict(num_images=5), shard_size=2, size=[4, 4], num_draws=1,
            autoencoder=dict(settings=settings))

    def encode(self, index):
        return dict(
            posterior=torch.full((1, 2, 1, 2, 2), float(index)),
            mask_latents=torch.full((1, 1, 1, 2, 2), float(index)),
            label_maps=torch.full((1, 4, 4), index, dtype=torch.uint8))


def cache(out, version):
    own, latent_cache.LatentWriter = latent_cache.LatentWriter, Writer
    try:
        latent_cache.cache_latents(SimpleNamespace(), out)
    finally:
        latent_cache.LatentWriter = own


OPERATIONS = [checkpoints, whole_folder, camvid, synthesis, labelled_set, cache]


@pytest.mark.parametrize('operation', OPERATIONS, ids=lambda o: o.__name__)
def test_random_faults_in_a_row(operation, tmp_path):
    """Three faults, then a call that ends: the whole new state, in the end."""
    replaces = operation not in (camvid, cache)
    old, new, out = (tmp_path / name for name in ('old', 'new', 'out'))
    if replaces:
        assert run_forked(lambda: operation(old, 0)).code == DONE
        shutil.copytree(old, new)
    clean = run_forked(lambda: operation(new, 1))
    assert clean.code == DONE and clean.steps > 3, clean
    states = [read(old) if replaces else {}, read(new)]
    if operation is checkpoints:  # between the two
        states.append({'last_checkpoint': b'iter_1.pth'})
    rng = np.random.default_rng([SEED, OPERATIONS.index(operation)])
    seen = set()
    for number in range(COUNT):
        if number % 3 == 0:
            shutil.rmtree(out, ignore_errors=True)
            if replaces:
                shutil.copytree(old, out)
        kind = KINDS[rng.integers(len(KINDS))]
        at = int(rng.integers(1, clean.steps + 1))
        found = run_forked(lambda: operation(out, 1), at, kind)
        where = f'{kind} at step {at} of {operation.__name__}: {found}'
        # An error in words or a signal; none if an earlier call had done this step.
        assert found.code in (DONE, RAISED, -signal.SIGTERM, -signal.SIGKILL), where
        assert found.code == DONE or kind != 'clock', where
        seen.add(found.code)
        after = read(out)
        for name, data in after.items():
            assert data in may_hold(name, states), f'{where}: {name}'
        if operation is whole_folder:
            assert after in states, where
        if operation is checkpoints:
            for path in out.glob('*.pth'):
                load_from_local(str(path))
        if number % 3 == 2:
            found = run_forked(lambda: operation(out, 1))
            assert found.code == DONE, f'after {where}: {found}'
            assert read(out) == states[1], where
            assert not list(out.rglob('*.partial')), where
    assert seen & {RAISED, -signal.SIGTERM, -signal.SIGKILL}


def read(out):
    """Read a folder; its own path, which some files name, is always the same."""
    found = contents(out) if out.exists() else {}
    for name in ('old', 'new', 'out'):
        path = str((out.parent / name).resolve()).encode()
        found = {key: data.replace(path, b'OUT') for key, data in found.items()}
    return found


def may_hold(name, states):
    """List what may stand under a name: the old, the new, or its like elsewhere.

    A picture of a set and its labels are drawn in one folder and may then be judged
    to belong in another.
    """
    return [data for state in states for other, data in state.items()
            if os.path.basename(other) == os.path.basename(name)]


def test_a_folder_is_exchanged_at_once(tmp_path, monkeypatch):
    """A process that is killed between two renames would leave nothing there."""
    def kill(*_):
        raise AssertionError('two steps')

    whole_folder(tmp_path, 0)
    monkeypatch.setattr('pathlib.Path.rename', kill)
    whole_folder(tmp_path, 1)
    assert (tmp_path / 'model/config.json').read_text() == 'config.json 1'
    assert os.listdir(tmp_path) == ['model']


def test_a_folder_is_replaced_where_the_system_cannot_exchange(tmp_path, monkeypatch):
    monkeypatch.setattr('mmseg_semflow.files._exchanged', lambda *_: False)
    for version in (0, 1):
        whole_folder(tmp_path, version)
        assert json.dumps(version) in (tmp_path / 'model/config.json').read_text()
    assert os.listdir(tmp_path) == ['model']
