"""Multilayer perceptrons compute the same as an implementation in plain NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from lfads_torch.errors import UserError
from lfads_torch.modules.mlp_readout import ACTIVATIONS, MLPReadout, MultisessionMLPReadout
from tests.conftest import tiny_arrays, write_file
from tests.modules.reference import arrays, randomize_

FUNCTIONS = {
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
    "relu": lambda x: np.where(x > 0, x, 0),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "tanh": np.tanh,
}


def readout(params, n_layers, activation, factors):
    for i in range(n_layers):
        factors = factors @ params[f"layers.{2 * i}.weight"].T + params[f"layers.{2 * i}.bias"]
        if i < n_layers - 1:
            factors = FUNCTIONS[activation](factors)
    return factors


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shape=st.lists(st.integers(1, 3), max_size=2),
    hidden=st.lists(st.integers(1, 5), max_size=3),
    activation=st.sampled_from(sorted(FUNCTIONS)),
    seed=st.integers(0, 100),
)
def test_follows_its_equation(shape, hidden, activation, seed):
    module = randomize_(MLPReadout(3, 4, hidden, activation), seed)
    factors = np.random.default_rng(seed).normal(size=(*shape, 3))
    expected = readout(arrays(module), len(hidden) + 1, activation, factors)
    np.testing.assert_allclose(module(torch.tensor(factors)).detach(), expected, rtol=1e-10)


def test_every_activation_is_tested():
    assert set(FUNCTIONS) == set(ACTIVATIONS)


def test_gradients():
    module = randomize_(MLPReadout(2, 3, [3, 2]), scale=0.5)
    values = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}

    def run(factors, *parameters):
        return functional_call(module, dict(zip(values, parameters, strict=True)), (factors,))

    factors = torch.randn(2, 2, dtype=torch.float64, generator=torch.manual_seed(0))
    assert torch.autograd.gradcheck(run, (factors.requires_grad_(), *values.values()))


def test_initial_values():
    torch.manual_seed(0)
    first, _, second = MLPReadout(200, 300, [400]).layers
    for layer, fan_in in ((first, 200), (second, 400)):
        assert layer.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.02)
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "gulu"}, r"activation .*gelu, relu, softplus, tanh, but is 'gulu'"),
        ({"hidden_features": [3, 0]}, r"hidden_features .*at least 1.*\[3, 0\]"),
        ({"hidden_features": 3}, r"hidden_features .*must be a list .*but is 3"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        MLPReadout(2, 3, **arguments)


@pytest.fixture
def sessions(tmp_path):
    write_file(tmp_path / "a.h5", tiny_arrays())
    write_file(tmp_path / "b.h5", tiny_arrays(n_channels=7))
    return str(tmp_path / "*.h5")


def test_one_network_for_each_session(sessions):
    readouts = MultisessionMLPReadout(sessions, 3, [4, 6], "tanh", recon_params=2)
    assert [(r.in_features, r.out_features) for r in readouts] == [(3, 10), (3, 14)]
    assert all(r.hidden_features == [4, 6] and r.activation == "tanh" for r in readouts)
    assert all(p.requires_grad for p in readouts.parameters())
    weights = [r.layers[0].weight for r in readouts]
    assert not torch.equal(*weights)


def test_frozen(sessions):
    readouts = MultisessionMLPReadout(sessions, 3, requires_grad=False)
    assert not any(p.requires_grad for p in readouts.parameters())
