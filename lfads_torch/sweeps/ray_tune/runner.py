"""Runs a search on Ray, and returns the outcome of each trial."""

from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search.basic_variant import BasicVariantGenerator

from lfads_torch.sweeps.history import read_history
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.ray_tune.cluster import (
    EXPERIMENT,
    cluster,
    storage_arguments,
    trial_resources,
)
from lfads_torch.sweeps.ray_tune.components import make_search, to_domain
from lfads_torch.sweeps.ray_tune.recorder import Recorder, trial_name
from lfads_torch.sweeps.ray_tune.scheduler import BinaryTournamentPBT, Population
from lfads_torch.sweeps.ray_tune.trial import LFADSTrial, TrialSettings
from lfads_torch.sweeps.results import Outcome
from lfads_torch.sweeps.state import repair_state


def run_trials(
    options: SweepOptions, config: str, run_dir: Path, resume: bool = False
) -> list[Outcome]:
    """Run the search of a sweep.

    Parameters
    ----------
    options
        The options of the sweep.
    config
        YAML text of the configuration with which hyperparameters are composed.
    run_dir
        The folder of the sweep: Ray's files are in ``trials/``, unless ``options.storage`` says
        otherwise, and the history in ``history.jsonl``.
    resume
        Whether to continue the search whose files are in the folder.

    Raises
    ------
    ValueError
        If the cluster cannot run a trial, if the searcher or scheduler cannot be made, or if every
        trial of a population has diverged.
    """
    with cluster(options):
        searcher, scheduler = make_search(options, read_history(run_dir))
        population = isinstance(scheduler, BinaryTournamentPBT)
        exploits = isinstance(scheduler, PopulationBasedTraining)
        first, every = options.boundaries()
        settings = TrialSettings(
            config=config,
            first=first,
            every=every,
            metric=options.metric,
            mode=options.mode,
            population=population,
            id=options.id,
        )
        limit: dict[str, Any] = {}
        if searcher is None:
            searcher = (Population if population else BasicVariantGenerator)(
                random_state=options.seed, max_concurrent=options.max_concurrent or 0
            )
        elif options.max_concurrent:
            limit["max_concurrent_trials"] = options.max_concurrent
        if resume:
            repair_state(run_dir / EXPERIMENT)
        analysis = tune.run(
            tune.with_parameters(LFADSTrial, settings=settings),
            metric=options.metric,
            mode=options.mode,
            config=_distributions(options),
            num_samples=options.num_trials,
            resources_per_trial=trial_resources(options),
            search_alg=searcher,
            scheduler=scheduler,
            time_budget_s=options.time_budget_hours and options.time_budget_hours * 3600,
            checkpoint_config=tune.CheckpointConfig(
                # Another trial may take over the last checkpoint but one, and the saved state of
                # the search may still refer to it.
                num_to_keep=4 if exploits and not population else 2,
                checkpoint_frequency=1,
                checkpoint_at_end=True,
            ),
            max_failures=options.max_failures,
            raise_on_failed_trial=False,
            reuse_actors=population,
            resume="AUTO+ERRORED" if resume else None,
            callbacks=[Recorder(options, run_dir)],
            # The saved state of a search refers to this function by its module and name.
            trial_name_creator=trial_name,
            trial_dirname_creator=trial_name,
            verbose=0,
            **limit,
            **storage_arguments(options, run_dir),
        )
        return [_outcome(trial) for trial in analysis.trials]


def _distributions(options: SweepOptions) -> dict[str, Any]:
    """Return how Ray samples the hyperparameters, and a seed for each trial."""
    distributions: dict[str, Any] = {"seed": tune.randint(0, 2**31 - 1)}
    return distributions | {key: to_domain(value) for key, value in options.space.items()}


def _outcome(trial: Trial) -> Outcome:
    """Return the outcome of a trial of Ray."""
    latest = trial.latest_checkpoint_result
    return Outcome(
        trial=trial.trial_id,
        status=trial.status,
        metrics=dict(latest.metrics) if latest else {},
        config=dict(trial.config),
        checkpoint=latest.checkpoint if latest else None,
        error=trial.get_error(),
    )
