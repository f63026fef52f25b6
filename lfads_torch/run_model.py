"""The published name of :func:`lfads_torch.running.training.run_model`."""

from lfads_torch.running.training import run_model

__all__ = ["run_model"]
