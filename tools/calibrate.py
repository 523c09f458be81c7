r"""Find the temperature by which a segmentor's probabilities are true.

On the test images of a config, of which every other one is measured with the
temperature of the rest. Writes calibration.json and calibration.png. Example:
    python tools/calibrate.py configs/semflow_toy.py work_dirs/demo/iter_1700.pth
"""

import argparse
import json
from pathlib import Path

from _options import add_cfg_options, read_config
from _startup import imports, run


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config')
    parser.add_argument('checkpoint')
    parser.add_argument('--num-images', type=int, help='default: all')
    parser.add_argument(
        '--num-pixels', type=int, default=10000, help='of each image')
    parser.add_argument('--out', default='work_dirs/calibration')
    parser.add_argument('--device')
    add_cfg_options(parser)
    return parser.parse_args()


def main() -> None:
    """Run the tool."""
    args = parse_args()
    with imports():
        import mmseg_semflow.runtime  # noqa: F401
        from mmseg_semflow.apis import load_model
        from mmseg_semflow.apis.calibration import TemperatureFit
        from mmseg_semflow.apis.tables import to_markdown
        from mmseg_semflow.files import write_bytes
        cfg = read_config(args.config, args.cfg_options)
    model = load_model(cfg, args.checkpoint, args.device)
    fit = TemperatureFit(model, args.num_images, args.num_pixels)
    found = dict(temperature=fit.temperature, figures=fit.figures,
                 test_cfg=dict(model.test_cfg, temperature=fit.temperature))
    write_bytes(Path(args.out, 'calibration.json'),
                json.dumps(found, indent=2).encode())
    write_bytes(Path(args.out, 'calibration.png'), fit.to_plot())
    table = to_markdown([dict(temperature=name, **figures)
                         for name, figures in fit.figures.items()])
    print(f'\n{table}\nmodel.test_cfg.temperature={fit.temperature:.3f}\n'
          f'wrote calibration.json and calibration.png to {args.out}')


if __name__ == '__main__':
    run(main)
