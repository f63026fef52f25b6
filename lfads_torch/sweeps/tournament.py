"""Population-based training: what is searched, who wins, how winners are varied, when to stop.

What needs no Ray is here. The scheduler and the stopping rule, which are Ray classes, are in
:mod:`lfads_torch.sweeps.ray_tune`, the only file that imports Ray, and are imported from there
when they are first asked for under their names here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lfads_torch.errors import UserError
from lfads_torch.running.callbacks import EarlyStoppingWithBurnInPeriod
from lfads_torch.sweeps.history import read_pbt_fitlog

if TYPE_CHECKING:
    from lfads_torch.sweeps.ray_tune import BinaryTournamentPBT, ImprovementRatioStopper

__all__ = [
    "BinaryTournamentPBT",
    "EarlyStoppingWithBurnInPeriod",
    "HyperParam",
    "ImprovementRatioStopper",
    "explore",
    "has_converged",
    "pair_off",
    "read_pbt_fitlog",
]

T = TypeVar("T")
SAMPLE_FNS = ("loguniform", "uniform", "randint")
SMALLEST_STEP = 0.002
"""The smallest relative change of a value in a generation, as a part of the largest."""


def __getattr__(name: str) -> Any:
    """Import what needs Ray when it is asked for."""
    if name in ("BinaryTournamentPBT", "ImprovementRatioStopper"):
        from lfads_torch.sweeps import ray_tune

        return getattr(ray_tune, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True)
class HyperParam:
    """The range of a hyperparameter, how it starts and how far it is perturbed.

    Parameters
    ----------
    min_samp, max_samp
        Bounds of the first samples.
    init
        Where all trials start; None draws a value for each. (Perturbations multiply: a value that
        starts at 0 stays there, unless it is an integer.)
    sample_fn
        How that is drawn: ``"loguniform"``, ``"uniform"``, or ``"randint"`` (integers below
        ``max_samp``).
    explore_wt
        w: the largest relative change in a generation, see :meth:`explore`.
    enforce_limits
        Keep perturbed values between the bounds too; otherwise they only stay at least 0.

    Raises
    ------
    ValueError
        If these contradict each other.
    """

    min_samp: float
    max_samp: float
    init: float | None = None
    sample_fn: str = "loguniform"
    explore_wt: float = 0.2
    enforce_limits: bool = False

    def __post_init__(self) -> None:
        given = f"HyperParam({self.min_samp}, {self.max_samp}, init={self.init}, sample_fn=…)"
        if self.sample_fn not in SAMPLE_FNS:
            raise UserError(
                f"sample_fn must be one of {', '.join(SAMPLE_FNS)}, but is {self.sample_fn!r}."
            )
        if not self.min_samp < self.max_samp:
            raise UserError(f"{given}: min_samp must be smaller than max_samp.")
        if self.sample_fn == "loguniform" and self.min_samp <= 0:
            raise UserError(
                f"{given}: min_samp must be positive to sample log-uniformly. Use "
                f"sample_fn='uniform' for a range that holds 0."
            )
        if self.min_samp < 0:
            raise UserError(f"{given}: perturbed values stay at least 0, so min_samp must be.")
        if not 0 < self.explore_wt <= 1:
            raise UserError(f"explore_wt must be in (0, 1], but is {self.explore_wt}.")
        if self.sample_fn == "randint" and not all(
            float(bound).is_integer() for bound in (self.min_samp, self.max_samp)
        ):
            raise UserError(f"{given}: randint needs whole numbers as bounds.")
        step = SMALLEST_STEP * self.explore_wt
        if self.enforce_limits and self._highest * (1 - step) <= self.min_samp * (1 + step):
            raise UserError(
                f"{given}: the limits are too close for values between them to be perturbed by "
                f"{step:.2g} of themselves, the least that explore_wt={self.explore_wt} allows. "
                f"Take them further apart, or set the value in the configuration and leave it out "
                f"of the search."
            )
        if self.init is not None and not self._allows(self.init):
            raise UserError(f"{given}: init is not between the limits that are enforced.")

    def __call__(self) -> float:
        """Draw a first value without a seed, which Ray's own schedulers ask for."""
        return self.sample(np.random.default_rng())

    def sample(self, rng: np.random.Generator) -> float:
        """Draw a first value."""
        if self.init is not None:
            return self.init
        low, high = self.min_samp, self.max_samp
        if self.sample_fn == "randint":
            return int(rng.integers(int(low), int(high)))
        if self.sample_fn == "uniform":
            return float(rng.uniform(low, high))
        return float(np.clip(np.exp(rng.uniform(np.log(low), np.log(high))), low, high))

    def explore(self, value: float, rng: np.random.Generator) -> float:
        """Perturb a value: times 1 ± u, u ~ U(0.002 w, w), redrawn until it is inside the bounds.

        Integers (``randint``) are rounded, and change by at least one.
        """
        whole = self.sample_fn == "randint"
        if not self._allows(value):  # of a configuration of the user's own
            value = min(max(value, self.min_samp), self._highest)
        while True:
            factor = 1 + rng.choice((-1, 1)) * rng.uniform(SMALLEST_STEP, 1) * self.explore_wt
            new = value * factor
            if whole and factor < 1:
                new = min(math.floor(new), value - 1)
            elif whole:
                new = max(math.ceil(new), value + 1)
            if self._allows(new):
                return int(new) if whole else float(new)

    @property
    def _highest(self) -> float:
        """The highest value that can be drawn."""
        return self.max_samp - 1 if self.sample_fn == "randint" else self.max_samp

    def _allows(self, value: float) -> bool:
        if not self.enforce_limits:
            return value >= 0
        return self.min_samp <= value <= self._highest


def explore(
    config: Mapping[str, Any], space: Mapping[str, HyperParam], rng: np.random.Generator
) -> dict[str, Any]:
    """Return a configuration whose hyperparameters are perturbed; the rest is as it was."""
    new = dict(config)
    for name, hyperparam in space.items():
        if name in config:
            new[name] = hyperparam.explore(config[name], rng)
    return new


def pair_off(players: Sequence[T], rng: np.random.Generator) -> list[tuple[T, T]]:
    """Pair players at random. Where their number is odd, one stays out."""
    order = [players[i] for i in rng.permutation(len(players))]
    return list(zip(order[::2], order[1::2], strict=False))


def has_converged(
    best: Sequence[float], patience: int = 4, min_improvement_ratio: float = 5e-4
) -> bool:
    """Tell whether a loss has stopped improving over the last generations.

    That is where (oldest best - lowest best) / mean(abs(best)) of the last ``patience`` generations
    is at most ``min_improvement_ratio``.

    Parameters
    ----------
    best
        The best score of each generation so far, lower ones being better.
    """
    last = np.asarray(best[-patience:], dtype=float)
    if len(last) < patience or not np.isfinite(last).all():
        return False
    return bool(last[0] - last.min() <= min_improvement_ratio * np.abs(last).mean())
