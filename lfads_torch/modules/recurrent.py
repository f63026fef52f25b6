"""The gated recurrent unit of LFADS: for one bin, over time, and in both directions.

It differs from :class:`torch.nn.GRU` in three ways (Sussillo et al. 2016, arXiv 1608.06315,
appendix; the reference implementation): the update gate keeps the *old* state, the reset gate acts
*before* the recurrent product, and the state is clipped.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfads_torch import recurrence
from lfads_torch.errors import UserError
from lfads_torch.modules.parts import Cell, Generator, Spec, declared, make_part, runs_as_defined
from lfads_torch.recurrence import GRUWeights


class ClippedGRUCell(Generator):
    r"""A clipped gated recurrent unit, which advances by one bin at a time.

    .. math::
        z &= σ(W_z x + b_z + U_z h + d_z) \qquad r = σ(W_r x + b_r + U_r h + d_r) \\
        n &= \tanh(W_n x + b_n + U_n (r ⊙ h) + d_n) \\
        h' &= \mathrm{clip}(z ⊙ h + (1 - z) ⊙ n, ± \mathrm{clip\_value})

    The parameters stack the gates in the order z, r, n: ``weight_ih`` (3H, D) holds W,
    ``weight_hh`` (3H, H) holds U, ``bias_ih`` (3H) holds b. ``bias_hh`` (3H) holds d, which is zero
    and is not trained. It is applied nevertheless, since a checkpoint may hold another value.

    Parameters
    ----------
    input_size
        D, the number of inputs; 0 is allowed.
    hidden_size
        H, the number of units.
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

    def forward(self, input: Tensor, hidden: Tensor) -> Tensor:
        """Return the state (B, H) after a bin, from its input (B, D) and the previous state."""
        size = self.hidden_size
        u_zr, u_n = self.weight_hh.split([2 * size, size])
        d_zr, d_n = self.bias_hh.split([2 * size, size])
        projected = F.linear(input, self.weight_ih, self.bias_ih)
        x_zr, x_n = projected.split([2 * size, size], dim=-1)
        z, r = torch.sigmoid(x_zr + F.linear(hidden, u_zr, d_zr)).chunk(2, dim=-1)
        n = torch.tanh(x_n + F.linear(r * hidden, u_n, d_n))
        return torch.clamp(z * hidden + (1 - z) * n, -self.clip_value, self.clip_value)

    def recurrent_weights(self) -> list[Tensor]:
        """Return U (3H, H)."""
        return [self.weight_hh]

    def fused_weights(self) -> GRUWeights | None:
        """Return W, U, b + d and the clip, or None for derived classes and cells with hooks."""
        if not runs_as_defined(self, ClippedGRUCell):
            return None
        bias = self.bias_ih + self.bias_hh
        return GRUWeights(self.weight_ih, self.weight_hh, bias, self.clip_value)


class ClippedGRU(nn.Module):
    """Runs a cell over time. The cell has the initial weights of an encoder.

    Parameters
    ----------
    input_size, hidden_size, clip_value
        As for :class:`ClippedGRUCell`.
    cell
        How the cell is made, see :func:`~lfads_torch.modules.parts.make_part`. By default it is a
        :class:`ClippedGRUCell`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        clip_value: float = math.inf,
        cell: Spec = None,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.clip_value = clip_value
        self.cell = make_part(
            "model.encoder.cell",
            cell,
            ClippedGRUCell,
            input_size=input_size,
            hidden_size=hidden_size,
            clip_value=clip_value,
            is_encoder=True,
        )

    def forward(self, input: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor]:
        """Run over the input (B, T, D) from the state (B, H).

        The states (B, T, H) and the last of them (B, H) are returned.
        """
        fused = self._fused(input, h_0)
        if fused is not None:
            return recurrence.run_gru(*fused, input, h_0)
        hidden = h_0
        states = []
        for input_t in input.unbind(1):
            hidden = self.cell(input_t, hidden)
            states.append(hidden)
        return torch.stack(states, dim=1), hidden

    def backwards(self, input: Tensor, h_0: Tensor) -> tuple[Tensor, Tensor]:
        """Run from the last bin to the first. The returned states are in the order of time."""
        fused = self._fused(input, h_0) if runs_as_defined(self, ClippedGRU) else None
        if fused is not None:
            return recurrence.run_gru(*fused, input, h_0, reverse=True)
        states, final = self(input.flip(1), h_0)
        return states.flip(1), final

    def recurrent_weights(self) -> list[Tensor]:
        """Return the recurrent weights that the cell declares."""
        weights: list[Tensor] = declared(self.cell, "recurrent_weights", Cell)()
        return weights

    def why_step_by_step(self) -> str | None:
        """Return why no fused implementation can run this, or None if one can."""
        if declared(self.cell, "fused_weights", Cell)() is None:
            return f"its cell, {type(self.cell).__name__}, declares no fused_weights"
        return None

    def _fused(self, input: Tensor, h_0: Tensor) -> tuple[recurrence.Backend, GRUWeights] | None:
        """Return the implementation and its weights, or None if the cell must run step by step."""
        weights = declared(self.cell, "fused_weights", Cell)()
        if weights is None:
            return None
        backend = recurrence.choose(input, h_0, *self.cell.parameters())
        return None if backend is None else (backend, weights)


class BidirectionalClippedGRU(nn.Module):
    """Two :class:`ClippedGRU`, one of which runs backwards in time.

    The parameters are those of :class:`ClippedGRU`. ``cell`` must not be a module, because both
    directions would share it.

    Raises
    ------
    UserError
        If ``cell`` is a module.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        clip_value: float = math.inf,
        cell: Spec = None,
    ) -> None:
        super().__init__()
        if isinstance(cell, nn.Module):
            raise UserError(
                f"model.encoder.cell must be a class or a partial of one, from which a cell is "
                f"made for each direction, but is a module ({type(cell).__name__})."
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.clip_value = clip_value
        self.cell = cell
        self.fwd_gru = ClippedGRU(input_size, hidden_size, clip_value, cell)
        self.bwd_gru = ClippedGRU(input_size, hidden_size, clip_value, cell)

    def forward(
        self, input: Tensor, h_0: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Run over the input (B, T, D) from the states (2, B, H), forward first.

        The forward and backward states are returned, each (B, T, H) and both in the order of time,
        and the final state of each direction, (B, H).
        """
        input = recurrence.shared(input)
        fwd_states, fwd_final = self.fwd_gru(input, h_0[0])
        run_backwards = declared(self.bwd_gru, "backwards", ClippedGRU)
        bwd_states, bwd_final = run_backwards(input, h_0[1])
        return (fwd_states, bwd_states), (fwd_final, bwd_final)

    def recurrent_weights(self) -> list[Tensor]:
        """Return the recurrent weights that the cells of both directions declare."""
        return [
            weight
            for gru in (self.fwd_gru, self.bwd_gru)
            for weight in declared(gru, "recurrent_weights", Cell)()
        ]
