"""Show both directions of a trained model as a web page.

Example:
    python tools/demo_app.py CONFIG CHECKPOINT
"""

import argparse

from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--device')
    parser.add_argument(
        '--host', default='127.0.0.1',
        help='default: 127.0.0.1, this machine alone; 0.0.0.0: any')
    parser.add_argument('--port', type=int, default=7860)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.apis import SemFlowInferencer
        from mmseg_semflow.webapp.app import serve
    inferencer = SemFlowInferencer(
        args.config, args.checkpoint, args.device, channel_order='rgb')
    serve(inferencer, args.host, args.port)


if __name__ == '__main__':
    run(main, (ImportError, ValueError, OSError))
