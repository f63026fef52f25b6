"""What is searched, who meets whom, how winners are varied and when to stop: without Ray."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfads_torch.sweeps.tournament import HyperParam, explore, has_converged, pair_off

# ------------------------------------------------------------------ importing


def test_names_and_arguments_that_users_know():
    tune = importlib.import_module("lfads_torch.sweeps.tournament")
    for name in ("HyperParam", "BinaryTournamentPBT", "ImprovementRatioStopper",
                 "EarlyStoppingWithBurnInPeriod", "read_pbt_fitlog"):  # fmt: skip
        assert getattr(tune, name).__name__ == name
        assert name in tune.__all__
    pbt = importlib.import_module("lfads_torch.sweeps.history")
    assert callable(pbt.read_pbt_hps)
    assert callable(pbt.plot_pbt_hps)
    with pytest.raises(AttributeError, match="has no attribute 'BinaryTournament'"):
        _ = tune.BinaryTournament
    published = HyperParam(1e-5, 5e-3, 4e-3, "loguniform", 0.3, True)
    assert published == HyperParam(
        min_samp=1e-5, max_samp=5e-3, init=4e-3, sample_fn="loguniform", explore_wt=0.3,
        enforce_limits=True,
    )  # fmt: skip
    defaults = HyperParam(1.0, 2.0)
    assert (defaults.init, defaults.sample_fn) == (None, "loguniform")
    assert (defaults.explore_wt, defaults.enforce_limits) == (0.2, False)


def test_import_does_not_import_ray():
    code = (
        "import sys\n"
        "import lfads_torch.sweeps.tournament as tune, lfads_torch.sweeps.search, lfads_torch.sweeps.history\n"
        "tune.HyperParam(1, 2).sample(__import__('numpy').random.default_rng(0))\n"
        "sys.exit('ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_says_what_to_install_where_there_is_no_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "lfads_torch.sweeps.ray_tune", raising=False)
    package = importlib.import_module("lfads_torch.extensions")
    monkeypatch.delattr(package, "ray_tune", raising=False)
    tune = importlib.import_module("lfads_torch.sweeps.tournament")
    with pytest.raises(ImportError, match=r"pip install .*\[tune\]"):
        _ = tune.BinaryTournamentPBT


# ------------------------------------------------------------------ HyperParam


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sample_fn": "normal"}, "sample_fn must be one of loguniform, uniform, randint, .*'norm"),
        ({"min_samp": 2.0}, "min_samp must be smaller than max_samp"),
        ({"min_samp": 3.0}, "min_samp must be smaller than max_samp"),
        ({"min_samp": float("nan")}, "min_samp must be smaller than max_samp"),
        ({"min_samp": 0.0}, "must be positive to sample log-uniformly.*sample_fn='uniform'"),
        ({"min_samp": -1.0, "sample_fn": "uniform"}, "so min_samp must be"),
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
    """Times 1 ± u with u ~ U(0.002 w, w), either sign as often as the other."""
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
    """It is not clipped: no value sits on the limit."""
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


def test_a_value_outside_of_the_limits_is_brought_back():
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


# ------------------------------------------------------------------ explore, pair_off


def test_explore_perturbs_what_is_searched_and_leaves_the_rest():
    space = {"model.lr_init": HyperParam(1e-5, 5e-3), "absent": HyperParam(1.0, 2.0)}
    config = {"model.lr_init": 1e-3, "seed": 5, "model.gen_dim": 64}
    new = explore(config, space, np.random.default_rng(0))
    assert new.keys() == config.keys()
    assert new["model.lr_init"] != 1e-3
    assert 0.8e-3 <= new["model.lr_init"] <= 1.2e-3
    assert (new["seed"], new["model.gen_dim"]) == (5, 64)
    assert config["model.lr_init"] == 1e-3
    assert new == explore(config, space, np.random.default_rng(0))


@given(st.integers(0, 30), st.integers(0, 2**32))
@settings(deadline=None)
def test_pairs_hold_everyone_once(n, seed):
    players = [f"trial_{i}" for i in range(n)]
    pairs = pair_off(players, np.random.default_rng(seed))
    assert len(pairs) == n // 2
    met = [player for pair in pairs for player in pair]
    assert len(set(met)) == len(met) == n - n % 2
    assert set(met) <= set(players)


def test_pairs_are_random_and_repeatable():
    assert pair_off(range(10), np.random.default_rng(3)) == pair_off(
        range(10), np.random.default_rng(3)
    )
    opponents, left_out = set(), set()
    for seed in range(200):
        pairs = pair_off(range(5), np.random.default_rng(seed))
        opponents |= {frozenset(pair) for pair in pairs}
        left_out |= set(range(5)) - {player for pair in pairs for player in pair}
    assert len(opponents) == 10
    assert left_out == set(range(5))


# ------------------------------------------------------------------ has_converged


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ([], False),
        ([1.0, 1.0, 1.0], False),  # too few
        ([1.0, 1.0, 1.0, 1.0], True),  # nothing changes
        ([1.0, 0.9, 0.8, 0.7], False),  # it improves
        ([2.0, 1.0, 1.0, 1.0, 1.0], True),  # only the last generations count
        ([1.0, 0.5, 1.0, 1.0], False),  # the lowest counts, not the last
        ([1.0, 1.1, 1.2, 1.3], True),  # it worsens
        # (1.001 - 1) / mean = 0.00099950 and 0.00049983, on either side of 5e-4
        ([1.001, 1.001, 1.0, 1.0], False),
        ([1.0005, 1.0005, 1.0004, 1.0], True),
        ([1.00051, 1.0005, 1.0004, 1.0], False),
        ([-1.0, -1.1, -1.2, -1.3], False),  # bits of a negative loss: the mean is of magnitudes
        ([-1.0, -1.0, -1.0, -1.0], True),
        ([0.0, 0.0, 0.0, 0.0], True),
        ([1.0, 1.0, 1.0, float("inf")], False),  # all have diverged, none has converged
        ([float("inf"), 1.0, 1.0, 1.0], False),
        ([1.0, float("nan"), 1.0, 1.0], False),
    ],
)
def test_convergence(best, expected):
    assert has_converged(best) is expected


def test_convergence_with_other_settings():
    assert has_converged([1.0, 0.99], patience=2, min_improvement_ratio=0.02)
    assert not has_converged([1.0, 0.99], patience=2, min_improvement_ratio=0.01)
    assert not has_converged([1.0, 0.99], patience=3, min_improvement_ratio=0.02)


@given(
    st.lists(st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-6), max_size=9),
    st.integers(2, 6),
    st.floats(1e-6, 0.5),
)
@settings(deadline=None)
def test_convergence_follows_its_formula(best, patience, ratio):
    expected = False
    if len(best) >= patience:
        last = best[len(best) - patience :]
        improvement = last[0] - min(last)
        mean = sum(map(abs, last)) / patience
        if abs(improvement - ratio * mean) < 1e-9 * (1 + mean):
            return  # a tie, which rounding decides
        expected = improvement <= ratio * mean
    assert has_converged(best, patience, ratio) == expected
    assert has_converged([3 * score for score in best], patience, ratio) == expected
