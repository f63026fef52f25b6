"""Likelihoods agree with SciPy and quadrature, and so do means, penalties and checks."""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from scipy import integrate, special, stats
from torch import nn

from lfads_torch.metrics import bits_per_spike
from lfads_torch.modules.recons import (
    MSE,
    Gamma,
    Gaussian,
    MultisessionReconstruction,
    Poisson,
    PoissonBPS,
    ZeroInflatedGamma,
)
from lfads_torch.recurrence import using
from lfads_torch.running.compose import compose
from tests.conftest import tiny_arrays, write_file

SHAPE = (3, 4, 5)  # trials, bins, channels


@pytest.fixture
def rng():
    torch.manual_seed(0)
    return np.random.default_rng(0)


def make_zig(recon_dim=5, gamma_loc=0.1, scale_init=1.0, scale_prior=1.0, scale_penalty=0.0):
    return ZeroInflatedGamma(recon_dim, gamma_loc, scale_init, scale_prior, scale_penalty)


def all_recons():
    return [Poisson(), PoissonBPS(), MSE(), Gaussian(), Gamma(), make_zig()]


def named(recon):
    return type(recon).__name__


def counts_of(rng):
    return rng.poisson(1.5, SHAPE).astype(float)


def zero_inflated(rng, gamma_loc=0.1):
    return np.where(rng.random(SHAPE) < 0.4, 0.0, gamma_loc + rng.gamma(1.5, size=SHAPE))


def losses_of(recon, data, params):
    """Return losses in double precision, as an array."""
    return recon.double().compute_loss(torch.tensor(data), torch.tensor(params)).detach().numpy()


# ------------------------------------------------------------------ likelihoods


def test_poisson(rng):
    counts, log_rates = counts_of(rng), rng.normal(size=SHAPE)
    expected = -stats.poisson(np.exp(log_rates)).logpmf(counts)
    # The constant term is Stirling's formula, which only applies to counts above one.
    k = np.maximum(counts, 2.0)
    stirling = k * np.log(k) - k + 0.5 * np.log(2 * np.pi * k)
    expected += np.where(counts > 1, stirling - special.gammaln(k + 1), 0)
    actual = losses_of(Poisson(), counts, log_rates[..., None])
    np.testing.assert_allclose(actual, expected, rtol=1e-10)
    assert (counts > 1).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("rate", [0.02, 1.5, 40.0])
@pytest.mark.parametrize("choice", ["torch", "compiled"])
def test_poisson_is_that_of_pytorch(rate, dtype, choice):
    torch.manual_seed(0)
    counts = torch.poisson(torch.full((7, 4, 11), rate, dtype=dtype))
    counts[0, 0, 0] = 2.5
    log_rates = torch.randn(7, 4, 11, dtype=dtype, requires_grad=True)
    weights = torch.rand(7, 4, 11, dtype=dtype)
    expected = F.poisson_nll_loss(log_rates, counts, full=True, reduction="none")
    with using(choice):
        found = Poisson().compute_loss(counts, log_rates[..., None])
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((x * weights).sum(), log_rates)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)
    # The result does not depend on the memory layout of the tensors.
    turned, turned_rates = (x.detach().mT.contiguous().mT for x in (counts, log_rates))
    with using(choice):
        found = Poisson().compute_loss(turned, turned_rates[..., None])
    torch.testing.assert_close(found, expected.detach())


def test_poisson_has_second_derivatives(rng):
    counts = torch.tensor(counts_of(rng))
    params = torch.randn(*SHAPE, 1, dtype=torch.float64, requires_grad=True)
    for recon in (Poisson(), PoissonBPS()):
        assert torch.autograd.gradcheck(recon.compute_loss, (counts, params))
        assert torch.autograd.gradgradcheck(recon.compute_loss, (counts, params))


def test_poisson_bps_is_minus_bits_per_spike(rng):
    counts, log_rates = counts_of(rng), rng.normal(size=SHAPE)
    losses = losses_of(PoissonBPS(), counts, log_rates[..., None])
    expected = -bits_per_spike(torch.tensor(log_rates), torch.tensor(counts)).item()
    assert losses.mean() == pytest.approx(expected, rel=1e-6)
    null = -stats.poisson(counts.mean(axis=(0, 1))).logpmf(counts)
    model = -stats.poisson(np.exp(log_rates)).logpmf(counts)
    by_hand = (model - null) / (np.log(2) * counts.mean())
    np.testing.assert_allclose(losses, by_hand, rtol=1e-6, atol=1e-6)


def test_mse(rng):
    data, means = rng.normal(size=SHAPE), rng.normal(size=SHAPE)
    np.testing.assert_allclose(losses_of(MSE(), data, means[..., None]), (data - means) ** 2)


def test_gaussian(rng):
    data, params = rng.normal(size=SHAPE), rng.normal(size=(*SHAPE, 2))
    std = np.exp(params[..., 1] / 2)
    expected = -stats.norm(params[..., 0], std).logpdf(data) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(losses_of(Gaussian(), data, params), expected, rtol=1e-8)


def test_gamma(rng):
    data, params = rng.gamma(2.0, size=SHAPE), rng.normal(size=(*SHAPE, 2))
    shape, rate = np.exp(params[..., 0]), np.exp(params[..., 1])
    expected = -stats.gamma(shape, scale=1 / rate).logpdf(data)
    np.testing.assert_allclose(losses_of(Gamma(), data, params), expected, rtol=1e-8)


def zig_with_scales(rng, channels=5, gamma_loc=0.1):
    zig = make_zig(channels, gamma_loc).double()
    with torch.no_grad():
        zig.scale.copy_(torch.tensor(rng.uniform(0.5, 4.0, (2, channels))))
    return zig


def zig_params(zig, params):
    """Compute shape, rate and q in NumPy."""
    sigmoid = np.maximum(special.expit(params), 1e-5)
    shape, rate = zig.scale.detach().numpy()
    return shape * sigmoid[..., 0], rate * sigmoid[..., 1], sigmoid[..., 2]


def test_zero_inflated_gamma(rng):
    zig = zig_with_scales(rng)
    data, params = zero_inflated(rng), 3 * rng.normal(size=(*SHAPE, 3))
    params[0, 0] = -40.0  # Below the smallest sigmoid.
    shape, rate, q = zig_params(zig, params)
    density = np.log(q) + stats.gamma(shape, loc=0.1, scale=1 / rate).logpdf(data)
    expected = -np.where(data == 0, np.log1p(-q), density)
    np.testing.assert_allclose(losses_of(zig, data, params), expected, rtol=1e-8)


def test_zero_inflated_gamma_is_a_distribution_with_the_mean_it_reports(rng):
    zig = zig_with_scales(rng, channels=1, gamma_loc=0.3)
    params = np.array([2.0, -0.5, 0.4]).reshape(1, 1, 1, 3)

    def density(x):
        return np.exp(-losses_of(zig, np.full((1, 1, 1), x), params)).item()

    mass, _ = integrate.quad(density, 0.3, 40, limit=200)
    first_moment, _ = integrate.quad(lambda x: x * density(x), 0.3, 40, limit=200)
    assert density(0.0) + mass == pytest.approx(1, abs=1e-5)
    mean = zig.compute_means(torch.tensor(params)).item()
    assert mean == pytest.approx(first_moment, rel=1e-4)


@pytest.mark.parametrize("q_logit", [-200.0, -20.0, 0.0, 16.0, 20.0, 200.0])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
@pytest.mark.parametrize("value", [0.0, 0.100001, 2.0])
def test_zero_inflated_gamma_is_finite_everywhere(value, logit, q_logit):
    zig = make_zig(recon_dim=1)
    params = torch.tensor([logit, logit, q_logit]).reshape(1, 1, 1, 3).requires_grad_()
    loss = zig.compute_loss(torch.full((1, 1, 1), value), params)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert params.grad.isfinite().all()
    assert zig.scale.grad.isfinite().all()


def test_a_zero_of_probability_zero_has_a_finite_gradient():
    zig = make_zig(recon_dim=1)
    params = torch.tensor([0.0, 0.0, 30.0]).reshape(1, 1, 1, 3).requires_grad_()
    loss = zig.compute_loss(torch.zeros(1, 1, 1), params)
    loss.sum().backward()
    assert loss.item() == pytest.approx(30.0)
    torch.testing.assert_close(params.grad.flatten(), torch.tensor([0.0, 0.0, 1.0]))


@pytest.mark.parametrize("recon", all_recons(), ids=named)
def test_losses_are_per_sample_and_have_gradients(recon, rng):
    data = torch.tensor(zero_inflated(rng) if named(recon) == "ZeroInflatedGamma" else
                        counts_of(rng) + (named(recon) == "Gamma")).float()  # fmt: skip
    params = torch.randn(*SHAPE, recon.n_params, requires_grad=True)
    losses = recon.compute_loss(data, params)
    assert losses.shape == SHAPE
    losses[1, 2, 3].backward()
    assert (params.grad != 0).any(dim=-1).nonzero().tolist() == [[1, 2, 3]]


# ------------------------------------------------------------------ means and parameters


def test_means(rng):
    one, two = rng.normal(size=(*SHAPE, 1)), rng.normal(size=(*SHAPE, 2))
    three, zig = rng.normal(size=(*SHAPE, 3)), zig_with_scales(rng)
    shape, rate, q = zig_params(zig, three)
    for recon, params, expected in [
        (Poisson(), one, np.exp(one[..., 0])),
        (PoissonBPS(), one, np.exp(one[..., 0])),
        (MSE(), one, one[..., 0]),
        (Gaussian(), two, two[..., 0]),
        (Gamma(), two, np.exp(two[..., 0]) / np.exp(two[..., 1])),
        (zig, three, q * (shape / rate + 0.1)),
    ]:
        actual = recon.compute_means(torch.tensor(params)).detach()
        np.testing.assert_allclose(actual, expected, rtol=1e-10, err_msg=named(recon))


@pytest.mark.parametrize("recon", all_recons(), ids=named)
def test_the_readout_gives_one_block_of_channels_after_the_other(recon):
    n_params = {"Poisson": 1, "PoissonBPS": 1, "MSE": 1, "Gaussian": 2, "Gamma": 2}
    assert recon.n_params == n_params.get(named(recon), 3)
    readout = torch.randn(2, 3, recon.n_params * 5)
    params = recon.reshape_output_params(readout)
    assert params.shape == (2, 3, 5, recon.n_params)
    for p in range(recon.n_params):
        for n in range(5):
            torch.testing.assert_close(params[..., n, p], readout[..., p * 5 + n])


@pytest.mark.parametrize("recon", [Gaussian(), Gamma(), make_zig()], ids=named)
def test_a_readout_of_the_wrong_size(recon):
    with pytest.raises(ValueError, match=rf"7 features.*{recon.n_params} .*{named(recon)}"):
        recon.reshape_output_params(torch.zeros(1, 1, 7))


def test_only_counts_have_log_rates():
    for recon in all_recons():
        params = torch.randn(*SHAPE, recon.n_params)
        log_rates = recon.spike_log_rates(params)
        if isinstance(recon, Poisson):
            torch.testing.assert_close(log_rates, params[..., 0])
        else:
            assert log_rates is None


# ------------------------------------------------------------------ scales of ZeroInflatedGamma


def test_scales_are_trained_and_penalised():
    zig = make_zig(recon_dim=2, scale_init=2.0, scale_prior=1.5, scale_penalty=0.8)
    assert zig.scale.shape == (2, 2)
    assert zig.scale.requires_grad
    torch.testing.assert_close(zig.scale.detach(), torch.full((2, 2), 2.0))
    penalty = zig.compute_l2()
    assert penalty.item() == pytest.approx(0.5 * 0.8 * 4 * 0.5**2)
    penalty.backward()
    torch.testing.assert_close(zig.scale.grad, torch.full((2, 2), 0.8 * 0.5))
    zig.scale.grad = None
    zig.compute_loss(torch.rand(3, 4, 2) + 0.2, torch.randn(3, 4, 2, 3)).sum().backward()
    assert zig.scale.grad.all()


@pytest.mark.parametrize("recon", all_recons()[:-1], ids=named)
def test_other_reconstructions_have_neither_parameters_nor_a_penalty(recon):
    assert not recon.state_dict()
    assert recon.compute_l2() == 0


def test_scales_are_loaded():
    zig = make_zig()
    scale = torch.rand(2, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zig.load_state_dict({"scale": scale}, strict=True)
    torch.testing.assert_close(zig.scale.detach(), scale)


def test_a_state_without_scales_keeps_them_with_a_warning():
    modules = nn.ModuleDict({"recon": nn.ModuleList([make_zig(scale_init=2.5)])})
    modules["readout"] = nn.Linear(2, 3)
    state = {k: torch.ones_like(v) for k, v in modules.state_dict().items() if "scale" not in k}
    with pytest.warns(UserWarning, match=r"recon\.0\.scale.*2\.5"):
        modules.load_state_dict(state, strict=True)
    torch.testing.assert_close(modules["recon"][0].scale.detach(), torch.full((2, 5), 2.5))
    assert modules["readout"].weight.eq(1).all()
    with pytest.raises(RuntimeError, match="unexpected"), pytest.warns(UserWarning, match="scale"):
        modules.load_state_dict(state | {"unexpected": torch.ones(1)}, strict=True)


# ------------------------------------------------------------------ checks of the data

NAN = float("nan")


def tensor(*values):
    return torch.tensor(values).reshape(1, -1, 1)


@pytest.mark.parametrize(
    ("recon", "data", "words"),
    [
        (Poisson(), tensor(0.0, -1.0, NAN), "Poisson .*not negative.*-1"),
        (PoissonBPS(), tensor(-2.0, 1.0), "PoissonBPS .*not negative.*-2"),
        (Gamma(), tensor(1.0, NAN, 0.0), "above 0.* 0.*ZeroInflatedGamma"),
        (Gamma(), tensor(1.0, -3.0), "above 0.*-3"),
        (make_zig(gamma_loc=0.5), tensor(0.0, 0.25), r"gamma_loc = 0\.5.*0\.25"),
        (make_zig(gamma_loc=0.5), tensor(0.0, 0.5, NAN), r"0 or above gamma_loc = 0\.5"),
        (make_zig(), tensor(0.0, -1.0), "-1"),
    ],
)
def test_data_where_the_likelihood_is_zero(recon, data, words):
    with pytest.raises(ValueError, match=words):
        recon.check_data(data)


@pytest.mark.parametrize(
    ("recon", "data"),
    [
        (Poisson(), tensor(0.0, 3.0, NAN)),
        (PoissonBPS(), tensor(0.0, 3.0, NAN)),
        (MSE(), tensor(-1.0, 0.5, NAN)),
        (Gaussian(), tensor(-1.0, 0.5, NAN)),
        (Gamma(), tensor(0.001, 7.0, NAN)),
        (make_zig(), tensor(0.0, 0.11, NAN)),
    ],
)
def test_valid_data(recon, data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recon.check_data(data)


def test_fractional_counts_raise_a_warning():
    with pytest.warns(UserWarning, match=r"50\.0% .*1\.5"):
        Poisson().check_data(tensor(1.0, 1.5))


# ------------------------------------------------------------------ several sessions


def test_one_copy_for_each_file(tmp_path):
    for name in ("a", "b"):
        write_file(tmp_path / f"{name}.h5", tiny_arrays())
    recon = make_zig()
    copies = MultisessionReconstruction(f"{tmp_path}/*.h5", recon)
    assert len(copies) == 2
    assert set(copies.state_dict()) == {"0.scale", "1.scale"}
    assert len({id(module.scale) for module in (recon, *copies)}) == 3


def test_copies_for_sessions_have_their_numbers_of_channels(tmp_path):
    for name, n_channels in (("a", 5), ("b", 7)):
        write_file(tmp_path / f"{name}.h5", tiny_arrays(n_channels=n_channels))
    pattern = str(tmp_path / "?.h5")
    copies = MultisessionReconstruction(pattern, ZeroInflatedGamma(5, 0.1, 8.0, 7.0, 0.2))
    assert [copy.scale.shape for copy in copies] == [(2, 5), (2, 7)]
    assert copies[0].scale is not copies[1].scale
    assert {copy.scale_prior for copy in copies} == {7.0}
    config = compose(
        "single.yaml",
        ["model=multisession", "datamodule=generic", f"datamodule.datafile_pattern={pattern}",
         "model.readin.pcr_init=false", "model.readout.pcr_init=false", "model.fac_dim=3",
         "model.reconstruction.recon._target_=lfads_torch.modules.recons.ZeroInflatedGamma",
         "+model.reconstruction.recon.gamma_loc=0.1", "+model.reconstruction.recon.scale_init=1",
         "+model.reconstruction.recon.scale_prior=1", "+model.reconstruction.recon.scale_penalty=1",
         "model.gen_dim=4", "model.kl_ic_scale=1e-5"],
    )  # fmt: skip
    model = instantiate(config.model, _convert_="all")
    assert [copy.scale.shape for copy in model.recon] == [(2, 5), (2, 7)]
    assert [readout.out_features for readout in model.readout] == [15, 21]
