"""The rules of population-based training."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfads_torch.sweeps.space import HyperParam
from lfads_torch.sweeps.tournament import (
    choose_winners,
    explore,
    has_converged,
    next_boundary,
    pair_off,
)


@given(st.integers(0, 500), st.integers(1, 150), st.integers(1, 40))
@settings(deadline=None)
def test_boundaries_are_those_of_the_scheduler(epoch, burn_in, every):
    """Their distance is a generation, and one is at the end of burn-in or the first generation."""
    first = max(burn_in, every)
    boundary = next_boundary(epoch, first, every)
    assert epoch < boundary <= epoch + every
    assert (boundary - first) % every == 0


def test_boundaries_from_the_beginning():
    """There are boundaries, and therefore checkpoints, before the end of a long burn-in."""
    epoch, boundaries = 0, []
    while epoch < 155:
        epoch = next_boundary(epoch, 105, 25)
        boundaries.append(epoch)
    assert boundaries == [5, 30, 55, 80, 105, 130, 155]


@given(st.integers(0, 30), st.integers(0, 2**32))
@settings(deadline=None)
def test_pairs_contain_every_player_once(n, seed):
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


def test_explore_perturbs_only_what_is_searched():
    space = {"model.lr_init": HyperParam(1e-5, 5e-3), "absent": HyperParam(1.0, 2.0)}
    config = {"model.lr_init": 1e-3, "seed": 5, "model.gen_dim": 64}
    new = explore(config, space, np.random.default_rng(0))
    assert new.keys() == config.keys()
    assert new["model.lr_init"] != 1e-3
    assert 0.8e-3 <= new["model.lr_init"] <= 1.2e-3
    assert (new["seed"], new["model.gen_dim"]) == (5, 64)
    assert config["model.lr_init"] == 1e-3
    assert new == explore(config, space, np.random.default_rng(0))


FINITE = st.floats(-9, 9)


@given(
    st.lists(st.one_of(FINITE, st.just(-math.inf)), min_size=1, max_size=9).filter(
        lambda scores: max(scores) > -math.inf
    ),
    st.integers(0, 100),
)
@settings(deadline=None)
def test_losers_of_a_tournament_follow_unbeaten_winners(scores, seed):
    players = {f"trial_{i}": score for i, score in enumerate(scores)}
    winners = choose_winners(players, np.random.default_rng(seed))
    assert winners == choose_winners(players, np.random.default_rng(seed))
    for loser, winner in winners.items():
        assert winner not in winners
        assert players[loser] <= players[winner]
        assert players[winner] > -math.inf
    assert {name for name in players if players[name] == -math.inf} <= set(winners)
    diverged = sum(score == -math.inf for score in scores)
    assert max(diverged, len(scores) // 2) <= len(winners) <= len(scores) // 2 + diverged


def test_the_best_of_all_is_never_beaten_and_the_worst_always_is():
    players = {f"trial_{i}": float(i) for i in range(6)}
    beaten_by = set()
    for seed in range(50):
        winners = choose_winners(players, np.random.default_rng(seed))
        assert len(winners) == 3
        assert "trial_5" not in winners
        beaten_by.add(winners["trial_0"])
    assert beaten_by == {f"trial_{i}" for i in range(1, 6)}


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
        ([-1.0, -1.1, -1.2, -1.3], False),  # a negative loss, which improves
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
