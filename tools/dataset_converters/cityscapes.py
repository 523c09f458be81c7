"""Convert Cityscapes: mmsegmentation's own converter, with all its options."""

from mmseg_semflow.engine.tools import run_mmseg_tool

if __name__ == '__main__':
    run_mmseg_tool('dataset_converters/cityscapes.py')
