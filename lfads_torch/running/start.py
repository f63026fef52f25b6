"""Starts a run in a new folder: compose → prepare → make the folder → train, sample, draw."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lfads_torch.analysis.figures import plot_run
from lfads_torch.analysis.scores import validation_scores
from lfads_torch.checkpoints import load_weights
from lfads_torch.running.compose import compose
from lfads_torch.running.paths import make_data_path_absolute, placed_in
from lfads_torch.running.run_folder import (
    checkpoint_of_run,
    make_run_dir,
    print_summary,
    read_summary,
    write_summary,
)
from lfads_torch.running.training import Run, fit, prepare, sample, training_summary


def start_run(
    overrides: Mapping[str, Any] | Sequence[str] = (),
    run_dir: str | Path | None = None,
    config_path: str | Path | None = None,
    config_dir: str | Path | None = None,
    overwrite: bool = False,
    script: str | Path | None = None,
) -> Path:
    """Train one model in a new folder.

    The folder gets the resolved configuration (``config.yaml``), a copy of the script, checkpoints,
    logs, what the model infers (``lfads_output_sess{S}.h5``), figures (``plots/``) and a summary
    (``summary.json``). Nothing is written elsewhere.

    Parameters
    ----------
    overrides, config_path, config_dir
        See :func:`lfads_torch.running.compose.compose`.
    run_dir, overwrite, script
        See :func:`lfads_torch.running.run_folder.make_run_dir`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ExistingFileError
        If the folder exists and is not empty.
    UserError
        If the configuration or the data are missing or invalid. In that case no folder is made.
    """
    config = compose(config_path, overrides, config_dir)
    make_data_path_absolute(config)
    run = prepare(config)
    folder = make_run_dir(config, run_dir, overwrite, script)
    complete_run(config, folder, run)
    return folder


def complete_run(
    config: DictConfig, run_dir: Path, run: Run, checkpoint: Path | None = None
) -> None:
    """Train, unless training has ended; then sample the posteriors, draw figures and summarise.

    Parameters
    ----------
    config
        The configuration, with output paths relative to the folder.
    run_dir
        The folder of the run. If it has a summary, training has ended.
    run
        The run that :func:`lfads_torch.running.training.prepare` returned.
    checkpoint
        A checkpoint to continue training from.
    """
    config = placed_in(config, run_dir)
    summary = read_summary(run_dir)
    if not summary:
        start = time.monotonic()
        fit(config, run, checkpoint)
        summary = training_summary(run, time.monotonic() - start, run_dir)
        write_summary(run_dir, summary)
    else:
        load_weights(run.model, checkpoint_of_run(run_dir))
    sample(config, run)
    summary["scores"] = [
        validation_scores(run.model, path, session) for session, path in enumerate(run.output_files)
    ]
    write_summary(run_dir, summary)
    figures = plot_run(run_dir)
    print_summary(run_dir, summary, [*run.output_files, *run.continuous_files, *figures])
