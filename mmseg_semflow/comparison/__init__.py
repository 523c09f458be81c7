"""The methods that SemFlow is compared with, and the table of them all.

Optional: nothing else of the package imports it. Its GANs need mmagic, and its
MaskFormer mmdet: ``pip install 'mmseg_semflow[comparison]'``.
"""
