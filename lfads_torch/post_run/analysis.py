"""The published name of posterior sampling."""

from lfads_torch.running.sampling import run_posterior_sampling

__all__ = ["run_posterior_sampling"]
