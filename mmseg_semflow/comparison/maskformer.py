"""What mmsegmentation's MaskFormer needs besides: mmdet.

Configs name this module in ``custom_imports``; without it mmsegmentation says
no more than that an argument is unexpected.
"""

from mmseg_semflow.extras import MissingExtraError

try:
    import mmdet  # noqa: F401
except ImportError as error:
    raise MissingExtraError('MaskFormer', 'mmdet', 'comparison',
                            error) from error
