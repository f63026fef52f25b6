"""Inputs and outputs of the fused recurrences.

Symbols: B trials, T bins; a recurrent unit has D inputs and H units. The decoder has G generator
units, C controller units, F factors, U controller outputs and E external inputs. Gates are stacked
in the order z (update), r (reset), n (candidate), as in the weights.

The first group of tuples is the interface of this package, in which sequences are (B, T, …). The
second group is the interface of the backends, in which sequences are (T, B, …) unless their
docstrings say otherwise.
"""

from typing import NamedTuple

from torch import Tensor

from lfads_torch import utils


class GRUWeights(NamedTuple):
    """The weights of a gated recurrent unit with a clipped state."""

    weight_ih: Tensor
    """(3H, D) input weights."""
    weight_hh: Tensor
    """(3H, H) recurrent weights."""
    bias: Tensor
    """(3H) bias: if a unit has one for the inputs and one for the state, the sum of both."""
    clip: float
    """Largest magnitude of a state; may be infinite."""


class GRUStates(NamedTuple):
    """The states of a gated recurrent unit over time."""

    states: Tensor
    """(B, T, H) state after each bin, in the order of time."""
    final: Tensor
    """(B, H) state that was computed last, which is that of the first bin if time is reversed."""


class DecoderWeights(NamedTuple):
    """The weights of generator, factors, controller and controller output."""

    generator: GRUWeights
    """Inputs are the U controller outputs, followed by the E external inputs."""
    fac_weight: Tensor
    """(F, G) factors = fac_weight · generator state; rows are already scaled to unit length."""
    controller: GRUWeights | None = None
    """Inputs are the controller inputs, followed by the F factors of the previous bin."""
    co_weight: Tensor | None = None
    """(2U, C) rows of the mean, then of the log-variance, of the controller output."""
    co_bias: Tensor | None = None
    """(2U) bias of mean and log-variance."""


class Draws(NamedTuple):
    """The random numbers of a pass through the decoder."""

    noise: Tensor | None = None
    """(T, B, U): the controller output is mean + std · noise, or the mean if this is None."""
    keep_f: Tensor | None = None
    """(T, B, F) uint8, 0 where dropout hides a factor from the controller. None: no dropout."""
    keep_g: Tensor | None = None
    """(T, B, G) uint8, 0 where dropout hides a generator unit from the factors. None: no
    dropout."""
    scale: float = 1.0
    """Scale of the values that dropout does not hide: 1 / (1 - rate)."""


class DecoderStates(NamedTuple):
    """What the decoder computes in every bin."""

    gen_states: Tensor
    """(B, T, G) generator states."""
    con_states: Tensor
    """(B, T, C) controller states."""
    factors: Tensor
    """(B, T, F) factors."""
    co_means: Tensor
    """(B, T, U) means of the controller output."""
    co_stds: Tensor
    """(B, T, U) standard deviations of the controller output."""
    gen_inputs: Tensor
    """(B, T, U + E) inputs of the generator."""


# ------------------------------------------------------------------ arguments of the backends


class GRUArguments(NamedTuple):
    """Every tensor that the states of a gated recurrent unit depend on; also their gradients."""

    inputs: Tensor
    """(B, T, D) inputs."""
    h_0: Tensor
    """(B, H) state before the first bin (after the last one, if time is reversed)."""
    weight_ih: Tensor
    """(3H, D)."""
    weight_hh: Tensor
    """(3H, H)."""
    bias: Tensor
    """(3H)."""


class GRUTrace(NamedTuple):
    """What the forward pass of a gated recurrent unit saves for its backward pass."""

    states: Tensor
    """(T + 1, B, H) states. The first (the last, if time is reversed) is the initial one."""
    gates: Tensor
    """(T, B, 3H)."""
    first: Tensor | None = None
    """(T B + 1) int32, or None. If the inputs are mostly zeros, they are saved without them: the
    inputs of trial b in bin t are the elements of ``channel`` and ``value`` from first[t B + b] up
    to, but not including, first[t B + b + 1]."""
    channel: Tensor | None = None
    """(non-zeros) int32 channels of the inputs that are not zero."""
    value: Tensor | None = None
    """(non-zeros) inputs that are not zero."""


class DecoderArguments(NamedTuple):
    """Every tensor that the decoder's states depend on; also their gradients.

    Without a controller, its tensors are empty. A gradient that is not needed is None.
    """

    ci: Tensor
    """(B, T, I) controller inputs, after dropout. If there is no backward pass, there may be fewer
    of them, (B / S, T, I), where S consecutive trials of the other tensors share one."""
    ext: Tensor
    """(B, T, E) external inputs, after dropout."""
    gen_0: Tensor
    """(B, G) generator state before the first bin."""
    con_0: Tensor
    """(B, C) controller state before the first bin."""
    fac_0: Tensor
    """(B, F) factors before the first bin."""
    con_ih: Tensor
    """(3C, I + F)."""
    con_hh: Tensor
    """(3C, C)."""
    con_bias: Tensor
    """(3C)."""
    co_weight: Tensor
    """(2U, C)."""
    co_bias: Tensor
    """(2U)."""
    gen_ih: Tensor
    """(3G, U + E)."""
    gen_hh: Tensor
    """(3G, G)."""
    gen_bias: Tensor
    """(3G)."""
    fac_weight: Tensor
    """(F, G)."""


class DecoderTrace(NamedTuple):
    """What the decoder's forward pass computes. Without a controller, its tensors may be empty."""

    gen_states: Tensor
    """(T + 1, B, G), initial state first."""
    con_states: Tensor
    """(T + 1, B, C), initial state first."""
    factors: Tensor
    """(T + 1, B, F), starting with the factors before the first bin."""
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
    """Gradients of the loss with respect to :class:`DecoderStates`; None where not used."""

    gen_states: Tensor | None
    """(T, B, G)."""
    con_states: Tensor | None
    """(T, B, C)."""
    factors: Tensor | None
    """(T, B, F)."""
    co_means: Tensor | None
    """(T, B, U)."""
    co_stds: Tensor | None
    """(T, B, U)."""
    gen_inputs: Tensor | None
    """(T, B, U + E)."""


def may_clip(h_0: Tensor, clip: float) -> bool:
    """Return whether a state can reach ±clip, given the initial state (B, H).

    A state is an average of the previous state and of a number within ±1. So the magnitude of a
    state exceeds neither 1 nor that of the initial state, except for rounding.
    """
    if clip < 1.001 or h_0.numel() == 0:
        return clip < 1.001
    if not utils.on_cpu(h_0):
        return clip != float("inf")  # Reading the state would wait for the device.
    return not bool(1.001 * h_0.detach().abs().max() < clip)
