"""The published name of the callback that scores models as the Neural Latents Benchmark does."""

from lfads_torch.running.callbacks import NLBEvaluation

__all__ = ["NLBEvaluation"]
