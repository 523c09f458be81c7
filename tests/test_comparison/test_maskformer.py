"""MaskFormer's focal loss, as it is on a GPU too."""

import pytest
import torch
from mmengine.registry import MODELS

pytest.importorskip('mmdet')

from mmdet.models.losses import FocalLoss, focal_loss  # noqa: E402

import mmseg_semflow.comparison.maskformer  # noqa: E402, F401


@pytest.mark.parametrize('num_classes', [1, 4])
def test_the_focal_loss_is_mmdets_and_calls_no_operator(num_classes, monkeypatch):
    """Also where mmdet would: on a GPU, and here on what says that it is one."""

    class OnGpu(torch.Tensor):
        is_cuda = True

    def refused(*args, **kwargs):
        raise NotImplementedError('an operator of mmcv')

    logits = torch.randn(6, num_classes, requires_grad=True)
    target = torch.randint(0, num_classes + 1, (6, ))
    arguments = dict(use_sigmoid=True, loss_weight=20.)
    theirs = FocalLoss(**arguments)
    ours = MODELS.build(dict(type='OneHotFocalLoss', **arguments))
    expected = theirs(logits, target, avg_factor=5)
    torch.testing.assert_close(ours(logits, target, avg_factor=5), expected)

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(focal_loss, 'sigmoid_focal_loss', refused)
    on_gpu = logits.detach().as_subclass(OnGpu)
    with pytest.raises(NotImplementedError):
        theirs(on_gpu, target, avg_factor=5)
    torch.testing.assert_close(
        ours(on_gpu, target, avg_factor=5).as_subclass(torch.Tensor),
        expected.detach())
