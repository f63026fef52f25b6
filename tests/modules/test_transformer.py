"""The transformer encoder computes the same as an implementation in plain NumPy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from lfads_torch.errors import UserError
from lfads_torch.modules.l2 import compute_l2_penalty
from lfads_torch.modules.transformer import TransformerEncoder
from tests.conftest import tiny_model
from tests.modules.reference import arrays, below, randomize_


def make_encoder(**changes):
    arguments = {
        "encod_data_dim": 3,
        "encod_seq_len": 5,
        "recon_seq_len": 7,
        "ic_enc_seq_len": 0,
        "ci_enc_dim": 2,
        "ic_dim": 2,
        "ic_post_var_min": 0.05,
        "use_con": True,
        "dropout_rate": 0.0,
        "token_dim": 4,
        "n_layers": 2,
        "n_heads": 2,
        "feedforward_dim": 6,
    }
    return TransformerEncoder(**arguments | changes)


def normalized(params, tokens):
    centred = tokens - tokens.mean(1, keepdims=True)
    variance = (centred**2).mean(1, keepdims=True)
    return params["weight"] * centred / np.sqrt(variance + 1e-5) + params["bias"]


def linear(params, x):
    return x @ params["weight"].T + params["bias"]


def attention(params, tokens, n_heads):
    """Let every token attend to all tokens, one head at a time."""
    projected = tokens @ params["in_proj_weight"].T + params["in_proj_bias"]
    queries, keys, values = np.split(projected, 3, axis=1)
    size = tokens.shape[1] // n_heads
    heads = []
    for head in (slice(i * size, (i + 1) * size) for i in range(n_heads)):
        scores = queries[:, head] @ keys[:, head].T / math.sqrt(size)
        weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        heads.append(weights @ values[:, head])
    return linear(below(params, "out_proj."), np.concatenate(heads, axis=1))


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def encode(params, data, *, t_rec, t_ic, n_layers, n_heads, var_min, use_con):
    """Encode one trial (T, N)."""
    tokens = linear(below(params, "embedding."), data) + params["positions"]
    segments = [slice(0, t_ic), slice(t_ic, None)] if t_ic else [slice(None)]
    for i in range(n_layers):
        layer = below(params, f"layers.{i}.")
        for segment in segments:
            part = tokens[segment]
            before = normalized(below(layer, "norm1."), part)
            part = part + attention(below(layer, "self_attn."), before, n_heads)
            before = normalized(below(layer, "norm2."), part)
            hidden = gelu(linear(below(layer, "linear1."), before))
            tokens[segment] = part + linear(below(layer, "linear2."), hidden)
    tokens = normalized(below(params, "norm."), tokens)
    mean, logvar = np.split(linear(below(params, "ic_linear."), tokens[segments[0]].mean(0)), 2)
    ci = np.zeros((t_rec, 0))
    if use_con:
        read = linear(below(params, "ci_linear."), tokens[segments[-1]])
        ci = np.zeros((t_rec, read.shape[1]))
        ci[t_ic : len(data)] = read
    return mean, np.sqrt(np.exp(logvar) + var_min), ci


@pytest.mark.filterwarnings("ignore:.*nested tensor.*")
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    trials=st.integers(1, 2),
    t_ic=st.integers(0, 2),
    t_ci=st.integers(1, 3),
    n_forward=st.integers(0, 2),
    n_layers=st.integers(1, 2),
    n_heads=st.sampled_from([1, 2, 4]),
    use_con=st.booleans(),
    train=st.booleans(),
    seed=st.integers(0, 100),
)
def test_equals_the_reference(
    trials, t_ic, t_ci, n_forward, n_layers, n_heads, use_con, train, seed
):
    t_enc = t_ic + t_ci
    sizes = {"n_layers": n_layers, "n_heads": n_heads, "use_con": use_con}
    encoder = make_encoder(
        encod_seq_len=t_enc, recon_seq_len=t_enc + n_forward, ic_enc_seq_len=t_ic, **sizes
    )
    randomize_(encoder, seed).train(train)
    data = np.random.default_rng(seed).normal(size=(trials, t_enc, 3))
    with torch.no_grad():
        actual = encoder(torch.tensor(data))
    sizes |= {"t_rec": t_enc + n_forward, "t_ic": t_ic, "var_min": 0.05}
    expected = [encode(arrays(encoder), trial, **sizes) for trial in data]
    for value, reference in zip(actual, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(value, np.stack(reference), rtol=1e-9, atol=1e-11)


def seen(output, data):
    """Return the bins (T) that an output depends on."""
    (gradient,) = torch.autograd.grad(output.sum(), data, retain_graph=True)
    return gradient.abs().sum((0, 2)) > 1e-12


def test_initial_condition_and_controller_see_separate_bins():
    encoder = randomize_(make_encoder(ic_enc_seq_len=2))
    data = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    ic_mean, ic_std, ci = encoder(data)
    first = torch.arange(5) < 2
    assert torch.equal(seen(ic_mean[:, 0], data), first)
    assert torch.equal(seen(ic_std[:, 0], data), first)
    for t in range(2, 5):
        assert torch.equal(seen(ci[:, t, 0], data), ~first)
    assert not ci[:, :2].any()
    assert not ci[:, 5:].any()


def test_without_separate_bins_both_see_all_bins():
    encoder = randomize_(make_encoder())
    data = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    ic_mean, ic_std, ci = encoder(data)
    for output in (ic_mean[:, 0], ic_std[:, 0], ci[:, 0, 0], ci[:, 4, 0]):
        assert seen(output, data).all()


@pytest.mark.parametrize("t_ic", [0, 1])
def test_gradients(t_ic):
    encoder = make_encoder(encod_seq_len=2, recon_seq_len=3, ic_enc_seq_len=t_ic, n_layers=1)
    randomize_(encoder, scale=0.5)
    values = {name: p.detach().clone().requires_grad_() for name, p in encoder.named_parameters()}

    def run(data, *parameters):
        return tuple(functional_call(encoder, dict(zip(values, parameters, strict=True)), (data,)))

    data = torch.randn(1, 2, 3, dtype=torch.float64, generator=torch.manual_seed(0))
    assert torch.autograd.gradcheck(run, (data.requires_grad_(), *values.values()))


def test_initial_values():
    torch.manual_seed(0)
    encoder = make_encoder(encod_seq_len=300, token_dim=200, ic_dim=100, ci_enc_dim=100)
    assert encoder.positions.std().item() == pytest.approx(0.02, rel=0.02)
    for readout in (encoder.ic_linear, encoder.ci_linear):
        assert readout.weight.std().item() == pytest.approx(200**-0.5, rel=0.02)
        assert not readout.bias.any()
    first, second = (layer.linear1.weight for layer in encoder.layers)
    assert not torch.equal(first, second)


def test_dropout_acts_only_in_training():
    encoder = make_encoder(dropout_rate=0.5)
    data = torch.randn(2, 5, 3)
    assert not torch.equal(encoder(data).ci, encoder(data).ci)
    encoder.eval()
    assert torch.equal(encoder(data).ci, encoder(data).ci)


def test_without_a_controller():
    encoder = make_encoder(use_con=False)
    assert not [key for key in encoder.state_dict() if key.startswith("ci_")]
    assert encoder(torch.randn(2, 5, 3)).ci.shape == (2, 7, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, r"encoder\.token_dim must be a multiple of .*n_heads, but .* 4 and 3"),
        ({"n_heads": 0}, r"encoder\.n_heads must be at least 1, but is 0"),
        ({"n_layers": 0}, r"encoder\.n_layers must be at least 1"),
        ({"token_dim": 0}, r"encoder\.token_dim must be at least 1"),
        ({"feedforward_dim": 0}, r"encoder\.feedforward_dim must be at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        make_encoder(**arguments)


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 5, 4)])
def test_data_of_another_shape(shape):
    with pytest.raises(UserError, match=r"5 bins.*encod_seq_len.*3 channels.*a batch has"):
        make_encoder()(torch.zeros(shape))


def test_no_weights_are_penalised():
    scales = {"l2_ic_enc_scale": 1.0, "l2_ci_enc_scale": 1.0, "l2_gen_scale": 0.0}
    model = tiny_model(encoder=TransformerEncoder, l2_con_scale=0.0, **scales)
    assert model.encoder.recurrent_weights() == {}
    assert compute_l2_penalty(model, model.hparams).item() == 0
