"""Small folders in exactly the layout of the datasets."""

import cv2
import numpy as np

# COCO's pictures vary in size and in what is longer.
SIZES = [(40, 60), (60, 41), (33, 47)]


def write_pair(image, label_map, num_classes, number, void=255):
    """Write random pixels and labels, some of them void."""
    rng = np.random.default_rng(number)
    size = SIZES[number % len(SIZES)]
    labels = rng.integers(0, num_classes, size, dtype=np.uint8)
    if void is not None:
        labels[:5, :7] = void
    for path, pixels in ((image, rng.integers(0, 256, (*size, 3))),
                         (label_map, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)


def write_cityscapes(root):
    """As Cityscapes' archives and mmsegmentation's converter leave it."""
    for split, city in (('train', 'aachen'), ('val', 'frankfurt')):
        for i in range(3):
            stem = f'{city}_{i:06d}_000019'
            write_pair(
                root / f'leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png',
                root / f'gtFine/{split}/{city}/{stem}_gtFine_labelTrainIds.png',
                19, i)
            # What the archives hold besides.
            (root / f'gtFine/{split}/{city}/{stem}_gtFine_polygons.json'
             ).write_text('{}')


def write_gta5(root):
    """As GTA5's archives and our converter leave it, beside Cityscapes."""
    for i in range(3):
        image, labels = root / f'images/{i:05d}.png', root / f'labels/{i:05d}.png'
        write_pair(image, labels, 19, i)
        write_pair(image, labels.with_name(f'{i:05d}_labelTrainIds.png'), 19, i)
    write_cityscapes(root)


def write_coco_stuff164k(root):
    """As COCO-Stuff's archives and mmsegmentation's converter leave it."""
    for split in ('train2017', 'val2017'):
        for i in range(3):
            stem = f'{i:012d}'
            labels = root / f'annotations/{split}/{stem}_labelTrainIds.png'
            write_pair(root / f'images/{split}/{stem}.jpg', labels, 171, i)
            # The labels before the conversion.
            write_pair(root / f'images/{split}/{stem}.jpg',
                       labels.with_name(f'{stem}.png'), 182, i)


def write_celebamask_hq(root):
    """As our converter leaves it."""
    for number, split in enumerate(('train', 'val', 'test')):
        names = [3 * number + i for i in range(3)]
        for name in names:
            write_pair(root / f'img_dir/{name}.jpg', root / f'ann_dir/{name}.png',
                       19, name, void=None)
        (root / f'{split}.txt').write_text(''.join(f'{n}\n' for n in names))


def write_camvid(root):
    """As our converter leaves it."""
    for split in ('train', 'val'):
        for i, sequence in enumerate(('0001TP', '0006R0', '0016E5')):
            name = f'{sequence}_{split}'
            write_pair(root / f'img_dir/{split}/{name}.jpg',
                       root / f'ann_dir/{split}/{name}.png', 11, i)


def write_ade20k(root):
    """As ADE20K's archive has it: 0 is what belongs to no class."""
    for split, kind in (('training', 'train'), ('validation', 'val')):
        for i in range(3):
            stem = f'ADE_{kind}_{i:08d}'
            write_pair(root / f'images/{split}/{stem}.jpg',
                       root / f'annotations/{split}/{stem}.png', 151, i, void=0)


LAYOUTS = dict(
    cityscapes=write_cityscapes,
    gta5=write_gta5,
    coco_stuff164k=write_coco_stuff164k,
    celebamask_hq=write_celebamask_hq,
    camvid=write_camvid)
