"""The parts of a search on Ray, made from the options of a sweep.

These are the distributions of hyperparameters, the searcher, the scheduler and the stopping rule.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import get_class, instantiate
from ray import tune

from lfads_torch.errors import UserError
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.ray_tune.stopper import ImprovementRatioStopper
from lfads_torch.sweeps.results import EPOCH
from lfads_torch.sweeps.space import HyperParam


def to_domain(value: Any) -> Any:
    """Return the object by which Ray samples a hyperparameter.

    Parameters
    ----------
    value
        An entry of a search space, see :mod:`lfads_torch.sweeps.space`.
    """
    if isinstance(value, HyperParam):
        if value.init is not None:
            return value.init
        return getattr(tune, value.sample_fn)(value.min_samp, value.max_samp)
    if isinstance(value, Mapping) and "choice" in value:
        return tune.choice(value["choice"])
    if isinstance(value, Mapping) and "grid" in value:
        return tune.grid_search(value["grid"])
    return instantiate(value, _convert_="all")


def make_search(
    options: SweepOptions, history: Sequence[Mapping[str, Any]] = ()
) -> tuple[Any, Any]:
    """Make the searcher (None for random search) and the scheduler.

    Parameters
    ----------
    options
        The options of the sweep.
    history
        The history of a search that is resumed, see
        :func:`lfads_torch.sweeps.history.read_history`.

    Raises
    ------
    ValueError
        If a class does not exist, if its package is missing, or if it refuses its arguments.
    """
    try:
        searcher = instantiate(options.searcher, _convert_="all")
    except Exception as error:
        raise UserError(f"sweep.searcher cannot be made: {error}") from error
    try:
        return searcher, _make_scheduler(options, history)
    except Exception as error:
        raise UserError(f"sweep.scheduler cannot be made: {error}") from error


def _make_scheduler(options: SweepOptions, history: Sequence[Mapping[str, Any]]) -> Any:
    """Make the scheduler, with the arguments that follow from the options of the sweep."""
    node = dict(options.scheduler or {"_target_": "ray.tune.schedulers.FIFOScheduler"})
    parameters = inspect.signature(get_class(node["_target_"])).parameters
    perturbed = {k: v for k, v in options.space.items() if isinstance(v, HyperParam)}
    derived = {
        "time_attr": EPOCH,
        "seed": options.seed,
        "perturbation_interval": options.boundaries()[1],
        "hyperparam_mutations": perturbed,
    }
    derived = {name: value for name, value in derived.items() if name in parameters}
    if options.stopper:
        if "stopper" not in parameters:
            raise UserError(
                f"{node['_target_']} takes no stopper: set sweep.stopper=null, or use "
                f"lfads_torch.extensions.tune.BinaryTournamentPBT."
            )
        derived["stopper"] = _make_stopper(options, history)
    return get_class(node.pop("_target_"))(**{**derived, **node})


def _make_stopper(
    options: SweepOptions, history: Sequence[Mapping[str, Any]]
) -> ImprovementRatioStopper:
    """Make the stopping rule, with the earlier results of a search that is resumed."""
    stopper: ImprovementRatioStopper = instantiate(
        {
            "num_trials": options.total_trials,
            "metric": options.metric,
            "mode": options.mode,
            **(options.stopper or {}),
        },
        perturbation_interval=options.boundaries()[1],
        burn_in_period=(options.scheduler or {}).get("burn_in_period", 0),
    )
    for row in history:
        stopper(row["trial"], {EPOCH: row["epoch"], options.metric: row["score"]})
    return stopper
