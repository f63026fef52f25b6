"""The decoder computes the same as an implementation of its equations in plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from lfads_torch.modules.decoder import Decoder, DecoderOutput, KernelNormalizedLinear
from lfads_torch.modules.priors import MultivariateNormal, Null
from tests.modules.reference import arrays, decode_trial, make_transparent_, randomize_


def make_decoder(**changes):
    sizes = {
        "ext_input_dim": 2,
        "ic_dim": 3,
        "ci_enc_dim": 2,
        "con_dim": 4,
        "co_dim": 2,
        "gen_dim": 5,
        "fac_dim": 3,
        "dropout_rate": 0.0,
        "cell_clip": 5.0,
        "use_con": True,
    }
    return Decoder(**sizes | changes)


def inputs_of(decoder, trials=2, bins=4, ext_dim=2, seed=0):
    """Draw samples of the initial condition, controller inputs and external inputs."""
    rng = np.random.default_rng(seed)
    ci_dim = 4 if decoder.use_con else 0
    shapes = (trials, 3), (trials, bins, ci_dim), (trials, bins, ext_dim)
    return [torch.tensor(rng.normal(size=shape)) for shape in shapes]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    trials=st.integers(1, 2),
    bins=st.integers(1, 4),
    ext_dim=st.integers(0, 2),
    clip=st.sampled_from([0.4, 5.0]),
    use_con=st.booleans(),
    seed=st.integers(0, 100),
)
def test_equals_the_reference(trials, bins, ext_dim, clip, use_con, seed):
    decoder = make_decoder(ext_input_dim=ext_dim, cell_clip=clip, use_con=use_con)
    randomize_(decoder, seed)
    inputs = inputs_of(decoder, trials, bins, ext_dim, seed)
    with torch.no_grad():
        output = decoder(*inputs)
    params = arrays(decoder)
    trials = [
        decode_trial(params, *(x.numpy() for x in trial), clip, use_con)
        for trial in zip(*inputs, strict=True)
    ]
    for field in DecoderOutput._fields:
        expected = np.stack([trial[field] for trial in trials])
        np.testing.assert_allclose(getattr(output, field), expected, rtol=1e-10, atol=1e-12)


def test_scaling_the_rows_of_the_factors_changes_nothing():
    decoder = randomize_(make_decoder())
    inputs = inputs_of(decoder)
    before = decoder(*inputs)
    with torch.no_grad():
        decoder.rnn.cell.fac_linear.weight *= torch.tensor([[0.01], [3.0], [100.0]])
    for a, b in zip(before, decoder(*inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_normalized_weight_has_rows_of_unit_length():
    linear = KernelNormalizedLinear(7, 4, bias=False)
    lengths = linear.normalized_weight().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(4))
    x = torch.randn(2, 3, 7)
    expected = x @ (linear.weight / linear.weight.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(linear(x), expected)


def test_initial_values():
    torch.manual_seed(0)
    decoder = make_decoder(
        ext_input_dim=100, ic_dim=150, ci_enc_dim=60, con_dim=200, co_dim=100, gen_dim=250,
        fac_dim=120,
    )  # fmt: skip
    cell = decoder.rnn.cell
    for weight, k in [
        (decoder.ic_to_g0.weight, 150),
        (cell.fac_linear.weight, 250),
        (cell.co_linear.weight, 200),
        (cell.gen_cell.weight_ih, 200),
        (cell.gen_cell.weight_hh, 250),
        (cell.con_cell.weight_ih, 240),
        (cell.con_cell.weight_hh, 200),
    ]:
        assert weight.shape[1] == k
        assert weight.std().item() == pytest.approx(k**-0.5, rel=0.02)
    assert not decoder.ic_to_g0.bias.any()
    assert not cell.co_linear.bias.any()
    assert cell.fac_linear.bias is None
    assert decoder.con_h0.shape == (1, 200)
    assert decoder.con_h0.requires_grad
    assert not decoder.con_h0.any()


@pytest.fixture
def prior():
    return MultivariateNormal(0.0, 1.0, 2)


def test_samples_of_the_controller_output(prior):
    torch.manual_seed(0)
    decoder = randomize_(make_decoder())
    inputs = [x.expand(20_000, *x.shape[1:]) for x in inputs_of(decoder, trials=1, bins=2)]
    with torch.no_grad():
        output = decoder(*inputs, prior)
    noise = (output.gen_inputs[..., :2] - output.co_means) / output.co_stds
    assert noise.mean(dim=0).abs().max() < 5 / 20_000**0.5
    torch.testing.assert_close(noise.std(dim=0), torch.ones(2, 2).double(), rtol=0, atol=0.03)
    # Samples are drawn independently for every trial, bin and dimension.
    correlations = torch.corrcoef(noise.flatten(1).T) - torch.eye(4)
    assert correlations.abs().max() < 5 / 20_000**0.5
    # External inputs do not change.
    torch.testing.assert_close(output.gen_inputs[..., 2:], inputs[2])


def test_the_sample_drives_the_generator(prior):
    decoder = randomize_(make_decoder())
    ic, ci, ext = inputs_of(decoder)
    sampled = decoder(ic, ci, ext, prior)
    state = sampled.gen_init
    for t in range(ci.shape[1]):
        state = decoder.rnn.cell.gen_cell(sampled.gen_inputs[:, t], state)
        torch.testing.assert_close(state, sampled.gen_states[:, t])


def test_any_distribution_of_the_prior_is_sampled_and_none_takes_the_mean():
    decoder = randomize_(make_decoder())
    inputs = inputs_of(decoder)
    mean = decoder(*inputs)
    torch.testing.assert_close(mean.gen_inputs[..., :2], mean.co_means)

    class Shifted(Null):
        def make_posterior(self, mean, std):
            return Normal(mean + 3 * std, 1e-12)

    shifted = decoder(*inputs, Shifted())
    expected = shifted.co_means + 3 * shifted.co_stds
    torch.testing.assert_close(shifted.gen_inputs[..., :2], expected)


@pytest.mark.parametrize("sampled", [True, False])
def test_gradients_reach_what_the_samples_depend_on(sampled, prior):
    decoder = randomize_(make_decoder())
    inputs = [x.requires_grad_() for x in inputs_of(decoder)]
    decoder(*inputs, prior if sampled else None).factors.sum().backward()
    gradient = decoder.rnn.cell.co_linear.weight.grad
    assert gradient[:2].all()
    assert gradient[2:].all() if sampled else not gradient[2:].any()
    assert all(x.grad.all() for x in inputs)
    assert decoder.con_h0.grad.all()


def test_dropout_of_factors_controller_inputs_and_external_inputs():
    torch.manual_seed(0)
    # The controller returns its input, dropout([ci, f]), and the factors are dropout(g).
    decoder = make_decoder(con_dim=4 + 5, fac_dim=5, dropout_rate=0.3)
    make_transparent_(decoder.rnn.cell.con_cell)
    with torch.no_grad():
        decoder.rnn.cell.fac_linear.weight.copy_(2 * torch.eye(5))
    ic, ext = torch.randn(2000, 3), torch.randn(2000, 3, 2)
    ci = torch.rand(2000, 3, 4) + 0.1
    with torch.no_grad():
        output = decoder(ic, ci, ext)
    reported_ci, reported_factors = torch.atanh(output.con_states).split([4, 5], dim=2)
    previous = output.factors[:, :-1]
    for dropped, value in [
        (output.factors, output.gen_states),
        (reported_ci, ci),
        (output.gen_inputs[..., 2:], ext),
        (reported_factors[:, 1:][previous != 0], previous[previous != 0]),
    ]:
        kept = dropped.abs() > 1e-6
        assert kept.float().mean().item() == pytest.approx(0.7, abs=0.02)
        torch.testing.assert_close(dropped[kept], value[kept] / 0.7, rtol=1e-3, atol=1e-4)
    # The first factors that the controller sees are F dropout(g_0), after a second dropout.
    kept = reported_factors[:, 0].abs() > 1e-6
    assert kept.float().mean().item() == pytest.approx(0.7**2, abs=0.02)


def test_no_dropout_in_evaluation():
    dropping = randomize_(make_decoder(dropout_rate=0.5)).eval()
    plain = randomize_(make_decoder())
    inputs = inputs_of(plain)
    for a, b in zip(dropping(*inputs), plain(*inputs), strict=True):
        torch.testing.assert_close(a, b)


def test_penalised_weights():
    decoder = make_decoder()
    groups = decoder.recurrent_weights()
    assert set(groups) == {"gen", "con"}
    assert len(groups["gen"]) == len(groups["con"]) == 1
    assert groups["gen"][0] is decoder.rnn.cell.gen_cell.weight_hh
    assert groups["con"][0] is decoder.rnn.cell.con_cell.weight_hh


def test_without_a_controller():
    decoder = make_decoder(use_con=False, con_dim=3, ext_input_dim=0)
    assert set(decoder.recurrent_weights()) == {"gen"}
    assert not [key for key in decoder.state_dict() if "con_cell" in key or "co_linear" in key]
    assert decoder.con_h0.shape == (1, 3)
    output = decoder(torch.randn(2, 3), torch.zeros(2, 4, 0), torch.zeros(2, 4, 0))
    for field in ("co_means", "co_stds", "gen_inputs"):
        assert getattr(output, field).shape == (2, 4, 0)
    assert output.con_states.shape == (2, 4, 3)
