"""Dropout with masks that are fast to draw."""

from torch import Tensor, nn

from lfads_torch import recurrence
from lfads_torch.recurrence import random_mask


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout` with masks of :func:`~lfads_torch.recurrence.masks.random_mask`."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements with probability ``p`` and scale the others by 1 / (1 - p), in training."""
        if not self.training or self.p == 0 or input.numel() == 0:
            return input
        if input.dim() == 3:
            return recurrence.dropped(input, self.p)
        keep = random_mask(input.shape, 1 - self.p, input.device).to(input.dtype)
        return input * keep.mul_(1 / (1 - self.p))
