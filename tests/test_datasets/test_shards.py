"""Datasets in shards train as those in folders do."""

import copy
import io
import tarfile

import fsspec
import pytest
import torch
from mmengine import fileio
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from shipped import load, small

from layouts import LAYOUTS
from mmseg_semflow.datasets import UnreadableImageError, check_layout, shards
from mmseg_semflow.datasets.cached_latents import dataset_key
from mmseg_semflow.datasets.shards import TarBackend

SPLITS = ('train', 'val')
KINDS = ('tar', 'parquet')


def pairs(root, split):
    """List the images of a split with their label maps."""
    for image in sorted((root / 'img_dir' / split).glob('*.jpg')):
        yield image, root / 'ann_dir' / split / f'{image.stem}.png'


def write_tars(root, out, split, per_shard=3):
    found = list(pairs(root, split))
    out.mkdir(parents=True)
    for start in range(0, len(found), per_shard):
        with tarfile.open(out / f'{start:06d}.tar', 'w') as tar:
            for pair in found[start:start + per_shard]:
                for path in pair:
                    tar.add(path, arcname=path.name)


def write_parquet(root, out, split, per_shard=4, per_group=2):
    """As `datasets` writes them: structs of bytes and path, in groups of rows."""
    pa = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    found = list(pairs(root, split))
    out.mkdir(parents=True)
    for start in range(0, len(found), per_shard):
        columns = {
            name: [dict(bytes=pair[i].read_bytes(), path=pair[i].name)
                   for pair in found[start:start + per_shard]]
            for i, name in enumerate(('image', 'label'))
        }
        columns['caption'] = ['a street'] * len(columns['image'])
        parquet.write_table(
            pa.table(columns), out / f'train-{start:05d}.parquet',
            row_group_size=per_group)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp('shards')
    LAYOUTS['camvid'](root / 'files')
    # More than a shard holds.
    for split in SPLITS:
        for image, labels in list(pairs(root / 'files', split)):
            for number in range(6):
                for path in (image, labels):
                    copied = path.with_name(f'{path.stem}_{number}{path.suffix}')
                    copied.write_bytes(path.read_bytes())
    for split in SPLITS:
        write_tars(root / 'files', root / 'tar' / split, split)
        write_parquet(root / 'files', root / 'parquet' / split, split)
    return root


def in_shards(dataset, root, kind, split='train'):
    """Let the config of a dataset read shards: data_root, data_prefix, suffixes."""
    dataset = copy.deepcopy(dataset)
    dataset.update(
        data_root=f'{kind}://{root / kind}',
        data_prefix=dict(img_path=split, seg_map_path=split))
    if kind == 'parquet':
        dataset.update(img_suffix='.image', seg_map_suffix='.label')
    return dataset


@pytest.fixture
def cfg(root, tmp_path):
    return small(load('semflow_camvid'), root / 'files', tmp_path / 'files')


@pytest.mark.parametrize('kind', KINDS)
def test_pairs_are_those_of_the_folder(kind, root, cfg):
    files = DATASETS.build(cfg.test_dataloader.dataset)
    shards = DATASETS.build(
        in_shards(cfg.test_dataloader.dataset, root, kind, 'val'))
    assert len(files) == len(shards) > 4
    assert shards.metainfo == files.metainfo
    for own, other in zip(shards, files, strict=True):
        assert torch.equal(own['inputs'], other['inputs'])
        assert torch.equal(own['data_samples'].gt_sem_seg.data,
                           other['data_samples'].gt_sem_seg.data)
    assert dataset_key(shards)['num_images'] == len(files)


@pytest.mark.parametrize('workers', [
    0, pytest.param(2, marks=pytest.mark.process)])
@pytest.mark.parametrize('kind', KINDS)
def test_training_is_that_on_files(kind, workers, root, cfg, tmp_path):
    """The shipped recipe, from shards: the same weights."""
    cfg.train_cfg.update(max_iters=3, val_interval=3, val_begin=4)
    cfg.custom_hooks = []
    found = []
    for place in ('files', kind):
        own = copy.deepcopy(cfg)
        if place != 'files':
            own.train_dataloader.dataset = in_shards(
                own.train_dataloader.dataset, root, kind)
            own.train_dataloader.num_workers = workers
        own.work_dir = own.experiment_name = str(tmp_path / f'{place}_{workers}')
        own.visualizer.name = own.work_dir
        runner = Runner.from_cfg(own)
        runner.train()
        found.append(runner.model.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize('kind', KINDS)
def test_any_file_system_by_its_parts(kind, root):
    """Nothing is copied: bytes are read in ranges, here from memory."""
    memory = fsspec.filesystem('memory')
    for path in (root / kind / 'train').iterdir():
        memory.pipe_file(f'/{kind}/train/{path.name}', path.read_bytes())
    remote = dict(backend_args=dict(
        backend=kind, filesystem='memory', client_kwargs=dict(endpoint_url='there')))
    shards = [
        dict(dir_path=f'{kind}://{root / kind}/train'),
        dict(dir_path=f'/{kind}/train', **remote)
    ]
    local, far = (sorted(fileio.list_dir_or_file(recursive=True, **shard))
                  for shard in shards)
    assert local == far and len(local) > 8
    for name in local:
        if not name.endswith(f'.{kind}'):
            assert fileio.get(f'/{kind}/train/{name}', **remote) == \
                fileio.get(f'{kind}://{root / kind}/train/{name}')


def test_listing(root):
    folder = f'tar://{root}/tar/val'
    shards = list(fileio.list_dir_or_file(folder, list_file=False))
    assert shards == sorted(p.name for p in (root / 'tar/val').iterdir())
    assert not list(fileio.list_dir_or_file(folder, list_dir=False))
    names = list(fileio.list_dir_or_file(
        f'{folder}/{shards[0]}', list_dir=False, suffix='.png'))
    assert len(names) == 3
    assert fileio.isfile(f'{folder}/{shards[0]}/{names[0]}')
    assert fileio.isdir(folder) and fileio.isdir(f'{folder}/{shards[0]}')
    for missing in (f'{folder}/none.tar', f'{folder}/{shards[0]}/none.png',
                    f'tar://{root}/files'):
        assert not fileio.exists(missing)


def test_a_damaged_picture_is_named_with_its_shard(root, cfg, tmp_path):
    with tarfile.open(tmp_path / '0.tar', 'w') as tar:
        for name, content in (('a.jpg', b'no image'), ('a.png', b'neither')):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    dataset = in_shards(cfg.train_dataloader.dataset, root, 'tar')
    dataset.update(
        data_root=f'tar://{tmp_path}', data_prefix=dict(img_path='', seg_map_path=''))
    with pytest.raises(UnreadableImageError, match=r'0\.tar/a\.jpg cannot be read'):
        DATASETS.build(dataset)[0]


def damage(root, kind, tmp_path, how):
    shard = next(iter(sorted((root / kind / 'val').iterdir())))
    content = shard.read_bytes()
    path = tmp_path / shard.name
    path.write_bytes(dict(
        cut=content[:len(content) // 2], other=b'\x1f\x8b' + bytes(2000))[how])
    return path


@pytest.mark.parametrize('how', ['cut', 'other'])
@pytest.mark.parametrize('kind, rule', [
    ('tar', 'must be an uncompressed tar file'), ('parquet', 'must be a Parquet file')])
def test_a_damaged_shard_is_named(kind, rule, how, root, tmp_path):
    path = damage(root, kind, tmp_path, how)
    with pytest.raises(ValueError, match=f'{path} {rule}, but'):
        list(fileio.list_dir_or_file(f'{kind}://{tmp_path}', recursive=True))


def test_a_shard_that_was_cut_after_it_was_listed(root, tmp_path):
    """A sample of the wrong length is none."""
    path = tmp_path / 'a.tar'
    path.write_bytes(sorted((root / 'tar/val').iterdir())[0].read_bytes())
    *_, last = TarBackend().names(str(path))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=rf'a\.tar is damaged: {last} should have'):
        fileio.get(f'tar://{path}/{last}')


@pytest.mark.parametrize('path, reason', [
    ('tar://{root}/tar/val/000000.tar/b.png', r'000000\.tar holds no b\.png'),
    ('tar://{root}/tar/val/1.tar/b.png', r'/1\.tar'),
    ('tar://{root}/tar/val', r'must name a file in a shard, a \*\.tar'),
    ('parquet://{root}/parquet/val/train-00000.parquet/000000099.image',
     r'holds no 000000099\.image: it has 4 rows of the columns image, label'),
    ('parquet://{root}/parquet/val/train-00000.parquet/000000000.caption',
     r'holds no 000000000\.caption'),
])
def test_what_is_not_there(path, reason, root):
    with pytest.raises(FileNotFoundError, match=reason):
        fileio.get(path.format(root=root))


def test_a_folder_without_shards(root, cfg):
    dataset = in_shards(cfg.train_dataloader.dataset, root, 'tar')
    dataset.data_prefix = dict(img_path='elsewhere', seg_map_path='elsewhere')
    with pytest.raises(ValueError, match='(?s)finds no pair.*data_root=.tar://.*'
                       r'there is no tar://.*/elsewhere'):
        check_layout(dataset)


def test_empty_bytes_of_a_row(tmp_path):
    pa = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    parquet.write_table(
        pa.table(dict(image=[dict(bytes=None, path='a.jpg')]), schema=pa.schema([
            ('image', pa.struct([('bytes', pa.binary()), ('path', pa.string())]))])),
        tmp_path / '0.parquet')
    with pytest.raises(ValueError, match=r"0\.parquet has no bytes in 000000000"
                       r"\.image, but \{'bytes': None, 'path': 'a\.jpg'\}"):
        fileio.get(f'parquet://{tmp_path}/0.parquet/000000000.image')


@pytest.mark.parametrize('size', [
    b'77777777777', b'\x80' + 10 * b'\xff', b'-1         '])
def test_sizes_that_no_file_has(root, tmp_path, size):
    path = tmp_path / 'a.tar'
    data = bytearray(sorted((root / 'tar/val').iterdir())[0].read_bytes())
    data[124:124 + len(size)] = size
    data[148:156] = b' ' * 8
    data[148:156] = b'%06o\0 ' % sum(data[:512])
    path.write_bytes(data)
    with pytest.raises((ValueError, FileNotFoundError), match=r'a\.tar'):
        for name in TarBackend().names(str(path)) or ['none']:
            fileio.get(f'tar://{path}/{name}')


def test_a_damaged_page_is_named_with_its_shard(root, tmp_path):
    pytest.importorskip('pyarrow')
    path = tmp_path / 'a.parquet'
    data = bytearray(sorted((root / 'parquet/val').iterdir())[0].read_bytes())
    data[4:40] = bytes(36)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r'a\.parquet must be a Parquet file, but'):
        fileio.get(f'parquet://{path}/000000000.image')


def test_a_group_of_fewer_rows_than_declared(root, monkeypatch):
    pytest.importorskip('pyarrow')
    path = sorted((root / 'parquet/val').iterdir())[0]
    read = shards._read_group
    monkeypatch.setattr(shards, '_read_group', lambda *args: read(*args)[:-1])
    with pytest.raises(ValueError, match=r'parquet is damaged: group 0 of its rows '
                       r'should have \d+, but has \d+'):
        fileio.get(f'parquet://{path}/000000000.image')
