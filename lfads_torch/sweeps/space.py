"""The search space of a sweep, which defines how hyperparameters are varied.

A space maps the key of a hyperparameter in the configuration (``model.lr_init``) to one of

- a :class:`HyperParam`: a range, which population-based training also perturbs;
- ``{"choice": [a, b, …]}``: values of which each trial draws one;
- ``{"grid": [a, b, …]}``: values all of which are tried;
- ``{"_target_": "ray.tune.…", …}``: a sampling function of Ray Tune with its arguments.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lfads_torch.errors import UserError

SAMPLE_FNS = ("loguniform", "uniform", "randint")
SMALLEST_STEP = 0.002
"""The smallest relative change of a perturbed value, as a fraction of the largest one."""


@dataclass(frozen=True)
class HyperParam:
    """The range of a hyperparameter, its first value, and how strongly it is perturbed.

    The rule by which a value is perturbed is that of Keshtkaran et al. 2022 (AutoLFADS, Nature
    Methods 19:1572), see :meth:`explore`.

    Parameters
    ----------
    min_samp, max_samp
        Bounds of the first samples.
    init
        The first value of every trial. None draws a first value for each trial. (Perturbations
        multiply, so that a value that starts at 0 stays there, unless it is an integer.)
    sample_fn
        The distribution of the first values: ``"loguniform"``, ``"uniform"`` or ``"randint"``
        (integers below ``max_samp``).
    explore_wt
        w, the largest relative change in one generation, in (0, 1].
    enforce_limits
        Whether perturbed values stay between the bounds too. Otherwise they only stay at least 0.

    Raises
    ------
    ValueError
        If these arguments contradict each other.
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
                f"sample_fn='uniform' for a range that contains 0."
            )
        if self.min_samp < 0:
            raise UserError(
                f"{given}: perturbed values stay at least 0, so min_samp must be at least 0."
            )
        if not 0 < self.explore_wt <= 1:
            raise UserError(f"explore_wt must be in (0, 1], but is {self.explore_wt}.")
        if self.sample_fn == "randint" and not all(
            float(bound).is_integer() for bound in (self.min_samp, self.max_samp)
        ):
            raise UserError(f"{given}: randint needs whole numbers as bounds.")
        step = SMALLEST_STEP * self.explore_wt
        if self.enforce_limits and self._highest * (1 - step) <= self.min_samp * (1 + step):
            raise UserError(
                f"{given}: the limits are too close to perturb a value between them by "
                f"{step:.2g} of itself, the least that explore_wt={self.explore_wt} allows. "
                f"Widen the range, or set the value in the configuration and leave it out of the "
                f"search space."
            )
        if self.init is not None and not self._allows(self.init):
            raise UserError(f"{given}: init is not between the limits that are enforced.")

    def __call__(self) -> float:
        """Draw a first value without a seed, for Ray's schedulers, which call the object."""
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
        """Perturb a value.

        It is multiplied by 1 + u or 1 - u, with equal probability, where u ~ U(0.002 w, w). The
        draw is repeated until the result is inside the bounds. Integers (``randint``) are rounded
        away from the old value, so that they change by at least one.
        """
        is_integer = self.sample_fn == "randint"
        if not self._allows(value):  # the user's configuration may start outside of the bounds
            value = min(max(value, self.min_samp), self._highest)
        while True:
            factor = 1 + rng.choice((-1, 1)) * rng.uniform(SMALLEST_STEP, 1) * self.explore_wt
            new = value * factor
            if is_integer and factor < 1:
                new = min(math.floor(new), value - 1)
            elif is_integer:
                new = max(math.ceil(new), value + 1)
            if self._allows(new):
                return int(new) if is_integer else float(new)

    @property
    def _highest(self) -> float:
        """The highest value that can be drawn."""
        return self.max_samp - 1 if self.sample_fn == "randint" else self.max_samp

    def _allows(self, value: float) -> bool:
        """Return whether a value is inside the bounds that hold for perturbed values."""
        if not self.enforce_limits:
            return value >= 0
        return self.min_samp <= value <= self._highest


def read_space(node: Any) -> dict[str, Any]:
    """Read ``sweep.space`` of a configuration.

    Parameters
    ----------
    node
        A mapping of mappings. Each entry has a ``key`` (the key that is overridden; by default the
        name of the entry) and either the arguments of :class:`HyperParam`, a ``choice``, a
        ``grid``, or a ``_target_`` with its arguments.

    Returns
    -------
    dict
        The space, in the form that the docstring of this module describes.

    Raises
    ------
    ValueError
        If the space is empty or an entry is none of these.
    """
    if not isinstance(node, Mapping) or not node:
        raise UserError(
            "sweep.space is empty: choose one (sweep=random or sweep=pbt), or name at least one "
            "hyperparameter, as in +sweep.space.lr_init={key:model.lr_init,min_samp:1e-5,"
            "max_samp:5e-3}."
        )
    space: dict[str, Any] = {}
    for name, entry in node.items():
        if not isinstance(entry, Mapping):
            raise UserError(f"sweep.space.{name} must be a mapping, but is {entry!r}.")
        arguments = {item: entry[item] for item in entry if item != "key"}
        space[str(entry.get("key", name))] = _read_entry(f"sweep.space.{name}", arguments)
    return space


def _read_entry(name: str, arguments: dict[str, Any]) -> Any:
    """Return one entry of a space, given its arguments in the configuration without ``key``."""
    if "_target_" in arguments:
        return arguments
    if not {"choice", "grid"} & set(arguments):
        try:
            return HyperParam(**arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: {error}") from error
    if len(arguments) > 1:
        raise UserError(f"{name} must be one of choice, grid or a range: {arguments}.")
    ((kind, values),) = arguments.items()
    if not isinstance(values, list) or not values:
        raise UserError(f"{name}.{kind} must be a list of values, but is {values!r}.")
    return arguments


def space_entry(key: str, value: Any) -> dict[str, Any]:
    """Return an entry of ``sweep.space`` for a hyperparameter that a Python script describes.

    Parameters
    ----------
    key
        The key that is overridden.
    value
        A :class:`HyperParam`, a list of values to choose from, or a mapping as in ``sweep.space``.

    Raises
    ------
    ValueError
        If the value is none of these.
    """
    if isinstance(value, HyperParam):
        return {"key": key, **dataclasses.asdict(value)}
    if isinstance(value, list | tuple):
        return {"key": key, "choice": list(value)}
    if isinstance(value, Mapping):
        return {"key": key, **value}
    raise UserError(
        f"The search space of {key} must be a HyperParam, a list to choose from, or a dictionary "
        f"as in sweep.space, but is {value!r}."
    )
