"""Writes the best model of a sweep as the folder of a run."""

import csv
import shutil
from pathlib import Path

from omegaconf import DictConfig, open_dict

from lfads_torch.running.compose import compose
from lfads_torch.running.resume import resume_run
from lfads_torch.running.run_folder import LAST_CHECKPOINT, write_config, write_summary
from lfads_torch.sweeps import results
from lfads_torch.sweeps.history import hyperparameters, lineage, read_history, read_pbt_hps
from lfads_torch.sweeps.options import SweepOptions
from lfads_torch.sweeps.report import BEST_MODEL
from lfads_torch.sweeps.results import Outcome


def make_best_model(
    run_dir: Path, config: DictConfig, options: SweepOptions, best: Outcome
) -> None:
    """Make ``best_model/``, a folder like that of a single run, and sample its posteriors.

    Parameters
    ----------
    run_dir
        The folder of the sweep.
    config
        The configuration of the sweep, with which hyperparameters are composed.
    options
        The options of the sweep.
    best
        The trial whose model is kept.
    """
    folder = run_dir / BEST_MODEL
    # A sweep that is interrupted here and resumed makes the folder again.
    shutil.rmtree(folder, ignore_errors=True)
    (folder / LAST_CHECKPOINT.parent).mkdir(parents=True)
    resolved = compose(config, hyperparameters(best.config))
    with open_dict(resolved):
        del resolved.sweep
    write_config(folder, resolved)
    checkpoint = _copy_checkpoints(folder, options, best)
    seconds = _write_metrics(run_dir, folder, best.trial)
    write_summary(
        folder,
        {
            "epochs": best.metrics[results.EPOCH],
            "training_seconds": round(seconds, 1),
            "best_checkpoint": str(checkpoint),
            "monitor": options.metric,
            "best_score": results.score(best.metrics, options),
        },
    )
    # According to the summary training has ended, so this only samples, draws figures and scores.
    resume_run(folder)


def _copy_checkpoints(folder: Path, options: SweepOptions, best: Outcome) -> Path:
    """Copy the last and the best checkpoint of a trial.

    Returns
    -------
    Path
        The checkpoint of the model that is kept, relative to the folder.
    """
    with best.checkpoint.as_directory() as checkpoint:
        shutil.copy(Path(checkpoint, results.LAST_CHECKPOINT), folder / LAST_CHECKPOINT)
        if not options.use_best or results.BEST_CHECKPOINT not in best.metrics:
            return LAST_CHECKPOINT
        source = Path(checkpoint, best.metrics[results.BEST_CHECKPOINT])
        target = LAST_CHECKPOINT.with_name(source.name)
        shutil.copy(source, folder / target)
        return target


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
