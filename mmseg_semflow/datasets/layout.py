"""What the folder of a dataset must hold, and a clear error if it does not."""

import os.path as osp
from typing import Iterator, List, Optional, Union

from mmengine import fileio
from mmseg.datasets import BaseSegDataset, CityscapesDataset, COCOStuffDataset
from mmseg.registry import DATASETS

from .unreadable import NamedFiles


def check_layout(dataset: Union[dict, BaseSegDataset]) -> None:
    """Check that a dataset's folder holds at least one pair.

    Args:
        dataset (dict | BaseSegDataset): A dataset of mmsegmentation, of any
            class, or its config.

    Raises:
        ValueError: If no image has a label map. It says what was expected
            and what was found.
    """
    if isinstance(dataset, dict):
        dataset = DATASETS.build(dict(dataset, lazy_init=True, pipeline=[]))
    missing = _find_missing(dataset)
    if missing is None:
        return
    guide = getattr(dataset, 'guide', None)
    raise ValueError(
        f'{type(dataset).__name__} finds no pair of an image and a label map in '
        f'data_root={dataset.data_root!r}' + (f', see {guide}' if guide else '') +
        f'\nexpected: {_describe_expected(dataset)}\nfound: '
        f'{describe_missing(missing, dataset.backend_args)}')


def describe_missing(path: str, backend_args: Optional[dict] = None) -> str:
    """Say that a path is missing, and what is there instead.

    Args:
        path (str): The missing file or folder.
        backend_args (dict, optional): Of mmengine's file backend. Defaults to
            None, the local disk.

    Returns:
        str: With the first entries of the nearest folder that exists.
    """
    folder = osp.dirname(path)
    while folder and not fileio.isdir(folder, backend_args):
        folder = osp.dirname(folder)
    folder = folder or osp.curdir
    entries = sorted(
        fileio.list_dir_or_file(folder, backend_args=backend_args))
    shown = ', '.join(entries[:8])
    if len(entries) > 8:
        shown += f' and {len(entries) - 8} more'
    return f'there is no {path}, {folder} holds {shown or "nothing"}'


def _find_missing(dataset: BaseSegDataset) -> Optional[str]:
    """Name the first thing that the first pair lacks; None if one is complete."""
    args = dataset.backend_args
    folders = _folders(dataset)
    if dataset.ann_file and not fileio.exists(dataset.ann_file, args):
        return dataset.ann_file
    for folder in folders:
        if not fileio.isdir(folder, args):
            return folder
    missing = None
    for name in _names(dataset):
        pair = [
            osp.join(folder, name + suffix)
            for folder, suffix in zip(folders, _suffixes(dataset), strict=False)
        ]
        gone = [path for path in pair if not fileio.exists(path, args)]
        if not gone:
            return None
        missing = missing or gone[0]
    return missing or osp.join(folders[0], f'*{dataset.img_suffix}')


def _folders(dataset: BaseSegDataset) -> List[str]:
    folders = [dataset.data_prefix.get(key) for key in ('img_path', 'seg_map_path')]
    return [folder for folder in folders if folder is not None]


def _suffixes(dataset: BaseSegDataset) -> List[str]:
    return [dataset.img_suffix, dataset.seg_map_suffix]


def _names(dataset: BaseSegDataset) -> Iterator[str]:
    if dataset.ann_file:
        for line in fileio.list_from_file(
                dataset.ann_file, backend_args=dataset.backend_args):
            yield line.strip()
        return
    for path in fileio.list_dir_or_file(
            _folders(dataset)[0],
            list_dir=False,
            suffix=dataset.img_suffix,
            recursive=True,
            backend_args=dataset.backend_args):
        yield path[:-len(dataset.img_suffix)]


def _describe_expected(dataset: BaseSegDataset) -> str:
    name = 'NAME' if dataset.ann_file else osp.join('**', 'NAME')
    patterns = [
        osp.join(folder, name + suffix) for folder, suffix in zip(
            _folders(dataset), _suffixes(dataset), strict=False)
    ]
    listed = f', NAME from {dataset.ann_file}' if dataset.ann_file else ''
    return ' and '.join(patterns) + listed


class CheckedLayout(NamedFiles):
    """Mixin: a dataset of mmsegmentation that checks its folder.

    Without it a folder in the wrong layout gives an empty dataset, or an
    error about the first file that is missing in the middle of the training.
    """

    guide: Optional[str] = None  # the page of the documentation

    def load_data_list(self) -> List[dict]:
        """List the pairs, after :func:`check_layout`."""
        check_layout(self)
        return super().load_data_list()


@DATASETS.register_module()
class CheckedCityscapesDataset(CheckedLayout, CityscapesDataset):
    """mmsegmentation's ``CityscapesDataset``, whose folder is checked."""

    guide = 'docs/datasets/cityscapes.md'


@DATASETS.register_module()
class CheckedCOCOStuffDataset(CheckedLayout, COCOStuffDataset):
    """mmsegmentation's ``COCOStuffDataset``, whose folder is checked."""

    guide = 'docs/datasets/coco_stuff164k.md'
