"""Linear maps of whole sequences, such as that from the factors to the log rates."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfads_torch.recurrence.autograd import is_recorded, must_be_differentiable
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.choice import choose


def linear(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return W x + b (B, T, N) for inputs x (B, T, D), a weight W (N, D) and a bias b (N)."""
    fits = inputs.dim() == 3 and inputs.shape[2] == weight.shape[1]
    backend = choose(inputs, weight, bias) if fits else None
    if backend is None:
        return F.linear(inputs, weight, bias)
    return _Linear.apply(backend, inputs, weight, bias)  # type: ignore[no-untyped-call, no-any-return]


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, backend: Backend, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.backend = backend
        ctx.save_for_backward(x, weight)
        return backend.linear_forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        if must_be_differentiable(grad):
            return None, grad @ weight, (grad.transpose(1, 2) @ x).sum(0), grad.sum((0, 1))
        _, needs_x, *needs_parameters = ctx.needs_input_grad
        return None, *ctx.backend.linear_backward(grad, x, weight, needs_x, any(needs_parameters))


def mean_rates(factors: Tensor, weight: Tensor, bias: Tensor, n_samples: int) -> Tensor | None:
    """Return the mean over samples of exp(W f + b), without keeping every sample's rates.

    Parameters
    ----------
    factors
        (B S, T, F) factors f, the S samples of a trial one after the other.
    weight, bias
        (N, F) and (N): W and b, which map factors to log rates.
    n_samples
        S.

    Returns
    -------
    Tensor or None
        (B, T, N) mean rates, or None if everything runs step by step or if there may be a backward
        pass.
    """
    backend = choose(factors, weight, bias)
    if backend is None or is_recorded((factors, weight, bias)):
        return None
    return backend.mean_rates(factors, weight, bias, n_samples)
