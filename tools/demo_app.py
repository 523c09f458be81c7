r"""Show both directions of a trained model as a web page.

Example:
    python tools/demo_app.py CONFIG CHECKPOINT
    python tools/demo_app.py semflow_camvid.onnx    # segmentation alone
    SEMFLOW_PASSWORD=... python tools/demo_app.py CONFIG CHECKPOINT \
        --host 0.0.0.0 --user lab
"""

import argparse
import os

from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='or a file of tools/export.py')
    parser.add_argument(
        'checkpoint', nargs='?',
        help='or a file of tools/export.py, which must be of the codec and classes of '
        'the config')
    parser.add_argument('--device')
    parser.add_argument(
        '--providers', nargs='+',
        help='of an ONNX file, in this order, for example CUDAExecutionProvider; '
        'default: all that ONNX Runtime has')
    parser.add_argument(
        '--host', default='127.0.0.1',
        help='default: 127.0.0.1, this machine alone; 0.0.0.0: any')
    parser.add_argument('--port', type=int, default=7860)
    parser.add_argument(
        '--user', help='ask for this user and the password in the variable '
        'SEMFLOW_PASSWORD; default: nobody is asked')
    parser.add_argument(
        '--root-path', metavar='/PATH',
        help='what a proxy takes off the paths that it passes on')
    parser.add_argument(
        '--seconds', type=float, default=300,
        help='how long the model may work at one request; default: 300')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    password = os.environ.get('SEMFLOW_PASSWORD')
    if bool(args.user) != bool(password):
        raise ValueError('--user and the variable SEMFLOW_PASSWORD need each other')
    with imports():
        from mmseg_semflow.apis import SemFlowInferencer
        from mmseg_semflow.webapp.app import serve
    inferencer = SemFlowInferencer(
        args.config, args.checkpoint, args.device, channel_order='rgb',
        providers=args.providers)
    serve(inferencer, args.host, args.port,
          login=(args.user, password) if args.user else None,
          root_path=args.root_path, seconds=args.seconds)


if __name__ == '__main__':
    run(main, (ImportError, ValueError, OSError))
