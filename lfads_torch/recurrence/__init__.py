"""The recurrences of encoder and decoder, fused: one interface, several implementations.

Here whole sequences are run at once, with backward passes through time written by hand. This
package knows tensors only: which weights belong to a model, and whether its parts are those that
can be run this way, is for the parts to say. Implementations (:class:`Backend`) are listed in
:data:`BACKENDS`: C++ on a CPU (:mod:`.compiled`), and PyTorch on any device (:mod:`.pytorch`). They
compute the same but for rounding, from the same random numbers.

``recurrence``, an argument of the model, says which is taken, and so does :func:`using` for
everything that is run within it:

- ``auto``: the first of :data:`BACKENDS` that can work on the tensors at hand;
- ``torch``: PyTorch;
- ``compiled``: C++, with an error where it cannot be built; tensors that are not on a CPU take
  PyTorch;
- ``plain``: step by step: slow, but differentiable any number of times.

What a step does to whole tensors before and after the recurrences follows the same choice
(:mod:`.linear`, :mod:`.poisson`, :mod:`.pointwise`, :mod:`.sequences`).

Under autocast, a transform of :mod:`torch.func`, tracing or compilation everything runs step by
step without being asked to.
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
