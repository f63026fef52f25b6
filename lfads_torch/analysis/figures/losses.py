"""The course of a training: the loss, its terms and further metrics over epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lfads_torch.analysis.figures.arrays import Array
from lfads_torch.analysis.figures.metrics_csv import Metrics
from lfads_torch.analysis.figures.style import (
    COLOURS,
    LARGE_FONT,
    NORMAL_FONT,
    SMALL_FONT,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class _Panel(NamedTuple):
    """One of the axes, with its curves."""

    label: str
    curves: Mapping[str, str]
    """The label in the legend of each metric, by the name of the metric."""


_PANELS = (
    _Panel("loss", {"train/loss": "train", "valid/loss": "valid"}),
    _Panel(
        "reconstruction loss",
        {
            "train/recon": "train",
            "valid/recon": "valid",
            "valid/recon_smth": "valid, smoothed",
        },
    ),
    _Panel(
        "bits per spike",
        {
            "train/bps": "train",
            "valid/bps": "valid",
            "valid/co_bps": "valid, held-out channels",
            "valid/fp_bps": "valid, later bins",
        },
    ),
    _Panel("R² of rates", {"train/r2": "train", "valid/r2": "valid"}),
    _Panel("KL divergence (weighted)", {"train/wt_kl": "train", "valid/wt_kl": "valid"}),
    _Panel("L2 penalty (weighted)", {"train/wt_l2": "train"}),
)
_LEARNING_RATE = "learning rate"


def losses(metrics: Metrics, *, title: str = "") -> Figure:
    """Draw how the loss, its terms and further metrics changed during training.

    Parameters
    ----------
    metrics
        The metrics, as :func:`~lfads_torch.analysis.figures.read_metrics` returns them. Those that
        are absent, or never finite, are left out.
    title
        The title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    from matplotlib.figure import Figure

    panels = _panels_with_data(metrics)
    if not panels:
        figure = Figure(figsize=(4, 3), layout="constrained")
        figure.text(0.5, 0.5, "no metrics yet", ha="center", va="center", fontsize=LARGE_FONT)
        return figure

    n_columns = min(3 if len(panels) <= 6 else 4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(2.8 * n_columns, 2.2 * n_rows + 0.2))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    last_epoch = max(metrics[name][0].max() for panel in panels for name in panel.curves)
    for ax, panel in zip(axes.flat, panels, strict=False):
        _draw_panel(ax, panel, metrics)
        ax.set_xlim(-0.02 * last_epoch - 0.5, 1.02 * last_epoch + 0.5)
    for ax in axes.flat[len(panels) :]:
        ax.remove()
    figure.align_ylabels()
    figure.suptitle(title, fontsize=LARGE_FONT)
    return figure


def _panels_with_data(metrics: Metrics) -> list[_Panel]:
    """Return the panels for which there are metrics, without the curves that are never finite."""
    learning_rates = {
        name: name.removeprefix("lr-")
        for name in metrics
        if name.startswith("lr-") and not name.endswith(("-momentum", "-weight_decay"))
    }
    panels = []
    for label, curves in (*_PANELS, _Panel(_LEARNING_RATE, learning_rates)):
        known = {
            name: legend
            for name, legend in curves.items()
            if name in metrics and np.isfinite(metrics[name][1]).any()
        }
        if known:
            panels.append(_Panel(label, known))
    return panels


def _draw_panel(ax: Axes, panel: _Panel, metrics: Metrics) -> None:
    """Draw the curves of a panel, and a dot at the epoch with the best smoothed loss."""
    for (name, legend), colour in zip(panel.curves.items(), COLOURS, strict=False):
        epochs, values = metrics[name]
        if name == "valid/recon_smth":
            best = np.nanargmin(values)
            legend += f" (best: {epochs[best]:g})"
            ax.plot(
                epochs[best], values[best], "o", color=colour, markeredgecolor="white", zorder=3
            )
        marker = "o" if len(epochs) == 1 else None
        ax.plot(epochs, values, color=colour, linewidth=1.1, marker=marker, label=legend)
    _crop_extreme_values(ax, [metrics[name][1] for name in panel.curves])
    style_axes(ax, integer_x=True)
    ax.set_xlabel("epoch", fontsize=NORMAL_FONT)
    ax.set_ylabel(panel.label, fontsize=NORMAL_FONT)
    if panel.label != _LEARNING_RATE or len(panel.curves) > 1:
        ax.legend(fontsize=SMALL_FONT, framealpha=0.6, edgecolor="none", handlelength=1.2)


def _crop_extreme_values(ax: Axes, curves: Sequence[Array]) -> None:
    """Limit the vertical axis where a few extreme values would flatten all the others.

    Such values are usual in the first epochs. The limits are set from the 3rd and the 97th
    percentile, where values exceed them by more than the distance between the two.
    """
    values = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    low, high = np.percentile(values, [3, 97])
    margin = 0.05 * (high - low)
    if margin == 0:
        return
    if values.max() > high + (high - low):
        ax.set_ylim(top=high + 5 * margin)
    if values.min() < low - (high - low):
        ax.set_ylim(bottom=low - 5 * margin)
