"""The published names of the callbacks, which configurations use."""

from lfads_torch.running.callbacks import (
    ApplyHyperparameters,
    EarlyStoppingWithBurnInPeriod,
    EpochHistory,
    EpochSeed,
    FigureCallback,
    LastCheckpoint,
    LossPlot,
    PSTHPlot,
    RasterPlot,
    Stopwatch,
    TrajectoryPlot,
)

__all__ = [
    "ApplyHyperparameters",
    "EarlyStoppingWithBurnInPeriod",
    "EpochHistory",
    "EpochSeed",
    "FigureCallback",
    "LastCheckpoint",
    "LossPlot",
    "PSTHPlot",
    "RasterPlot",
    "Stopwatch",
    "TrajectoryPlot",
]
