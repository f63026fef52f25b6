"""The chaotic network follows its equation, and a pulse acts from its own bin on."""

import numpy as np
import pytest
from scipy import stats

from lfads_torch.datasets.chaotic_rnn import chaotic_rnn
from tests.datasets.synthetic import SPLITS, both, check_layout


@pytest.fixture(scope="module")
def network():
    return chaotic_rnn(n_conditions=30, n_trials=5, pulse=True)


def test_chaotic_rnn_layout(network):
    check_layout(network, 30, 5, 1, 100, 50, 50)
    assert network["conversion_factor"] == 100


@pytest.mark.parametrize(
    ("gain", "tau", "pulse"), [(1.5, 0.025, False), (2.5, 0.025, True), (2.5, 0.05, True)]
)
def test_network_follows_its_equation_step_by_step(gain, tau, pulse):
    arrays = chaotic_rnn(n_conditions=12, n_trials=2, n_neurons=20, gain=gain, tau=tau, pulse=pulse)
    state = arrays["train_latents"].astype(float)
    drive = gain * np.tanh(state) @ arrays["recurrent_weight"].T
    if pulse:
        drive[:, :-1] += arrays["train_input"][:, 1:] * arrays["input_weight"]
    step = 0.01 / tau
    expected = (1 - step) * state[:, :-1] + step * drive[:, :-1]
    assert np.abs(state[:, 1:] - expected).max() < 1e-5
    rates = 30 * (1 + np.tanh(state)) / 2
    assert np.allclose(arrays["train_truth"], rates, rtol=2e-4, atol=1e-4)


def test_network_is_drawn_from_the_distributions_of_the_paper():
    arrays = chaotic_rnn(n_conditions=60, n_trials=2, n_bins=4, pulse=True)
    weight = arrays["recurrent_weight"]
    assert weight.shape == (50, 50)
    assert stats.kstest(weight.ravel() * np.sqrt(50), "norm").pvalue > 1e-3
    assert stats.kstest(arrays["train_latents"][:, 0].ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(arrays["input_weight"], "norm").pvalue > 1e-3


def test_pulse_changes_the_rates_from_its_own_bin_on(network):
    quiet = chaotic_rnn(n_conditions=30, n_trials=5)
    assert "train_input" not in quiet
    assert np.array_equal(quiet["recurrent_weight"], network["recurrent_weight"])
    for split in SPLITS:
        changed = (quiet[f"{split}_truth"] != network[f"{split}_truth"]).any(axis=2)
        pulse_time = network[f"{split}_pulse_time"]
        assert np.array_equal(changed.argmax(axis=1), pulse_time)
        signal = network[f"{split}_input"]
        assert signal.shape == (*changed.shape, 1)
        assert np.array_equal(signal[..., 0].argmax(axis=1), pulse_time)
        assert np.array_equal(signal.sum(axis=(1, 2)), np.full(len(signal), 50))
        assert (signal.max(axis=(1, 2)) == 50).all()
        assert pulse_time.min() >= 25
        assert pulse_time.max() < 75
    assert len(np.unique(network["train_pulse_time"])) > 15
    by_condition = both(network, "pulse_time").reshape(30, 5)
    assert (by_condition == by_condition[:, :1]).all()
