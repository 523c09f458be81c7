"""Checkpoints that are damaged, or made to harm."""

import pickle

import pytest
import torch
from torch import nn

from fuzzing import checkpoints, pickled, zip_bomb
from mmseg_semflow.apis.loading import load_weights
from mmseg_semflow.networks.pretrained import read_weights
from mmseg_semflow.safe_loading import load_from_local, weights_in


def write(tmp_path, data):
    path = tmp_path / 'a.pth'
    path.write_bytes(data)
    return str(path)


def test_a_flipped_bit_of_a_weight(tmp_path):
    """Torch itself would take it for another number."""
    data = bytearray(pickled(dict(a=torch.zeros(1000))))
    path = write(tmp_path, data)
    assert not load_from_local(path)['a'].any()
    data[data.index(bytes(2000)) + 500] ^= 64
    write(tmp_path, data)
    assert torch.load(path, weights_only=True)['a'].any()
    with pytest.raises(ValueError, match='a.pth .* check sum of its record .*data/0'):
        load_from_local(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = write(tmp_path, zip_bomb(pickled(dict(a=torch.zeros(9))), 2**26))
    with pytest.raises(ValueError, match=r'a\.pth .* would take 67,\d+,\d+ bytes'):
        load_from_local(path)


@pytest.mark.parametrize('data', [
    b'\x80\x02R.', b'\x80\x02(l.', pickle.dumps({}, 2)[:-1] + b'\x85R.',
    b'\x80\x02X\xff\xff\xff\x7fa.', b'\x8a\xff', b'\x80\x02ctorch\nload\n.'])
def test_opcodes_of_any_text(tmp_path, data):
    with pytest.raises(ValueError, match='a.pth cannot be read'):
        load_from_local(write(tmp_path, data))


@pytest.mark.parametrize('name', [
    'list', 'number', 'no_dict', 'no_tensors', 'no_names', 'meta'])
def test_what_is_no_state_dict(tmp_path, name):
    path = write(tmp_path, checkpoints()[f'{name}.pth'])
    rule = 'meta of .*a.pth must be a dict, but it is list' if name == 'meta' else \
        'a.pth is no state dict: it must map names to tensors'
    with pytest.raises(ValueError, match=rule):
        load_weights(nn.Linear(1, 1), path)
    if name != 'meta':
        with pytest.raises(ValueError, match=rule):
            read_weights(path)


def test_names_of_weights():
    one = torch.ones(1)
    for held in (dict(a=one), {'module.a': one}, dict(state_dict=dict(a=one)),
                 dict(module=dict(a=one), lr=3)):
        assert weights_in(held, 'x') == dict(a=one)
