"""Callbacks of the trainer, with one file for each subject.

Importing them imports neither matplotlib nor ``nlb_tools``: these are imported when a figure is
drawn, or when the benchmark's scores are computed.
"""

from lfads_torch.running.callbacks.checkpointing import LastCheckpoint
from lfads_torch.running.callbacks.early_stopping import EarlyStoppingWithBurnInPeriod
from lfads_torch.running.callbacks.figures import (
    FigureCallback,
    LossPlot,
    PSTHPlot,
    RasterPlot,
    TrajectoryPlot,
)
from lfads_torch.running.callbacks.history import EpochHistory, Stopwatch
from lfads_torch.running.callbacks.hyperparameters import ApplyHyperparameters
from lfads_torch.running.callbacks.moved_checkpoints import MovedCheckpoints
from lfads_torch.running.callbacks.nlb import NLBEvaluation
from lfads_torch.running.callbacks.seeds import EpochSeed
from lfads_torch.running.callbacks.trials import InferredTrials, infer_trials

__all__ = [
    "ApplyHyperparameters",
    "EarlyStoppingWithBurnInPeriod",
    "EpochHistory",
    "EpochSeed",
    "FigureCallback",
    "InferredTrials",
    "LastCheckpoint",
    "LossPlot",
    "MovedCheckpoints",
    "NLBEvaluation",
    "PSTHPlot",
    "RasterPlot",
    "Stopwatch",
    "TrajectoryPlot",
    "infer_trials",
]
