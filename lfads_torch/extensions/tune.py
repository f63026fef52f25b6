"""Names under which configurations of the published package find what sweeps use."""

from lfads_torch.callbacks import EarlyStoppingWithBurnInPeriod

__all__ = ["EarlyStoppingWithBurnInPeriod"]
