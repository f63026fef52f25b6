"""The folder of a run: made, never overwritten, filled, summarised, and taken up again."""

import contextlib
import datetime
import glob
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from lfads_torch.errors import ExistingFileError, MissingFileError, UserError
from lfads_torch.files import move_aside
from lfads_torch.running.compose import compose

if TYPE_CHECKING:
    from lfads_torch.running.training import Run

CONFIG = "config.yaml"
SUMMARY = "summary.json"
LAST_CHECKPOINT = Path("lightning_checkpoints", "last.ckpt")


def run_single(
    overrides: Mapping[str, Any] | Sequence[str] = (),
    run_dir: str | Path | None = None,
    config_path: str | Path = "../configs/single.yaml",
    config_dir: str | Path | None = None,
    overwrite: bool = False,
    script: str | Path | None = None,
) -> Path:
    """Train one model in a folder of its own.

    The folder gets the resolved configuration (``config.yaml``), a copy of the script, checkpoints,
    logs, what the model infers (``lfads_output_sess{S}.h5``), pictures (``plots/``) and a summary
    (``summary.json``).

    Parameters
    ----------
    overrides, config_path, config_dir
        See :func:`lfads_torch.running.compose.compose`.
    run_dir
        The folder; by default ``runs/{data}/{time}``.
    overwrite
        Rename a folder of that name to ``….1`` rather than refuse to run.
    script
        A file to copy into the folder.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If the folder exists and is not empty.
    FileNotFoundError, ValueError
        If the configuration or the data are not usable; then no folder is made.
    """
    config = compose(config_path, overrides, config_dir)
    keep_data_path(config)
    run = prepare(config)
    run_dir = make_run_dir(config, run_dir, overwrite, script)
    _run(config, run_dir, run)
    return run_dir


def prepare(config: DictConfig) -> "Run":
    """Make the model and read the data, so that mistakes are found before there is a folder.

    Raises
    ------
    FileNotFoundError, ValueError
        If either is not usable.
    """
    from lfads_torch.datamodules import BasicDataModule
    from lfads_torch.running.training import build

    # A run works in its own folder: paths that are relative to this one would soon be wrong.
    with tempfile.TemporaryDirectory() as folder, working_in(Path(folder)):
        run = build(config)
        if isinstance(run.datamodule, BasicDataModule):  # which reads once
            run.datamodule.setup("fit")
    return run


def make_run_dir(
    config: DictConfig, run_dir: str | Path | None, overwrite: bool, script: str | Path | None
) -> Path:
    """Make the folder of a run, with its configuration in it.

    Parameters and exceptions are those of :func:`run_single`.
    """
    run_dir = Path(run_dir or _default_run_dir(config)).absolute()
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        if not overwrite:
            raise ExistingFileError(
                f"{run_dir} exists. Continue that run with --resume, or choose another run_dir=…, "
                f"or say --overwrite, which renames the folder."
            )
        move_aside(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run_dir / CONFIG)
    if script is not None:
        shutil.copy(script, run_dir)
    return run_dir


def resume_single(run_dir: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Path:
    """Take a run up where its last checkpoint is, with the configuration that it began with.

    A run whose training had ended goes on after it, unless there are overrides
    (``trainer.max_epochs=2000``), which train it further.

    Parameters
    ----------
    run_dir
        The folder of the run.
    overrides
        Changes of its configuration. The configuration before is kept as ``config.1.yaml``, and
        the summary of the training before, if that had ended, as ``summary.1.json``.

    Raises
    ------
    FileNotFoundError
        If the folder is not that of a run.
    ValueError
        If the run added a session to a model, or the overrides are not usable.
    """
    run_dir = Path(run_dir).absolute()
    if not (run_dir / CONFIG).is_file():
        raise MissingFileError(
            f"{run_dir} is no folder of a run that could be resumed: it has no {CONFIG}."
        )
    config = compose(run_dir / CONFIG, overrides)
    if config.model.get("_target_") == "lfads_torch.running.new_session.one_session_model":
        raise UserError(
            f"{run_dir} is of scripts/add_session.py, which is not taken up again but started anew "
            f"(with --overwrite)."
        )
    run = prepare(config)
    if overrides:
        # Training has not ended any more, not even if it is interrupted from here on.
        move_aside(run_dir / SUMMARY)
        move_aside(run_dir / CONFIG)
        OmegaConf.save(config, run_dir / CONFIG)
    _run(config, run_dir, run, resume=True)
    return run_dir


def _run(config: DictConfig, run_dir: Path, run: "Run", resume: bool = False) -> None:
    """Train (unless that is done), sample, draw and summarise in the folder."""
    # Lightning takes seconds to import: mistakes in the configuration are reported before.
    from lfads_torch.analysis.figures import plot_run
    from lfads_torch.analysis.scores import validation_scores
    from lfads_torch.checkpoints import load_checkpoint
    from lfads_torch.running.training import fit, sample

    last = run_dir / LAST_CHECKPOINT
    summary = read_summary(run_dir)
    if resume and not last.is_file():
        warnings.warn(f"There is no {last} yet: the run starts anew.", stacklevel=3)
    with working_in(run_dir):
        if not summary:
            start = time.monotonic()
            fit(config, run, last if resume and last.is_file() else None)
            summary = training_summary(run, time.monotonic() - start)
            write_summary(run_dir, summary)
        else:
            kept = run_dir / (summary["best_checkpoint"] or LAST_CHECKPOINT)
            run.model.load_state_dict(load_checkpoint(kept)["state_dict"])
        sample(config, run)
        summary["scores"] = [
            validation_scores(run.model, path, session)
            for session, path in enumerate(run.output_files)
        ]
        write_summary(run_dir, summary)
        pictures = plot_run(run_dir)
    report(run_dir, summary, [*run.output_files, *run.continuous_files, *pictures])


def training_summary(run: "Run", seconds: float) -> dict[str, Any]:
    """Return what the summary says of the training."""
    checkpoint, trainer = run.best_checkpoint, run.trainer
    callback = getattr(trainer, "checkpoint_callback", None)
    score = getattr(callback, "best_model_score", None)
    return {
        "epochs": trainer.current_epoch if trainer else 0,
        "training_seconds": round(seconds, 1),
        "best_checkpoint": None if checkpoint is None else os.path.relpath(checkpoint),
        "monitor": getattr(callback, "monitor", None),
        "best_score": None if score is None else float(score),
    }


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Return the summary, which exists once training has ended, or nothing."""
    path = run_dir / SUMMARY
    return json.loads(path.read_text()) if path.is_file() else {}


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary, or replace it at once."""
    partial = run_dir / f"{SUMMARY}.partial"
    partial.write_text(json.dumps(summary, indent=2) + "\n")
    partial.replace(run_dir / SUMMARY)


def report(run_dir: Path, summary: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Print the scores, and the paths of everything that was made."""
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


def _default_run_dir(config: DictConfig) -> Path:
    """Return ``runs/{data}/{time}``, where nothing is yet."""
    data = Path(str(config.datamodule.get("datafile_pattern", "data"))).stem.replace("*", "")
    name = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    base = Path("runs", data, name)
    number, candidate = 1, base
    while candidate.exists():
        number += 1
        candidate = base.with_name(f"{name}-{number}")
    return candidate


def keep_data_path(config: DictConfig) -> None:
    """Make the path of the data absolute, since the run works in its own folder."""
    pattern = config.datamodule.get("datafile_pattern")
    if pattern and glob.glob(str(pattern)):
        absolute = str(Path(pattern).absolute())
        for node in (config.datamodule, *config.model.values()):
            if isinstance(node, DictConfig) and node.get("datafile_pattern") == pattern:
                node.datafile_pattern = absolute


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder the current one for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
