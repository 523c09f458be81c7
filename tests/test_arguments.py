"""Arguments of configs have the types of their annotations."""

from typing import Callable, Dict, Optional, Sequence, Tuple, Union

import numpy as np
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from mmseg_semflow.arguments import checked, fits, naming
from tiny import UNET, network_cfg, semflow_cfg


@pytest.mark.parametrize('annotation, right, wrong', [
    (int, (0, -3, np.int64(2)), (True, 1.5, '1', None, [])),
    (float, (0, 1.5, np.float32(2)), (True, '1', None)),
    (bool, (True, False), (0, 1, 'True')),
    (str, ('', 'a'), (b'a', 1, None)),
    (dict, ({}, ConfigDict(a=1)), ([], None, 'a')),
    (Optional[int], (None, 1), ('a', 1.5)),
    (Tuple[int, int], ((1, 2), [1, 2]), ((1, ), (1, 2, 3), (1, 'a'), 5, 'ab')),
    (Sequence[float], ((), [1, 2.5]), ('12', [1, 'a'], 3, {1: 2})),
    (Union[str, Sequence[str]], ('a', ['a']), (1, [1])),
    (Dict[str, int], ({}, dict(a=1)), ([], )),
    (Callable, (print, 5), ()),
    ('AClassOfAnotherModule', (5, ), ()),
])
def test_types(annotation, right, wrong):
    for value in right:
        assert fits(value, annotation), value
    for value in wrong:
        assert not fits(value, annotation), value


@checked
class Part:
    """Has a rule of its own."""

    def __init__(self, size: int, name: Optional[str] = None, **rest: int) -> None:
        if size < 0:
            raise ValueError('size must be >= 0')
        self.size = size


class Heir(Part):
    """Takes what it does not check."""

    def __init__(self, size, flag: bool = False) -> None:
        super().__init__(size)


def test_what_fits_is_built():
    assert Part(3, name='a', other='not looked at').size == 3 and Heir(2).size == 2


@pytest.mark.parametrize('build, message', [
    (lambda: Part('a'), "^size of Part must be int, but got 'a'$"),
    (lambda: Part(1.5), '^size of Part must be int, but got 1.5'),
    (lambda: Part(1, name=2), r'^name of Part must be Optional\[str\], but got 2'),
    (lambda: Part(-1), '^size must be >= 0'),
    (lambda: Heir(None), '^size of Part must be int, but got None'),
])
def test_what_does_not_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_is_missing_or_unknown():
    with pytest.raises(ValueError, match="^Part: missing a required argument: 'size'"):
        Part()
    with pytest.raises(ValueError, match="^EndStdPreconditioning: .* 'end'"):
        MODELS.build(dict(type='EndStdPreconditioning', end_std=(1, 1), end=3))


def test_other_libraries_are_named():
    with pytest.raises(ValueError, match=r"unet cannot be built of \{'what': 1\}"):
        naming('unet', dict.fromkeys, what=1)


@pytest.mark.parametrize('change, message', [
    (dict(codec=dict(num_classes='5')), 'num_classes of PseudoMaskCodec must be int'),
    (dict(codec=5), 'codec of SemFlowModel must be dict, but got 5'),
    (dict(losses=dict(type='MatchingLoss')), 'losses of SemFlowModel must be'),
    (dict(losses=[dict(type='MatchingLoss', weight='1')]),
     "weight of MatchingLoss must be float, but got '1'"),
    (dict(channels_last='no'), 'channels_last of SemFlowModel must be bool'),
    (dict(network=dict(network_cfg(), prompt_length='3')),
     "prompt_length of VelocityUNet must be int, but got '3'"),
    (dict(network=dict(network_cfg(), unet=dict(UNET, block_out_channels='a'))),
     "unet cannot be built of .*'block_out_channels': 'a'"),
    (dict(process=dict(type='RectifiedFlow', start_fraction=[0])),
     r'start_fraction of RectifiedFlow must be float, but got \[0\]'),
])
def test_a_wrong_type_in_a_config(change, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(semflow_cfg(), **change))
