"""The encoder computes the same as an implementation of its equations in plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lfads_torch.modules.encoder import Encoder
from tests.modules.reference import arrays, encode_trial, make_transparent_, randomize_


def make_encoder(**changes):
    sizes = {
        "encod_data_dim": 3,
        "encod_seq_len": 5,
        "recon_seq_len": 7,
        "ic_enc_seq_len": 0,
        "ic_enc_dim": 4,
        "ci_enc_dim": 2,
        "ci_lag": 1,
        "ic_dim": 2,
        "ic_post_var_min": 1e-4,
        "dropout_rate": 0.0,
        "cell_clip": 5.0,
        "use_con": True,
    }
    return Encoder(**sizes | changes)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    trials=st.integers(1, 2),
    channels=st.integers(1, 3),
    t_ic=st.integers(0, 2),
    t_ci=st.integers(1, 4),
    n_forward=st.integers(0, 2),
    lag=st.sampled_from([0, 1, 3, 9]),
    clip=st.sampled_from([0.4, 5.0]),
    use_con=st.booleans(),
    seed=st.integers(0, 100),
)
def test_equals_the_reference(trials, channels, t_ic, t_ci, n_forward, lag, clip, use_con, seed):
    t_enc = t_ic + t_ci
    encoder = make_encoder(
        encod_data_dim=channels,
        encod_seq_len=t_enc,
        recon_seq_len=t_enc + n_forward,
        ic_enc_seq_len=t_ic,
        ci_lag=lag,
        cell_clip=clip,
        use_con=use_con,
        ic_post_var_min=0.05,
    )
    randomize_(encoder, seed)
    data = np.random.default_rng(seed).normal(size=(trials, t_enc, channels))
    actual = encoder(torch.tensor(data))
    params = arrays(encoder)
    sizes = {"t_rec": t_enc + n_forward, "t_ic": t_ic, "lag": lag, "clip": clip, "use_con": use_con}
    expected = [encode_trial(params, trial, var_min=0.05, **sizes) for trial in data]
    for value, reference in zip(actual, zip(*expected, strict=True), strict=True):
        np.testing.assert_allclose(value.detach(), np.stack(reference), rtol=1e-11, atol=1e-13)


def test_the_initial_condition_sees_only_the_first_bins_and_the_controller_only_the_others():
    encoder = randomize_(make_encoder(ic_enc_seq_len=2))
    data = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    mean, std, ci = encoder(data)
    (from_ic,) = torch.autograd.grad((mean + std).sum(), data, retain_graph=True)
    (from_ci,) = torch.autograd.grad(ci.sum(), data)
    assert from_ic[:, :2].all()
    assert not from_ic[:, 2:].any()
    assert from_ci[:, 2:].all()
    assert not from_ci[:, :2].any()
    assert not ci[:, :2].any()
    assert not ci[:, 5:].any()
    assert ci[:, 2:5].any()


@pytest.mark.parametrize(("lag", "bins"), [(1, [[0, 1], [3, 4]]), (2, [[0], [4]])])
def test_the_lag_hides_the_bins_around_the_present(lag, bins):
    encoder = randomize_(make_encoder(ci_lag=lag))
    data = torch.randn(1, 5, 3, dtype=torch.float64, requires_grad=True)
    ci = encoder(data)[2][0, 2]
    for direction, seen in zip(ci.split(2), bins, strict=True):
        (gradient,) = torch.autograd.grad(direction.sum(), data, retain_graph=True)
        assert gradient[0].any(dim=1).nonzero().flatten().tolist() == seen


def test_smallest_variance_of_the_initial_condition():
    encoder = make_encoder(ic_post_var_min=0.09)
    with torch.no_grad():
        encoder.ic_linear.weight.zero_()
        encoder.ic_linear.bias[:2] = 3.0
        encoder.ic_linear.bias[2:] = torch.tensor([-100.0, 0.0])
    mean, std, _ = encoder(torch.zeros(1, 5, 3))
    torch.testing.assert_close(mean, torch.full((1, 2), 3.0))
    torch.testing.assert_close(std, torch.tensor([[0.3, 1.09**0.5]]))


def test_initial_states_are_learned_and_start_at_zero():
    encoder = make_encoder()
    assert encoder.ic_enc_h0.shape == (2, 1, 4)
    assert encoder.ci_enc_h0.shape == (2, 1, 2)
    for h_0 in (encoder.ic_enc_h0, encoder.ci_enc_h0):
        assert h_0.requires_grad
        assert not h_0.any()
    sum(out.sum() for out in encoder(torch.randn(2, 5, 3))).backward()
    assert encoder.ic_enc_h0.grad.all()
    assert encoder.ci_enc_h0.grad.all()


def test_gradients_reach_mean_and_std_of_the_initial_condition():
    encoder = make_encoder()
    mean, std, _ = encoder(torch.randn(2, 5, 3))
    for value, rows in [(mean, slice(0, 2)), (std, slice(2, 4))]:
        (gradient,) = torch.autograd.grad(value.sum(), encoder.ic_linear.weight, retain_graph=True)
        assert gradient[rows].all()
        assert gradient.any(dim=1).sum() == 2


def test_initial_linear_map():
    torch.manual_seed(0)
    linear = make_encoder(ic_enc_dim=200, ic_dim=100).ic_linear
    assert linear.weight.std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert not linear.bias.any()


def transparent_encoder(n):
    """Make an encoder of one bin; mean and controller inputs are tanh(x) in both directions."""
    encoder = make_encoder(
        encod_data_dim=n,
        encod_seq_len=1,
        recon_seq_len=1,
        ic_enc_dim=n,
        ci_enc_dim=n,
        ci_lag=0,
        ic_dim=2 * n,
        dropout_rate=0.3,
    )
    for gru in (encoder.ic_enc, encoder.ci_enc):
        make_transparent_(gru.fwd_gru.cell)
        make_transparent_(gru.bwd_gru.cell)
    with torch.no_grad():
        encoder.ic_linear.weight[: 2 * n] = torch.eye(2 * n)
    return encoder


def test_dropout_of_the_input_and_of_the_final_states():
    torch.manual_seed(0)
    encoder = transparent_encoder(n=5)
    data = torch.full((4000, 1, 5), 0.7)
    mean, _, ci = encoder(data)
    kept = ci != 0
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.01)
    torch.testing.assert_close(ci[kept], torch.full_like(ci[kept], np.tanh(0.7 / 0.7)))
    kept_twice = mean != 0
    assert kept_twice.float().mean().item() == pytest.approx(0.7**2, abs=0.01)
    expected = torch.full_like(mean[kept_twice], np.tanh(0.7 / 0.7) / 0.7)
    torch.testing.assert_close(mean[kept_twice], expected)
    # Both directions and both encoders see the same input; the second mask is independent.
    assert (kept[..., :5] == kept[..., 5:]).all()
    assert (kept[:, 0] >= kept_twice).all()
    assert (kept_twice[:, :5] != kept_twice[:, 5:]).any()


def test_no_dropout_in_evaluation():
    encoder = transparent_encoder(n=5).eval()
    data = torch.randn(3, 1, 5)
    mean, _, ci = encoder(data)
    torch.testing.assert_close(mean, torch.tanh(data[:, 0]).repeat(1, 2))
    torch.testing.assert_close(ci, torch.tanh(data).repeat(1, 1, 2))


def test_penalised_weights():
    encoder = make_encoder()
    groups = encoder.recurrent_weights()
    assert set(groups) == {"ic_enc", "ci_enc"}
    for name, weights in groups.items():
        gru = getattr(encoder, name)
        assert len(weights) == 2
        assert weights[0] is gru.fwd_gru.cell.weight_hh
        assert weights[1] is gru.bwd_gru.cell.weight_hh


def test_without_a_controller_there_is_no_controller_encoder():
    encoder = make_encoder(use_con=False)
    assert not [key for key in encoder.state_dict() if key.startswith("ci_")]
    assert set(encoder.recurrent_weights()) == {"ic_enc"}
    assert encoder(torch.randn(2, 5, 3))[2].shape == (2, 7, 0)
