"""Train a model.

Takes all options of mmsegmentation's tools/train.py. Example:
    python tools/train.py configs/semflow_toy.py --work-dir work_dirs/street
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
    parser.add_argument(
        '--resume', action='store_true',
        help='go on from the newest checkpoint of the work folder, if any')
    parser.add_argument(
        '--amp', action='store_true',
        help='mixed precision, for a config with a plain OptimWrapper')
    add_runner_options(parser)
    return parser.parse_args()


def use_mixed_precision(cfg) -> None:
    """Replace the ``OptimWrapper`` of a config by one with autocast."""
    wrapper = cfg.optim_wrapper
    kind = wrapper.get('type', None if 'constructor' in wrapper else 'OptimWrapper')
    if kind in ('AutocastOptimWrapper', 'AmpOptimWrapper'):
        print(f'--amp changes nothing: optim_wrapper.type is {kind!r} already')
    elif kind == 'OptimWrapper':
        wrapper.type = 'AutocastOptimWrapper'
        wrapper.loss_scale = 'dynamic'
    else:
        raise ValueError("--amp needs optim_wrapper.type='OptimWrapper', but "
                         f'got {kind!r}')


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        # Before mmsegmentation, for which it supplies what is missing.
        import mmseg_semflow.runtime  # noqa: F401
        cfg = runner_config(args)
        from mmengine.runner import FlexibleRunner, Runner
        from mmseg.registry import RUNNERS

        from mmseg_semflow.engine import SafeCheckpointHook
    if args.amp:
        use_mixed_precision(cfg)
    cfg.resume = args.resume
    if 'runner_type' not in cfg:
        runner = Runner.from_cfg(cfg)
    else:
        runner = RUNNERS.build(cfg)
    if isinstance(runner, FlexibleRunner):
        # It reads `last_checkpoint` before it calls a hook.
        for hook in runner.hooks:
            if isinstance(hook, SafeCheckpointHook):
                hook.before_run(runner)
    runner.train()


if __name__ == '__main__':
    run(main, interrupted='--resume goes on from the newest checkpoint, or '
        'starts anew where there is none yet')
