"""Checks before a sweep starts, so that mistakes are reported before its folder is made."""

from typing import Any

import numpy as np
from omegaconf import DictConfig

from lfads_torch.errors import UserError
from lfads_torch.running.compose import compose
from lfads_torch.running.training import prepare
from lfads_torch.sweeps.compose import checkpoint_callbacks
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.space import HyperParam


def check_sweep(config: DictConfig, options: SweepOptions) -> None:
    """Make the searcher, the scheduler and the model of one trial, and read the data.

    Parameters
    ----------
    config
        The configuration of the sweep, with which hyperparameters are composed.
    options
        Its options.

    Raises
    ------
    FileNotFoundError, ValueError
        If any of these cannot be made.
    """
    # Ray is imported here, because this takes seconds and this module should be fast to import.
    from lfads_torch.sweeps.ray_tune.components import make_search

    make_search(options)
    trial = compose(config, _first_values(options))
    _check_monitors(trial, options)
    prepare(trial)


def _first_values(options: SweepOptions) -> dict[str, Any]:
    """Return possible first values of the hyperparameters of a trial, by their keys."""
    from lfads_torch.sweeps.ray_tune.components import to_domain

    rng = np.random.default_rng(options.seed)
    values: dict[str, Any] = {"seed": options.seed}
    for key, value in options.space.items():
        if isinstance(value, HyperParam):
            values[key] = value.sample(rng)
        elif "choice" in value or "grid" in value:
            values[key] = [*value.get("choice", ()), *value.get("grid", ())][0]
        else:
            try:
                values[key] = to_domain(value).sample()
            except Exception as error:
                raise UserError(f"sweep.space: {key} cannot be sampled: {error}") from error
    return values


def _check_monitors(trial: DictConfig, options: SweepOptions) -> None:
    """Raise a UserError if trials keep their best epoch by another metric than the sweep's."""
    for name, node in checkpoint_callbacks(trial).items():
        if not options.use_best or not node.get("monitor"):
            continue
        monitor, mode = node.monitor, node.get("mode", "min")
        if (monitor, mode) != (options.metric, options.mode):
            raise UserError(
                f"callbacks.{name} keeps the model of the epoch with the {mode} {monitor}, but "
                f"sweep.metric = {options.metric} and sweep.mode = {options.mode}. Set "
                f"callbacks.{name}.monitor and callbacks.{name}.mode to the same, or "
                f"posterior_sampling.use_best_ckpt=false to keep the model of the last epoch."
            )
