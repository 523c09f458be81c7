"""What models compute does not move."""

import pytest
import torch
from golden import CASES, outputs, read
from mmengine.registry import MODELS


@pytest.mark.parametrize('name', CASES)
def test_outputs(name):
    cfg, solvers = CASES[name]
    state_dict, expected = read(name)
    model = MODELS.build(cfg)
    model.load_state_dict(state_dict)
    assert model.state_dict().keys() == state_dict.keys()
    found = outputs(model, solvers)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, rtol=1e-6, atol=1e-6, msg=lambda m, k=key: f'{k}: {m}')
