"""The final figures of a run, drawn from the files in its folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lfads_torch.analysis.figures.arrays import Array, encoded_sizes, evenly_spaced_trials
from lfads_torch.analysis.figures.losses import losses
from lfads_torch.analysis.figures.metrics_csv import read_metrics
from lfads_torch.analysis.figures.psth import psth
from lfads_torch.analysis.figures.raster import raster
from lfads_torch.analysis.figures.saving import save_figure
from lfads_torch.analysis.figures.trajectories import trajectories
from lfads_torch.data.conditions import trial_conditions
from lfads_torch.data.hdf5 import open_hdf5
from lfads_torch.errors import MissingFileError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def plot_run(run_dir: str | Path) -> list[Path]:
    """Draw the final figures of a run from the files in its folder.

    The figures are written to ``plots/``: ``losses.png`` from ``csv_logs/metrics.csv``, and from
    each ``lfads_output_sess{S}.h5`` ``raster_valid_sess{S}.png``, ``psth_valid_sess{S}.png`` (if
    the data have conditions) and ``trajectories_valid_sess{S}.png``. Files
    that do not exist. If a figure fails, this is logged as a warning, and the others are drawn.

    Parameters
    ----------
    run_dir
        The folder of the run.

    Returns
    -------
    list of Path
        The files of the figures.

    Raises
    ------
    MissingFileError
        If the folder does not exist.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise MissingFileError(
            f"plot_run draws figures of the folder of a run, but there is no folder {run_dir}."
        )
    figures: dict[str, Callable[[], Figure | None]] = {}
    metrics = run_dir / "csv_logs" / "metrics.csv"
    if metrics.exists():
        figures["losses"] = lambda: losses(read_metrics(metrics))
    for session, output in sorted(_output_files(run_dir).items()):
        figures[f"raster_valid_sess{session}"] = partial(_draw_raster, output)
        figures[f"psth_valid_sess{session}"] = partial(_draw_psth, output)
        figures[f"trajectories_valid_sess{session}"] = partial(_draw_trajectories, output)

    written = []
    for name, draw in figures.items():
        path = run_dir / "plots" / f"{name}.png"
        try:
            figure = draw()
            if figure is not None:
                save_figure(figure, path)
                written.append(path)
        except Exception:  # An error in a figure must not stop the run.
            logger.warning("%s could not be drawn:", path, exc_info=True)
    return written


def _output_files(run_dir: Path) -> dict[int, Path]:
    """Return the file with the output of each session."""
    matches = {path: re.search(r"_sess(\d+)\.h5$", path.name) for path in run_dir.glob("*.h5")}
    return {
        int(match[1]): path
        for path, match in matches.items()
        if match and path.name.startswith("lfads_output")
    }


class _ValidationTrials(NamedTuple):
    """Some validation trials of an output file; arrays that it does not have are None."""

    numbers: list[int]
    """The indices of the trials among all validation trials."""
    encod_data: Array | None
    """(B, T_enc, N_enc)."""
    data: Array | None
    """(B, T, N) data to reconstruct, or the encoded data if there are no others."""
    rates: Array
    """(B, T_rec, N)."""
    factors: Array | None
    """(B, T_rec, fac_dim)."""
    inferred_inputs: Array | None
    """(B, T_rec, co_dim)."""
    ext_input: Array | None
    """(B, T_enc - T_ic, D)."""
    truth: Array | None
    """(B, T_rec - T_ic, N) in the unit of the rates."""
    conditions: Array | None
    """(B,)."""


def _read_trials(path: Path, max_trials: int | None = None) -> _ValidationTrials:
    """Read at most ``max_trials`` validation trials, evenly spaced over all of them."""
    with open_hdf5(path) as file:
        n_trials = len(file["valid_output_params"])
        chosen = evenly_spaced_trials(n_trials, max_trials)

        def read(name: str) -> Array | None:
            # Whole arrays are read first, since h5py cannot index arrays that have no channels.
            return file[f"valid_{name}"][()][chosen] if f"valid_{name}" in file else None

        encod_data, recon_data, truth = read("encod_data"), read("recon_data"), read("truth")
        if truth is not None and "conversion_factor" in file:
            truth = truth / file["conversion_factor"][()]
        cond_idx = file["valid_cond_idx"][()] if "valid_cond_idx" in file else None
        conditions = trial_conditions(cond_idx, n_trials)
        return _ValidationTrials(
            numbers=chosen.tolist(),
            encod_data=encod_data,
            data=encod_data if recon_data is None else recon_data,
            rates=file["valid_output_params"][()][chosen],
            factors=read("factors"),
            inferred_inputs=read("co_means"),
            ext_input=read("ext_input"),
            truth=truth,
            conditions=None if conditions is None else conditions[chosen],
        )


def _draw_raster(path: Path) -> Figure | None:
    """Return None if the file does not hold the data."""
    trials = _read_trials(path, max_trials=3)
    if trials.data is None:
        return None
    return raster(
        trials.data,
        trials.rates,
        truth=trials.truth,
        inferred_inputs=trials.inferred_inputs,
        ext_input=trials.ext_input,
        trials=trials.numbers,
        **encoded_sizes(trials.encod_data),
    )


def _draw_psth(path: Path) -> Figure | None:
    """Return None if the file does not hold the data, or the data have no conditions."""
    trials = _read_trials(path)
    if trials.data is None or trials.conditions is None:
        return None
    return psth(
        trials.data,
        trials.rates,
        trials.conditions,
        truth=trials.truth,
        **encoded_sizes(trials.encod_data),
    )


def _draw_trajectories(path: Path) -> Figure | None:
    """Return None if the file does not hold the factors."""
    trials = _read_trials(path, max_trials=200)
    if trials.factors is None:
        return None
    return trajectories(trials.factors, trials.conditions)
