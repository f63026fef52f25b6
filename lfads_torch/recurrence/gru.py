"""A gated recurrent unit over time, as a differentiable operation."""

from typing import Any

import torch
from torch import Tensor

from lfads_torch.recurrence.autograd import expect, is_recorded, refuse_second_derivatives
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.tuples import GRUArguments, GRUStates, GRUTrace, GRUWeights


def run_gru(
    backend: Backend, weights: GRUWeights, inputs: Tensor, h_0: Tensor, reverse: bool = False
) -> GRUStates:
    """Run a gated recurrent unit over time.

    Parameters
    ----------
    backend
        The implementation, from :func:`~lfads_torch.recurrence.choose`.
    weights
        The weights of the unit.
    inputs
        (B, T, D) inputs.
    h_0
        (B, H) initial state.
    reverse
        Whether time is reversed, so that the last bin comes first.

    Raises
    ------
    ValueError
        If the shape, dtype or device of a tensor is wrong.
    """
    n_trials, n_bins = inputs.shape[:2]
    expect_gru_weights("", weights, inputs)
    expect("inputs", inputs, (n_trials, n_bins, weights.weight_ih.shape[1]), inputs)
    expect("h_0", h_0, (n_trials, weights.weight_hh.shape[1]), inputs)
    args = GRUArguments(inputs, h_0, weights.weight_ih, weights.weight_hh, weights.bias)
    states, final = _GRU.apply(backend, weights.clip, reverse, is_recorded(args), *args)  # type: ignore[no-untyped-call]
    return GRUStates(states.transpose(0, 1), final)


def expect_gru_weights(prefix: str, weights: GRUWeights, like: Tensor) -> None:
    """Raise a ValueError if the shape, dtype or device of a weight is wrong."""
    size = weights.weight_hh.shape[-1]
    expect(f"{prefix}weight_ih", weights.weight_ih, (3 * size, weights.weight_ih.shape[-1]), like)
    expect(f"{prefix}weight_hh", weights.weight_hh, (3 * size, size), like)
    expect(f"{prefix}bias", weights.bias, (3 * size,), like)


class _GRU(torch.autograd.Function):
    """A gated recurrent unit over time; returns its states (T, B, H) and the last one (B, H)."""

    @staticmethod
    def forward(
        ctx: Any, backend: Backend, clip: float, reverse: bool, save: bool, *args: Tensor
    ) -> tuple[Tensor, Tensor]:
        trace = backend.gru_forward(GRUArguments(*args), clip, reverse, save)
        ctx.backend, ctx.clip, ctx.reverse = backend, clip, reverse
        if save:
            ctx.save_for_backward(*args, *trace)
        ctx.set_materialize_grads(False)
        if reverse:
            return trace.states[:-1], trace.states[0].clone()
        return trace.states[1:], trace.states[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor | None, grad_final: Tensor | None) -> Any:  # type: ignore[override]
        refuse_second_derivatives(grad_states, grad_final)
        saved = ctx.saved_tensors
        n_args = len(GRUArguments._fields)
        grads = ctx.backend.gru_backward(
            grad_states,
            grad_final,
            GRUArguments(*saved[:n_args]),
            GRUTrace(*saved[n_args:]),
            ctx.clip,
            ctx.reverse,
            needs_inputs=ctx.needs_input_grad[4],
        )
        return None, None, None, None, *grads
