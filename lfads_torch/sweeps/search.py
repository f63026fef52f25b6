"""Runs a sweep from beginning to end: compose → check → search → keep the best model → report.

A sweep has a folder: ``config.yaml`` (with the search space under ``sweep``), ``history.jsonl``
(every result), ``trials/`` (Ray's files, with the checkpoints), ``best_model/`` (a folder like that
of a single run), ``plots/`` and ``summary.json``.
"""

import logging
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.files import move_aside
from lfads_torch.running.paths import make_data_path_absolute
from lfads_torch.running.run_folder import (
    CONFIG,
    SUMMARY,
    make_run_dir,
    read_summary,
    write_config,
    write_summary,
)
from lfads_torch.sweeps import results
from lfads_torch.sweeps.best_model import make_best_model
from lfads_torch.sweeps.checks import check_sweep
from lfads_torch.sweeps.compose import compose_sweep
from lfads_torch.sweeps.figures import plot_pbt_hps
from lfads_torch.sweeps.history import hyperparameters, read_history
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.report import BEST_MODEL, FIGURE, print_result
from lfads_torch.sweeps.space import space_entry

log = logging.getLogger(__name__)


def run_sweep(
    overrides: Mapping[str, Any] | Sequence[str] = (),
    run_dir: str | Path | None = None,
    config_path: str | Path | None = None,
    config_dir: str | Path | None = None,
    overwrite: bool = False,
    script: str | Path | None = None,
    space: Mapping[str, Any] | None = None,
) -> Path:
    """Train many models, and keep the best.

    Parameters
    ----------
    overrides, config_path, config_dir
        See :func:`lfads_torch.running.compose.compose`. By default the configuration is the
        packaged ``pbt.yaml``. A configuration without ``sweep``, such as the published ones, gets
        the packaged sweep with the name of its file (``pbt``), or otherwise ``random``.
    run_dir, overwrite, script
        See :func:`lfads_torch.running.run_folder.make_run_dir`.
    space
        The search space, in place of ``sweep.space``: for each key that is overridden, a
        :class:`~lfads_torch.sweeps.space.HyperParam` or a list to choose from.

    Returns
    -------
    Path
        The folder of the sweep.

    Raises
    ------
    FileExistsError
        If the folder exists and is not empty.
    FileNotFoundError, ValueError
        If the configuration or the data are missing or invalid. In that case no folder is made.
    UserError
        If every trial failed.
    KeyboardInterrupt
        If the search was interrupted; it can be resumed.
    """
    config = compose_sweep(config_path, overrides, config_dir)
    OmegaConf.set_struct(config, False)
    if space:
        config.sweep.space = {key: space_entry(key, value) for key, value in space.items()}
    config.sweep.id = uuid.uuid4().hex[:12]
    make_data_path_absolute(config)
    options = SweepOptions.from_config(config)
    config.sweep.num_trials = options.num_trials
    check_sweep(config, options)
    run_dir = make_run_dir(config, run_dir, overwrite, script)
    _search(run_dir, config, options)
    return run_dir


def resume_sweep(run_dir: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Path:
    """Continue a sweep that was interrupted, or finish one whose trials have ended.

    Trials that had failed are tried again from their last checkpoints.

    Parameters
    ----------
    run_dir
        The folder of the sweep.
    overrides
        Changes of how the sweep runs (``sweep.ray_address=auto``). The previous configuration is
        kept as ``config.1.yaml``. Hyperparameters that have been drawn do not change.

    Returns
    -------
    Path
        The folder of the sweep.

    Raises
    ------
    FileNotFoundError
        If the folder is not that of a sweep.
    ValueError
        If the overrides are invalid, or ask for fewer epochs than trials have been trained for.
    UserError, KeyboardInterrupt
        As :func:`run_sweep`.
    """
    run_dir = Path(run_dir).absolute()
    path = run_dir / CONFIG
    if not path.is_file() or "sweep" not in OmegaConf.load(path):
        raise MissingFileError(
            f"{run_dir} is not the folder of a sweep that could be resumed: it has no {CONFIG} "
            f"with a sweep in it."
        )
    config = compose_sweep(path, overrides)
    options = SweepOptions.from_config(config)
    if read_summary(run_dir):
        print(f"{run_dir} has ended: see {SUMMARY} and {BEST_MODEL}/.")
        return run_dir
    reached = max((row["epoch"] for row in read_history(run_dir)), default=0)
    if options.max_epochs is not None and options.max_epochs < reached:
        raise UserError(
            f"trainer.max_epochs = {options.max_epochs}, but trials in {run_dir} have been trained "
            f"for up to {reached} epochs: give at least that."
        )
    if overrides:
        move_aside(path)
        write_config(run_dir, config)
    _search(run_dir, config, options, resume=True)
    return run_dir


def _search(run_dir: Path, config: DictConfig, options: SweepOptions, resume: bool = False) -> None:
    """Search, keep the best model, and report."""
    # Ray takes seconds to import, so mistakes in the configuration are reported first.
    from lfads_torch.sweeps.ray_tune.runner import run_trials

    start = time.monotonic()
    # The folder has a copy of the script; without one, either script resumes a sweep.
    script = next((path.name for path in run_dir.glob("run_*.py")), "run_pbt.py")
    command = f"python scripts/{script} --resume {shlex.quote(str(run_dir))}"
    print(f"Sweep of {options.total_trials} trials in {run_dir}\nIf it is interrupted: {command}")
    interrupted = f"The search was interrupted. Continue it with {command}"
    try:
        outcomes = run_trials(options, OmegaConf.to_yaml(config), run_dir, resume)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(interrupted) from None
    if any(outcome.status not in ("TERMINATED", "ERROR") for outcome in outcomes):
        raise KeyboardInterrupt(interrupted)
    best = results.best_outcome(outcomes, options)
    failed = [outcome for outcome in outcomes if outcome.status == "ERROR"]
    summary = {
        "best_trial": best.trial,
        "metric": options.metric,
        "best_score": results.score(best.metrics, options),
        "hyperparameters": hyperparameters(best.config),
        "epochs": best.metrics[results.EPOCH],
        "trials": len(outcomes),
        "failed": {outcome.trial: results.error_message(outcome.error) for outcome in failed},
        "diverged": [o.trial for o in outcomes if results.DIVERGED in o.metrics],
        "seconds": round(time.monotonic() - start, 1),
        **_trial_seconds(run_dir),
    }
    make_best_model(run_dir, config, options, best)
    _draw_history(run_dir, best.trial)
    write_summary(run_dir, summary)
    print_result(run_dir, summary)


def _trial_seconds(run_dir: Path) -> dict[str, float]:
    """Return the duration of all trials together, and of their epochs only, in seconds."""
    rows = read_history(run_dir)
    return {
        f"trial_{name}": round(sum(row[name] or 0 for row in rows), 1)
        for name in ("seconds", "train_seconds")
    }


def _draw_history(run_dir: Path, best: str) -> None:
    """Draw the history of the sweep. An error there is only logged: the sweep has succeeded."""
    try:
        plot_pbt_hps(run_dir, save_dir=run_dir / FIGURE.parent, trial=best)
    except Exception:
        log.warning("The history could not be drawn:", exc_info=True)
