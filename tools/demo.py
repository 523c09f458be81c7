"""Train SemFlow on the toy street, test both directions and show a gallery.

Writes work_dirs/demo/gallery.png and work_dirs/demo/results.json.
"""

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

from _options import read_config
from _startup import imports, run

ROOT = Path(__file__).parents[1]
PACKAGES = ('torch', 'mmengine', 'mmsegmentation', 'diffusers', 'transformers')
NUM_SAMPLES = 3


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default=str(ROOT / 'configs/semflow_toy.py'))
    parser.add_argument('--work-dir', default='work_dirs/demo')
    parser.add_argument('--num-steps', type=int, nargs='+', default=[1, 5, 25])
    parser.add_argument(
        '--num-masks', type=int, default=50,
        help='masks from which images are synthesised for the figures')
    return parser.parse_args()


def evaluate_synthesis(model, num_images: int) -> dict:
    """Synthesise images for the first masks of the test set."""
    from mmseg_semflow.apis.scoring import Evaluation
    from mmseg_semflow.synthesis import Synthesizer
    synthesizer = Synthesizer(
        model.semflow, **model.cfg.synthesis, num_samples=NUM_SAMPLES,
        segment_steps=1)
    evaluation = Evaluation(model, num_images)
    figures = evaluation.synthesis(
        synthesizer, [dict(type='MaskConsistency'), dict(type='SampleDiversity')])
    return dict(
        protocol=f'{evaluation.num_images} masks, {synthesizer.protocol}',
        **{name: round(value, 2) for name, value in figures.items()})


def main() -> None:
    """Run the demo."""
    args = parse_args()
    with imports():
        import mmcv
        import torch
        from mmengine.runner import Runner, load_checkpoint

        import mmseg_semflow
        from mmseg_semflow.apis import SemFlowInferencer
        from mmseg_semflow.apis.gallery import make_gallery
        from mmseg_semflow.files import write_bytes
        cfg = read_config(args.config)
    cfg.work_dir = args.work_dir
    work_dir = Path(args.work_dir)
    runner = Runner.from_cfg(cfg)
    # Building the loop makes the data set, which is not training.
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
    print('\nsynthesising images from masks', flush=True)
    inferencer = SemFlowInferencer(cfg, checkpoint, channel_order='rgb')
    synthesis = evaluate_synthesis(inferencer.model, args.num_masks)
    write_bytes(
        work_dir / 'gallery.png',
        make_gallery(inferencer, runner.test_dataloader.dataset,
                     num_samples=NUM_SAMPLES, num_steps=args.num_steps[0]))
    results = dict(
        miou_by_num_steps=miou,
        synthesis=synthesis,
        training_seconds=round(seconds, 1),
        iterations=max_iters,
        checkpoint=checkpoint,
        threads=torch.get_num_threads(),
        versions=dict(
            python=platform.python_version(),
            mmseg_semflow=mmseg_semflow.__version__,
            mmcv=mmcv.__version__,
            **{name: version(name)
               for name in PACKAGES}))
    write_bytes(work_dir / 'results.json',
                (json.dumps(results, indent=2) + '\n').encode())

    print(f'\n\ntrained in {seconds / 60:.1f} minutes\n')
    print('| image to mask, Euler steps | mIoU |\n|---|---|')
    for num_steps, value in miou.items():
        print(f'| {num_steps} | {value:.2f} |')
    print('\n| mask to image | value |\n|---|---|')
    for name, value in synthesis.items():
        print(f'| {name} | {value} |')
    print(f'\nwrote {work_dir / "gallery.png"} and {work_dir / "results.json"}')


if __name__ == '__main__':
    run(main)
