"""The published names of functions that read and draw the history of population-based training."""

from lfads_torch.sweeps.figures import plot_pbt_hps
from lfads_torch.sweeps.history import lineage, read_pbt_fitlog, read_pbt_hps

__all__ = ["lineage", "plot_pbt_hps", "read_pbt_fitlog", "read_pbt_hps"]
