"""The history of a sweep: every hyperparameter and score of every trial, as tables and a picture.

A sweep writes one line to ``history.jsonl`` whenever a trial has trained for a generation. Folders
of the published implementation hold a ``result.json`` for each trial instead, which is read too.
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import OmegaConf

from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.utils import flatten

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HISTORY = "history.jsonl"
CLONED_FROM = "cloned_from"
"""Trial whose checkpoint a trial took over last."""
CLONED_AT = "cloned_at"
"""Epoch of that."""
SCORE = "valid/recon_smth"


def hyperparameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a trial's configuration overrides the sweep's."""
    return {key: value for key, value in config.items() if key not in (CLONED_FROM, CLONED_AT)}


def append_history(run_dir: str | Path, row: Mapping[str, Any]) -> None:
    """Add a line to the history of a sweep."""
    with Path(run_dir, HISTORY).open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a kill has cut the line before this short
                file.write(b"\n")
        file.write(json.dumps(row).encode() + b"\n")


def read_history(run_dir: str | Path) -> list[dict[str, Any]]:
    """Return the lines of the history, by trial and epoch.

    A generation that was repeated after a failure counts as it was repeated. A line that a kill
    has cut short is left out. A folder without history has none.
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
        for), ``score`` (``sweep.metric``, ``valid/recon_smth`` by default), ``cloned_from`` and
        ``cloned_at`` (the trial whose checkpoint it took over last, and the epoch of that) and a
        column for each hyperparameter, under its key. ``attrs["best_trial"]`` is the trial whose
        model is kept or, until the sweep has ended, that of the best last score.

    Raises
    ------
    FileNotFoundError
        If the folder holds no history.
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


def _best_trial(pbt_dir: Path, hps: "pd.DataFrame") -> str:
    """Return the trial that the sweep has found to be the best, or would if it ended now."""
    from lfads_torch.running.run_folder import CONFIG, read_summary

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
        If the folder holds no history.
    """
    import pandas as pd

    rows = [
        {"trial": row["trial"], **metrics} for row in _rows(pbt_dir) for metrics in row["history"]
    ]
    table = pd.DataFrame(rows)
    table["epoch"] = table["epoch"].astype(int)
    return table.sort_values(["trial", "epoch"], ignore_index=True)


def lineage(hps: "pd.DataFrame", trial: str | None = None) -> "pd.DataFrame":
    """Return the rows of :func:`read_pbt_hps` that led to a model, from the first epoch to its own.

    A trial that took another's checkpoint over goes back to that one.

    Parameters
    ----------
    hps
        What :func:`read_pbt_hps` returned.
    trial
        Whose model; by default the best one.
    """
    trial = hps.attrs["best_trial"] if trial is None else trial
    parts = []
    until = np.inf
    while True:
        own = hps[(hps["trial"] == trial) & (hps["epoch"] <= until)]
        if not len(own):
            break
        at = own[CLONED_AT].iloc[-1]
        cloned = at is not None and not np.isnan(at)
        parts.append(own[own["epoch"] > at] if cloned else own)
        if not cloned:
            break
        trial, until = own[CLONED_FROM].iloc[-1], at
    import pandas as pd

    return pd.concat(parts).sort_values("epoch", ignore_index=True)


def plot_pbt_hps(
    pbt_dir: str | Path,
    plot_field: str | Sequence[str] | None = None,
    save_dir: str | Path | None = None,
    trial: str | None = None,
) -> "Figure":
    """Draw score and hyperparameters of all trials against epochs.

    The lineage of the best model (its own past, and that of the trials that it took checkpoints
    over from) is highlighted.

    Parameters
    ----------
    pbt_dir
        The folder of a sweep.
    plot_field
        Which columns of :func:`read_pbt_hps` to draw; by default the score and every
        hyperparameter that varies.
    save_dir
        Where to save the figure as ``pbt_hps.png``, replacing an earlier one.
    trial
        Whose lineage to highlight; by default that of the best model.

    Raises
    ------
    FileNotFoundError
        If the folder holds no history.
    ValueError
        If there is no such column.
    """
    from matplotlib.figure import Figure

    from lfads_torch.analysis.figures import save_figure

    hps = read_pbt_hps(pbt_dir)
    names = [c for c in hps.columns if c not in ("trial", "generation", CLONED_FROM, CLONED_AT)]
    numeric = [c for c in names if c not in ("epoch", "seed") and _is_numeric(hps[c])]
    fields = [plot_field] if isinstance(plot_field, str) else list(plot_field or ())
    unknown = [field for field in fields if field not in numeric]
    if unknown:
        raise UserError(f"plot_field: {pbt_dir} has no numbers called {unknown}, but {numeric}.")
    fields = fields or ["score", *(c for c in numeric if c != "score" and hps[c].nunique() > 1)]
    winner = lineage(hps, trial)
    columns = min(3, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    for axes, field in zip(
        figure.subplots(rows, columns, squeeze=False).flat, fields, strict=False
    ):
        for _, own in hps.groupby("trial"):
            _steps(axes, own, field, color="0.75", linewidth=0.8)
        _steps(axes, winner, field, color="C3", linewidth=2, label="lineage of the best model")
        finite = hps[field][np.isfinite(hps[field])]
        if (finite > 0).all() and finite.max() > 10 * finite.min():
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_title(field, fontsize="medium")
    figure.axes[0].legend(frameon=False, fontsize="small")
    for axes in figure.axes[len(fields) :]:
        axes.remove()
    if save_dir is not None:
        save_figure(figure, Path(save_dir, "pbt_hps.png"))
    return figure


def _steps(axes: "Axes", table: "pd.DataFrame", field: str, **style: Any) -> None:
    """Draw scores as they are, and hyperparameters over the generation that they held for."""
    if field == "score":
        axes.plot(table["epoch"], table[field], **style)
    else:
        epochs = [0, *table["epoch"]]
        values = [*table[field], table[field].iloc[-1]]
        axes.step(epochs, values, where="post", **style)


def _is_numeric(column: Any) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(column) and column.notna().any())


def _rows(pbt_dir: str | Path) -> list[dict[str, Any]]:
    """Return the history, of the published implementation too."""
    rows = read_history(pbt_dir) or list(_published_rows(Path(pbt_dir)))
    if not rows:
        raise MissingFileError(
            f"{pbt_dir} holds no history of a sweep: there is neither {HISTORY} nor a result.json "
            f"in its folders. Give the folder of the sweep, and wait for its first generation."
        )
    return rows


def _published_rows(pbt_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each epoch of each trial of the published implementation.

    Its files do not say in a form to be relied on which checkpoints were taken over.
    """
    for path in sorted(pbt_dir.glob("*/result.json")):
        rows = {}
        for line in path.read_text().splitlines():
            try:
                result = _flatten_slashes(json.loads(line))
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
                "score": metrics.get(SCORE, np.nan),
                "config": {k: v for k, v in flatten(result["config"]).items() if _is_number(v)},
                "history": [{"epoch": epoch, **metrics}],
            }
        yield from rows.values()


def _flatten_slashes(result: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"valid": {"loss": 1}}`` into ``{"valid/loss": 1}``; a ``config`` stays as it is."""
    config = result.get("config", {})
    rest = flatten({key: value for key, value in result.items() if key != "config"})
    return {**{key.replace(".", "/"): value for key, value in rest.items()}, "config": config}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
