"""Test a model.

Takes all options of mmsegmentation's tools/test.py. Example:
    python tools/test.py configs/semflow_toy.py work_dirs/demo/iter_1700.pth
"""

import argparse

from _options import add_runner_options, runner_config
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument(
        '--out', help='folder for the predicted label maps, as .png')
    parser.add_argument(
        '--show', action='store_true', help='show painted predictions in a window')
    parser.add_argument(
        '--show-dir',
        help='folder for painted predictions of all pictures, whatever interval '
        'the config has; of several processes the first paints its share')
    parser.add_argument(
        '--wait-time', type=float, default=2,
        help='seconds for which --show shows a picture')
    parser.add_argument(
        '--tta', action='store_true',
        help='augment at test time, by tta_pipeline and tta_model of the config')
    add_runner_options(parser)
    return parser.parse_args()


def show_predictions(cfg, args: argparse.Namespace) -> None:
    """Let the config's ``SegVisualizationHook`` paint predictions."""
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None or cfg.get('default_scope') == 'mmagic':
        raise ValueError(
            '--show and --show-dir need a SegVisualizationHook as '
            f'default_hooks.visualization, but {cfg.filename} has {hook}')
    hook.draw = True
    if args.show:
        hook.show = True
        hook.wait_time = args.wait_time
    if args.show_dir is not None:
        hook.interval = 1
        cfg.visualizer.save_dir = args.show_dir


def augment(cfg) -> None:
    """Wrap model and test data of a config for augmentation at test time."""
    for key in ('tta_pipeline', 'tta_model'):
        if key not in cfg:
            raise ValueError(f'--tta needs {key} in the config, but {cfg.filename} '
                             'has none')
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    cfg.model = dict(cfg.tta_model, module=cfg.model)


def keep_predictions(cfg, folder: str) -> None:
    """Let the metric of a config write the predicted label maps."""
    if 'metrics' in cfg.test_evaluator or not isinstance(cfg.test_evaluator, dict):
        raise ValueError('--out needs one metric of the segmentation as '
                         f'test_evaluator, but got {cfg.test_evaluator}')
    cfg.test_evaluator.update(output_dir=folder, keep_results=True)


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        # Before mmsegmentation, for which it supplies what is missing.
        import mmseg_semflow.runtime  # noqa: F401
        cfg = runner_config(args)
        from mmengine.runner import Runner
    cfg.load_from = args.checkpoint
    if args.show or args.show_dir is not None:
        show_predictions(cfg, args)
    if args.tta:
        augment(cfg)
    if args.out is not None:
        keep_predictions(cfg, args.out)
    runner = Runner.from_cfg(cfg)
    # Else the hook that paints would build the training's loop, with its data.
    runner._train_loop = None
    runner.test()


if __name__ == '__main__':
    run(main)
