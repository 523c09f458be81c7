"""Time the making of pseudo masks against colouring class by class."""

import argparse
import statistics
import time

import cv2
import numpy as np
import torch

from mmseg_semflow.datasets import GeneratePseudoMask


def color_class_by_class(label_map: np.ndarray,
                         colors: np.ndarray) -> np.ndarray:
    """Colour a label map as mmsegmentation's visualizers do."""
    pseudo_mask = np.zeros((*label_map.shape, 3), np.uint8)
    for label, color in enumerate(colors):
        pseudo_mask[label_map == label] = color
    pseudo_mask[label_map == 255] = 255
    return pseudo_mask


def main() -> None:
    """Print milliseconds and ratios, measured in alternation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=int, nargs=2, default=(512, 1024))
    parser.add_argument('--num-classes', type=int, default=19)
    parser.add_argument('--repeats', type=int, default=50)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)

    transform = GeneratePseudoMask(dict(num_classes=args.num_classes))
    colors = transform.codec.levels.numpy().astype(np.uint8)
    rng = np.random.default_rng(0)
    coarse = rng.integers(
        0, args.num_classes, [side // 32 for side in args.size], np.uint8)
    label_map = cv2.resize(
        coarse, args.size[::-1], interpolation=cv2.INTER_NEAREST)
    label_map[:16] = 255
    ways = dict(
        transform=lambda: transform(dict(gt_seg_map=label_map))[
            'gt_pseudo_mask'],
        class_by_class=lambda: color_class_by_class(label_map, colors))
    first, second = (way() for way in ways.values())
    if not np.array_equal(first, second):
        raise RuntimeError('the two ways differ')
    times = {name: [] for name in ways}
    for _ in range(args.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(1000 * (time.perf_counter() - start))
    ratios = [b / a for a, b in zip(*times.values(), strict=True)]
    print(f'{args.num_classes} classes, {args.size[0]}x{args.size[1]}, one '
          f'core, {args.repeats} repeats: median [min, max]')
    for name, values in (*times.items(), ('ratio', ratios)):
        unit = '' if name == 'ratio' else ' ms'
        print(f'{name:15s}{statistics.median(values):8.2f}{unit} '
              f'[{min(values):.2f}, {max(values):.2f}]')


if __name__ == '__main__':
    main()
