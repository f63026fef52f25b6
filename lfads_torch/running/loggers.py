"""Makes the loggers of a run. A logger that fails is left out; a resumed log keeps its rows."""

import csv
import warnings
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, Logger

from lfads_torch.checkpoints import load_checkpoint


def make_loggers(config: DictConfig, checkpoint: Path | None) -> list[Logger]:
    """Make the loggers of a configuration.

    A logger that cannot be made is left out with a warning, since it should stop neither training
    nor the trials of a sweep.

    Parameters
    ----------
    config
        The configuration.
    checkpoint
        The checkpoint from which training continues, or None.
    """
    loggers: list[Logger] = []
    for name, node in (config.get("logger") or {}).items():
        try:
            logger = instantiate(node, _convert_="all")
            if type(logger) is CSVLogger:
                _restore_rows(logger, checkpoint)
            _ = logger.experiment
        except Exception as error:
            warnings.warn(
                f"logger.{name} ({node.get('_target_')}) cannot be used, and training continues "
                f"without it: {error}",
                stacklevel=2,
            )
        else:
            loggers.append(logger)
    return loggers


def _restore_rows(logger: CSVLogger, checkpoint: Path | None) -> None:
    """Write the rows that an interrupted run has logged up to its checkpoint.

    Lightning's logger deletes them when it is made. Rows after the checkpoint are dropped, since
    these steps are trained again.
    """
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), list(reader.fieldnames or [])
    step = load_checkpoint(checkpoint)["global_step"] if checkpoint else 0
    # If the process was killed, the last row may be incomplete.
    kept = [row for row in rows if (row.get("step") or "").isdigit() and int(row["step"]) < step]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*directory .* exists and is not empty.*")
        writer = logger.experiment
    if kept:
        writer.metrics_keys = names
        writer.metrics = [{key: row[key] or None for key in names} for row in kept]
        writer.save()
