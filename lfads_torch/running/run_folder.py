"""The folder of a run: makes it, finds its checkpoints, and reads and writes its summary.

config.yaml                  the resolved configuration; output paths in it are relative
summary.json                 epochs, best checkpoint and scores, once training has ended
lightning_checkpoints/       last.ckpt, and the best epochs
csv_logs/, events.out.*      logs
plots/                       figures
lfads_output_sess{S}.h5      what the model infers about session S
"""

import datetime
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lfads_torch.errors import ExistingFileError, FileAccessError, MissingFileError, UserError
from lfads_torch.files import move_aside, written_atomically

CONFIG = "config.yaml"
SUMMARY = "summary.json"
LAST_CHECKPOINT = Path("lightning_checkpoints", "last.ckpt")


# ---------------------------------------------------------------- the folder


def make_run_dir(
    config: DictConfig,
    run_dir: str | Path | None = None,
    overwrite: bool = False,
    script: str | Path | None = None,
) -> Path:
    """Make the folder of a run, with its configuration in it.

    Parameters
    ----------
    config
        The configuration.
    run_dir
        The folder; by default ``runs/{data}/{time}``.
    overwrite
        Whether an existing folder of that name is renamed to ``….1``. Otherwise it is an error.
    script
        A file that is copied into the folder.

    Returns
    -------
    Path
        The absolute path of the folder.

    Raises
    ------
    ExistingFileError
        If the folder exists and is not empty.
    FileAccessError
        If the folder cannot be made.
    """
    folder = Path(run_dir or _default_run_dir(config)).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ExistingFileError(
                f"{folder} exists. Continue that run with --resume, or choose another run_dir=…, "
                f"or use --overwrite, which renames the folder."
            )
        move_aside(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileAccessError(f"The folder {folder} cannot be made: {error}") from error
    write_config(folder, config)
    if script is not None:
        shutil.copy(script, folder)
    return folder


def _default_run_dir(config: DictConfig) -> Path:
    """Return ``runs/{data}/{time}``, followed by a number if that folder exists."""
    data = Path(str(config.datamodule.get("datafile_pattern", "data"))).stem.replace("*", "")
    name = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs", data, name)
    number, candidate = 1, base
    while candidate.exists():
        number += 1
        candidate = base.with_name(f"{name}-{number}")
    return candidate


def read_config(run_dir: str | Path) -> DictConfig:
    """Return the configuration of a run as it was saved.

    Raises
    ------
    MissingFileError
        If the folder is not that of a run.
    """
    path = Path(run_dir, CONFIG)
    if not path.is_file():
        raise MissingFileError(f"{run_dir} is not the folder of a run: it has no {CONFIG}.")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} must be a mapping of keys to values.")
    return config


def write_config(run_dir: Path, config: DictConfig) -> None:
    """Write the configuration of a run; an earlier one is replaced."""
    with written_atomically(run_dir / CONFIG) as path:
        OmegaConf.save(config, path)


# ---------------------------------------------------------------- checkpoints


def checkpoint_in_folder(path: str | Path) -> Path:
    """Return the only checkpoint in any folder, or the path itself if it is a checkpoint.

    Raises
    ------
    MissingFileError
        If there is none.
    UserError
        If the folder holds several, so that the user must name one.
    """
    path = Path(path).absolute()
    if path.is_file():
        return path
    found = sorted(path.glob("*.ckpt"))
    if not found:
        raise MissingFileError(f"checkpoint_dir = {path} is not a file and holds no .ckpt file.")
    if len(found) > 1:
        raise UserError(
            f"checkpoint_dir = {path} holds {len(found)} checkpoints: name one of "
            f"{[file.name for file in found]}."
        )
    return found[0]


def checkpoint_of_run(run_dir: str | Path) -> Path:
    """Return the checkpoint with the result of a run, given the run's folder.

    It is the best one by the monitored metric, or the last one if training has not ended or if the
    best one was not kept.

    Raises
    ------
    MissingFileError
        If the folder is not that of a run, or has no checkpoint.
    """
    run_dir = Path(run_dir)
    if not (run_dir / CONFIG).is_file():
        raise MissingFileError(f"{run_dir} is not the folder of a run: it has no {CONFIG}.")
    path = run_dir / (read_summary(run_dir).get("best_checkpoint") or LAST_CHECKPOINT)
    if not path.is_file():
        raise MissingFileError(f"There is no checkpoint {path}: give the path of another one.")
    return path


# ---------------------------------------------------------------- the summary


def read_summary(run_dir: str | Path) -> dict[str, Any]:
    """Return the summary, or an empty dictionary if training has not ended.

    Raises
    ------
    UserError
        If the file is not JSON.
    """
    path = Path(run_dir, SUMMARY)
    if not path.is_file():
        return {}
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    return summary


def write_summary(run_dir: str | Path, summary: Mapping[str, Any]) -> None:
    """Write the summary; an earlier one is replaced."""
    with written_atomically(Path(run_dir, SUMMARY)) as path:
        path.write_text(json.dumps(summary, indent=2) + "\n")


def print_summary(run_dir: Path, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Print the scores, and the paths of the run's files.

    Parameters
    ----------
    run_dir
        The folder of the run.
    summary
        The summary.
    files
        Further files whose paths are printed, besides configuration, summary, checkpoints and logs.
    """
    trained = f"{summary['epochs']} epochs in {summary['training_seconds']:.0f} s"
    monitor = summary.get("monitor")
    best = f"; best {monitor}: {summary['best_score']}" if monitor else ""
    print(f"\nTrained for {trained}{best}")
    for session, scores in enumerate(summary["scores"], start=summary.get("session", 0)):
        print(f"Validation scores of session {session}, from posterior means:")
        for name, value in scores.items():
            print(f"  {name:<28} {value:8.4f}")
    print("Files:")
    made = [run_dir / CONFIG, run_dir / SUMMARY, *sorted(run_dir.glob("lightning_checkpoints/*"))]
    made += [*sorted(run_dir.glob("csv_logs/*.csv")), *sorted(run_dir.glob("events.out.*")), *files]
    for path in made:
        print(f"  {os.path.relpath(run_dir / path)}")
