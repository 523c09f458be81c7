"""Train SemFlow on the toy street, test both directions and draw a gallery.

Writes work_dirs/demo/gallery.png and work_dirs/demo/results.json.
"""

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import List

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, load_checkpoint
from mmengine.utils import track_iter_progress

from mmseg_semflow.synthesis.gallery import to_gallery
from mmseg_semflow.files import write_bytes
from mmseg_semflow.models import Synthesizer
from mmseg_semflow.synthesis.synthesizer import image_and_labels, paint

ROOT = Path(__file__).parents[1]
PACKAGES = ('mmseg_semflow', 'torch', 'mmengine', 'mmcv', 'mmsegmentation',
            'diffusers', 'transformers')
NUM_SAMPLES = 3


@torch.no_grad()
def evaluate_synthesis(runner: Runner, num_images: int) -> dict:
    """Synthesise images for the first masks of the test set."""
    dataset = runner.test_dataloader.dataset
    synthesizer = Synthesizer(
        runner.model.semflow, **runner.cfg.synthesis, num_samples=NUM_SAMPLES,
        segment_steps=1)
    evaluator = Evaluator(
        [dict(type='MaskConsistency'), dict(type='SampleDiversity')])
    evaluator.dataset_meta = dataset.metainfo
    num_images = min(num_images, len(dataset))
    for i in track_iter_progress(list(range(num_images))):
        evaluator.process(
            data_samples=[synthesizer.evaluate(*image_and_labels(dataset[i]))])
    figures = evaluator.evaluate(num_images)
    return dict(
        protocol=f'{num_images} masks, {synthesizer.protocol}',
        **{name: round(float(value), 2) for name, value in figures.items()})


@torch.no_grad()
def draw_gallery(runner: Runner, indices: List[int], path: Path) -> None:
    """Draw image, truth, prediction and samples of some of the test set."""
    dataset = runner.test_dataloader.dataset
    classes, palette = (
        dataset.metainfo[key] for key in ('classes', 'palette'))
    synthesizer = Synthesizer(
        runner.model.semflow, **runner.cfg.synthesis, num_samples=NUM_SAMPLES)
    rows = dict(image=[], truth=[], prediction=[])
    rows.update({f'truth to image {k + 1}': [] for k in range(NUM_SAMPLES)})
    runner.model.eval()
    for index in indices:
        item = dataset[index]
        image, labels = image_and_labels(item)
        result, = runner.model.test_step(
            dict(
                inputs=[item['inputs']], data_samples=[item['data_samples']]))
        pictures = [
            image.permute(1, 2, 0).numpy(),
            paint(labels, palette).numpy(),
            paint(result.pred_sem_seg.data[0], palette).numpy(),
            *synthesizer(labels).permute(0, 2, 3, 1).cpu().numpy()
        ]
        for row, picture in zip(rows.values(), pictures, strict=True):
            row.append(picture)
    legend = dict(zip(classes, palette, strict=True))
    write_bytes(path, to_gallery(rows, legend))


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--config', default=str(ROOT / 'configs/semflow_toy.py'))
    parser.add_argument('--work-dir', default='work_dirs/demo')
    parser.add_argument('--num-steps', type=int, nargs='+', default=[1, 5, 25])
    parser.add_argument(
        '--num-masks', type=int, default=50,
        help='masks from which images are synthesised for the figures')
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    cfg.work_dir = args.work_dir
    work_dir = Path(args.work_dir)
    runner = Runner.from_cfg(cfg)
    # Building the loop draws the data set, which is not training.
    max_iters = runner.train_loop.max_iters
    print(f'\ntraining for {max_iters} iterations, then tests and the gallery',
          flush=True)
    start = time.perf_counter()
    runner.train()
    seconds = time.perf_counter() - start
    # The checkpoint holds the averaged weights where the config asks for EMA.
    checkpoint = (work_dir / 'last_checkpoint').read_text().strip()
    load_checkpoint(runner.model, checkpoint, map_location='cpu')

    miou = {}
    for num_steps in args.num_steps:
        runner.model.test_cfg.num_steps = num_steps
        miou[num_steps] = float(runner.test()['mIoU'])
    runner.model.test_cfg.num_steps = args.num_steps[0]
    print('\nsynthesising images from masks', flush=True)
    synthesis = evaluate_synthesis(runner, args.num_masks)
    draw_gallery(
        runner, list(range(min(5, len(runner.test_dataloader.dataset)))),
        work_dir / 'gallery.png')
    results = dict(
        miou_by_num_steps=miou,
        synthesis=synthesis,
        training_seconds=round(seconds, 1),
        iterations=max_iters,
        checkpoint=checkpoint,
        threads=torch.get_num_threads(),
        versions=dict(
            python=platform.python_version(),
            **{name: version(name)
               for name in PACKAGES}))
    (work_dir / 'results.json').write_text(json.dumps(results, indent=2) + '\n')

    print(f'\n\ntrained in {seconds / 60:.1f} minutes\n')
    print('| image to mask, Euler steps | mIoU |\n|---|---|')
    for num_steps, value in miou.items():
        print(f'| {num_steps} | {value:.2f} |')
    print('\n| mask to image | value |\n|---|---|')
    for name, value in synthesis.items():
        print(f'| {name} | {value} |')
    print(f'\nwrote {work_dir / "gallery.png"} and {work_dir / "results.json"}')


if __name__ == '__main__':
    main()
