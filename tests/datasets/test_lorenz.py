"""The Lorenz data have the documented dynamics and rates."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from lfads_torch.datasets.lorenz import (
    ATTRACTOR_MEAN,
    ATTRACTOR_STD,
    ATTRACTOR_XY_CORRELATION,
    lorenz,
)
from tests.datasets.synthetic import SPLITS, both, check_layout


@pytest.fixture(scope="module")
def benchmark():
    return lorenz()


def test_lorenz_layout(benchmark):
    check_layout(benchmark, 65, 24, 5, 50, 29, 3)
    assert benchmark["conversion_factor"] == 50


def test_lorenz_rates_are_realistic(benchmark):
    truth = both(benchmark, "truth")
    mean = truth.mean(axis=(0, 1), dtype=np.float64)
    assert 5 <= mean.min() < 7
    assert 12 < mean.max() <= 15
    assert 60 < truth.max() <= 80
    # Either the log rate varies by the requested amount, or the highest rate is the limit.
    deviation = np.log(truth).std(axis=(0, 1))
    limited = deviation < 0.95
    assert (truth.max(axis=(0, 1))[limited] > 74).all()
    assert deviation[~limited] == pytest.approx(1, abs=0.05)
    assert not limited.all()


def test_lorenz_rates_are_log_linear_in_the_latents(benchmark):
    for split in SPLITS:
        log_rate = benchmark[f"{split}_latents"] @ benchmark["rate_weight"].T
        rates = np.exp(log_rate + benchmark["rate_bias"])
        assert np.allclose(benchmark[f"{split}_truth"], rates, rtol=2e-4)


def test_a_narrow_range_of_mean_rates():
    arrays = lorenz(n_conditions=6, n_trials=2, mean_rates=(8.0, 8.0), max_rate=20.0)
    truth = both(arrays, "truth")
    assert truth.mean(axis=(0, 1), dtype=np.float64) == pytest.approx(np.full(29, 8.0), rel=1e-3)
    assert truth.max() <= 20


def lorenz_velocity(_, state):
    x, y, z = state.reshape(3, -1)
    return np.concatenate([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])


@pytest.mark.parametrize(("speed", "bin_width"), [(2.0, 0.02), (1.0, 0.05), (1.0, 0.001)])
def test_latents_solve_the_lorenz_equations(speed, bin_width):
    states = lorenz(n_conditions=9, n_trials=2, speed=speed, bin_width=bin_width)["train_latents"]
    before, after = (
        part.reshape(-1, 3).T.astype(float) for part in (states[:, :-1], states[:, 1:])
    )
    solution = solve_ivp(
        lorenz_velocity, (0, speed * bin_width), before.ravel(), rtol=1e-9, atol=1e-9
    )
    assert np.abs(solution.y[:, -1].reshape(3, -1) - after).max() < 5e-5
    assert np.abs(after - before).max() > 0.1


def test_conditions_start_all_over_the_attractor(benchmark):
    latents = both(benchmark, "latents")[::24]
    assert 20 < (latents[:, 0, 0] > 0).sum() < 45
    flat = latents.reshape(-1, 3)
    assert flat.mean(0) == pytest.approx(np.array(ATTRACTOR_MEAN), abs=1)
    assert flat.std(0) == pytest.approx(np.array(ATTRACTOR_STD), rel=0.05)
    correlation = np.corrcoef(flat[:, 0], flat[:, 1])[0, 1]
    assert correlation == pytest.approx(ATTRACTOR_XY_CORRELATION, abs=0.03)
    changes = (np.diff(np.sign(latents[..., 0]), axis=1) != 0).sum(axis=1)
    assert 0.5 < changes.mean() < 2  # Mean number of changes between the two lobes in a trial.
