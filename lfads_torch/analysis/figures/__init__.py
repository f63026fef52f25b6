"""Figures of what a model infers and of how it was trained.

Each function takes arrays and returns a matplotlib figure. Trials are (trials, time, channels). No
function depends on a model, a trainer or pyplot, so none changes the state or the backend of
matplotlib, which is imported only when something is drawn.
"""

from lfads_torch.analysis.figures.arrays import encoded_sizes, evenly_spaced_trials
from lfads_torch.analysis.figures.losses import losses
from lfads_torch.analysis.figures.metrics_csv import Metrics, read_metrics
from lfads_torch.analysis.figures.psth import psth
from lfads_torch.analysis.figures.raster import raster
from lfads_torch.analysis.figures.run_figures import plot_run
from lfads_torch.analysis.figures.saving import save_figure
from lfads_torch.analysis.figures.style import COLOURS
from lfads_torch.analysis.figures.trajectories import trajectories

__all__ = [
    "COLOURS",
    "Metrics",
    "encoded_sizes",
    "evenly_spaced_trials",
    "losses",
    "plot_run",
    "psth",
    "raster",
    "read_metrics",
    "save_figure",
    "trajectories",
]
