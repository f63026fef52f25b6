"""The history of a sweep: hyperparameters and scores of every trial, as a file and as tables.

A sweep appends one line to ``history.jsonl`` whenever a trial has trained for a generation. Folders
of the published implementation hold a ``result.json`` for each trial instead, which is read too.
"""

import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from lfads_torch.errors import MissingFileError
from lfads_torch.running.run_folder import CONFIG, read_summary
from lfads_torch.utils import flatten

if TYPE_CHECKING:
    import pandas as pd

HISTORY = "history.jsonl"
CLONED_FROM = "cloned_from"
"""Key of a trial's configuration: the trial whose checkpoint it took over last."""
CLONED_AT = "cloned_at"
"""Key of a trial's configuration: the epoch at which it took over that checkpoint."""
PUBLISHED_SCORE = "valid/recon_smth"
"""The metric by which the published implementation compares trials."""


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a trial's configuration that overrides the configuration of the sweep."""
    return {key: value for key, value in config.items() if key not in (CLONED_FROM, CLONED_AT)}


# ------------------------------------------------------------------ the file


def history_row(
    trial: str, config: Mapping[str, Any], epoch: int, score: float, result: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a line of the history for what a trial has just reported.

    Parameters
    ----------
    trial
        Identifier of the trial.
    config
        Its configuration, with :data:`CLONED_FROM` and :data:`CLONED_AT` if it took over a
        checkpoint.
    epoch
        The number of epochs that it has been trained for.
    score
        The metric by which trials are compared.
    result
        All results of the trial. Of these the row keeps the duration of the step and of its
        epochs (s) and the metrics of every epoch.
    """
    return {
        "trial": trial,
        "epoch": epoch,
        "score": score,
        "time": time.time(),
        "seconds": result.get("time_this_iter_s"),
        "train_seconds": result.get("train_seconds"),
        "config": hyperparameters(config),
        CLONED_FROM: config.get(CLONED_FROM),
        CLONED_AT: config.get(CLONED_AT),
        "history": result.get("history", []),
    }


def append_history(run_dir: str | Path, row: Mapping[str, Any]) -> None:
    """Append a line to the history of a sweep."""
    with Path(run_dir, HISTORY).open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # the last line is incomplete, since the process was killed
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """Return the lines of the history, sorted by trial and epoch.

    If a generation was repeated after a failure, only the repetition is returned. An incomplete
    line, which a killed process may write, is left out. The list is empty if there is no history.
    """
    path = Path(run_dir, HISTORY)
    rows = {}
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["trial"], row["epoch"]] = row
    return [rows[key] for key in sorted(rows)]


# ------------------------------------------------------------------ tables


def read_pbt_hps(pbt_dir: str | Path) -> "pd.DataFrame":
    """Return hyperparameters and score of every trial in every generation.

    Parameters
    ----------
    pbt_dir
        The folder of a sweep.

    Returns
    -------
    DataFrame
        A row for each report of a trial, with ``trial``, ``generation`` (from 0, counting the
        reports before the first tournament too), ``epoch`` (how many epochs it had been trained
        for), ``score`` (``sweep.metric``, by default ``valid/recon_smth``), ``cloned_from`` and
        ``cloned_at`` (the trial whose checkpoint it took over last, and at which epoch) and a
        column for each hyperparameter, under its key. ``attrs["best_trial"]`` is the trial whose
        model was kept or, until the sweep has ended, the trial with the best last score.

    Raises
    ------
    FileNotFoundError
        If the folder has no history.
    """
    import pandas as pd

    rows = [
        {
            "trial": row["trial"],
            "epoch": row["epoch"],
            "score": row["score"],
            CLONED_FROM: row.get(CLONED_FROM),
            CLONED_AT: row.get(CLONED_AT),
            **row["config"],
        }
        for row in _rows(pbt_dir)
    ]
    table = pd.DataFrame(rows).sort_values(["trial", "epoch"], ignore_index=True)
    epochs = sorted(table["epoch"].unique())
    table.insert(1, "generation", table["epoch"].map({e: i for i, e in enumerate(epochs)}))
    table.attrs["best_trial"] = _best_trial(Path(pbt_dir), table)
    return table


def read_pbt_fitlog(pbt_dir: str | Path) -> "pd.DataFrame":
    """Return the metrics of every trial in every epoch.

    Parameters
    ----------
    pbt_dir
        The folder of a sweep.

    Returns
    -------
    DataFrame
        A row for each trial and epoch, with ``trial``, ``epoch`` (from 0) and a column for each
        metric (``train/loss``, ``valid/recon_smth``, …).

    Raises
    ------
    FileNotFoundError
        If the folder has no history.
    """
    import pandas as pd

    rows = [
        {"trial": row["trial"], **metrics} for row in _rows(pbt_dir) for metrics in row["history"]
    ]
    table = pd.DataFrame(rows)
    table["epoch"] = table["epoch"].astype(int)
    return table.sort_values(["trial", "epoch"], ignore_index=True)


def lineage(hps: "pd.DataFrame", trial: str | None = None) -> "pd.DataFrame":
    """Return the rows of :func:`read_pbt_hps` that led to a model, from the first epoch on.

    If the trial took over the checkpoint of another trial, the earlier rows are those of the other
    trial.

    Parameters
    ----------
    hps
        The table that :func:`read_pbt_hps` returned.
    trial
        The trial that has the model; by default the best one.
    """
    import pandas as pd

    trial = hps.attrs["best_trial"] if trial is None else trial
    parts = []
    last_epoch = np.inf
    while True:
        own = hps[(hps["trial"] == trial) & (hps["epoch"] <= last_epoch)]
        if not len(own):
            break
        at = own[CLONED_AT].iloc[-1]
        cloned = at is not None and not np.isnan(at)
        parts.append(own[own["epoch"] > at] if cloned else own)
        if not cloned:
            break
        trial, last_epoch = own[CLONED_FROM].iloc[-1], at
    return pd.concat(parts).sort_values("epoch", ignore_index=True)


def _best_trial(pbt_dir: Path, hps: "pd.DataFrame") -> str:
    """Return the best trial according to the summary, or the best one so far if there is none."""
    known = read_summary(pbt_dir).get("best_trial")
    if known is not None:
        return str(known)
    config = (
        OmegaConf.load(pbt_dir / CONFIG) if (pbt_dir / CONFIG).is_file() else OmegaConf.create()
    )
    sign = -1 if OmegaConf.select(config, "sweep.mode") == "max" else 1
    last = hps.groupby("trial").tail(1)
    scores = (sign * last["score"]).where(np.isfinite(last["score"]), np.inf)
    return str(last["trial"].iloc[int(np.argmin(scores))])


def _rows(pbt_dir: str | Path) -> list[dict[str, Any]]:
    """Return the history of a sweep, of this or of the published implementation."""
    rows = read_history(pbt_dir) or list(_published_rows(Path(pbt_dir)))
    if not rows:
        raise MissingFileError(
            f"{pbt_dir} holds no history of a sweep: there is neither {HISTORY} nor a result.json "
            f"in its folders. Give the folder of the sweep, and wait for its first generation."
        )
    return rows


# ------------------------------------------------------------------ published folders


def _published_rows(pbt_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each epoch of each trial of the published implementation.

    The rows do not contain which checkpoints were taken over, since this cannot be read reliably
    from the files.
    """
    for path in sorted(pbt_dir.glob("*/result.json")):
        rows = {}
        for line in path.read_text().splitlines():
            try:
                result = _flatten_result(json.loads(line))
            except ValueError:
                warnings.warn(f"{path} holds a line that is cut short.", stacklevel=2)
                continue
            epoch = int(result.get("cur_epoch", result["training_iteration"]))
            metrics = {
                name: value
                for name, value in result.items()
                if name.startswith(("train/", "valid/", "nlb/"))
            }
            rows[epoch] = {
                "trial": result["trial_id"],
                "epoch": epoch,
                "score": metrics.get(PUBLISHED_SCORE, np.nan),
                "config": {k: v for k, v in flatten(result["config"]).items() if _is_number(v)},
                "history": [{"epoch": epoch, **metrics}],
            }
        yield from rows.values()


def _flatten_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"valid": {"loss": 1}}`` into ``{"valid/loss": 1}``; ``config`` does not change."""
    config = result.get("config", {})
    rest = flatten({key: value for key, value in result.items() if key != "config"})
    return {**{key.replace(".", "/"): value for key, value in rest.items()}, "config": config}


def _is_number(value: Any) -> bool:
    """Return whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
