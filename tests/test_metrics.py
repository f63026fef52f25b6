"""Metrics agree with SciPy and scikit-learn, and means over epochs with their definition."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from scipy import stats

from lfads_torch.metrics import (
    EpochMeans,
    ExpSmoothedMetric,
    bits_per_spike,
    r2_score,
    regional_bits_per_spike,
)
from lfads_torch.recurrence import using

NAN = float("nan")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ------------------------------------------------------------------ bits per spike


def brute_force_bits(log_rates, counts):
    """Add up the full likelihoods of single samples, without those that are NaN."""
    model = null = 0.0
    for n in range(counts.shape[2]):
        observed = ~np.isnan(counts[..., n])
        spikes, rates = counts[..., n][observed], np.exp(log_rates[..., n][observed])
        model -= stats.poisson(rates).logpmf(spikes).sum()
        null -= stats.poisson(spikes.mean()).logpmf(spikes).sum()
    return (null - model) / (np.log(2) * np.nansum(counts))


def spikes_and_rates(rng, shape=(4, 6, 5)):
    rates = rng.gamma(2.0, size=shape)
    return np.log(rates) + 0.3 * rng.normal(size=shape), rng.poisson(rates).astype(float)


@pytest.mark.parametrize("choice", ["torch", "compiled"])
def test_bits_per_spike(rng, choice):
    log_rates, counts = spikes_and_rates(rng)
    with using(choice):
        actual = bits_per_spike(torch.tensor(log_rates), torch.tensor(counts))
    assert actual.shape == ()
    assert actual.item() == pytest.approx(brute_force_bits(log_rates, counts), rel=1e-5)
    assert actual > 0.05


def test_bits_per_spike_with_missing_samples(rng):
    log_rates, counts = spikes_and_rates(rng)
    counts[rng.random(counts.shape) < 0.3] = NAN
    actual = bits_per_spike(torch.tensor(log_rates), torch.tensor(counts)).item()
    assert actual == pytest.approx(brute_force_bits(log_rates, counts), rel=1e-5)
    # A channel without any observed sample has no influence.
    more = np.concatenate([counts, np.full((4, 6, 1), NAN)], axis=2)
    more_rates = np.concatenate([log_rates, np.ones((4, 6, 1))], axis=2)
    with_more = bits_per_spike(torch.tensor(more_rates), torch.tensor(more)).item()
    assert with_more == pytest.approx(actual)


def test_bits_per_spike_of_the_null_model_is_zero(rng):
    _, counts = spikes_and_rates(rng)
    null = np.log(np.broadcast_to(counts.mean(axis=(0, 1)), counts.shape))
    bits = bits_per_spike(torch.tensor(null.copy()), torch.tensor(counts)).item()
    assert bits == pytest.approx(0, abs=1e-6)


def test_bits_per_spike_with_a_silent_channel(rng):
    log_rates, counts = spikes_and_rates(rng)
    counts[..., 0] = 0
    expected = brute_force_bits(log_rates, counts)
    actual = bits_per_spike(torch.tensor(log_rates), torch.tensor(counts)).item()
    assert actual == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 0), (2, 0, 4)])
def test_bits_per_spike_without_spikes_is_not_a_number(shape):
    assert bits_per_spike(torch.zeros(shape), torch.zeros(shape)).isnan()


def test_regions(rng):
    log_rates, counts = spikes_and_rates(rng, (4, 10, 7))
    regions = regional_bits_per_spike(torch.tensor(log_rates), torch.tensor(counts), 5, 6)
    expected = [
        brute_force_bits(log_rates[region], counts[region])
        for region in (np.s_[:, :6, :5], np.s_[:, :6, 5:], np.s_[:, 6:, :])
    ]
    np.testing.assert_allclose(torch.stack(regions), expected, rtol=1e-5)


def test_empty_regions(rng):
    log_rates, counts = map(torch.tensor, spikes_and_rates(rng))
    bps, co_bps, fp_bps = regional_bits_per_spike(log_rates, counts, 5, 6)
    torch.testing.assert_close(bps, bits_per_spike(log_rates, counts))
    assert co_bps.isnan()
    assert fp_bps.isnan()


# ------------------------------------------------------------------ R²


def test_r2_score(rng):
    targets = rng.normal(size=(4, 6, 5)) * np.arange(1, 6) + 3
    preds = targets + rng.normal(size=(4, 6, 5))
    expected = sklearn.metrics.r2_score(targets.reshape(24, 5), preds.reshape(24, 5))
    actual = r2_score(torch.tensor(preds), torch.tensor(targets))
    assert actual.item() == pytest.approx(expected)
    flat = r2_score(torch.tensor(preds).flatten(0, 1), torch.tensor(targets).flatten(0, 1))
    torch.testing.assert_close(flat, actual)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, 123.456])
def test_r2_score_leaves_constant_channels_out(constant):
    torch.manual_seed(0)
    targets = torch.randn(10, 100, 3)
    preds = targets + 0.5 * torch.randn(10, 100, 3)
    expected = r2_score(preds[..., :2], targets[..., :2])
    targets[..., 2] = constant
    torch.testing.assert_close(r2_score(preds, targets), expected)


def test_r2_score_of_channels_that_vary_very_little(rng):
    targets = torch.tensor(1e-4 * rng.normal(size=(200, 2)))
    preds = targets + torch.tensor(5e-5 * rng.normal(size=(200, 2)))
    assert r2_score(preds, targets).item() == pytest.approx(0.75, abs=0.1)


def test_r2_score_of_constant_targets_is_not_a_number():
    assert r2_score(torch.randn(10, 3), torch.ones(10, 3)).isnan()


# ------------------------------------------------------------------ smoothed metric


def test_smoothed_metric_starts_at_the_first_value_and_keeps_a_part_of_the_past():
    metric, expected = ExpSmoothedMetric(coef=0.3), None
    for value in (5.0, 1.0, 4.0, -2.0):
        metric.update(value)
        expected = value if expected is None else 0.3 * expected + 0.7 * value
        assert metric.compute() == pytest.approx(expected)
    assert ExpSmoothedMetric().coef == 0.3


def test_smoothed_metric_weighs_batches_by_their_size():
    metric = ExpSmoothedMetric(coef=0.5)
    metric.update(torch.tensor(1.0), batch_size=30)
    metric.update(4.0, batch_size=10)
    assert metric.compute() == pytest.approx(1.75)
    metric.update(2.75, batch_size=7)
    assert metric.compute() == pytest.approx(2.25)


def test_smoothed_metric_without_batches():
    metric = ExpSmoothedMetric()
    assert math.isnan(metric.compute())
    metric.update(2.0)
    assert metric.compute() == metric.compute() == 2.0


def test_smoothed_metric_forgets_batches_on_reset_but_not_epochs():
    metric = ExpSmoothedMetric(coef=0.3)
    metric.update(1.0)
    metric.compute()
    metric.update(100.0)
    metric.reset()
    metric.update(2.0)
    assert metric.compute() == pytest.approx(0.3 * 1 + 0.7 * 2)


def test_smoothed_metric_continues_from_its_state():
    metric, resumed = ExpSmoothedMetric(), ExpSmoothedMetric()
    for value in (5.0, 1.0):
        metric.update(value)
        metric.compute()
    resumed.update(77.0)
    resumed.load_state_dict(metric.state_dict())
    for each in (metric, resumed):
        each.update(3.0)
    assert resumed.compute() == metric.compute() == pytest.approx(0.3 * 2.2 + 0.7 * 3)


def test_state_of_a_new_smoothed_metric():
    metric = ExpSmoothedMetric()
    metric.load_state_dict(ExpSmoothedMetric().state_dict())
    metric.update(4.0)
    assert metric.compute() == 4.0


# ------------------------------------------------------------------ means over an epoch


def test_epoch_means_are_weighted():
    means = EpochMeans()
    means.update("loss", torch.tensor(1.0), 30)
    means.update("loss", 4.0, 10)
    means.update("other", 7)
    values = means.compute()
    assert {name: value.item() for name, value in values.items()} == {"loss": 1.75, "other": 7.0}


def test_epoch_means_average_within_sessions_first():
    means = EpochMeans()
    means.update("recon", 1.0, 100, session=0)
    means.update("recon", 2.0, 300, session=0)
    means.update("recon", 8.0, 1, session=1)
    means.update("recon", 10.0, 3, session=1)
    assert means.compute()["recon"].item() == pytest.approx((1.75 + 9.5) / 2)


def test_epoch_means_leave_out_nan():
    means = EpochMeans()
    means.update("bps", NAN, 10)
    means.update("bps", torch.tensor(2.0), 10)
    means.update("bps", torch.tensor(5.0), 20)
    means.update("co_bps", NAN, 10, session=0)
    means.update("co_bps", 3.0, 10, session=1)
    means.update("fp_bps", NAN, 10)
    values = means.compute()
    assert values["bps"].item() == pytest.approx(4.0)
    assert values["co_bps"].item() == pytest.approx(3.0)
    assert values["fp_bps"].isnan()


@pytest.mark.parametrize("infinite", [math.inf, -math.inf])
def test_epoch_means_show_infinite_values(infinite):
    means = EpochMeans()
    means.update("loss", torch.tensor(infinite), 1)
    assert means.compute()["loss"].item() == infinite


def test_epoch_means_hold_no_graph():
    means = EpochMeans()
    means.update("loss", torch.tensor(1.0, requires_grad=True) * 2, 3)
    assert not means.compute()["loss"].requires_grad
