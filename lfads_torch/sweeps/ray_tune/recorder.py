"""Writes the history of a search, and prints its progress, while Ray runs it."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial

from lfads_torch.sweeps.history import append_history, history_row, read_history
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.ray_tune.cluster import EXPERIMENT
from lfads_torch.sweeps.report import describe_progress
from lfads_torch.sweeps.results import DIVERGED, EPOCH, error_message
from lfads_torch.sweeps.state import back_up_state

LONGEST_SILENCE = 60.0
"""Seconds since the last report after which the next result is followed by another one."""


def trial_name(trial: Trial) -> str:
    """Return the name of a trial's folder, which messages use too: ``trial_`` and its number."""
    return f"trial_{trial.trial_id.split('_')[-1]}"


class Recorder(tune.Callback):  # type: ignore[misc]
    """Writes every result to ``history.jsonl``, and prints the progress of the search.

    Parameters
    ----------
    options
        The options of the sweep.
    run_dir
        The folder of the sweep.
    """

    def __init__(self, options: SweepOptions, run_dir: Path) -> None:
        self.options = options
        self.run_dir = run_dir
        self.rows = {(row["trial"], row["epoch"]): row for row in read_history(run_dir)}
        self.start = time.monotonic()
        self.epochs = 0
        self._last_report = self.start

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Remove checkpoints from Ray's list that were deleted after a search was saved.

        If the search is resumed, Ray would try to delete them again, and miscount the others.
        """
        manager = trial.run_metadata.checkpoint_manager
        files = trial.storage.storage_filesystem
        manager._checkpoint_results = [
            result
            for result in manager._checkpoint_results
            if files.get_file_info(result.checkpoint.path).type.name != "NotFound"
        ]

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Write a result, and print the progress if a generation has ended."""
        result = dict(result)
        epoch = result[EPOCH]
        row = history_row(trial.trial_id, trial.config, epoch, result[self.options.metric], result)
        if DIVERGED in result:
            row[DIVERGED] = result[DIVERGED]
            _print(f"{trial_name(trial)} diverged: {result[DIVERGED]}")
        append_history(self.run_dir, row)
        self.rows[trial.trial_id, epoch] = row
        self.epochs += len(row["history"])
        unfinished = [t for t in trials if not t.is_finished()]
        all_reported = all((t.trial_id, epoch) in self.rows for t in unfinished)
        if all_reported or time.monotonic() - self._last_report > LONGEST_SILENCE:
            self._report(trials)

    def on_trial_save(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Back up the state of the search before Ray writes it again."""
        if self.options.storage is None:
            back_up_state(self.run_dir / EXPERIMENT)

    def on_trial_recover(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Print that a trial has failed and is restarted."""
        _print(
            f"{trial_name(trial)} failed and continues from its last checkpoint (failure "
            f"{trial.num_failures} of at most {self.options.max_failures}): {_reason(trial)}"
        )

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Print that a trial has failed and will not be restarted."""
        _print(f"{trial_name(trial)} failed: {_reason(trial)}")

    def _report(self, trials: Sequence[Trial]) -> None:
        """Print the progress of the search."""
        self._last_report = time.monotonic()
        counts = Counter("running" if t.status == Trial.RUNNING else t.status for t in trials)
        _print(
            describe_progress(
                list(self.rows.values()),
                self.options,
                dict(counts),
                seconds=self._last_report - self.start,
                epochs=self.epochs,
            )
        )


def _reason(trial: Trial) -> str:
    """Return why a trial failed, from the local file: Ray copies it to its storage only later."""
    path = Path(trial.error_file or "")
    traceback = path.read_text() if path.is_file() else trial.get_error()
    return error_message(traceback) or "no reason is known"


def _print(text: str) -> None:
    """Print without a delay, also if the output goes to a file."""
    print(text, flush=True)
