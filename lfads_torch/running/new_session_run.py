"""Adds a session to the model of a run, and writes the results to a new folder."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lfads_torch.analysis.figures import plot_run
from lfads_torch.analysis.scores import validation_scores
from lfads_torch.model import LFADS
from lfads_torch.recipes import describe
from lfads_torch.running.compose import compose
from lfads_torch.running.new_session import (
    ONE_SESSION_TARGETS,
    append_session,
    one_session_model,
    save_model,
)
from lfads_torch.running.paths import placed_in
from lfads_torch.running.run_folder import (
    checkpoint_of_run,
    make_run_dir,
    print_summary,
    read_config,
    write_summary,
)
from lfads_torch.running.training import build, fit, sample, training_summary

MODEL = "model.ckpt"
"""The file, in the folder of such a run, with the model of all sessions."""


def run_new_session(
    trained_run: str | Path,
    data_file: str | Path,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    run_dir: str | Path | None = None,
    checkpoint: str | Path | None = None,
    pcr_init: bool = True,
    overwrite: bool = False,
    script: str | Path | None = None,
    trusted: Sequence[str] = (),
) -> Path:
    """Add a session to the model of a run, and write the results to a new folder.

    The folder is like that of :func:`lfads_torch.running.start.start_run`. Configuration, logs and
    checkpoints belong to the :func:`~lfads_torch.running.new_session.one_session_model` that is
    trained. ``model.ckpt`` is the model with all sessions, and ``lfads_output_sess{S}.h5`` holds
    what it infers about the new session.

    Parameters
    ----------
    trained_run
        The folder of the run. Its trainer, callbacks, loggers and data module are used.
    data_file
        The file of the new session.
    overrides
        Changes of the run's configuration, and of those hyperparameters that may be changed in
        :func:`~lfads_torch.running.new_session.one_session_model` (``model.lr_init=1e-3``).
    run_dir, overwrite, script
        See :func:`lfads_torch.running.run_folder.make_run_dir`.
    checkpoint
        The file with the weights; by default the best ones, see
        :func:`~lfads_torch.running.run_folder.checkpoint_of_run`.
    pcr_init, trusted
        See :func:`~lfads_torch.running.new_session.one_session_model`.

    Returns
    -------
    Path
        The new folder.

    Raises
    ------
    ExistingFileError
        If the new folder exists and is not empty.
    UserError
        If the run, the data or the overrides are missing or invalid. In that case no folder is
        made.
    """
    weights = checkpoint_of_run(trained_run) if checkpoint is None else Path(checkpoint)
    model = LFADS.load_from_checkpoint(weights, trusted=trusted)
    session = len(model.readin)
    one = one_session_model(model, data_file, pcr_init)
    arguments = {
        "_target_": ONE_SESSION_TARGETS[0],
        "model": str(weights.absolute()),
        "data_file": str(Path(data_file).absolute()),
        "pcr_init": pcr_init,
        "trusted": list(trusted),
        **one.hparams,
        "train_aug_stack": describe(one.train_aug_stack),
    }
    config = _configure(read_config(trained_run), arguments, session, overrides)
    run = build(config)  # A mistake in the overrides is reported before the folder is made.
    folder = make_run_dir(config, run_dir, overwrite, script)
    config = placed_in(config, folder)
    start = time.monotonic()
    fit(config, run)
    run.model = append_session(model, run.model)
    run.best_checkpoint = save_model(run.model, folder / MODEL)
    summary = training_summary(run, time.monotonic() - start, folder) | {"session": session}
    write_summary(folder, summary)
    sample(config, run)
    summary["scores"] = [validation_scores(run.model, run.output_files[0], session)]
    write_summary(folder, summary)
    figures = plot_run(folder)
    outputs = [*run.output_files, *run.continuous_files]
    print_summary(folder, summary, [run.best_checkpoint, *outputs, *figures])
    return folder


def _configure(
    config: Any,
    arguments: Mapping[str, Any],
    session: int,
    overrides: Mapping[str, Any] | Sequence[str],
) -> DictConfig:
    """Return a run's configuration with another model, another file and overrides.

    Parameters
    ----------
    config
        The configuration of the trained run, which is changed.
    arguments
        The model: ``_target_`` and arguments of ``one_session_model``.
    session
        The number of the new session.
    overrides
        Changes of the result.
    """
    config.model = dict(arguments)
    config.datamodule.datafile_pattern = arguments["data_file"]
    config.posterior_sampling.fn.sessions = [session]
    for callback in (config.get("callbacks") or {}).values():
        if "burn_in_period" in callback:
            callback.burn_in_period = 0  # the ramps that it waits for have ended
    return compose(config, overrides)
