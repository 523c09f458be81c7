"""Train a model: mmsegmentation's tools/train.py, with all its options."""

from mmseg_semflow.engine.tools import run_mmseg_tool

if __name__ == '__main__':
    run_mmseg_tool('train.py')
