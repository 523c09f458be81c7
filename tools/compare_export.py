"""Compare an exported segmentor with torch: label maps and latency, in one run.

Example:
    python tools/compare_export.py semflow_camvid semflow_camvid.onnx \
        data/camvid/val
"""

import argparse

from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', help='the folder that the file was exported from')
    parser.add_argument('file', help='what tools/export.py wrote')
    parser.add_argument('pictures', help='a picture or a folder of pictures')
    parser.add_argument(
        '--repeats', type=int, default=5, help='rounds of the clock; default: 5')
    parser.add_argument(
        '--providers', nargs='+',
        help='of an ONNX file, in this order, for example CUDAExecutionProvider; '
        'default: all that ONNX Runtime has')
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        from mmseg_semflow.export.agreement import compare_labels, measure_latency
        from mmseg_semflow.export.pipeline import SemFlowPipeline
        from mmseg_semflow.export.segmentor import ExportedSegmentor
        from mmseg_semflow.synthesis.pictures import list_pictures
    pictures = list_pictures(args.pictures)
    pipe = SemFlowPipeline.from_pretrained(args.folder)
    segmentor = ExportedSegmentor(args.file, providers=args.providers)
    print(compare_labels(pipe, segmentor, pictures))
    for name, seconds in measure_latency(
            pipe, segmentor, pictures[0], args.repeats).items():
        print(f'{name}: {1000 * seconds:.1f} ms, the network and its autoencoder on '
              'one picture')


if __name__ == '__main__':
    run(main, (ImportError, ValueError, OSError))
