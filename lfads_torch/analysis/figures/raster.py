"""The raster: data, inferred rates and inputs of single trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lfads_torch.analysis.figures.arrays import Array, as_optional_array, as_trials, unit_of
from lfads_torch.analysis.figures.style import (
    BOUNDARY_COLOUR,
    GREY,
    LARGE_FONT,
    MISSING_COLOUR,
    NORMAL_FONT,
    add_colour_bar,
    add_legend_below,
    colour_limits,
    draw_curves,
    style_axes,
    time_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch


class _ImageRow(NamedTuple):
    """A row of images, one for each trial."""

    label: str
    values: Array
    """(trials, time, channels)."""
    colour_map: str
    limits: tuple[float, float]
    """The lowest and the highest value of the colour scale."""
    first_bin: int
    """The bin at which the values start."""


class _CurveRow(NamedTuple):
    """A row of axes with curves, one for each trial."""

    label: str
    values: Array
    """(trials, time, curves)."""
    first_bin: int
    """The bin at which the values start."""


def raster(
    data: ArrayLike,
    rates: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    inferred_inputs: ArrayLike | None = None,
    ext_input: ArrayLike | None = None,
    n_encod_bins: int | None = None,
    n_encod_channels: int | None = None,
    bin_width: float | None = None,
    trials: Sequence[int] | None = None,
    title: str = "",
) -> Figure:
    """Draw the data, the inferred rates and the inputs of a few trials, each in a column.

    Parameters
    ----------
    data
        (B, T, N) spikes per bin or other data. NaN marks missing samples.
    rates
        (B, T_rec, N) inferred means, in the unit of the data.
    truth
        (B, T_rec - T_ic, N) true rates in the same unit, which start at bin T_ic.
    inferred_inputs
        (B, T_rec, co_dim) means of the inferred inputs. None are drawn if co_dim is 0.
    ext_input
        (B, T_enc - T_ic, D) external inputs, which start at bin T_ic.
    n_encod_bins, n_encod_channels
        T_enc and N_enc, which are marked where the encoder sees only a part of the data. By
        default it sees all bins and all channels.
    bin_width
        The width of a bin in seconds. By default, time is shown in bins.
    trials
        (B,) numbers of the trials for the titles of the columns. By default 0, 1, ….
    title
        The title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    UserError
        If data or rates are not of shape (trials, time, channels).
    """
    from matplotlib.figure import Figure

    counts, means = as_trials(data, "data"), as_trials(rates, "rates")
    true = as_optional_array(truth)
    n_trials, n_bins, n_channels = means.shape
    t_enc = n_bins if n_encod_bins is None else n_encod_bins
    n_enc = n_channels if n_encod_channels is None else n_encod_channels
    bin_size, time_label = time_axis(bin_width)
    images = _image_rows(counts, means, true)
    curves = _curve_rows(as_optional_array(inferred_inputs), as_optional_array(ext_input), t_enc)

    heights = [1.6] * len(images) + [0.9] * len(curves)
    figure = Figure(figsize=(2.4 * n_trials + 1.6, sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(
        len(heights),
        n_trials,
        squeeze=False,
        sharex=True,
        sharey="row",
        gridspec_kw={"height_ratios": heights},
    )
    drawn = [
        _draw_images(row_axes, row, bin_size) for row_axes, row in zip(axes, images, strict=False)
    ]
    for row_axes, row in zip(axes[len(images) :], curves, strict=True):
        _draw_curves(row_axes, row, bin_size)

    for ax in axes.flat:
        style_axes(ax, integer_x=bin_width is None)
        if t_enc < n_bins:
            ax.axvline(t_enc * bin_size, color=BOUNDARY_COLOUR, linestyle="--", linewidth=1)
    if n_enc < n_channels:
        for ax in axes[: len(images)].flat:
            ax.axhline(n_enc, color=BOUNDARY_COLOUR, linestyle=":", linewidth=1)
    for ax, number in zip(axes[0], trials or range(n_trials), strict=False):
        ax.set_title(f"trial {number}", fontsize=NORMAL_FONT)
    for ax in axes[-1]:
        ax.set_xlabel(time_label, fontsize=NORMAL_FONT)
        ax.set_xlim(0, n_bins * bin_size)

    unit = unit_of(counts)
    add_colour_bar(figure, drawn[0], axes[0], counts, unit)
    all_rates = np.concatenate([row.values.ravel() for row in images[1:]])
    add_colour_bar(figure, drawn[1], axes[1 : len(images)].ravel(), all_rates, unit)
    add_legend_below(
        figure, _legend(t_enc < n_bins, n_enc < n_channels, bool(np.isnan(counts).any()))
    )
    figure.suptitle(title, fontsize=LARGE_FONT)
    return figure


def _image_rows(counts: Array, means: Array, true: Array | None) -> list[_ImageRow]:
    """Return the rows of the data, of the rates, and of the true rates if they are known."""
    known_rates = [means] if true is None else [means, true]
    rate_limits = colour_limits(*known_rates, percentile=99.5)
    # The scale of the data is that of bins with spikes, and ends at a percentile of them: a few
    # bursts would make single spikes invisible.
    data_limits = colour_limits(np.where(counts == 0, np.nan, counts), percentile=99)
    rows = [
        _ImageRow("data", counts, "Greys", data_limits, 0),
        _ImageRow("inferred rates", means, "viridis", rate_limits, 0),
    ]
    if true is not None:
        first_bin = means.shape[1] - true.shape[1]
        rows.append(_ImageRow("true rates", true, "viridis", rate_limits, first_bin))
    return rows


def _curve_rows(inferred: Array | None, external: Array | None, t_enc: int) -> list[_CurveRow]:
    """Return the rows of the inferred and of the external inputs, where there are any."""
    rows = []
    if inferred is not None:
        rows.append(_CurveRow("inferred\ninputs", inferred, 0))
    if external is not None:
        rows.append(_CurveRow("external\ninputs", external, t_enc - external.shape[1]))
    return rows


def _draw_images(axes: Sequence[Axes], row: _ImageRow, bin_size: float) -> AxesImage:
    """Draw a row with time to the right and channels downwards, and return its last image."""
    from matplotlib import colormaps

    axes[0].set_ylabel(f"{row.label}\nchannel", fontsize=NORMAL_FONT)
    _, n_bins, n_channels = row.values.shape
    start = row.first_bin * bin_size
    has_pixel_per_sample = n_bins <= 250 and n_channels <= 200
    for ax, trial in zip(axes, row.values, strict=True):
        image = ax.imshow(
            trial.T,
            aspect="auto",
            interpolation="nearest" if has_pixel_per_sample else "antialiased",
            cmap=colormaps[row.colour_map].with_extremes(bad=MISSING_COLOUR),
            vmin=row.limits[0],
            vmax=row.limits[1],
            extent=(start, start + n_bins * bin_size, n_channels, 0),
        )
    return image


def _draw_curves(axes: Sequence[Axes], row: _CurveRow, bin_size: float) -> None:
    """Draw a row with time to the right and a line at zero."""
    axes[0].set_ylabel(row.label, fontsize=NORMAL_FONT)
    time = (np.arange(row.values.shape[1]) + row.first_bin + 0.5) * bin_size
    for ax, trial in zip(axes, row.values, strict=True):
        draw_curves(ax, time, trial)
        ax.axhline(0, color=GREY, linewidth=0.5, zorder=0)


def _legend(
    has_later_bins: bool, has_held_out_channels: bool, has_missing_samples: bool
) -> list[Line2D | Patch]:
    """Return the entries of the legend for what occurs in the figure."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    if has_later_bins:
        handles.append(
            Line2D([], [], color=BOUNDARY_COLOUR, linestyle="--", label="end of encoded bins")
        )
    if has_held_out_channels:
        handles.append(
            Line2D([], [], color=BOUNDARY_COLOUR, linestyle=":", label="held-out channels (below)")
        )
    if has_missing_samples:
        handles.append(Patch(color=MISSING_COLOUR, label="missing samples"))
    return handles
