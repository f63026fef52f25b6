"""The options of a sweep: the ``sweep`` of a configuration, checked.

``configs/sweep/base.yaml`` describes every option.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lfads_torch.errors import UserError, did_you_mean
from lfads_torch.sweeps.space import read_space

_LEAST_INTEGERS = {
    "num_trials": 1,
    "report_every": 1,
    "max_concurrent": 1,
    "max_failures": 0,
    "seed": 0,
}
"""Options that are integers, and the smallest value of each."""
_NUMBERS = ("cpus_per_trial", "gpus_per_trial", "cpus_without_gpu", "time_budget_hours")
"""Options that are numbers of at least 0."""
_OPTIONAL = ("max_concurrent", "gpus_per_trial", "time_budget_hours")
"""Integers and numbers that may be None."""


@dataclass(frozen=True)
class SweepOptions:
    """The options of a sweep: what it searches, and how."""

    num_trials: int
    """Number of trials; if the space has a grid, for each point of the grid."""
    space: Mapping[str, Any]
    """The search space, see :mod:`lfads_torch.sweeps.space`."""
    report_every: int = 25
    """Epochs between two reports of a trial, unless the scheduler defines generations."""
    metric: str = "valid/recon_smth"
    """The metric by which trials are compared."""
    mode: str = "min"
    """``"min"`` if the lowest metric is best, ``"max"`` if the highest one is."""
    scheduler: Mapping[str, Any] | None = None
    """Class (``_target_``) and arguments of a scheduler; None runs every trial to its end."""
    stopper: Mapping[str, Any] | None = None
    """Class and arguments of a rule that ends the search, or None."""
    searcher: Mapping[str, Any] | None = None
    """Class and arguments of a search algorithm; None draws trials at random."""
    seed: int = 0
    """Seed of all random numbers of the search, including those of tournaments."""
    cpus_per_trial: float = 3
    """CPUs that a trial asks for where there is a GPU."""
    gpus_per_trial: float | None = 0.5
    """GPUs that a trial asks for where there is a GPU."""
    cpus_without_gpu: float = 1
    """CPUs that a trial asks for where there is no GPU."""
    max_concurrent: int | None = None
    """Number of trials that run at the same time; None for as many as the machines can run."""
    max_failures: int = 3
    """Number of failures after which a trial is not restarted any more."""
    time_budget_hours: float | None = None
    """When to end the search, or None."""
    ray_address: str | None = None
    """``"auto"`` for the Ray cluster that this machine belongs to, None for only this machine."""
    storage: str | None = None
    """Where checkpoints are kept: None for the folder of the sweep, or a path or URL."""
    id: str = ""
    """Distinguishes this sweep from all others."""
    max_epochs: int | None = None
    """The trainer's last epoch; None if it has none."""
    use_best: bool = False
    """Whether trials are ranked by their best epoch rather than by their last one."""

    @classmethod
    def from_config(cls, config: DictConfig) -> "SweepOptions":
        """Read the options from a configuration.

        Parameters
        ----------
        config
            The configuration that :func:`lfads_torch.sweeps.compose.compose_sweep` returned.

        Raises
        ------
        ValueError
            If an option is unknown, missing or has an invalid value, or if the search would never
            end.
        """
        node: Any
        if not isinstance(config.get("sweep"), DictConfig):
            raise UserError("The configuration has no sweep: choose sweep=random or sweep=pbt.")
        try:
            node = OmegaConf.to_container(config.sweep, resolve=True, throw_on_missing=True)
        except OmegaConfBaseException as error:
            raise UserError(f"sweep cannot be read: {error}") from error
        names = [field.name for field in dataclasses.fields(cls)]
        for name in map(str, node):
            if name not in names:
                hint = did_you_mean(name, names)
                raise UserError(f"sweep.{name} is not an option of a sweep.{hint}")
        max_epochs = OmegaConf.select(config, "trainer.max_epochs")
        if max_epochs is not None and type(max_epochs) is not int:
            raise UserError(f"trainer.max_epochs must be an integer, but is {max_epochs!r}.")
        options = cls(
            **{
                "num_trials": None,
                **node,
                "space": read_space(node.get("space")),
                "max_epochs": None if max_epochs is None or max_epochs < 0 else max_epochs,
                "use_best": bool(OmegaConf.select(config, "posterior_sampling.use_best_ckpt")),
            }
        )
        options._check_values()
        ends = (options.max_epochs, options.time_budget_hours, options.scheduler, options.stopper)
        if not any(ends):
            raise UserError(
                "The trials would never end: set trainer.max_epochs or sweep.time_budget_hours."
            )
        return options

    def _check_values(self) -> None:
        """Raise a UserError for invalid values."""
        for name, least in _LEAST_INTEGERS.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if type(value) is not int or value < least:
                raise UserError(
                    f"sweep.{name} must be an integer of at least {least}, but is {value}."
                )
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if type(value) not in (int, float) or not value >= 0:
                raise UserError(f"sweep.{name} must be a number of at least 0, but is {value!r}.")
        for name in ("scheduler", "searcher", "stopper"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
                raise UserError(
                    f"sweep.{name} must be null, or a class and its arguments "
                    f"({{_target_: …}}), but is {value!r}."
                )
        if not isinstance(self.metric, str):
            raise UserError(f"sweep.metric must name a metric, but is {self.metric!r}.")
        if self.mode not in ("min", "max"):
            raise UserError(f"sweep.mode must be min or max, but is {self.mode!r}.")

    @property
    def total_trials(self) -> int:
        """Number of trials of the whole sweep: ``num_trials`` for each point of the grid."""
        entries = [entry for entry in self.space.values() if isinstance(entry, Mapping)]
        return self.num_trials * math.prod(len(e["grid"]) for e in entries if "grid" in e)

    def boundaries(self) -> tuple[int, int]:
        """Return at which epochs trials report, and meet where the scheduler holds tournaments.

        Returns
        -------
        first, every
            The epoch of the first tournament, and the number of epochs between two of them.
        """
        scheduler = self.scheduler or {}
        every = int(scheduler.get("perturbation_interval", self.report_every))
        return max(every, int(scheduler.get("burn_in_period", 0))), every
