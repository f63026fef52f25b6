"""Sweeps: many models, trained side by side, of which the best is kept.

A sweep has a folder: ``config.yaml`` (with the search space under ``sweep``), ``history.jsonl``
(every result), ``trials/`` (Ray's files, with the checkpoints), ``best_model/`` (a folder like that
of a single run) and ``summary.json``.
"""

import csv
import dataclasses
import difflib
import math
import shlex
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.files import move_aside
from lfads_torch.running.compose import compose, compose_unresolved, format_overrides
from lfads_torch.running.paths import make_data_path_absolute
from lfads_torch.running.resume import resume_run
from lfads_torch.running.run_folder import (
    CONFIG,
    LAST_CHECKPOINT,
    SUMMARY,
    make_run_dir,
    read_summary,
    write_summary,
)
from lfads_torch.running.training import prepare
from lfads_torch.sweeps.history import HISTORY, hyperparameters, lineage, read_history, read_pbt_hps

if TYPE_CHECKING:
    from lfads_torch.sweeps.ray_tune import Outcome

BEST_MODEL = "best_model"
_INTEGERS = {"num_samples": 1, "report_every": 1, "max_concurrent": 1, "max_failures": 0, "seed": 0}
"""Options that are integers, and the least that they may be."""
_NUMBERS = ("cpus_per_trial", "gpus_per_trial", "cpus_without_gpu", "time_budget_hours")


@dataclass(frozen=True)
class SweepOptions:
    """What to search and how: the ``sweep`` of a configuration, see ``configs/sweep/base.yaml``."""

    num_samples: int
    """Trials, or of each point of the grid where the space has one."""
    space: Mapping[str, Any]
    """By the key that is overridden: a HyperParam, a choice, a grid or what Ray makes of it."""
    report_every: int = 25
    metric: str = "valid/recon_smth"
    mode: str = "min"
    scheduler: Mapping[str, Any] | None = None
    stopper: Mapping[str, Any] | None = None
    searcher: Mapping[str, Any] | None = None
    seed: int = 0
    cpus_per_trial: float = 3
    gpus_per_trial: float = 0.5
    cpus_without_gpu: float = 1
    max_concurrent: int | None = None
    max_failures: int = 3
    time_budget_hours: float | None = None
    ray_address: str | None = None
    storage: str | None = None
    id: str = ""
    """Tells this sweep from all others."""
    max_epochs: int | None = None
    """Of the trainer; None if it has no limit."""
    use_best: bool = False
    """Rank trials by their best epoch rather than by their last one."""

    @classmethod
    def of(cls, config: DictConfig) -> "SweepOptions":
        """Read a configuration.

        Raises
        ------
        ValueError
            If an option is unknown, missing, or of no use.
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
                near = difflib.get_close_matches(name, names, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise UserError(f"sweep.{name} is no option of a sweep.{hint}")
        max_epochs = OmegaConf.select(config, "trainer.max_epochs")
        if max_epochs is not None and type(max_epochs) is not int:
            raise UserError(f"trainer.max_epochs must be an integer, but is {max_epochs!r}.")
        options = cls(
            **{
                "num_samples": None,
                **node,
                "space": _read_space(node.get("space")),
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
        """Raise a ValueError for what is of the wrong kind."""
        for name, least in _INTEGERS.items():
            value = getattr(self, name)
            if name == "max_concurrent" and value is None:
                continue
            if type(value) is not int or value < least:
                raise UserError(
                    f"sweep.{name} must be an integer of at least {least}, but is {value}."
                )
        for name in _NUMBERS:
            value = getattr(self, name)
            if name in ("gpus_per_trial", "time_budget_hours") and value is None:
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
    def num_trials(self) -> int:
        """How many trials there are: ``num_samples`` of each point of the grid."""
        entries = [entry for entry in self.space.values() if isinstance(entry, Mapping)]
        return self.num_samples * math.prod(len(e["grid"]) for e in entries if "grid" in e)

    def boundaries(self) -> tuple[int, int]:
        """Return the first epoch at which trials meet, and how many epochs there are between."""
        scheduler = self.scheduler or {}
        every = int(scheduler.get("perturbation_interval", self.report_every))
        return max(every, int(scheduler.get("burn_in_period", 0))), every


def _read_space(node: Any) -> dict[str, Any]:
    from lfads_torch.sweeps.tournament import HyperParam

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
        value: Any = {item: entry[item] for item in entry if item != "key"}
        key = str(entry.get("key", name))
        if len({"choice", "grid", "_target_"} & set(value)) == 0:
            try:
                value = HyperParam(**value)
            except (TypeError, ValueError) as error:
                raise UserError(f"sweep.space.{name}: {error}") from error
        elif "_target_" not in value:
            if len(value) > 1:
                raise UserError(
                    f"sweep.space.{name} must be one of choice, grid or a range: {value}."
                )
            ((kind, choices),) = value.items()
            if not isinstance(choices, list) or not choices:
                raise UserError(
                    f"sweep.space.{name}.{kind} must be a list of values, but is {choices!r}."
                )
        space[key] = value
    return space


# ------------------------------------------------------------------ the folder


def run_sweep(
    overrides: Mapping[str, Any] | Sequence[str] = (),
    run_dir: str | Path | None = None,
    config_path: str | Path = "../configs/pbt.yaml",
    config_dir: str | Path | None = None,
    overwrite: bool = False,
    script: str | Path | None = None,
    space: Mapping[str, Any] | None = None,
) -> Path:
    """Train many models, and keep the best.

    Parameters
    ----------
    overrides, config_path, config_dir
        See :func:`lfads_torch.running.compose.compose`. The configuration has a ``sweep``; one that lacks
        it, as published ones do, gets the packaged one of the same name as the file (``pbt``) or
        ``random``.
    run_dir, overwrite, script
        See :func:`lfads_torch.running.run_folder.make_run_dir`.
    space
        What to search, in place of ``sweep.space``: by the key that is overridden, a
        :class:`~lfads_torch.sweeps.tournament.HyperParam` or a list to choose from.

    Returns
    -------
    Path
        The folder of the sweep.

    Raises
    ------
    FileExistsError
        If the folder exists and is not empty.
    FileNotFoundError, ValueError
        If the configuration or the data are not usable; then no folder is made.
    KeyboardInterrupt
        If the search was interrupted; it can be resumed.
    RuntimeError
        If every trial failed.
    """
    config = _compose_sweep(config_path, overrides, config_dir)
    OmegaConf.set_struct(config, False)
    if space:
        config.sweep.space = {key: _entry(key, value) for key, value in space.items()}
    config.sweep.id = uuid.uuid4().hex[:12]
    make_data_path_absolute(config)
    options = SweepOptions.of(config)
    _check(config, options)
    run_dir = make_run_dir(config, run_dir, overwrite, script)
    _search(run_dir, config, options)
    return run_dir


def resume_sweep(run_dir: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Path:
    """Go on with a sweep that was interrupted, or finish one whose trials have ended.

    Trials that had failed are tried again from their last checkpoints.

    Parameters
    ----------
    run_dir
        The folder of the sweep.
    overrides
        Changes of how it runs (``sweep.ray_address=auto``); the configuration before is kept as
        ``config.1.yaml``. What has been drawn stays.

    Raises
    ------
    FileNotFoundError
        If the folder is not that of a sweep.
    ValueError
        If the overrides are not usable, or ask for fewer epochs than trials have been trained for.
    """
    run_dir = Path(run_dir).absolute()
    path = run_dir / CONFIG
    if not path.is_file() or "sweep" not in OmegaConf.load(path):
        raise MissingFileError(
            f"{run_dir} is no folder of a sweep that could be resumed: it has no {CONFIG} with a "
            f"sweep in it."
        )
    config = compose_unresolved(path, overrides)
    options = SweepOptions.of(config)
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
        OmegaConf.save(config, path)
    _search(run_dir, config, options, resume=True)
    return run_dir


def _compose_sweep(
    config_path: str | Path,
    overrides: Mapping[str, Any] | Sequence[str],
    config_dir: str | Path | None,
) -> DictConfig:
    """Compose, and add a packaged sweep where there is none."""
    words = format_overrides(overrides)
    try:
        own = [word for word in words if not word.lstrip("+~").startswith("sweep")]
        lacks = "sweep" not in compose_unresolved(config_path, own, config_dir)
    except ValueError:
        lacks = False
    if lacks and not any(word.startswith(("sweep=", "+sweep=")) for word in words):
        words.insert(0, f"+sweep={'pbt' if Path(config_path).stem == 'pbt' else 'random'}")
    return compose_unresolved(config_path, words, config_dir)


def _entry(key: str, value: Any) -> dict[str, Any]:
    """Write what a script says of a hyperparameter as a configuration does."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"key": key, **dataclasses.asdict(value)}
    if isinstance(value, list | tuple):
        return {"key": key, "choice": list(value)}
    if isinstance(value, Mapping):
        return {"key": key, **value}
    raise UserError(
        f"The search space of {key} must be a HyperParam, a list to choose from, or a dictionary "
        f"as in sweep.space, but is {value!r}."
    )


def _check(config: DictConfig, options: SweepOptions) -> None:
    """Make a trial's model and what searches, and read the data.

    So mistakes are reported before any trial starts.
    """
    from lfads_torch.sweeps.ray_tune import make_search, to_domain
    from lfads_torch.sweeps.tournament import HyperParam

    make_search(options)
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
    trial = compose(config, values)
    _check_monitors(trial, options)
    prepare(trial)


def _check_monitors(trial: DictConfig, options: SweepOptions) -> None:
    """Raise a ValueError if what is best of a trial is not what the sweep takes for the best."""
    for name, node in (trial.get("callbacks") or {}).items():
        if not options.use_best or "Checkpoint" not in node._target_ or not node.get("monitor"):
            continue
        monitor, mode = node.monitor, node.get("mode", "min")
        if (monitor, mode) != (options.metric, options.mode):
            raise UserError(
                f"callbacks.{name} keeps the model of the epoch with the {mode} {monitor}, but "
                f"sweep.metric = {options.metric} and sweep.mode = {options.mode}. Set "
                f"callbacks.{name}.monitor and callbacks.{name}.mode to the same, or "
                f"posterior_sampling.use_best_ckpt=false to keep the model of the last epoch."
            )


def _search(run_dir: Path, config: DictConfig, options: SweepOptions, resume: bool = False) -> None:
    """Search, keep the best model, and say what was found."""
    from lfads_torch.sweeps.ray_tune import run_trials

    start = time.monotonic()
    script = "run_pbt.py" if "PBT" in str(options.scheduler) else "run_multi.py"
    again = f"python scripts/{script} --resume {shlex.quote(str(run_dir))}"
    print(f"Sweep of {options.num_trials} trials in {run_dir}\nIf it is interrupted: {again}")
    try:
        outcomes = run_trials(options, OmegaConf.to_yaml(config), run_dir, resume)
        if any(outcome.status not in ("TERMINATED", "ERROR") for outcome in outcomes):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"The search was interrupted. Go on with {again}") from None
    best = best_outcome(outcomes, options)
    summary = {
        "best_trial": best.trial,
        "metric": options.metric,
        "best_score": _score(best, options),
        "hyperparameters": hyperparameters(best.config),
        "epochs": best.metrics["cur_epoch"],
        "trials": len(outcomes),
        "failed": {o.trial: last_line(o.error) for o in outcomes if o.status == "ERROR"},
        "diverged": [o.trial for o in outcomes if "diverged" in o.metrics],
        "seconds": round(time.monotonic() - start, 1),
        **_time_spent(run_dir),
    }
    _keep_best(run_dir, config, options, best)
    _draw(run_dir, best.trial)
    write_summary(run_dir, summary)
    report(run_dir, summary)


def best_outcome(outcomes: Sequence["Outcome"], options: SweepOptions) -> "Outcome":
    """Return the trial with the best score among those that left a checkpoint.

    Raises
    ------
    RuntimeError
        If there is none.
    """
    candidates = [
        o for o in outcomes if o.checkpoint is not None and np.isfinite(_score(o, options))
    ]
    if not candidates:
        errors = {o.trial: last_line(o.error) or o.metrics.get("diverged") for o in outcomes}
        raise UserError(f"Every trial failed before it left a model: {errors}.")
    sign = 1 if options.mode == "min" else -1
    return min(candidates, key=lambda outcome: sign * _score(outcome, options))


def _score(outcome: "Outcome", options: SweepOptions) -> float:
    """Return the score of the model that would be kept."""
    metrics = outcome.metrics
    if options.use_best and "best_score" in metrics:
        return float(metrics["best_score"])
    return float(metrics.get(options.metric, np.nan))


def last_line(error: str | None) -> str | None:
    """Return what an error says, without its traceback."""
    lines = [line for line in (error or "").splitlines() if line.strip()]
    return lines[-1].strip() if lines else None


def _time_spent(run_dir: Path) -> dict[str, float]:
    """Return the seconds of all trials together, and of their epochs alone."""
    rows = read_history(run_dir)
    return {
        f"trial_{name}": round(sum(row[name] or 0 for row in rows), 1)
        for name in ("seconds", "train_seconds")
    }


def _keep_best(run_dir: Path, config: DictConfig, options: SweepOptions, best: "Outcome") -> None:
    """Make ``best_model/``, a folder like that of a single run, and sample its posteriors."""
    folder = run_dir / BEST_MODEL
    # A search that is resumed after its end makes the folder anew, from what it is made of.
    shutil.rmtree(folder, ignore_errors=True)
    (folder / LAST_CHECKPOINT.parent).mkdir(parents=True)
    OmegaConf.save(config, folder / CONFIG)
    resolved = compose(folder / CONFIG, hyperparameters(best.config))
    OmegaConf.set_struct(resolved, False)
    del resolved.sweep
    OmegaConf.save(resolved, folder / CONFIG)
    with best.checkpoint.as_directory() as checkpoint:
        shutil.copy(Path(checkpoint, "last.ckpt"), folder / LAST_CHECKPOINT)
        kept = LAST_CHECKPOINT
        if options.use_best and "best_checkpoint" in best.metrics:
            kept = LAST_CHECKPOINT.with_name(Path(best.metrics["best_checkpoint"]).name)
            shutil.copy(Path(checkpoint, best.metrics["best_checkpoint"]), folder / kept)
    seconds = _write_metrics(run_dir, folder, best.trial)
    write_summary(
        folder,
        {
            "epochs": best.metrics["cur_epoch"],
            "training_seconds": round(seconds, 1),
            "best_checkpoint": str(kept),
            "monitor": options.metric,
            "best_score": _score(best, options),
        },
    )
    resume_run(folder)


def _write_metrics(run_dir: Path, folder: Path, trial: str) -> float:
    """Write ``metrics.csv`` of a model, along its lineage, and return the seconds of its epochs."""
    generations = {(row["trial"], row["epoch"]): row for row in read_history(run_dir)}
    past = lineage(read_pbt_hps(run_dir), trial)
    own = [generations[key] for key in zip(past["trial"], past["epoch"], strict=True)]
    rows = [row for generation in own for row in generation["history"]]
    path = folder / "csv_logs" / "metrics.csv"
    path.parent.mkdir()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in rows for name in row}))
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
    return float(sum(generation["train_seconds"] or 0 for generation in own))


def _draw(run_dir: Path, best: str) -> None:
    """Draw the history of the sweep; a picture is not worth a sweep."""
    import logging

    from lfads_torch.sweeps.history import plot_pbt_hps

    try:
        plot_pbt_hps(run_dir, save_dir=run_dir / "plots", trial=best)
    except Exception:
        logging.getLogger(__name__).warning("The history could not be drawn:", exc_info=True)


# ------------------------------------------------------------------ what a person can read


def report(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Print what was found, and where it is."""
    print(
        f"\nSearched {summary['trials']} trials; {len(summary['failed'])} failed, "
        f"{len(summary['diverged'])} diverged. Best: {summary['best_trial']} after "
        f"{summary['epochs']} epochs, {summary['metric']} = {summary['best_score']:.5g}, with"
    )
    for name, value in summary["hyperparameters"].items():
        print(f"  {name:<45} {value}")
    spent, trained = summary["trial_seconds"], summary["trial_train_seconds"]
    print(f"Trials took {spent:.0f} s, {trained:.0f} s of which they trained.\nFiles:")
    for name in (BEST_MODEL, "plots/pbt_hps.png", HISTORY, SUMMARY):
        print(f"  {run_dir / name}")


def progress(
    rows: Sequence[Mapping[str, Any]],
    options: SweepOptions,
    counts: Mapping[str, int],
    seconds: float = 0.0,
    epochs: int = 0,
) -> str:
    """Describe how a search is getting on, in a few lines.

    Parameters
    ----------
    rows
        Its history (:func:`lfads_torch.sweeps.history.read_history`).
    options
        Of the sweep.
    counts
        How many trials are in which state.
    seconds, epochs
        How long it has taken (since its start or resumption) and how many epochs were trained in
        that time, by all trials together.
    """
    last = {row["trial"]: row for row in sorted(rows, key=lambda row: row["epoch"])}
    epoch = min((row["epoch"] for row in last.values()), default=0)
    furthest = max((row["epoch"] for row in last.values()), default=0)
    first, every = options.boundaries()
    states = ", ".join(f"{n} {state.lower()}" for state, n in sorted(counts.items()))
    where = f"epoch {epoch}" if epoch == furthest else f"epochs {epoch} to {furthest}"
    generation = max(0, (furthest - first) // every + 1)
    lines = [f"{_duration(seconds)}  generation {generation}, {where}; trials: {states}"]
    scores = {trial: row["score"] for trial, row in last.items() if np.isfinite(row["score"])}
    if scores:
        best = (min if options.mode == "min" else max)(scores, key=scores.__getitem__)
        median = float(np.median(list(scores.values())))
        lines.append(f"  {options.metric}: best {scores[best]:.5g} ({best}), median {median:.5g}")
    ranges = []
    for key in options.space:
        values = [row["config"].get(key) for row in last.values()]
        numbers = [value for value in values if isinstance(value, int | float)]
        if numbers:
            ranges.append(f"{key.rpartition('.')[2]} {min(numbers):.2g} to {max(numbers):.2g}")
    if ranges:
        lines.append(f"  {', '.join(ranges)}")
    if epochs and options.max_epochs:
        trained = sum(row["epoch"] for row in last.values())
        left = (options.max_epochs * options.num_trials - trained) / epochs * seconds
        lines.append(f"  time left: at most {_duration(left)}")
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
