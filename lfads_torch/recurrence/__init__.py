"""The recurrences of encoder and decoder, fused: one interface, two implementations.

What is computed is stated step by step by :class:`~lfads_torch.modules.recurrent.ClippedGRUCell`
and :class:`~lfads_torch.modules.decoder.DecoderCell`. Here whole sequences are run at once, with
backward passes through time written by hand, either in PyTorch (:mod:`.eager`, on any device) or in
C++ (:mod:`.compiled`, on a CPU). Both compute the same but for rounding, from the same random
numbers.

``recurrence``, an argument of the model, says which is taken:

- ``auto``: compiled where that is possible, else PyTorch;
- ``torch``: PyTorch;
- ``compiled``: compiled, with an error where that cannot be built; tensors that are not on a CPU
  take PyTorch;
- ``plain``: the cells, step by step: slow, but differentiable any number of times.

What a step does to whole tensors before and after the recurrences follows the same choice
(:mod:`.pointwise`, :mod:`.masks`, :mod:`.sequences`).

What is not exactly the parts of this library (a cell of the user's own, a hook, autocast, a
transform of :mod:`torch.func`) runs step by step without being asked to.
"""

from lfads_torch.recurrence.interface import (
    CHOICES,
    check_choice,
    choose,
    is_linear,
    is_original,
    linear,
    location_scale,
    mean_rates,
    run_decoder,
    run_gru,
)
from lfads_torch.recurrence.pointwise import (
    masked,
    pass_gradients,
    poisson_losses,
    poisson_sums,
    running,
)
from lfads_torch.recurrence.sequences import dropped, lagged

__all__ = [
    "CHOICES",
    "check_choice",
    "choose",
    "dropped",
    "is_linear",
    "is_original",
    "lagged",
    "linear",
    "location_scale",
    "masked",
    "mean_rates",
    "pass_gradients",
    "poisson_losses",
    "poisson_sums",
    "run_decoder",
    "run_gru",
    "running",
]
