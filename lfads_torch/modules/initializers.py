"""Initial weights."""

import math

from torch import nn


def init_linear_(linear: nn.Linear) -> None:
    """Draw the weights from N(0, 1 / in_features) and set the bias to zero, in place."""
    if linear.weight.numel():
        nn.init.normal_(linear.weight, std=1 / math.sqrt(linear.in_features))
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
