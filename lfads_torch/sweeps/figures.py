"""The figure of a sweep: scores and hyperparameters of all trials against epochs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lfads_torch.errors import UserError
from lfads_torch.sweeps.history import CLONED_AT, CLONED_FROM, lineage, read_pbt_hps

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_pbt_hps(
    pbt_dir: str | Path,
    plot_field: str | Sequence[str] | None = None,
    save_dir: str | Path | None = None,
    trial: str | None = None,
) -> "Figure":
    """Draw score and hyperparameters of all trials against epochs.

    The lineage of the best model (its own past, and that of the trials whose checkpoints it took
    over) is highlighted.

    Parameters
    ----------
    pbt_dir
        The folder of a sweep.
    plot_field
        Which columns of :func:`~lfads_torch.sweeps.history.read_pbt_hps` to draw; by default the
        score and every hyperparameter that varies.
    save_dir
        Where to save the figure as ``pbt_hps.png``, replacing an earlier one.
    trial
        The trial whose lineage is highlighted; by default the one with the best model.

    Raises
    ------
    FileNotFoundError
        If the folder has no history.
    ValueError
        If there is no such column.
    """
    from matplotlib.figure import Figure

    from lfads_torch.analysis.figures import save_figure

    hps = read_pbt_hps(pbt_dir)
    fields = _fields(hps, plot_field, pbt_dir)
    highlighted = lineage(hps, trial)
    n_columns = min(3, len(fields))
    n_rows = -(-len(fields) // n_columns)
    figure = Figure(figsize=(4 * n_columns, 2.6 * n_rows), layout="constrained")
    for axes, field in zip(
        figure.subplots(n_rows, n_columns, squeeze=False).flat, fields, strict=False
    ):
        for _, own in hps.groupby("trial"):
            _draw_line(axes, own, field, color="0.75", linewidth=0.8)
        _draw_line(
            axes, highlighted, field, color="C3", linewidth=2, label="lineage of the best model"
        )
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


def _fields(
    hps: "pd.DataFrame", plot_field: str | Sequence[str] | None, pbt_dir: str | Path
) -> list[str]:
    """Return the columns to draw, and raise a UserError for those that are not numbers."""
    others = ("trial", "generation", "epoch", "seed", CLONED_FROM, CLONED_AT)
    numeric = [name for name in hps.columns if name not in others and _is_numeric(hps[name])]
    fields = [plot_field] if isinstance(plot_field, str) else list(plot_field or ())
    unknown = [field for field in fields if field not in numeric]
    if unknown:
        raise UserError(f"plot_field: {pbt_dir} has no numbers called {unknown}, but {numeric}.")
    varying = [name for name in numeric if name != "score" and hps[name].nunique() > 1]
    return fields or ["score", *varying]


def _draw_line(axes: "Axes", table: "pd.DataFrame", field: str, **style: Any) -> None:
    """Draw scores at their epochs, and hyperparameters over the generation that they held for."""
    if field == "score":
        axes.plot(table["epoch"], table[field], **style)
    else:
        epochs = [0, *table["epoch"]]
        values = [*table[field], table[field].iloc[-1]]
        axes.step(epochs, values, where="post", **style)


def _is_numeric(column: Any) -> bool:
    """Return whether a column of a table holds numbers."""
    import pandas as pd

    return bool(pd.api.types.is_numeric_dtype(column) and column.notna().any())
