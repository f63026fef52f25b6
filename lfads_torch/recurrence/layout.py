"""What goes into the fused recurrences and what comes out of them.

Notation: B trials, T bins. Sequences inside of this package are time-major, (T, B, …). Gates are
stacked in the order z (update), r (reset), n (candidate), as in the weights of the cells.
"""

from typing import NamedTuple

from torch import Tensor

from lfads_torch import utils


class GRUInputs(NamedTuple):
    """Everything that a gated recurrent unit's states depend on. Holds gradients too."""

    inputs: Tensor
    """(B, T, D) inputs."""
    h_0: Tensor
    """(B, H) state before the first bin (after the last one, where time is reversed)."""
    weight_ih: Tensor
    """(3H, D)."""
    weight_hh: Tensor
    """(3H, H)."""
    bias: Tensor
    """(3H) sum of both biases."""


class GRUTrace(NamedTuple):
    """What the forward pass leaves to the backward pass."""

    states: Tensor
    """(T + 1, B, H) states with the initial one: the first, or the last where time is reversed."""
    gates: Tensor
    """(T, B, 3H)."""
    first: Tensor | None = None
    """(T B + 1) where each trial's inputs of a bin begin in ``channel`` and ``value``, where inputs
    are mostly zeros and are kept without these; else None."""
    channel: Tensor | None = None
    """(non-zeros) int32."""
    value: Tensor | None = None
    """(non-zeros) inputs."""


class DecoderInputs(NamedTuple):
    """Everything that the decoder's states depend on.

    Without a controller, whatever belongs to it is empty. Holds gradients too, None where there are
    none.
    """

    ci: Tensor
    """(B, T, 2 ci_enc_dim) controller inputs, after dropout. Where there is no backward pass, they
    may be of fewer trials, (B / S, T, …): S samples of each follow each other."""
    ext: Tensor
    """(B, T, E) external inputs, after dropout."""
    gen_0: Tensor
    """(B, G) generator state before the first bin."""
    con_0: Tensor
    """(B, C) controller state before the first bin."""
    fac_0: Tensor
    """(B, F) factors before the first bin."""
    con_ih: Tensor
    """(3C, 2 ci_enc_dim + F)."""
    con_hh: Tensor
    """(3C, C)."""
    con_bias: Tensor
    """(3C)."""
    co_weight: Tensor
    """(2U, C): rows of the mean, then of the log-variance of the controller output."""
    co_bias: Tensor
    """(2U)."""
    gen_ih: Tensor
    """(3G, U + E)."""
    gen_hh: Tensor
    """(3G, G)."""
    gen_bias: Tensor
    """(3G)."""
    readout: Tensor
    """(F, G) of the factors, normalised."""


class Draws(NamedTuple):
    """The random numbers of a pass through the decoder."""

    noise: Tensor | None = None
    """(T, B, U): the controller output is mean + std · noise. None: it is the mean."""
    keep_f: Tensor | None = None
    """(T, B, F) uint8, 0 where dropout hides a factor from the controller. None: no dropout."""
    keep_g: Tensor | None = None
    """(T, B, G) uint8, 0 where dropout hides a generator unit from the factors."""
    scale: float = 1.0
    """What is kept is multiplied by."""


class DecoderTrace(NamedTuple):
    """What the forward pass computes. What belongs to a controller may be empty."""

    gen_states: Tensor
    """(T + 1, B, G), initial state first."""
    con_states: Tensor
    """(T + 1, B, C), initial state first."""
    factors: Tensor
    """(T + 1, B, F), those before the first bin first."""
    co: Tensor
    """(T, B, 2U) mean and log-variance of the controller output."""
    co_stds: Tensor
    """(T, B, U)."""
    gen_inputs: Tensor
    """(T, B, U + E)."""
    gen_gates: Tensor
    """(T, B, 3G)."""
    con_gates: Tensor
    """(T, B, 3C)."""


class DecoderGrads(NamedTuple):
    """Gradients of what the decoder reports, (T, B, …); None where it was not used."""

    gen_states: Tensor | None
    con_states: Tensor | None
    factors: Tensor | None
    co_means: Tensor | None
    co_stds: Tensor | None
    gen_inputs: Tensor | None


def may_clip(h_0: Tensor, clip: float) -> bool:
    """Return whether a state can reach ±clip.

    A state is an average of the one before and of a number within ±1, so that none is larger than
    1 and the initial state; rounding adds little to that.
    """
    if clip < 1.001 or h_0.numel() == 0:
        return clip < 1.001
    if not utils.on_cpu(h_0):
        return clip != float("inf")  # Looking at the state would wait for the device.
    return not bool(1.001 * h_0.detach().abs().max() < clip)
