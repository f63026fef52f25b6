"""Divergences agree with closed forms, dense normal distributions, quadrature and samples."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Independent, Normal, kl_divergence
from torch.distributions import MultivariateNormal as DenseNormal

from lfads_torch.modules.priors import (
    AutoregressiveMultivariateNormal,
    MultivariateNormal,
    MultivariateStudentT,
    Null,
)


@pytest.fixture(autouse=True)
def double():
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def posterior_params(*shape):
    return torch.randn(shape, requires_grad=True), (torch.rand(shape) + 0.2).requires_grad_()


def trained(prior):
    return {name for name, parameter in prior.named_parameters() if parameter.requires_grad}


# ------------------------------------------------------------------ multivariate normal


@pytest.mark.parametrize("shape", [(4, 3), (1, 1), (2, 5, 3)])
def test_normal_kl(shape):
    means, variances = torch.randn(shape[-1]), torch.rand(shape[-1]) + 0.1
    prior = MultivariateNormal(means, variances, shape[-1])
    mean, std = posterior_params(*shape)
    expected = kl_divergence(Normal(mean, std), Normal(means, variances.sqrt()))
    torch.testing.assert_close(prior(mean, std), expected.sum() / shape[0])
    torch.testing.assert_close(
        torch.autograd.grad(prior(mean, std), (mean, std)),
        torch.autograd.grad(expected.sum() / shape[0], (mean, std)),
    )


def test_normal_kl_is_zero_where_posterior_equals_prior():
    prior = MultivariateNormal(0.3, 0.25, 3)
    kl = prior(torch.full((5, 3), 0.3), torch.full((5, 3), 0.5))
    assert kl.item() == pytest.approx(0, abs=1e-14)


def test_only_the_mean_of_the_normal_prior_is_trained():
    prior = MultivariateNormal(0.5, 0.1, 3)
    assert set(prior.state_dict()) == {"mean", "logvar"}
    assert trained(prior) == {"mean"}
    torch.testing.assert_close(prior.mean.detach(), torch.full((3,), 0.5))
    torch.testing.assert_close(prior.logvar.detach(), torch.full((3,), math.log(0.1)))
    torch.testing.assert_close(prior.variance, torch.full((3,), 0.1))


def test_normal_prior_that_differs_by_bin():
    means = torch.randn(4, 3)
    prior = MultivariateNormal(means, 0.5, (4, 3))
    mean, std = posterior_params(2, 4, 3)
    expected = kl_divergence(Normal(mean, std), Normal(means, 0.5**0.5)).sum() / 2
    torch.testing.assert_close(prior(mean, std), expected)


# ------------------------------------------------------------------ autoregressive


TAUS = torch.tensor([10.0, 2.0, 0.5], dtype=torch.float64)
NVARS = torch.tensor([0.1, 0.7, 2.0], dtype=torch.float64)


def ar_prior(**options):
    return AutoregressiveMultivariateNormal(TAUS, NVARS, 3, **options)


def dense_ar(tau, nvar, bins):
    """Return the prior of one dimension as a dense normal distribution over bins."""
    alpha = torch.exp(-1 / tau)
    lags = (torch.arange(bins)[:, None] - torch.arange(bins)).abs()
    return DenseNormal(torch.zeros(bins), nvar / (1 - alpha**2) * alpha**lags)


def dense_kl(mean, std, tau, nvar):
    """Return the KL divergence of dense normals, summed over dimensions, averaged over trials."""
    total = 0
    for d in range(mean.shape[2]):
        prior = dense_ar(tau[d], nvar[d], mean.shape[1])
        posterior = DenseNormal(mean[..., d], torch.diag_embed(std[..., d] ** 2))
        total = total + kl_divergence(posterior, prior).mean()
    return total


@pytest.mark.parametrize("bins", [1, 2, 7])
def test_autoregressive_log_prob(bins):
    sample = torch.randn(4, bins, 3)
    priors = [dense_ar(TAUS[d], NVARS[d], bins) for d in range(3)]
    expected = sum(prior.log_prob(sample[..., d]) for d, prior in enumerate(priors))
    actual = ar_prior().log_prob(sample)
    assert actual.shape == (4,)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("bins", [1, 2, 7])
def test_autoregressive_kl_and_its_gradients_equal_those_of_dense_normals(bins):
    prior = ar_prior()
    mean, std = posterior_params(4, bins, 3)
    logtaus, lognvars = prior.logtaus, prior.lognvars
    actual = prior(mean, std)
    expected = dense_kl(mean, std, logtaus.exp(), lognvars.exp())
    torch.testing.assert_close(actual, expected)
    variables = (mean, std, logtaus, lognvars)
    torch.testing.assert_close(
        torch.autograd.grad(actual, variables), torch.autograd.grad(expected, variables)
    )


def test_autoregressive_kl_gradcheck():
    prior = ar_prior()

    def kl(mean, std, logtaus, lognvars):
        values = {"logtaus": logtaus, "lognvars": lognvars}
        return torch.func.functional_call(prior, values, (mean, std))

    parameters = [p.detach().clone().requires_grad_() for p in (prior.logtaus, prior.lognvars)]
    assert torch.autograd.gradcheck(kl, (*posterior_params(2, 3, 3), *parameters))


def test_autoregressive_kl_is_the_mean_of_one_sample_estimates():
    n = 40_000
    mean, std = (x.detach() for x in posterior_params(1, 4, 3))
    exact = ar_prior()(mean, std).item()
    many = mean.expand(n, -1, -1), std.expand(n, -1, -1)

    # The mean of estimates is compared within its standard error.
    posterior = Independent(Normal(*many), 2)
    sample = posterior.sample()
    priors = [dense_ar(TAUS[d], NVARS[d], 4) for d in range(3)]
    log_prior = sum(prior.log_prob(sample[..., d]) for d, prior in enumerate(priors))
    estimates = posterior.log_prob(sample) - log_prior
    standard_error = (estimates.std() / n**0.5).item()
    assert standard_error < 0.02 * exact
    assert abs(estimates.mean().item() - exact) < 4 * standard_error

    # The option is evaluated for n trials of the same posterior, whose mean it returns.
    sampled = ar_prior(exact_kl=False)
    assert abs(sampled(*many).item() - exact) < 4 * standard_error
    assert sampled(mean, std).item() != sampled(mean, std).item()


def test_autoregressive_kl_is_exact_by_default():
    prior = ar_prior()
    mean, std = posterior_params(2, 3, 3)
    assert prior(mean, std).item() == prior(mean, std).item()


def test_one_sample_estimates_have_the_gradients_of_the_exact_kl_in_expectation():
    mean, std = posterior_params(1, 3, 3)
    n = 40_000
    prior, sampled = ar_prior(), ar_prior(exact_kl=False)
    exact = prior(mean, std)
    estimate = sampled(mean.expand(n, -1, -1), std.expand(n, -1, -1))
    torch.testing.assert_close(
        torch.autograd.grad(estimate, (mean, std, sampled.logtaus, sampled.lognvars)),
        torch.autograd.grad(exact, (mean, std, prior.logtaus, prior.lognvars)),
        rtol=0.03,
        atol=0.1,
    )


@pytest.mark.parametrize("tau", [1e-3, 1e9])
def test_autoregressive_kl_is_finite_for_extreme_time_constants(tau):
    prior = AutoregressiveMultivariateNormal(tau, 0.1, 2).float()
    mean, std = torch.randn(2, 5, 2).float(), torch.ones(2, 5, 2).float()
    kl = prior(mean, std)
    kl.backward()
    assert kl.isfinite()
    assert prior.logtaus.grad.isfinite().all()


def test_autoregressive_trains_both():
    prior = ar_prior()
    assert set(prior.state_dict()) == trained(prior) == {"logtaus", "lognvars"}
    torch.testing.assert_close(prior.logtaus.detach(), TAUS.log())
    torch.testing.assert_close(prior.lognvars.detach(), NVARS.log())
    torch.testing.assert_close((prior.tau, prior.nvar), (TAUS, NVARS))


# ------------------------------------------------------------------ Student's t


def test_student_sets_location_and_scale_separately():
    prior = MultivariateStudentT(loc=1.5, scale=0.2, df=5, shape=3)
    assert set(prior.state_dict()) == trained(prior) == {"loc", "logscale"}
    torch.testing.assert_close(prior.loc.detach(), torch.full((3,), 1.5))
    torch.testing.assert_close(prior.logscale.detach(), torch.full((3,), math.log(0.2)))
    torch.testing.assert_close(prior.scale, torch.full((3,), 0.2))


def test_student_kl_is_an_estimate_of_the_integral():
    posterior, prior = stats.t(4.0, 0.7, 0.4), stats.t(4.0, -0.5, 1.3)

    def integrand(x):
        return posterior.pdf(x) * (posterior.logpdf(x) - prior.logpdf(x))

    expected = 2 * integrate.quad(integrand, -60, 60, points=[0.7], limit=200)[0]
    n = 40_000
    mean, std = torch.full((n, 2), 0.7), torch.full((n, 2), 0.4)
    estimate = MultivariateStudentT(-0.5, 1.3, 4.0, 2)(mean, std).item()
    assert estimate == pytest.approx(expected, abs=0.03)
    assert expected > 0.8


def test_student_kl_is_zero_where_posterior_equals_prior():
    prior = MultivariateStudentT(0.5, 0.3, 3.0, 2)
    kl = prior(torch.full((10, 4, 2), 0.5), torch.full((10, 4, 2), 0.3))
    assert kl.item() == pytest.approx(0, abs=1e-12)


def test_student_sums_over_bins_and_dimensions_and_averages_over_trials():
    prior = MultivariateStudentT(0.0, 1.0, 3.0, 2)
    one, many = (
        np.mean([prior(torch.full(s, 3.0), torch.full(s, 0.1)).item() for _ in range(300)])
        for s in [(1, 1, 2), (7, 5, 2)]
    )
    assert many == pytest.approx(5 * one, rel=0.05)


def test_student_gradients():
    prior = MultivariateStudentT(0.5, 0.3, 3.0, 2)
    mean, std = posterior_params(4, 3, 2)
    prior(mean, std).backward()
    assert all(x.grad.all() for x in (mean, std, prior.loc, prior.logscale))


def test_student_posterior_has_the_same_family():
    posterior = MultivariateStudentT(0.0, 1.0, 7.0, 1).make_posterior(
        torch.full((1, 1), 2.0), torch.full((1, 1), 0.5)
    )
    x = np.linspace(-1, 5, 7)
    actual = posterior.log_prob(torch.tensor(x)[:, None, None])[:, 0]
    np.testing.assert_allclose(actual, stats.t(7.0, 2.0, 0.5).logpdf(x), rtol=1e-10)


# ------------------------------------------------------------------ all


@pytest.mark.parametrize("prior", [Null(), MultivariateNormal(1.0, 2.0, 3), ar_prior()])
def test_normal_posteriors(prior):
    mean, std = posterior_params(2, 3)
    posterior = prior.make_posterior(mean, std)
    sample = posterior.rsample()
    assert sample.shape == (2, 3)
    expected = Normal(mean, std).log_prob(sample).sum(1)
    torch.testing.assert_close(posterior.log_prob(sample), expected)
    to_mean, to_std = torch.autograd.grad(sample.sum(), (mean, std))
    torch.testing.assert_close(to_mean, torch.ones(2, 3))
    torch.testing.assert_close(to_std, ((sample - mean) / std).detach())
    many = posterior.rsample((20_000,))
    torch.testing.assert_close(many.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(many.std(0), std, rtol=0.03, atol=0)


def test_null_contributes_nothing():
    prior = Null()
    assert prior(*posterior_params(2, 3)).item() == 0
    assert prior(*posterior_params(2, 4, 3)).shape == ()
    assert not list(prior.parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MultivariateNormal(0.0, 0.0, 2), "variance .* above 0.* 0.0"),
        (lambda: MultivariateNormal([0.0, 1.0, 2.0], 0.1, 2), r"mean .*\(3,\).*\(2,\)"),
        (lambda: AutoregressiveMultivariateNormal(-1.0, 0.1, 2), "tau .* above 0.*-1"),
        (lambda: AutoregressiveMultivariateNormal(1.0, [0.1, 0.0], 2), "nvar .* above 0"),
        (lambda: AutoregressiveMultivariateNormal([1.0] * 3, 0.1, 2), r"tau .*\(3,\).*\(2,\)"),
        (lambda: MultivariateStudentT(0.0, -1.0, 5, 2), "scale .* above 0"),
        (lambda: MultivariateStudentT(0.0, 1.0, 0, 2), "df .* above 0"),
        (lambda: MultivariateStudentT([0.0] * 3, 1.0, 5, 2), r"loc .*\(3,\).*\(2,\)"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()
