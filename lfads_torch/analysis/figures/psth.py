"""Averages over the trials of each condition (peri-stimulus time histograms, PSTHs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lfads_torch.analysis.figures.arrays import (
    Array,
    Condition,
    as_optional_array,
    as_trials,
    group_by_condition,
    unit_of,
)
from lfads_torch.analysis.figures.style import (
    COLOURS,
    GREY,
    LARGE_FONT,
    NORMAL_FONT,
    add_legend_below,
    condition_label,
    draw_curves,
    style_axes,
    time_axis,
)
from lfads_torch.data.smoothing import smooth
from lfads_torch.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


class _Row(NamedTuple):
    """A row of axes, one for each channel."""

    label: str
    averages: Array
    """(conditions, time, channels)."""
    first_bin: int
    """The bin at which the averages start."""


def psth(
    data: ArrayLike,
    rates: ArrayLike,
    cond_idx: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    n_channels: int = 5,
    channels: Sequence[int] | None = None,
    max_conditions: int = 6,
    smooth_bins: float | None = None,
    n_encod_bins: int | None = None,
    n_encod_channels: int | None = None,
    bin_width: float | None = None,
    title: str = "",
) -> Figure:
    """Draw the averages of data and of inferred rates over the trials of each condition.

    Parameters
    ----------
    data
        (B, T, N) spikes per bin or other data. Missing samples (NaN) are left out of the averages.
    rates
        (B, T_rec, N) inferred means, in the unit of the data.
    cond_idx
        (B,) condition of each trial. Trials whose condition is NaN are left out.
    truth
        (B, T_rec - T_ic, N) true rates in the same unit, which start at bin T_ic.
    n_channels
        Draw this number of channels, namely those with the highest means.
    channels
        The indices of the channels to draw instead.
    max_conditions
        Draw at most this number of conditions (and at most 7), namely those with most trials.
    smooth_bins
        Standard deviation, in bins, of the Gaussian that smooths the averaged data (only the data);
        0 does not smooth. By default it is 1/40 of the trial, and at least one bin.
    n_encod_bins, n_encod_channels
        T_enc and N_enc: later bins and further channels are held out from the encoder. By default
        none are.
    bin_width
        The width of a bin in seconds. By default, time is shown in bins.
    title
        The title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    UserError
        If no trial has a condition, if the number of labels is not the number of trials, if
        ``smooth_bins`` is negative, or if data or rates are not of shape (trials, time, channels).
    """
    from matplotlib.figure import Figure

    counts, means = as_trials(data, "data"), as_trials(rates, "rates")
    n_bins = means.shape[1]
    has_later_bins = n_encod_bins is not None and n_encod_bins < n_bins
    conditions = _most_frequent(group_by_condition(cond_idx, len(counts)), max_conditions)
    if not conditions:
        raise UserError("psth needs the condition of at least one trial, but cond_idx has none.")
    chosen = list(channels) if channels is not None else _most_active(counts, n_channels)
    width = max(1.0, n_bins / 40) if smooth_bins is None else smooth_bins
    if width < 0:
        raise UserError(f"psth: smooth_bins must be at least 0, but is {smooth_bins}.")
    rows = _rows(counts, means, as_optional_array(truth), conditions, chosen, width)
    bin_size, time_label = time_axis(bin_width)

    figure = Figure(figsize=(1.8 * len(chosen) + 1.2, 1.4 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots(len(rows), len(chosen), squeeze=False, sharex=True, sharey="col")
    for row_axes, row in zip(axes, rows, strict=True):
        row_axes[0].set_ylabel(f"{row.label}\n{unit_of(counts)}", fontsize=NORMAL_FONT)
        time = (np.arange(row.averages.shape[1]) + row.first_bin + 0.5) * bin_size
        for i, ax in enumerate(row_axes):
            draw_curves(ax, time, row.averages[:, :, i].T, linewidth=1.2)
    for ax, channel in zip(axes[0], chosen, strict=True):
        held_out = n_encod_channels is not None and channel >= n_encod_channels
        ax.set_title(f"channel {channel}{' (held out)' if held_out else ''}", fontsize=NORMAL_FONT)
    for ax in axes.flat:
        style_axes(ax, integer_x=bin_width is None)
        if n_encod_bins is not None and has_later_bins:
            ax.axvline(n_encod_bins * bin_size, color=GREY, linestyle="--", linewidth=0.8)
    for ax in axes[-1]:
        ax.set_xlabel(time_label, fontsize=NORMAL_FONT)
        ax.set_xlim(0, n_bins * bin_size)
    add_legend_below(figure, _legend(conditions, has_later_bins))
    figure.suptitle(title, fontsize=LARGE_FONT)
    return figure


def _most_frequent(conditions: Sequence[Condition], max_conditions: int) -> list[Condition]:
    """Return the conditions with most trials, sorted by their labels as before."""
    by_frequency = np.argsort([-len(condition.trials) for condition in conditions], kind="stable")
    chosen = by_frequency[: min(max_conditions, len(COLOURS))]
    return [conditions[i] for i in sorted(chosen)]


def _most_active(data: Array, n_channels: int) -> list[int]:
    """Return the sorted indices of the channels with the highest means."""
    observed = np.isfinite(data)
    totals = np.where(observed, data, 0).sum(axis=(0, 1))
    means = totals / np.maximum(observed.sum(axis=(0, 1)), 1)
    return sorted(np.argsort(-means, kind="stable")[: max(n_channels, 1)].tolist())


def _rows(
    counts: Array,
    means: Array,
    true: Array | None,
    conditions: Sequence[Condition],
    channels: Sequence[int],
    smooth_bins: float,
) -> list[_Row]:
    """Return the rows of the data, of the rates, and of the true rates if they are known."""
    label = f"data, smoothed\n(Gaussian, s.d. {smooth_bins:g} bins)" if smooth_bins else "data"
    rows = [
        _Row(label, _averages(counts[..., channels], conditions, smooth_bins), 0),
        _Row("inferred rates", _averages(means[..., channels], conditions), 0),
    ]
    if true is not None:
        first_bin = means.shape[1] - true.shape[1]
        rows.append(_Row("true rates", _averages(true[..., channels], conditions), first_bin))
    return rows


def _averages(data: Array, conditions: Sequence[Condition], smooth_bins: float = 0) -> Array:
    """Average (B, T, N) over the trials of each condition, and smooth over time.

    Missing samples, and bins before and after the trial, have no weight: the smoothed sum of the
    observed samples is divided by the smoothed number of them. The result is NaN where no sample
    within reach of the Gaussian was observed.

    Parameters
    ----------
    data
        (B, T, N).
    conditions
        The trials of each condition.
    smooth_bins
        Standard deviation of the Gaussian in bins; 0 does not smooth.

    Returns
    -------
    array
        (conditions, T, N).
    """
    observed = np.isfinite(data)
    filled = np.where(observed, data, 0)
    totals = np.stack([filled[condition.trials].sum(axis=0) for condition in conditions])
    numbers = np.stack([observed[condition.trials].sum(axis=0) for condition in conditions])
    totals = smooth(totals, smooth_bins, axis=1, mode="constant")
    numbers = smooth(numbers.astype(float), smooth_bins, axis=1, mode="constant")
    return np.where(numbers > 0, totals / np.where(numbers > 0, numbers, 1), np.nan)


def _legend(conditions: Sequence[Condition], has_later_bins: bool) -> list[Line2D]:
    """Return the entries of the legend: the conditions with their numbers of trials."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=f"{condition_label(label)} (n = {len(trials)})")
        for (label, trials), colour in zip(conditions, COLOURS, strict=False)
    ]
    if has_later_bins:
        handles.append(Line2D([], [], color=GREY, linestyle="--", label="end of encoded bins"))
    return handles
