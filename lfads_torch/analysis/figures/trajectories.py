"""Trajectories: the factors of single trials in their first principal components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from lfads_torch.analysis.figures.arrays import Array, Condition, as_trials, group_by_condition
from lfads_torch.analysis.figures.style import (
    COLOURS,
    GREY,
    LARGE_FONT,
    NORMAL_FONT,
    add_legend_below,
    add_ramp_bar,
    condition_label,
    ramp_colours,
    style_axes,
    time_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


class _Curves(NamedTuple):
    """The curves to draw, one for each trial."""

    points: Array
    """(trials, time, 2 or 3)."""
    names: list[str]
    """The label of the axis of each coordinate."""


class _LineStyle(NamedTuple):
    """How trials and averages are drawn; widths and sizes in points."""

    alpha: float
    trial_width: float
    average_width: float
    average_dot: float


def trajectories(
    factors: ArrayLike,
    cond_idx: ArrayLike | None = None,
    *,
    bin_width: float | None = None,
    title: str = "",
) -> Figure:
    """Draw the factors of each trial in their first principal components.

    Three components are drawn if there are at least three factors, and two if there are two. A
    single factor is drawn over time. The colour shows the condition, and thick lines are averages
    over the trials of a condition; without conditions, the colour shows the number of the trial. A
    dot marks the start of a trial.

    Parameters
    ----------
    factors
        (B, T, fac_dim).
    cond_idx
        (B,) condition of each trial. Trials whose condition is NaN are drawn in grey.
    bin_width
        The width of a bin in seconds, for the time axis of a single factor. By default, time is
        shown in bins.
    title
        The title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    UserError
        If the factors are not of shape (trials, time, fac_dim), or if the number of conditions is
        not the number of trials.
    """
    from matplotlib.figure import Figure

    values = as_trials(factors, "factors")
    n_trials = len(values)
    curves = _factor_over_time(values, bin_width) if values.shape[-1] == 1 else _projected(values)
    conditions = [] if cond_idx is None else group_by_condition(cond_idx, n_trials)
    groups = conditions or [Condition(i, np.array([i])) for i in range(n_trials)]
    is_named = bool(conditions) and len(groups) <= len(COLOURS)  # else the legend would be too long
    colours = COLOURS[: len(groups)] if is_named else ramp_colours(len(groups))
    has_averages = any(len(group.trials) > 1 for group in groups)

    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    ax = _add_axes(figure, curves.names)
    grouped = {int(trial) for group in groups for trial in group.trials}
    for trial in sorted(set(range(n_trials)) - grouped):
        ax.plot(*curves.points[trial].T, color=GREY, linewidth=0.5, alpha=0.4)
    style = _line_style(n_trials, len(groups), has_averages)
    for group, colour in zip(groups, colours, strict=True):
        _draw_group(ax, curves.points[group.trials], colour, style, has_averages)

    labels = [group.label for group in groups] if is_named else []
    add_legend_below(figure, _legend(labels, has_averages))
    if len(groups) > 1 and not is_named:
        limits = _ramp_limits(groups) if conditions else (0.0, n_trials - 1.0)
        add_ramp_bar(figure, ax, limits, "condition" if conditions else "trial")
    figure.suptitle(title, fontsize=LARGE_FONT)
    return figure


def _factor_over_time(values: Array, bin_width: float | None) -> _Curves:
    """Return the time and the value of a single factor (B, T, 1) as coordinates."""
    bin_size, time_label = time_axis(bin_width)
    time = np.broadcast_to((np.arange(values.shape[1]) + 0.5) * bin_size, values.shape[:2])
    return _Curves(np.stack([time, values[..., 0]], axis=-1), [time_label, "factor"])


def _projected(values: Array) -> _Curves:
    """Return the first principal components of factors (B, T, D) as coordinates."""
    points, explained = _principal_components(values, min(3, values.shape[-1]))
    return _Curves(points, [f"PC {i} ({share:.0%})" for i, share in enumerate(explained, 1)])


def _principal_components(values: Array, n_components: int) -> tuple[Array, Array]:
    """Project samples to their first principal components.

    Samples that hold NaN take no part in the analysis, and remain NaN. A component has two
    possible directions: the one whose largest entry is positive is taken. Components beyond the
    number of samples, and all components of samples that do not vary, are zero.

    Parameters
    ----------
    values
        (B, T, D).
    n_components
        The number of components.

    Returns
    -------
    points : array
        (B, T, n_components).
    explained : array
        (n_components,) fraction of the variance that each component explains.
    """
    from sklearn.decomposition import PCA

    samples = values.reshape(-1, values.shape[-1])
    samples = samples[np.isfinite(samples).all(axis=1)]
    mean = np.zeros(values.shape[-1])
    directions = np.zeros((n_components, values.shape[-1]))
    explained = np.zeros(n_components)
    if len(samples):
        mean = samples.mean(axis=0)
    if len(samples) > 1 and np.ptp(samples, axis=0).any():
        n_known = min(n_components, len(samples))
        pca = PCA(n_known, svd_solver="full").fit(samples)
        largest = np.abs(pca.components_).argmax(axis=1)
        signs = np.sign(pca.components_[np.arange(n_known), largest])
        directions[:n_known] = signs[:, None] * pca.components_
        explained[:n_known] = pca.explained_variance_ratio_
    return (values - mean) @ directions.T, explained


def _add_axes(figure: Figure, names: Sequence[str]) -> Axes:
    """Add axes for as many coordinates as there are names, without ticks if there are three."""
    if len(names) == 2:
        ax: Any = figure.add_subplot()
        style_axes(ax)
    else:
        ax = figure.add_subplot(projection="3d")
        for side in (ax.xaxis, ax.yaxis, ax.zaxis):
            side.set_pane_color("#F5F5F5")
            side.set_ticks([])
        ax.grid(False)
        ax.xaxis.labelpad = ax.yaxis.labelpad = -10
        ax.set_box_aspect(None, zoom=1.1)
        ax.set_zlabel(names[2], fontsize=NORMAL_FONT, labelpad=-10)
    ax.set_xlabel(names[0], fontsize=NORMAL_FONT)
    ax.set_ylabel(names[1], fontsize=NORMAL_FONT)
    return ax


def _line_style(n_trials: int, n_groups: int, has_averages: bool) -> _LineStyle:
    """Return how lines are drawn: the more there are, the thinner and the more transparent."""
    if not has_averages:
        return _LineStyle(0.9 if n_trials <= 20 else 0.6, 0.9, 0, 0)
    if n_groups <= len(COLOURS):
        return _LineStyle(0.35, 0.6, 2.0, 5)
    return _LineStyle(0.15, 0.6, 1.2, 4)


def _draw_group(
    ax: Axes, points: Array, colour: Any, style: _LineStyle, has_averages: bool
) -> None:
    """Draw the trials (n, T, 2 or 3) of a group and, if ``has_averages``, their average."""
    for trial in points:
        ax.plot(*trial.T, color=colour, linewidth=style.trial_width, alpha=style.alpha)
        ax.plot(*trial[:1].T, "o", color=colour, markersize=2, alpha=style.alpha)
    if has_averages:
        average = points.mean(axis=0)
        ax.plot(*average.T, color=colour, linewidth=style.average_width)
        ax.plot(*average[:1].T, "o", color=colour, markersize=style.average_dot)


def _ramp_limits(conditions: Sequence[Condition]) -> tuple[float, float]:
    """Return the first and the last number on the colour bar of many conditions."""
    if isinstance(conditions[0].label, str):
        return 0.0, len(conditions) - 1.0
    return float(conditions[0].label), float(conditions[-1].label)


def _legend(labels: Sequence[Any], has_averages: bool) -> list[Line2D]:
    """Return the entries of the legend."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=condition_label(label))
        for label, colour in zip(labels, COLOURS, strict=False)
    ]
    handles.append(Line2D([], [], color=GREY, marker="o", linestyle="", label="start"))
    if has_averages:
        handles.append(Line2D([], [], color=GREY, linewidth=2, label="condition average"))
    return handles
