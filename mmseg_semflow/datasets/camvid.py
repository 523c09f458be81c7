"""CamVid, the road scenes of Cambridge."""

import os.path as osp

from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class CamVidDataset(BaseSegDataset):
    """CamVid with the 11 classes of Badrinarayanan et al. (TPAMI 2017).

    Images are ``.jpg`` in ``img_dir/{train,val,test}`` and label maps
    ``.png`` in ``ann_dir/{train,val,test}``, with labels 0 to 10 and 255 for
    void.

    Args:
        img_suffix (str): Suffix of the images. Defaults to '.jpg'.
        seg_map_suffix (str): Suffix of the label maps. Defaults to '.png'.
        data_root (str): Folder of the dataset. Defaults to ''.
        **kwargs: Further arguments of ``BaseSegDataset``.

    Raises:
        FileNotFoundError: If ``data_root`` is not a folder.
    """

    METAINFO = dict(
        classes=('Sky', 'Building', 'Pole', 'Road', 'Pavement', 'Tree',
                 'SignSymbol', 'Fence', 'Car', 'Pedestrian', 'Bicyclist'),
        palette=[[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128],
                 [60, 40, 222], [128, 128, 0], [192, 128, 128], [64, 64, 128],
                 [64, 0, 128], [64, 64, 0], [0, 128, 192]])

    def __init__(self,
                 img_suffix: str = '.jpg',
                 seg_map_suffix: str = '.png',
                 data_root: str = '',
                 **kwargs) -> None:
        if not osp.isdir(data_root):
            raise FileNotFoundError(
                f'data_root={data_root!r} is not a folder: link CamVid to '
                'data/camvid or set CAMVID to its folder, with '
                'img_dir/{train,val}/*.jpg and ann_dir/{train,val}/*.png')
        super().__init__(
            data_root=data_root,
            img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
