"""Generators other than the gated recurrent unit.

Each is chosen by ``model/generator=…`` and states its equation and its paper. Symbols: u_t (B, D)
are the inputs of bin t, H is the number of units, W are the input weights, and b is a bias.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfads_torch.errors import UserError
from lfads_torch.modules.parts import Generator


class VanillaRNNGenerator(Generator):
    r"""The simplest recurrent network (Elman 1990, Cognitive Science 14).

    .. math:: h_t = \tanh(W u_t + U h_{t-1} + b)

    Weights start as N(0, 1/D) and N(0, 1/H), the bias at zero. The L2 penalty counts U.

    Parameters
    ----------
    input_size, hidden_size
        D and H; D may be 0.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_ih = _normal(hidden_size, input_size)
        self.weight_hh = _normal(hidden_size, hidden_size)
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, input: Tensor, hidden: Tensor) -> Tensor:
        """Return the state (B, H) after a bin, from its input (B, D) and the previous state."""
        recurrent = F.linear(hidden, self.weight_hh, self.bias)
        return torch.tanh(F.linear(input, self.weight_ih) + recurrent)

    def recurrent_weights(self) -> list[Tensor]:
        """Return U (H, H)."""
        return [self.weight_hh]


class LowRankGenerator(Generator):
    r"""A rate network whose recurrent weights have a low rank R (Valente et al. 2022, NeurIPS).

    The membrane potentials x follow
    :math:`τ \dot{x} = -x + \frac{1}{H} M N^\top φ(x) + W u + b` with φ = tanh, which is integrated
    with Euler steps of one bin, α = Δt / τ:

    .. math:: x_t = (1 - α) x_{t-1}
              + α \left( \frac{1}{H} M N^\top φ(x_{t-1}) + W u_t + b \right)

    The recurrent input lies in the R dimensions that the columns of M span. Without inputs and
    bias, the potentials outside of these dimensions decay by the factor 1 - α in every bin. The
    state is x, and the factors are read from the firing rates φ(x). M and N start as N(0, 1), W as
    N(0, 1/D) and b at zero. The L2 penalty counts M and N.

    Parameters
    ----------
    input_size, hidden_size
        D and H; D may be 0.
    rank
        R, at most H.
    alpha
        Bin width in units of the time constant, above 0 and at most 1.

    Raises
    ------
    ValueError
        If ``rank`` or ``alpha`` is out of range.
    """

    def __init__(
        self, input_size: int, hidden_size: int, rank: int = 3, alpha: float = 0.2
    ) -> None:
        super().__init__()
        if not 1 <= rank <= hidden_size:
            raise UserError(
                f"model.decoder.generator.rank must be between 1 and the number of units "
                f"(model.gen_dim = {hidden_size}), but is {rank}."
            )
        if not 0 < alpha <= 1:
            raise UserError(
                f"model.decoder.generator.alpha must be above 0 and at most 1, but is {alpha}."
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.rank = rank
        self.alpha = alpha
        self.weight_ih = _normal(hidden_size, input_size)
        self.m = nn.Parameter(torch.randn(hidden_size, rank))
        self.n = nn.Parameter(torch.randn(hidden_size, rank))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, input: Tensor, hidden: Tensor) -> Tensor:
        """Return the potentials (B, H) after a bin, from its input (B, D) and those before."""
        overlap = torch.tanh(hidden) @ self.n / self.hidden_size
        drive = overlap @ self.m.t() + F.linear(input, self.weight_ih, self.bias)
        return torch.lerp(hidden, drive, self.alpha)

    def output(self, state: Tensor) -> Tensor:
        """Return the firing rates φ(x), (B, H)."""
        return torch.tanh(state)

    def recurrent_weights(self) -> list[Tensor]:
        """Return M and N, each (H, R)."""
        return [self.m, self.n]


def _normal(n_rows: int, n_columns: int) -> nn.Parameter:
    """Draw weights (n_rows, n_columns) from N(0, 1 / n_columns)."""
    return nn.Parameter(torch.randn(n_rows, n_columns) / math.sqrt(max(n_columns, 1)))
