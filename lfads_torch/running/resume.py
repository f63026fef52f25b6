"""Resumes a run in its folder, after an interruption or to train it further."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.files import move_aside
from lfads_torch.running.compose import compose
from lfads_torch.running.new_session import ONE_SESSION_TARGETS
from lfads_torch.running.run_folder import (
    CONFIG,
    LAST_CHECKPOINT,
    SUMMARY,
    read_config,
    read_summary,
    write_config,
)
from lfads_torch.running.start import complete_run
from lfads_torch.running.training import prepare


def resume_run(run_dir: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Path:
    """Resume a run from its last checkpoint, with its saved configuration.

    If training had already ended, the posteriors are sampled and the figures are drawn again. With
    overrides (``trainer.max_epochs=2000``) the run is trained further. The folder may have been
    moved.

    Parameters
    ----------
    run_dir
        The folder of the run.
    overrides
        Changes of its configuration. The previous configuration is kept as ``config.1.yaml``, and
        the summary of the previous training, if that had ended, as ``summary.1.json``.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    MissingFileError
        If the folder is not that of a run.
    UserError
        If the run added a session to a model, or if the overrides are invalid. In that case nothing
        in the folder changes.
    """
    run_dir = Path(run_dir).absolute()
    if not (run_dir / CONFIG).is_file():
        raise MissingFileError(
            f"{run_dir} is not the folder of a run that could be resumed: it has no {CONFIG}."
        )
    if OmegaConf.select(read_config(run_dir), "model._target_") in ONE_SESSION_TARGETS:
        raise UserError(
            f"{run_dir} was made by scripts/add_session.py. Such a run cannot be resumed: start it "
            f"again with --overwrite."
        )
    config = compose(run_dir / CONFIG, overrides)
    run = prepare(config)
    if overrides:
        # Without the summary, the run counts as unfinished, even if it is interrupted at once.
        move_aside(run_dir / SUMMARY)
        move_aside(run_dir / CONFIG)
        write_config(run_dir, config)
    last = run_dir / LAST_CHECKPOINT
    if not last.is_file() and not read_summary(run_dir):
        warnings.warn(f"There is no {last} yet: the run starts from the beginning.", stacklevel=2)
    complete_run(config, run_dir, run, last if last.is_file() else None)
    return run_dir
