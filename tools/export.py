"""Write the segmentor of a folder of SemFlowPipeline as one file.

An ONNX file, or one of torch.export, that runs without OpenMMLab and diffusers.

Example:
    python tools/export.py semflow_camvid semflow_camvid.onnx
"""

import argparse

from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'folder',
        help='what semflow2diffusers.py wrote, or the name of such a model on the hub')
    parser.add_argument('out', help='the file, ending in .onnx or .pt2')
    parser.add_argument('--steps', type=int, help='default: those of the folder')
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'),
        help='one size for all pictures; default: any multiples of the coarsest cells')
    parser.add_argument('--opset', type=int, default=18, help='of ONNX; default: 18')
    parser.add_argument('--overwrite', action='store_true', help='replace the file')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.export.graph import export_segmentor
        from mmseg_semflow.export.pipeline import SemFlowPipeline
    note = export_segmentor(
        SemFlowPipeline.from_pretrained(args.folder), args.out, args.steps, args.size,
        args.opset, args.overwrite)
    size = note['size']
    print(f'wrote {args.out}: {note["segmentation"]["num_steps"]} steps, ' +
          (f'sides that are multiples of {note["divisor"]}' if size is None else
           f'{size[0]}x{size[1]} (height x width)'))


if __name__ == '__main__':
    run(main, (ImportError, ValueError, OSError))
