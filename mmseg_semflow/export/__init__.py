"""What was trained, where neither mmsegmentation nor mmcv nor mmengine is installed.

:mod:`.pipeline` is a pipeline of diffusers, which is imported with it, for both
directions.
"""
