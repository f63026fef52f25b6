"""The recurrences of encoder and decoder, fused: one interface, several implementations.

A fused implementation runs a whole sequence at once, with a backward pass that is written by hand.
This package only handles tensors: the parts of the model decide whether they can be run in this way
and which weights they pass. Implementations (:class:`Backend`) are listed in :data:`BACKENDS`: C++
on a CPU (:mod:`.compiled`), and PyTorch on any device (:mod:`.pytorch`). They use the same random
numbers, and their results agree except for rounding.

The model's argument ``recurrence`` selects one of them. :func:`using` does the same for everything
that runs within its block. The values are:

- ``auto``: the first of :data:`BACKENDS` that supports the tensors;
- ``torch``: PyTorch;
- ``compiled``: C++, with an error if it cannot be built; PyTorch for tensors that are not on a CPU;
- ``plain``: step by step, which is slow, but differentiable any number of times.

Operations on whole tensors before and after the recurrences follow the same choice
(:mod:`.linear`, :mod:`.poisson`, :mod:`.pointwise`, :mod:`.sequences`).

Under autocast, a transform of :mod:`torch.func`, tracing or compilation, everything runs step by
step, regardless of the value.
"""

from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.choice import BACKENDS, CHOICES, check_choice, choose, using
from lfads_torch.recurrence.decoder import dropout_draws, run_decoder
from lfads_torch.recurrence.gru import run_gru
from lfads_torch.recurrence.linear import linear, mean_rates
from lfads_torch.recurrence.masks import random_mask
from lfads_torch.recurrence.pointwise import masked, pass_gradients
from lfads_torch.recurrence.poisson import poisson_losses, poisson_sums
from lfads_torch.recurrence.sequences import dropped, lagged, shared
from lfads_torch.recurrence.tuples import (
    DecoderStates,
    DecoderWeights,
    Draws,
    GRUStates,
    GRUWeights,
)

__all__ = [
    "BACKENDS",
    "CHOICES",
    "Backend",
    "DecoderStates",
    "DecoderWeights",
    "Draws",
    "GRUStates",
    "GRUWeights",
    "check_choice",
    "choose",
    "dropout_draws",
    "dropped",
    "lagged",
    "linear",
    "masked",
    "mean_rates",
    "pass_gradients",
    "poisson_losses",
    "poisson_sums",
    "random_mask",
    "run_decoder",
    "run_gru",
    "shared",
    "using",
]
