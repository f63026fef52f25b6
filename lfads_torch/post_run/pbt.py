"""The published names of what reads and draws the history of population-based training."""

from lfads_torch.sweeps.history import plot_pbt_hps, read_pbt_fitlog, read_pbt_hps

__all__ = ["plot_pbt_hps", "read_pbt_fitlog", "read_pbt_hps"]
