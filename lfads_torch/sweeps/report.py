"""Prints the progress and the result of a sweep."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lfads_torch.running.run_folder import SUMMARY
from lfads_torch.sweeps.history import HISTORY
from lfads_torch.sweeps.options import SweepOptions

BEST_MODEL = "best_model"
"""Name of the folder of the best model in the folder of a sweep."""
FIGURE = Path("plots", "pbt_hps.png")
"""The figure of scores and hyperparameters in the folder of a sweep."""


def describe_progress(
    rows: Sequence[Mapping[str, Any]],
    options: SweepOptions,
    counts: Mapping[str, int],
    seconds: float = 0.0,
    epochs: int = 0,
) -> str:
    """Describe the progress of a search in a few lines.

    Parameters
    ----------
    rows
        The history so far, see :func:`lfads_torch.sweeps.history.read_history`.
    options
        The options of the sweep.
    counts
        The number of trials in each state.
    seconds, epochs
        The duration of the search since it was started or resumed, in seconds, and the number of
        epochs that all trials together have trained in that time.

    Returns
    -------
    str
        The generation and the states of trials; the best and median score; the range of each
        hyperparameter; and, if the trainer has a last epoch, an upper bound of the time left.
    """
    last = {row["trial"]: row for row in sorted(rows, key=lambda row: row["epoch"])}
    lowest = min((row["epoch"] for row in last.values()), default=0)
    highest = max((row["epoch"] for row in last.values()), default=0)
    first, every = options.boundaries()
    states = ", ".join(f"{n} {state.lower()}" for state, n in sorted(counts.items()))
    reached = f"epoch {lowest}" if lowest == highest else f"epochs {lowest} to {highest}"
    generation = max(0, (highest - first) // every + 1)
    lines = [f"{_clock(seconds)}  generation {generation}, {reached}; trials: {states}"]
    scores = {trial: row["score"] for trial, row in last.items() if np.isfinite(row["score"])}
    if scores:
        best = (min if options.mode == "min" else max)(scores, key=scores.__getitem__)
        median = float(np.median(list(scores.values())))
        lines.append(f"  {options.metric}: best {scores[best]:.5g} ({best}), median {median:.5g}")
    if ranges := _ranges([row["config"] for row in last.values()], options):
        lines.append(f"  {', '.join(ranges)}")
    if epochs and options.max_epochs:
        trained = sum(row["epoch"] for row in last.values())
        left = (options.max_epochs * options.total_trials - trained) / epochs * seconds
        lines.append(f"  time left: at most {_clock(left)}")
    return "\n".join(lines)


def _ranges(configs: Sequence[Mapping[str, Any]], options: SweepOptions) -> list[str]:
    """Describe the range of each hyperparameter over trials, if it has numbers."""
    ranges = []
    for key in options.space:
        numbers = [c[key] for c in configs if isinstance(c.get(key), int | float)]
        if numbers:
            ranges.append(f"{key.rpartition('.')[2]} {min(numbers):.2g} to {max(numbers):.2g}")
    return ranges


def print_result(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Print what a sweep has found, and the paths of its files.

    Parameters
    ----------
    run_dir
        The folder of the sweep.
    summary
        The content of its ``summary.json``.
    """
    print(
        f"\nSearched {summary['trials']} trials; {len(summary['failed'])} failed, "
        f"{len(summary['diverged'])} diverged. Best: {summary['best_trial']} after "
        f"{summary['epochs']} epochs, {summary['metric']} = {summary['best_score']:.5g}, with"
    )
    for name, value in summary["hyperparameters"].items():
        print(f"  {name:<45} {value}")
    total, trained = summary["trial_seconds"], summary["trial_train_seconds"]
    print(f"Trials took {total:.0f} s, {trained:.0f} s of which they trained.\nFiles:")
    for name in (BEST_MODEL, FIGURE, HISTORY, SUMMARY):
        print(f"  {run_dir / name}")


def _clock(seconds: float) -> str:
    """Format a duration as ``h:mm:ss``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
