"""The rules of population-based training.

They define when trials report, which trial takes over the model of which, how hyperparameters are
perturbed, and when a search has converged. These are the rules of AutoLFADS (Keshtkaran et al.
2022, Nature Methods 19:1572). All functions are pure, except that they draw from the random number
generators that they receive.
:class:`~lfads_torch.sweeps.ray_tune.scheduler.BinaryTournamentPBT` applies them to Ray's trials.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from lfads_torch.sweeps.space import HyperParam

T = TypeVar("T")


def next_boundary(epoch: int, first: int, every: int) -> int:
    """Return the first of the epochs ``first ± k · every`` that comes after an epoch.

    Here k is any integer. Trials report at these epochs, so that there are checkpoints before the
    end of a long burn-in period, too.

    Parameters
    ----------
    epoch
        The number of epochs that a trial has been trained for.
    first
        The epoch of the first tournament.
    every
        The number of epochs in a generation.
    """
    return epoch + every - (epoch - first) % every


def pair_off(players: Sequence[T], rng: np.random.Generator) -> list[tuple[T, T]]:
    """Pair players at random. One player is left out if their number is odd."""
    order = [players[i] for i in rng.permutation(len(players))]
    return list(zip(order[::2], order[1::2], strict=False))


def choose_winners(scores: Mapping[str, float], rng: np.random.Generator) -> dict[str, str]:
    """Hold a binary tournament.

    Players are paired at random, and the loser of each pair follows its winner. A player whose
    score is minus infinity follows a random player that was not beaten, whether that was paired or
    not. The same holds for a player that was beaten by a player with a score of minus infinity.

    Parameters
    ----------
    scores
        The score of each player, higher being better. Minus infinity stands for a loss that is
        not finite; at least one score must be finite.
    rng
        Draws the pairs.

    Returns
    -------
    dict
        The player that each loser follows, by the name of the loser.
    """
    winners: dict[str, str] = {}
    for pair in pair_off(list(scores), rng):
        loser, winner = sorted(pair, key=scores.__getitem__)
        winners[loser] = winner
    unbeaten = [player for player in scores if scores[player] > -math.inf and player not in winners]
    for player, score in scores.items():
        best_of_pair = scores[winners[player]] if player in winners else score
        if best_of_pair == -math.inf:
            winners[player] = unbeaten[rng.integers(len(unbeaten))]
    return winners


def explore(
    config: Mapping[str, Any], space: Mapping[str, HyperParam], rng: np.random.Generator
) -> dict[str, Any]:
    """Return a configuration with perturbed hyperparameters; other values do not change.

    See :meth:`HyperParam.explore <lfads_torch.sweeps.space.HyperParam.explore>`.
    """
    new = dict(config)
    for name, hyperparam in space.items():
        if name in config:
            new[name] = hyperparam.explore(config[name], rng)
    return new


def has_converged(
    best: Sequence[float], patience: int = 4, min_improvement_ratio: float = 5e-4
) -> bool:
    """Return whether a loss has stopped improving over the last generations.

    This is the case if (oldest best - lowest best) / mean(abs(best)), over the last ``patience``
    generations, is at most ``min_improvement_ratio``.

    Parameters
    ----------
    best
        The best score of each generation so far, lower scores being better.
    patience
        How many generations are compared.
    min_improvement_ratio
        The largest relative improvement that does not count as an improvement.
    """
    last = np.asarray(best[-patience:], dtype=float)
    if len(last) < patience or not np.isfinite(last).all():
        return False
    return bool(last[0] - last.min() <= min_improvement_ratio * np.abs(last).mean())
