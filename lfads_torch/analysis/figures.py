"""Figures of what a model infers and of how it trained: arrays in, a matplotlib figure out.

No function here knows a model, a trainer or pyplot, so none changes the state or the backend of
matplotlib, which is imported only when something is drawn. Trials are (trials, time, channels).
"""

from __future__ import annotations

import csv
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lfads_torch.errors import MissingFileError, UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.ticker import MaxNLocator

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Metrics = Mapping[str, tuple[Array, Array]]
"""By name, the epochs at which a metric was logged and its values, each (epochs,)."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that the colour-blind tell apart (Okabe & Ito 2008), yellow left out on white."""

_MARK = "#D55E00"  # where the encoder stops seeing
_MISSING = "#F3DDCB"  # samples that are NaN
_GREY = "#999999"
_SMALL, _NORMAL, _LARGE = 7, 8, 10  # font sizes in points

_LOSS_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("loss", (("train/loss", "train"), ("valid/loss", "valid"))),
    (
        "reconstruction loss",
        (
            ("train/recon", "train"),
            ("valid/recon", "valid"),
            ("valid/recon_smth", "valid, smoothed"),
        ),
    ),
    (
        "bits per spike",
        (
            ("train/bps", "train"),
            ("valid/bps", "valid"),
            ("valid/co_bps", "valid, held-out channels"),
            ("valid/fp_bps", "valid, later bins"),
        ),
    ),
    ("R² of rates", (("train/r2", "train"), ("valid/r2", "valid"))),
    ("KL divergence (weighted)", (("train/wt_kl", "train"), ("valid/wt_kl", "valid"))),
    ("L2 penalty (weighted)", (("train/wt_l2", "train"),)),
)


# ------------------------------------------------------------------ figures


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
    """Draw data, rates and inputs of a few trials, one a column.

    Parameters
    ----------
    data
        (B, T, N) spikes per bin or other data; NaN is marked as missing.
    rates
        (B, T_rec, N) inferred means, in the unit of the data.
    truth
        (B, T_rec - T_ic, N) true rates in the same unit; drawn from bin T_ic on.
    inferred_inputs
        (B, T_rec, co_dim) means of the controller's output; none are drawn if co_dim is 0.
    ext_input
        (B, T_enc - T_ic, D) external inputs; drawn from bin T_ic on.
    n_encod_bins, n_encod_channels
        T_enc and N_enc, marked where the encoder sees less than there is. All, by default.
    bin_width
        Seconds per bin; without it, time is in bins.
    trials
        (B,) numbers of the trials, for their titles; 0, 1, … by default.
    title
        Of the whole figure.
    """
    from matplotlib.figure import Figure

    counts, means = _trials(data, "data"), _trials(rates, "rates")
    true, inferred, external = (_optional(x) for x in (truth, inferred_inputs, ext_input))
    n_trials, n_bins, n_channels = means.shape
    t_enc = n_bins if n_encod_bins is None else n_encod_bins
    n_enc = n_channels if n_encod_channels is None else n_encod_channels
    scale, time_label = _time_axis(bin_width)
    unit = _unit(counts)

    rate_limits = _limits(means, *([] if true is None else [true]), percentile=99.5)
    # A few bursts shall not make single spikes invisible.
    spikes = np.where(counts == 0, np.nan, counts)
    images = [("data", counts, "Greys", _limits(spikes, percentile=99), 0)]
    images.append(("inferred rates", means, "viridis", rate_limits, 0))
    if true is not None:
        offset = n_bins - true.shape[1]
        images.append(("true rates", true, "viridis", rate_limits, offset))
    lines = [("inferred\ninputs", inferred, 0)] if inferred is not None else []
    if external is not None:
        lines.append(("external\ninputs", external, t_enc - external.shape[1]))

    heights = [1.6] * len(images) + [0.9] * len(lines)
    figure = Figure(figsize=(2.4 * n_trials + 1.6, sum(heights) + 0.9), layout="constrained")
    axes = figure.subplots(
        len(heights),
        n_trials,
        squeeze=False,
        sharex=True,
        sharey="row",
        gridspec_kw={"height_ratios": heights},
    )
    shown: list[AxesImage] = []
    for row, (name, values, cmap, limits, offset) in zip(axes, images, strict=False):
        row[0].set_ylabel(f"{name}\nchannel", fontsize=_NORMAL)
        for axis, trial in zip(row, values, strict=True):
            shown.append(_image(axis, trial, cmap, limits, offset * scale, scale))
            if n_enc < n_channels:
                axis.axhline(n_enc, color=_MARK, linestyle=":", linewidth=1)
    for row, (name, values, offset) in zip(axes[len(images) :], lines, strict=True):
        row[0].set_ylabel(name, fontsize=_NORMAL)
        for axis, trial in zip(row, values, strict=True):
            _curves(axis, (np.arange(len(trial)) + offset + 0.5) * scale, trial)
            axis.axhline(0, color=_GREY, linewidth=0.5, zorder=0)
    for axis in axes.flat:
        _clean(axis, whole_x=bin_width is None)
        if t_enc < n_bins:
            axis.axvline(t_enc * scale, color=_MARK, linestyle="--", linewidth=1)
    for axis, number in zip(axes[0], trials or range(n_trials), strict=False):
        axis.set_title(f"trial {number}", fontsize=_NORMAL)
    for axis in axes[-1]:
        axis.set_xlabel(time_label, fontsize=_NORMAL)
        axis.set_xlim(0, n_bins * scale)

    _colourbar(figure, shown[0], axes[0], counts, unit)
    compared = means if true is None else np.concatenate([means.ravel(), true.ravel()])
    _colourbar(figure, shown[n_trials], axes[1 : len(images)].ravel(), compared, unit)
    _raster_legend(figure, t_enc < n_bins, n_enc < n_channels, bool(np.isnan(counts).any()))
    figure.suptitle(title, fontsize=_LARGE)
    return figure


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
    """Draw averages over the trials of each condition: of the data, and of the inferred rates.

    Parameters
    ----------
    data
        (B, T, N) spikes per bin or other data; samples that are NaN are left out of the averages.
    rates
        (B, T_rec, N) inferred means, in the unit of the data.
    cond_idx
        (B,) condition of each trial; trials whose condition is NaN are left out.
    truth
        (B, T_rec - T_ic, N) true rates in the same unit; drawn from bin T_ic on.
    n_channels
        How many channels to draw, those with the highest means.
    channels
        Which ones to draw instead.
    max_conditions
        Draw no more conditions than this (7 at most): those with the most trials.
    smooth_bins
        Standard deviation in bins of the Gaussian that smooths the averaged data, and nothing
        else; 0 for none. By default 1/40 of the trial, at least one bin.
    n_encod_bins, n_encod_channels
        T_enc and N_enc: from there on, bins and channels are held out. None are, by default.
    bin_width
        Seconds per bin; without it, time is in bins.
    title
        Of the whole figure.

    Raises
    ------
    ValueError
        If no trial has a condition, or their numbers differ.
    """
    from matplotlib.figure import Figure

    counts, means, true = _trials(data, "data"), _trials(rates, "rates"), _optional(truth)
    n_bins = means.shape[1]
    labels, members = _conditions(cond_idx, len(counts))
    if not members:
        raise UserError("psth needs the condition of at least one trial, but cond_idx has none.")
    most_trials = np.argsort([-len(group) for group in members], kind="stable")
    kept = sorted(most_trials[: min(max_conditions, len(COLOURS))])
    labels, members = [labels[i] for i in kept], [members[i] for i in kept]
    chosen = list(channels) if channels is not None else _most_active(counts, n_channels)
    width = max(1.0, n_bins / 40) if smooth_bins is None else smooth_bins
    scale, time_label = _time_axis(bin_width)

    smoothed = f"data, smoothed\n(Gaussian, s.d. {width:g} bins)" if width else "data"
    rows = [(smoothed, _averages(counts[..., chosen], members, width), 0)]
    rows.append(("inferred rates", _averages(means[..., chosen], members, 0), 0))
    if true is not None:
        averages = _averages(true[..., chosen], members, 0)
        rows.append(("true rates", averages, n_bins - true.shape[1]))

    figure = Figure(figsize=(1.8 * len(chosen) + 1.2, 1.4 * len(rows) + 1.1), layout="constrained")
    axes = figure.subplots(len(rows), len(chosen), squeeze=False, sharex=True, sharey="col")
    for row, (name, averages, offset) in zip(axes, rows, strict=True):
        row[0].set_ylabel(f"{name}\n{_unit(counts)}", fontsize=_NORMAL)
        time = (np.arange(averages.shape[1]) + offset + 0.5) * scale
        for i, axis in enumerate(row):
            _curves(axis, time, averages[:, :, i].T, linewidth=1.2)
    for axis, channel in zip(axes[0], chosen, strict=True):
        held_out = n_encod_channels is not None and channel >= n_encod_channels
        axis.set_title(f"channel {channel}{' (held out)' if held_out else ''}", fontsize=_NORMAL)
    for axis in axes.flat:
        _clean(axis, whole_x=bin_width is None)
        if n_encod_bins is not None and n_encod_bins < n_bins:
            axis.axvline(n_encod_bins * scale, color=_GREY, linestyle="--", linewidth=0.8)
    for axis in axes[-1]:
        axis.set_xlabel(time_label, fontsize=_NORMAL)
        axis.set_xlim(0, n_bins * scale)
    _psth_legend(figure, labels, members, n_encod_bins is not None and n_encod_bins < n_bins)
    figure.suptitle(title, fontsize=_LARGE)
    return figure


def trajectories(
    factors: ArrayLike,
    cond_idx: ArrayLike | None = None,
    *,
    bin_width: float | None = None,
    title: str = "",
) -> Figure:
    """Draw the factors of each trial in their first principal components.

    Three components are drawn if there are as many factors, or two; a single factor is drawn
    against time. Colour is the condition, and thick lines are averages over a condition's trials;
    without conditions it is the trial. A dot marks where a trial starts.

    Parameters
    ----------
    factors
        (B, T, fac_dim).
    cond_idx
        (B,) condition of each trial; trials whose condition is NaN are grey.
    bin_width
        Seconds per bin, for the time axis of a single factor; without it, time is in bins.
    title
        Of the whole figure.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    values = _trials(factors, "factors")
    n_trials, n_bins, n_factors = values.shape
    scale, time_label = _time_axis(bin_width)
    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    if n_factors == 1:
        time = np.broadcast_to((np.arange(n_bins) + 0.5) * scale, (n_trials, n_bins))
        points, names = np.stack([time, values[..., 0]], -1), [time_label, "factor"]
    else:
        points, explained = _principal_components(values, min(3, n_factors))
        names = [f"PC {i} ({share:.0%})" for i, share in enumerate(explained, 1)]
    if points.shape[-1] == 3:
        axis = _axes_3d(figure)
        axis.set_zlabel(names[2], fontsize=_NORMAL, labelpad=-10)  # type: ignore[attr-defined]
    else:
        axis = figure.add_subplot()
        _clean(axis)
    axis.set_xlabel(names[0], fontsize=_NORMAL)
    axis.set_ylabel(names[1], fontsize=_NORMAL)

    labels, members = ([], []) if cond_idx is None else _conditions(cond_idx, n_trials)
    by_condition = bool(members)
    groups = members if by_condition else [np.array([i]) for i in range(n_trials)]
    few = len(groups) <= len(COLOURS)
    ramp = colormaps["viridis"](np.linspace(0, 0.95, len(groups)))
    colours = list(COLOURS[: len(groups)]) if few and by_condition else list(ramp)
    for trial in sorted(set(range(n_trials)) - {int(i) for group in groups for i in group}):
        axis.plot(*points[trial].T, color=_GREY, linewidth=0.5, alpha=0.4)
    averaged = any(len(group) > 1 for group in groups)
    if averaged:
        alpha, thin, thick, dot = (0.35, 0.6, 2.0, 5) if few else (0.15, 0.6, 1.2, 4)
    else:
        alpha, thin = (0.9 if n_trials <= 20 else 0.6), 0.9
    for group, colour in zip(groups, colours, strict=True):
        for trial in points[group]:
            axis.plot(*trial.T, color=colour, linewidth=thin, alpha=alpha)
            axis.plot(*trial[:1].T, "o", color=colour, markersize=2, alpha=alpha)
        if averaged:
            mean = points[group].mean(axis=0)
            axis.plot(*mean.T, color=colour, linewidth=thick)
            axis.plot(*mean[:1].T, "o", color=colour, markersize=dot)
    _trajectories_legend(figure, colours, labels if by_condition and few else [], averaged)
    if len(groups) > 1 and not (by_condition and few):
        numeric = by_condition and not isinstance(labels[0], str)
        ends = (float(labels[0]), float(labels[-1])) if numeric else (0.0, len(groups) - 1.0)
        _ramp_bar(figure, axis, ends, "condition" if by_condition else "trial")
    figure.suptitle(title, fontsize=_LARGE)
    return figure


def losses(metrics: Metrics, *, title: str = "") -> Figure:
    """Draw how the loss, its terms and further metrics went over training.

    Parameters
    ----------
    metrics
        What :func:`read_metrics` returns. Metrics that are absent or never finite are left out.
    title
        Of the whole figure.
    """
    from matplotlib.figure import Figure

    rates = [
        (name, name.removeprefix("lr-"))
        for name in metrics
        if name.startswith("lr-") and not name.endswith(("-momentum", "-weight_decay"))
    ]
    panels = []
    for label, curves in (*_LOSS_PANELS, ("learning rate", tuple(rates))):
        known = [(name, curve) for name, curve in curves if name in metrics]
        finite = tuple(pair for pair in known if np.isfinite(metrics[pair[0]][1]).any())
        if finite:
            panels.append((label, finite))
    if not panels:
        figure = Figure(figsize=(4, 3), layout="constrained")
        figure.text(0.5, 0.5, "no metrics yet", ha="center", va="center", fontsize=_LARGE)
        return figure

    n_columns = min(3 if len(panels) <= 6 else 4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(2.8 * n_columns, 2.2 * n_rows + 0.2))
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    last = max(metrics[name][0].max() for _, curves in panels for name, _ in curves)
    for axis, (label, curves) in zip(axes.flat, panels, strict=False):
        for (name, curve), colour in zip(curves, COLOURS, strict=False):
            epochs, values = metrics[name]
            if name == "valid/recon_smth" and np.isfinite(values).any():
                best = np.nanargmin(values)
                curve += f" (best: {epochs[best]:g})"
                axis.plot(
                    epochs[best], values[best], "o", color=colour, markeredgecolor="white", zorder=3
                )
            marker = "o" if len(epochs) == 1 else None
            axis.plot(epochs, values, color=colour, linewidth=1.1, marker=marker, label=curve)
        _focus(axis, [metrics[name][1] for name, _ in curves])
        _clean(axis, whole_x=True)
        axis.set_xlabel("epoch", fontsize=_NORMAL)
        axis.set_ylabel(label, fontsize=_NORMAL)
        axis.set_xlim(-0.02 * last - 0.5, 1.02 * last + 0.5)
        if label != "learning rate" or len(curves) > 1:
            axis.legend(fontsize=_SMALL, framealpha=0.6, edgecolor="none", handlelength=1.2)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.align_ylabels()
    figure.suptitle(title, fontsize=_LARGE)
    return figure


# ------------------------------------------------------------------ files


def save_figure(figure: Figure, path: str | Path, dpi: int = 150) -> None:
    """Write a figure as a PNG; the file is whole at any time, and its folder is made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(unfinished, format="png", dpi=dpi)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_metrics(csv_path: str | Path) -> dict[str, tuple[Array, Array]]:
    """Read the metrics that Lightning's CSVLogger wrote, also while it is still writing them.

    Parameters
    ----------
    csv_path
        A ``metrics.csv``. A last line that is incomplete is left out.

    Returns
    -------
    dict of str to tuple of array
        By metric, the epochs at which it was logged (from 0, ascending) and its values. Where an
        epoch has several values, as when a resumed run repeats it, the last one counts. Rows
        without an epoch, like those of the learning rate, get theirs from their step.
    """
    text = Path(csv_path).read_text(errors="replace")
    complete = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(complete.splitlines()))
    steps, epochs = [], []
    for row in rows:
        step, epoch = _number(row.get("step")), _number(row.get("epoch"))
        if step is not None and epoch is not None:
            steps.append(step)
            epochs.append(epoch)
    # The last step of each epoch says which epoch a step belongs to.
    last_steps = {epoch: step for step, epoch in sorted(zip(steps, epochs, strict=True))}
    known = sorted(last_steps)
    ends = np.array([last_steps[epoch] for epoch in known])
    found: dict[str, dict[float, float]] = {}
    for row in rows:
        epoch = _number(row.get("epoch"))
        if epoch is None:
            i = int(np.searchsorted(ends, _number(row.get("step")) or 0))
            epoch = known[i] if i < len(known) else (known[-1] + 1 if known else 0.0)
        for name, cell in row.items():
            value = _number(cell) if name not in (None, "epoch", "step") else None
            if value is not None:
                found.setdefault(name, {})[epoch] = value
    return {
        name: (np.array(sorted(values)), np.array([values[epoch] for epoch in sorted(values)]))
        for name, values in found.items()
    }


def trial_conditions(cond_idx: Any, n_trials: int) -> Array | None:
    """Return the condition of each trial (n_trials,), whichever way the data give it.

    Parameters
    ----------
    cond_idx
        A label for each trial; or, as in files of the Neural Latents Benchmark, for each condition
        the indices of its trials. None if there are no conditions.
    n_trials
        How many trials there are.

    Returns
    -------
    array or None
        The labels, or the numbers of the conditions, NaN for trials that are in none. None if
        there are no conditions.

    Raises
    ------
    ValueError
        If there are more or fewer labels than trials, or indices of trials that do not exist.
    """
    if cond_idx is None:
        return None
    entries = [entry.decode() if isinstance(entry, bytes) else entry for entry in cond_idx]
    if all(np.size(entry) == 1 for entry in entries) and len(entries) == n_trials:
        return np.array([np.ravel(entry)[0] for entry in entries])
    if any(np.ndim(entry) != 1 for entry in entries):
        raise UserError(
            f"cond_idx must have a label for each of the {n_trials} trials, or for each condition "
            f"the indices of its trials, but it has {len(entries)} labels."
        )
    labels = np.full(n_trials, np.nan)
    for condition, trials in enumerate(entries):
        indices = np.asarray(trials, dtype=int)
        if indices.size and not 0 <= indices.min() <= indices.max() < n_trials:
            raise UserError(
                f"cond_idx says that condition {condition} has trial {indices.max()}, but the "
                f"{n_trials} trials are numbered from 0."
            )
        labels[indices] = condition
    return labels


def plot_run(run_dir: str | Path) -> list[Path]:
    """Draw the final figures of a run from the files in its folder.

    They go to ``plots/``: ``losses.png`` from ``csv_logs/metrics.csv``, and ``raster_valid``,
    ``psth_valid`` (if the data have conditions) and ``trajectories_valid`` ``_sess{S}.png`` from
    each ``lfads_output_sess{S}.h5``. Files that are absent are passed over, and a figure that
    fails is logged as a warning.

    Returns
    -------
    list of Path
        The figures drawn.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise MissingFileError(f"plot_run draws the figures of a run's folder: {run_dir} is none.")
    drawn: list[Path] = []

    def draw(name: str, make: Callable[[], Figure | None]) -> None:
        path = run_dir / "plots" / f"{name}.png"
        try:
            figure = make()
            if figure is not None:
                save_figure(figure, path)
                drawn.append(path)
        except Exception:  # a figure is not worth a run
            logger.warning("%s could not be drawn:", path, exc_info=True)

    metrics = run_dir / "csv_logs" / "metrics.csv"
    if metrics.exists():
        draw("losses", lambda: losses(read_metrics(metrics)))
    for session, output in sorted(_output_files(run_dir).items()):
        for kind, make in _FROM_OUTPUT.items():
            draw(f"{kind}_valid_sess{session}", partial(make, output))
    return drawn


def _output_files(run_dir: Path) -> dict[int, Path]:
    matches = {path: re.search(r"_sess(\d+)\.h5$", path.name) for path in run_dir.glob("*.h5")}
    return {
        int(match[1]): path
        for path, match in matches.items()
        if match and path.name.startswith("lfads_output")
    }


def _read_trials(path: Path, max_trials: int | None) -> dict[str, Any]:
    """Read arrays of some validation trials; absent ones are None."""
    with h5py.File(path) as file:
        n_trials = len(file["valid_output_params"])
        chosen = spread(n_trials, max_trials)

        def read(name: str) -> Array | None:
            # Chosen in memory: h5py cannot choose from arrays without channels.
            return file[f"valid_{name}"][()][chosen] if f"valid_{name}" in file else None

        arrays = {
            name: read(name)
            for name in ("encod_data", "recon_data", "output_params", "factors", "co_means")
        }
        arrays |= {"ext_input": read("ext_input"), "truth": read("truth")}
        if arrays["truth"] is not None and "conversion_factor" in file:
            arrays["truth"] = arrays["truth"] / file["conversion_factor"][()]
        cond_idx = file["valid_cond_idx"][()] if "valid_cond_idx" in file else None
        arrays["data"] = arrays["recon_data"]
        if arrays["data"] is None:
            arrays["data"] = arrays["encod_data"]
    labels = trial_conditions(cond_idx, n_trials)
    return {
        **arrays,
        "trials": chosen.tolist(),
        "labels": None if labels is None else labels[chosen],
    }


def _raster_of_output(path: Path) -> Figure:
    arrays = _read_trials(path, 3)
    return raster(
        arrays["data"],
        arrays["output_params"],
        truth=arrays["truth"],
        inferred_inputs=arrays["co_means"],
        ext_input=arrays["ext_input"],
        trials=arrays["trials"],
        **encoded_part(arrays["encod_data"]),
    )


def _psth_of_output(path: Path) -> Figure | None:
    arrays = _read_trials(path, None)
    if arrays["labels"] is None:
        return None
    return psth(
        arrays["data"],
        arrays["output_params"],
        arrays["labels"],
        truth=arrays["truth"],
        **encoded_part(arrays["encod_data"]),
    )


def _trajectories_of_output(path: Path) -> Figure:
    arrays = _read_trials(path, 200)
    return trajectories(arrays["factors"], arrays["labels"])


_FROM_OUTPUT: dict[str, Callable[[Path], Figure | None]] = {
    "raster": _raster_of_output,
    "psth": _psth_of_output,
    "trajectories": _trajectories_of_output,
}


def spread(n_trials: int, max_trials: int | None) -> Array:
    """Return the indices of at most ``max_trials`` trials, evenly spread over all."""
    n_chosen = n_trials if max_trials is None else min(n_trials, max_trials)
    return np.linspace(0, n_trials - 1, n_chosen).round().astype(int)


def encoded_part(encod_data: Any) -> dict[str, Any]:
    """Return T_enc and N_enc of encoded data (B, T_enc, N_enc) as arguments of the figures."""
    if encod_data is None:
        return {}
    return {"n_encod_bins": encod_data.shape[1], "n_encod_channels": encod_data.shape[2]}


# ------------------------------------------------------------------ numbers


def _trials(values: ArrayLike, name: str) -> Array:
    array = np.asarray(values, dtype=float)
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"{name} must be (trials, time, channels), but its shape is {array.shape}.")
    return array


def _optional(values: ArrayLike | None) -> Array | None:
    """Return None for what is absent or empty."""
    return None if values is None or np.size(values) == 0 else np.asarray(values, dtype=float)


def _number(cell: str | None) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        return None


def _time_axis(bin_width: float | None) -> tuple[float, str]:
    return (1.0, "time (bins)") if bin_width is None else (bin_width, "time (s)")


def _is_counts(values: Array) -> bool:
    finite = values[np.isfinite(values)]
    return bool((finite >= 0).all() and (finite == finite.round()).all())


def _unit(data: Array) -> str:
    return "spikes per bin" if _is_counts(data) else "data units"


def _limits(*arrays: Array, percentile: float = 100) -> tuple[float, float]:
    """Return the ends of a colour scale: from 0, or the lowest value if that is negative."""
    finite = np.concatenate([array[np.isfinite(array)] for array in arrays])
    if not finite.size:
        return 0.0, 1.0
    low, high = min(0.0, float(finite.min())), float(np.percentile(finite, percentile))
    return low, high if high > low else low + 1.0


def _conditions(cond_idx: ArrayLike, n_trials: int) -> tuple[list[Any], list[Array]]:
    """Return the conditions, sorted, and the indices of the trials of each."""
    labels = np.asarray(cond_idx)
    if labels.shape != (n_trials,):
        raise UserError(
            f"cond_idx needs one label for each of the {n_trials} trials, but its shape is "
            f"{labels.shape}."
        )
    known = np.unique(labels[~np.isnan(labels)] if labels.dtype.kind == "f" else labels)
    return known.tolist(), [np.flatnonzero(labels == label) for label in known]


def _most_active(data: Array, n_channels: int) -> list[int]:
    observed = np.isfinite(data)
    totals = np.where(observed, data, 0).sum(axis=(0, 1))
    means = totals / np.maximum(observed.sum(axis=(0, 1)), 1)
    return sorted(np.argsort(-means, kind="stable")[: max(n_channels, 1)].tolist())


def _averages(data: Array, members: Sequence[Array], smooth_bins: float) -> Array:
    """Average (B, T, N) over groups of trials and smooth over time: (groups, T, N).

    Missing samples are left out, in the average and in the smoothing.
    """
    observed = np.isfinite(data)
    filled = np.where(observed, data, 0)
    totals = np.stack([filled[group].sum(axis=0) for group in members])
    numbers = np.stack([observed[group].sum(axis=0) for group in members]).astype(float)
    if smooth_bins > 0:
        bins = np.arange(data.shape[1])
        kernel = np.exp(-0.5 * ((bins[:, None] - bins) / smooth_bins) ** 2)
        totals, numbers = kernel @ totals, kernel @ numbers
    with np.errstate(invalid="ignore"):
        return np.where(numbers > 0, totals / np.where(numbers > 0, numbers, 1), np.nan)


def _principal_components(values: Array, n_components: int) -> tuple[Array, Array]:
    """Project (B, T, D) to (B, T, n_components); also return the variance explained by each."""
    samples = values.reshape(-1, values.shape[-1])
    samples = samples[np.isfinite(samples).all(axis=1)]
    mean = samples.mean(axis=0) if len(samples) else np.zeros(values.shape[-1])
    variances, directions = np.linalg.eigh((samples - mean).T @ (samples - mean))
    variances, directions = variances[::-1].clip(min=0), directions[:, ::-1]
    # Of the two directions of an axis, take the one whose largest entry is positive.
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(len(largest))])
    explained = variances[:n_components] / max(variances.sum(), np.finfo(float).tiny)
    return (values - mean) @ directions[:, :n_components], explained


# ------------------------------------------------------------------ pieces of figures


def _ticks(whole: bool = False) -> MaxNLocator:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4, steps=[1, 2, 5, 10], integer=whole, min_n_ticks=1 if whole else 3)


def _clean(axis: Axes, whole_x: bool = False) -> None:
    from matplotlib.ticker import ScalarFormatter

    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=_SMALL, length=2.5)
    axis.xaxis.set_major_locator(_ticks(whole_x))
    axis.yaxis.set_major_locator(_ticks(whole=bool(axis.images)))
    numbers = ScalarFormatter(useMathText=True, useOffset=False)
    numbers.set_powerlimits((-2, 4))
    axis.yaxis.set_major_formatter(numbers)
    axis.yaxis.get_offset_text().set_fontsize(_SMALL)


def _image(
    axis: Axes, trial: Array, cmap: str, limits: tuple[float, float], start: float, scale: float
) -> AxesImage:
    """Draw (T, N) with time to the right and channels downwards."""
    n_bins, n_channels = trial.shape
    fits = n_bins <= 250 and n_channels <= 200  # in the pixels there are
    return axis.imshow(
        trial.T,
        aspect="auto",
        interpolation="nearest" if fits else "antialiased",
        cmap=_colour_map(cmap),
        vmin=limits[0],
        vmax=limits[1],
        extent=(start, start + n_bins * scale, n_channels, 0),
    )


def _colour_map(name: str) -> Colormap:
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=_MISSING)


def _curves(axis: Axes, time: Array, values: Array, linewidth: float = 0.9) -> None:
    """Draw each column of (T, N) over time (T,)."""
    marker = "o" if len(time) == 1 else None
    for i, curve in enumerate(values.T):
        colour = COLOURS[i % len(COLOURS)]
        axis.plot(time, curve, color=colour, linewidth=linewidth, marker=marker, markersize=3)


def _colourbar(
    figure: Figure, image: AxesImage, axes: Sequence[Axes] | Array, values: Array, unit: str
) -> None:
    high = image.get_clim()[1]
    beyond = high is not None and bool((values > high).any())
    bar = figure.colorbar(
        image, ax=list(axes), extend="max" if beyond else "neither", aspect=12, pad=0.02
    )
    bar.locator = _ticks(whole=_is_counts(values))
    bar.update_ticks()
    bar.set_label(unit, fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_SMALL, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _raster_legend(figure: Figure, bins: bool, channels: bool, missing: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Line2D | Patch] = []
    if bins:
        handles.append(Line2D([], [], color=_MARK, linestyle="--", label="end of encoded bins"))
    if channels:
        handles.append(
            Line2D([], [], color=_MARK, linestyle=":", label="held-out channels (below)")
        )
    if missing:
        handles.append(Patch(color=_MISSING, label="missing samples"))
    _outside_legend(figure, handles)


def _psth_legend(
    figure: Figure, labels: Sequence[Any], members: Sequence[Array], later_bins: bool
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=f"{_label(label)} (n = {len(group)})")
        for label, group, colour in zip(labels, members, COLOURS, strict=False)
    ]
    if later_bins:
        handles.append(Line2D([], [], color=_GREY, linestyle="--", label="end of encoded bins"))
    _outside_legend(figure, handles)


def _trajectories_legend(
    figure: Figure, colours: Sequence[Any], labels: Sequence[Any], averages: bool
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=_label(label))
        for label, colour in zip(labels, colours, strict=False)
    ]
    handles.append(Line2D([], [], color=_GREY, marker="o", linestyle="", label="start"))
    if averages:
        handles.append(Line2D([], [], color=_GREY, linewidth=2, label="condition average"))
    _outside_legend(figure, handles)


def _label(condition: Any) -> str:
    return f"condition {condition if isinstance(condition, str) else format(condition, 'g')}"


def _outside_legend(figure: Figure, handles: Sequence[Any]) -> None:
    if handles:
        figure.legend(
            handles=list(handles),
            loc="outside lower center",
            ncols=min(len(handles), 4),
            fontsize=_SMALL,
            frameon=False,
        )


def _axes_3d(figure: Figure) -> Axes:
    axis: Any = figure.add_subplot(projection="3d")
    for side in (axis.xaxis, axis.yaxis, axis.zaxis):
        side.set_pane_color("#F5F5F5")
        side.set_ticks([])
    axis.grid(False)
    axis.xaxis.labelpad = axis.yaxis.labelpad = -10
    axis.set_box_aspect(None, zoom=1.1)
    return axis


def _ramp_bar(figure: Figure, axis: Axes, ends: tuple[float, float], label: str) -> None:
    """Draw the bar of the colours that number many conditions or trials."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    cmap = ListedColormap(colormaps["viridis"](np.linspace(0, 0.95, 256)))
    bar = figure.colorbar(
        ScalarMappable(Normalize(*ends), cmap), ax=axis, shrink=0.6, aspect=25, pad=0.12
    )
    bar.locator = _ticks(whole=True)
    bar.update_ticks()
    bar.set_label(label, fontsize=_NORMAL)
    bar.ax.tick_params(labelsize=_SMALL, length=2)
    bar.outline.set_visible(False)  # type: ignore[operator]


def _focus(axis: Axes, curves: Sequence[Array]) -> None:
    """Let the few extreme values of the first epochs leave the axes where they would flatten it."""
    values = np.concatenate([curve[np.isfinite(curve)] for curve in curves])
    low, high = np.percentile(values, [3, 97])
    margin = 0.05 * (high - low)
    if margin == 0:
        return
    if values.max() > high + (high - low):
        axis.set_ylim(top=high + 5 * margin)
    if values.min() < low - (high - low):
        axis.set_ylim(bottom=low - 5 * margin)
