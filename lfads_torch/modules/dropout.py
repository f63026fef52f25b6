"""Dropout whose masks are drawn quickly."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_LEVELS = 2**32


def draw_keep(shape: Sequence[int], drop_rate: float, device: torch.device | str) -> Tensor:
    """Draw what dropout keeps: 0 with probability ``drop_rate``, else 1, as uint8.

    Compares random integers of 32 bits with a threshold (the rate is met to 2⁻³²), which takes a
    small part of the time of :meth:`torch.Tensor.bernoulli_`.
    """
    count = 1
    for size in shape:
        count *= size
    bits = torch.empty((count + 1) // 2, dtype=torch.int64, device=device).random_(-(2**63), None)
    threshold = round(drop_rate * _LEVELS) - _LEVELS // 2
    keep = bits.view(torch.int32)[:count] >= threshold
    return keep.view(torch.uint8).view(tuple(shape))


class Dropout(nn.Dropout):
    """:class:`torch.nn.Dropout` with masks of :func:`draw_keep`."""

    def forward(self, input: Tensor) -> Tensor:
        """Zero elements with probability ``p`` and scale the others by 1 / (1 - p), in training."""
        if not self.training or self.p == 0 or input.numel() == 0:
            return input
        keep = draw_keep(input.shape, self.p, input.device).to(input.dtype)
        return input * keep.mul_(1 / (1 - self.p))
