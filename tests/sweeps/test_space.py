"""Search spaces are read, and first values and perturbations have the documented distributions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfads_torch.sweeps.space import HyperParam
from tests.sweeps.conftest import options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_fn": "normal"}, "sample_fn must be one of loguniform, uniform, randint, .*'norm"),
        ({"min_samp": 2.0}, "min_samp must be smaller than max_samp"),
        ({"min_samp": 3.0}, "min_samp must be smaller than max_samp"),
        ({"min_samp": float("nan")}, "min_samp must be smaller than max_samp"),
        ({"min_samp": 0.0}, "must be positive to sample log-uniformly.*sample_fn='uniform'"),
        ({"min_samp": -1.0, "sample_fn": "uniform"}, "so min_samp must be at least 0"),
        ({"explore_wt": 0.0}, r"explore_wt must be in \(0, 1\], but is 0.0"),
        ({"explore_wt": 1.5}, r"explore_wt must be in \(0, 1\], but is 1.5"),
        ({"init": -0.1}, "init is not between the limits"),
        ({"init": 2.1, "enforce_limits": True}, "init is not between the limits"),
        ({"init": 0.9, "enforce_limits": True}, "init is not between the limits"),
        ({"init": 2, "sample_fn": "randint", "max_samp": 2, "min_samp": 0, "enforce_limits": True},
         "init is not between the limits"),
        ({"min_samp": 1.5, "max_samp": 4, "sample_fn": "randint"}, "needs whole numbers"),
        ({"max_samp": 1.0007, "enforce_limits": True}, "limits are too close.*leave it out"),
        ({"sample_fn": "randint", "enforce_limits": True}, "limits are too close"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HyperParam(**{"min_samp": 1.0, "max_samp": 2.0, **arguments})


def test_init_may_be_outside_of_limits_that_are_not_enforced():
    assert HyperParam(1.0, 2.0, init=5.0).sample(np.random.default_rng(0)) == 5.0


@pytest.mark.parametrize("sample_fn", ["uniform", "loguniform"])
def test_first_samples_have_their_distribution(sample_fn):
    rng = np.random.default_rng(0)
    hyperparam = HyperParam(1e-4, 1.0, sample_fn=sample_fn)
    values = np.array([hyperparam.sample(rng) for _ in range(4000)])
    assert values.min() >= 1e-4
    assert values.max() <= 1.0
    if sample_fn == "loguniform":
        values, low, high = np.log10(values), -4, 0
    else:
        low, high = 1e-4, 1
    # Kolmogorov-Smirnov: 1.63 / sqrt(n) is exceeded by one sample in a hundred.
    expected = np.arange(1, 4001) / 4000
    assert np.abs((np.sort(values) - low) / (high - low) - expected).max() < 1.63 / np.sqrt(4000)


def test_first_samples_of_integers():
    rng = np.random.default_rng(0)
    hyperparam = HyperParam(2, 5, sample_fn="randint")
    values = [hyperparam.sample(rng) for _ in range(600)]
    assert {type(value) for value in values} == {int}
    counts = np.bincount(values)
    assert counts[:2].sum() == 0
    assert (np.abs(counts[2:] - 200) < 50).all()
    assert len(counts) == 5


def test_first_samples_follow_the_generator_or_init():
    hyperparam = HyperParam(1e-4, 1.0)
    draw = [hyperparam.sample(np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    assert 1e-4 <= hyperparam() <= 1
    assert HyperParam(1e-5, 5e-3, init=4e-3)() == 4e-3


def test_perturbation_has_its_distribution():
    """The factor is 1 + u or 1 - u, equally often, with u ~ U(0.002 w, w)."""
    w, rng = 0.3, np.random.default_rng(0)
    hyperparam = HyperParam(1e-6, 1.0, explore_wt=w)
    change = np.array([hyperparam.explore(0.5, rng) for _ in range(6000)]) / 0.5 - 1
    assert abs((change > 0).mean() - 0.5) < 0.03
    u = np.sort(np.abs(change))
    assert u[0] >= 0.002 * w * (1 - 1e-9)
    assert u[-1] <= w
    expected = np.arange(1, 6001) / 6000
    assert np.abs((u - 0.002 * w) / (0.998 * w) - expected).max() < 1.63 / np.sqrt(6000)


def test_perturbation_near_an_enforced_limit_is_redrawn():
    """Values are not clipped: none of them is equal to the limit."""
    rng = np.random.default_rng(0)
    hyperparam = HyperParam(0.0, 0.6, sample_fn="uniform", explore_wt=0.3, enforce_limits=True)
    values = np.array([hyperparam.explore(0.59, rng) for _ in range(1000)])
    assert values.max() < 0.6
    assert values.min() > 0.59 * 0.7
    assert (values > 0.59).mean() < 0.2


def test_perturbation_beyond_limits_that_are_not_enforced():
    rng = np.random.default_rng(0)
    hyperparam = HyperParam(1.0, 2.0, explore_wt=0.8)
    values = [hyperparam.explore(2.0, rng) for _ in range(100)]
    assert max(values) > 2.5
    assert min(values) < 0.9


def test_a_value_outside_of_the_limits_is_moved_inside():
    rng = np.random.default_rng(0)
    hyperparam = HyperParam(0.1, 0.5, explore_wt=0.2, enforce_limits=True)
    assert 0.4 <= hyperparam.explore(7.0, rng) < 0.5
    assert 0.1 < hyperparam.explore(0.01, rng) <= 0.12
    whole = HyperParam(1, 9, sample_fn="randint", explore_wt=0.2, enforce_limits=True)
    assert whole.explore(9, rng) in (6, 7)


def test_integers_change_and_stay_integers():
    rng = np.random.default_rng(0)
    hyperparam = HyperParam(0, 5, sample_fn="randint", explore_wt=0.2)
    for value in (0, 1, 2, 64):
        new = [hyperparam.explore(value, rng) for _ in range(600)]
        assert {type(n) for n in new} == {int}
        far = max(1, int(np.ceil(0.2 * value)))
        assert set(new) == set(range(max(0, value - far), value + far + 1)) - {value}


@settings(max_examples=200, deadline=None)
@given(
    low=st.floats(1e-7, 1e3),
    ratio=st.floats(1.05, 1e6),
    where=st.floats(0, 1),
    w=st.floats(0.01, 1),
    enforce=st.booleans(),
    whole=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_perturbation_always_ends_inside_of_its_bounds(low, ratio, where, w, enforce, whole, seed):
    high = low * ratio
    if whole:
        low, high = int(low), int(high) + 3
    hyperparam = HyperParam(
        low, high, None, "randint" if whole else "loguniform", w, enforce_limits=enforce
    )
    value = low + where * (high - low)
    value = min(int(value), high - 1) if whole else min(value, high)
    new = hyperparam.explore(value, np.random.default_rng(seed))
    assert new >= 0
    assert new != value
    if enforce:
        assert low <= new <= (high - 1 if whole else high)
    change = abs(new - value)
    if whole:
        assert isinstance(new, int)
        assert 1 <= change <= max(1, np.ceil(w * value))
    else:
        assert 0.002 * w * value * (1 - 1e-6) <= change <= w * value * (1 + 1e-6)


def test_space_in_a_configuration():
    made = options(
        "~sweep.space.cd_rate",
        "+sweep.space.gen={key: model.gen_dim, choice: [64, 128]}",
        "+sweep.space.model_fac_dim={key: model.fac_dim, grid: [8, 16]}",
        "+sweep.space.tau={key: model.co_prior.tau, _target_: ray.tune.lograndint, lower: 1, "
        "upper: 100}",
        "sweep.space.lr_init.max_samp=1e-2",
    )
    assert "model.train_aug_stack.transforms.0.cd_rate" not in made.space
    assert made.space["model.lr_init"].max_samp == 1e-2
    assert made.space["model.gen_dim"] == {"choice": [64, 128]}
    assert made.space["model.fac_dim"] == {"grid": [8, 16]}
    assert made.space["model.co_prior.tau"] == {
        "_target_": "ray.tune.lograndint", "lower": 1, "upper": 100,
    }  # fmt: skip
