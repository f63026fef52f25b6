"""The gated recurrent unit of LFADS, alone, over time, and in both directions.

It differs from :class:`torch.nn.GRU` in three ways (Sussillo et al. 2016, arXiv 1608.06315,
appendix; the reference implementation): the update gate keeps the *old* state, the reset gate acts
*before* the recurrent product, and the state is clipped.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from lfads_torch import recurrence as fused

F_ = TypeVar("F_", bound=Callable[..., Any])


def is_original(module: nn.Module, cls: type[nn.Module]) -> bool:
    """Return whether a module does exactly what its class in this library says."""
    return type(module) is cls and _is_untouched(module)


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear map with a bias and does nothing else."""
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and module.bias is not None
        and _is_untouched(module)
    )


def _is_untouched(module: nn.Module) -> bool:
    """Return whether calling a module calls the ``forward`` of its class, and nothing else."""
    return (
        "forward" not in vars(module)
        and not module._forward_hooks
        and not module._forward_pre_hooks
        and not module._backward_hooks
        and not module._backward_pre_hooks
        and not _has_any_global_hook()
    )


def location_scale(make_posterior: F_) -> F_:
    """Declare that ``make_posterior(mean, std)`` is distributed as mean + std · ε.

    ε must be distributed as ``make_posterior(0, 1)``, whose dimensions and bins are independent.
    Fused recurrences draw it for all bins at once; other posteriors are sampled bin by bin.
    """
    make_posterior.location_scale = True  # type: ignore[attr-defined]
    return make_posterior


class ClippedGRUCell(nn.Module):
    r"""One step of the recurrence.

    .. math::
        z &= σ(W_z x + b_z + U_z h + d_z) \qquad r = σ(W_r x + b_r + U_r h + d_r) \\
        n &= \tanh(W_n x + b_n + U_n (r ⊙ h) + d_n) \\
        h' &= \mathrm{clip}(z ⊙ h + (1 - z) ⊙ n, ± \mathrm{clip\_value})

    Parameters stack the gates in the order z, r, n: ``weight_ih`` (3H, D) holds W, ``weight_hh``
    (3H, H) holds U, ``bias_ih`` (3H) holds b. ``bias_hh`` (3H) holds d, which is zero, never
    trained, and loaded and applied where a checkpoint brings another value.

    Parameters
    ----------
    input_size
        D, inputs; 0 is allowed.
    hidden_size
        H, units.
    clip_value
        Largest magnitude of a state.
    is_encoder
        Weights are drawn from N(0, 1/k) with k = D + H for both matrices in an encoder, and with
        k = D (input) and k = H (recurrent) elsewhere.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        clip_value: float = math.inf,
        is_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.clip_value = clip_value
        self.is_encoder = is_encoder
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias_ih = nn.Parameter(torch.empty(3 * hidden_size))
        self.bias_hh = nn.Parameter(torch.zeros(3 * hidden_size), requires_grad=False)
        self.reset_parameters()

    def weights(self) -> fused.GRUWeights:
        """Return the weights as the fused recurrences take them."""
        bias = self.bias_ih + self.bias_hh
        return fused.GRUWeights(self.weight_ih, self.weight_hh, bias, self.clip_value)

    def reset_parameters(self) -> None:
        """Draw new initial weights."""
        fan_in = self.input_size + self.hidden_size if self.is_encoder else None
        if self.input_size:
            nn.init.normal_(self.weight_ih, std=(fan_in or self.input_size) ** -0.5)
        if self.hidden_size:
            nn.init.normal_(self.weight_hh, std=(fan_in or self.hidden_size) ** -0.5)
        with torch.no_grad():
            self.bias_ih[: 2 * self.hidden_size] = 1
            self.bias_ih[2 * self.hidden_size :] = 0
            self.bias_hh.zero_()

    def project(self, inputs: Tensor) -> Tensor:
        """Return W x + b for inputs (..., D) as (..., 3H); it does not depend on the state."""
        return F.linear(inputs, self.weight_ih, self.bias_ih)

    def step(self, projected: Tensor, hidden: Tensor) -> Tensor:
        """Advance the state (B, H) by one bin, given :meth:`project` of its input (B, 3H)."""
        size = self.hidden_size
        u_zr, u_n = self.weight_hh.split([2 * size, size])
        d_zr, d_n = self.bias_hh.split([2 * size, size])
        x_zr, x_n = projected.split([2 * size, size], dim=-1)
        z, r = torch.sigmoid(x_zr + F.linear(hidden, u_zr, d_zr)).chunk(2, dim=-1)
        n = torch.tanh(x_n + F.linear(r * hidden, u_n, d_n))
        return torch.clamp(z * hidden + (1 - z) * n, -self.clip_value, self.clip_value)

    def forward(self, input: Tensor, hidden: Tensor) -> Tensor:
        """Advance the state (B, H) by one bin with the input (B, D)."""
        return self.step(self.project(input), hidden)


class ClippedGRU(nn.Module):
    """A :class:`ClippedGRUCell` with encoder initialisation, run over time."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        clip_value: float = math.inf,
    ) -> None:
        super().__init__()
        self.cell = ClippedGRUCell(input_size, hidden_size, clip_value, is_encoder=True)

    def forward(self, input: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor]:
        """Run over the input (B, T, D) from the state (B, H).

        Returns the states (B, T, H) and the last of them (B, H).
        """
        backend = self._backend(input, h_0)
        if backend is not None:
            return fused.run_gru(backend, self.cell.weights(), input, h_0)
        hidden = h_0
        states = []
        for projected in self.cell.project(input).unbind(1):
            hidden = self.cell.step(projected, hidden)
            states.append(hidden)
        return torch.stack(states, dim=1), hidden

    def backwards(self, input: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor]:
        """Run against time, from the last bin to the first; states are in the order of time."""
        backend = self._backend(input, h_0)
        if backend is not None:
            return fused.run_gru(backend, self.cell.weights(), input, h_0, reverse=True)
        states, final = self(input.flip(1), h_0)
        return states.flip(1), final

    def _backend(self, input: Tensor, h_0: Tensor) -> fused.Backend | None:
        """Return what runs the whole sequence at once, None where it is to be done by steps."""
        if not is_original(self.cell, ClippedGRUCell):
            return None
        return fused.choose(input, h_0, *self.cell.parameters())


class BidirectionalClippedGRU(nn.Module):
    """Two :class:`ClippedGRU`, one of which runs backwards in time."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        clip_value: float = math.inf,
    ) -> None:
        super().__init__()
        self.fwd_gru = ClippedGRU(input_size, hidden_size, clip_value)
        self.bwd_gru = ClippedGRU(input_size, hidden_size, clip_value)

    def forward(
        self, input: Tensor, h_0: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Run over the input (B, T, D) from the states (2, B, H), forward first.

        Returns the forward and backward states, each (B, T, H) and both in the order of time, and
        the final state of either direction, each (B, H).
        """
        fwd_states, fwd_final = self.fwd_gru(input, h_0[0])
        if is_original(self.bwd_gru, ClippedGRU):
            bwd_states, bwd_final = self.bwd_gru.backwards(input, h_0[1])
        else:
            flipped, bwd_final = self.bwd_gru(input.flip(1), h_0[1])
            bwd_states = flipped.flip(1)
        return (fwd_states, bwd_states), (fwd_final, bwd_final)

    def recurrent_weights(self) -> list[Tensor]:
        """Return the recurrent matrices (3H, H) that the L2 penalty counts."""
        return [self.fwd_gru.cell.weight_hh, self.bwd_gru.cell.weight_hh]
