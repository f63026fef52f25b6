"""From the initial condition and the controller's inputs to the factors."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from lfads_torch import recurrence as fused
from lfads_torch.modules.dropout import Dropout
from lfads_torch.modules.initializers import init_linear_
from lfads_torch.modules.recurrent import ClippedGRUCell, is_original

MakePosterior = Callable[[Tensor, Tensor], Distribution]
"""Makes the posterior of the controller output from its mean and standard deviation."""


class KernelNormalizedLinear(nn.Linear):
    """A linear map whose weight rows are scaled to unit length in every use."""

    def normalized_weight(self) -> Tensor:
        """Return the weight (out_features, in_features) with rows of unit length."""
        return F.normalize(self.weight, dim=1)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(input, self.normalized_weight(), self.bias)


class DecoderState(NamedTuple):
    """What the recurrence hands from bin to bin, and what it reports of each bin."""

    gen_state: Tensor
    """(B, gen_dim) generator state."""
    con_state: Tensor
    """(B, con_dim) controller state."""
    factor: Tensor
    """(B, fac_dim) factors."""
    co_mean: Tensor
    """(B, co_dim) mean of the controller output."""
    co_std: Tensor
    """(B, co_dim) standard deviation of the controller output."""
    gen_input: Tensor
    """(B, co_dim + ext_input_dim) input of the generator."""


class DecoderOutput(NamedTuple):
    """What the decoder computes; fields as in :class:`lfads_torch.tuples.SessionOutput`."""

    gen_init: Tensor
    gen_states: Tensor
    con_states: Tensor
    co_means: Tensor
    co_stds: Tensor
    gen_inputs: Tensor
    factors: Tensor


class DecoderCell(nn.Module):
    r"""One bin of the decoder (Pandarinath et al. 2018, online methods).

    .. math::
        c_t &= \mathrm{conGRU}(\mathrm{dropout}([\mathrm{ci}_t, f_{t-1}]), c_{t-1}) \\
        u_t &\sim N(μ_t, σ^2_t), \quad (μ_t, \log σ^2_t) = \mathrm{co\_linear}(c_t) \\
        g_t &= \mathrm{genGRU}([u_t, \mathrm{dropout}(\mathrm{ext}_t)], g_{t-1}) \\
        f_t &= F\, \mathrm{dropout}(g_t)

    Without a controller there are no c, u.

    Parameters
    ----------
    ext_input_dim, ci_enc_dim, con_dim, co_dim, gen_dim, fac_dim
        Sizes of the external input, of one direction of the controller-input encoder, of the
        controller, its output, the generator and the factors.
    dropout_rate, cell_clip
        Dropout, and the largest magnitude of a recurrent state.
    use_con
        Whether there is a controller.
    """

    def __init__(
        self,
        *,
        ext_input_dim: int,
        ci_enc_dim: int,
        con_dim: int,
        co_dim: int,
        gen_dim: int,
        fac_dim: int,
        dropout_rate: float,
        cell_clip: float,
        use_con: bool,
    ) -> None:
        super().__init__()
        self.use_con = use_con
        self.dropout = Dropout(dropout_rate)
        self.gen_cell = ClippedGRUCell(
            (co_dim if use_con else 0) + ext_input_dim, gen_dim, cell_clip
        )
        self.fac_linear = KernelNormalizedLinear(gen_dim, fac_dim, bias=False)
        init_linear_(self.fac_linear)
        if use_con:
            self.con_cell = ClippedGRUCell(2 * ci_enc_dim + fac_dim, con_dim, cell_clip)
            self.co_linear = nn.Linear(con_dim, 2 * co_dim)
            init_linear_(self.co_linear)

    def weights(self) -> fused.DecoderWeights:
        """Return the weights as the fused recurrences take them."""
        weights = fused.DecoderWeights(self.gen_cell.weights(), self.fac_linear.normalized_weight())
        if not self.use_con:
            return weights
        return weights._replace(
            controller=self.con_cell.weights(),
            co_weight=self.co_linear.weight,
            co_bias=self.co_linear.bias,
        )

    def factor(self, gen_state: Tensor) -> Tensor:
        """Read the factors (B, fac_dim) out of the generator state (B, gen_dim)."""
        return self.fac_linear(self.dropout(gen_state))

    def forward(
        self,
        ci: Tensor,
        ext_input: Tensor,
        state: DecoderState,
        co_posterior: MakePosterior | None,
    ) -> DecoderState:
        """Advance by one bin.

        Parameters
        ----------
        ci
            (B, 2 ci_enc_dim) controller input.
        ext_input
            (B, ext_input_dim) external input.
        state
            The state after the bin before.
        co_posterior
            Makes the distribution that the controller output is sampled from; None takes the mean.
        """
        ext_input = self.dropout(ext_input)
        con_state, co_mean, co_std = state.con_state, state.co_mean, state.co_std
        gen_input = ext_input
        if self.use_con:
            con_input = self.dropout(torch.cat([ci, state.factor], dim=1))
            con_state = self.con_cell(con_input, state.con_state)
            co_mean, co_logvar = self.co_linear(con_state).chunk(2, dim=1)
            co_std = torch.exp(0.5 * co_logvar)
            con_output = co_posterior(co_mean, co_std).rsample() if co_posterior else co_mean
            gen_input = torch.cat([con_output, ext_input], dim=1)
        gen_state = self.gen_cell(gen_input, state.gen_state)
        factor = self.factor(gen_state)
        return DecoderState(gen_state, con_state, factor, co_mean, co_std, gen_input)


class DecoderRNN(nn.Module):
    """A :class:`DecoderCell` run over time."""

    def __init__(self, cell: DecoderCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(
        self,
        ci: Tensor,
        ext_input: Tensor,
        state: DecoderState,
        co_posterior: MakePosterior | None,
    ) -> DecoderState:
        """Run over ci (B, T, 2 ci_enc_dim) and ext_input (B, T, ext_input_dim).

        Of fewer trials in ci, (B / S, T, …), S samples each follow each other.
        Returns a :class:`DecoderState` whose fields have a time axis: (B, T, …).
        """
        backend = self._backend(ci, ext_input, state, co_posterior)
        if backend is not None:
            return self._run_fused(backend, ci, ext_input, state, co_posterior)
        if len(ci) < len(ext_input):
            ci = ci.repeat_interleave(len(ext_input) // len(ci), dim=0)
        states = []
        for ci_t, ext_t in zip(ci.unbind(1), ext_input.unbind(1), strict=True):
            state = self.cell(ci_t, ext_t, state, co_posterior)
            states.append(state)
        return DecoderState(*(torch.stack(field, dim=1) for field in zip(*states, strict=True)))

    def _run_fused(
        self,
        backend: fused.Backend,
        ci: Tensor,
        ext_input: Tensor,
        state: DecoderState,
        co_posterior: MakePosterior | None,
    ) -> DecoderState:
        cell = self.cell
        ext_input = cell.dropout(ext_input)
        noise = None
        if cell.use_con:
            ci = cell.dropout(ci)
            if co_posterior is not None:
                n_co = cell.co_linear.out_features // 2
                zeros = ext_input.new_zeros(ext_input.shape[1], len(ext_input), n_co)
                noise = co_posterior(zeros, torch.ones_like(zeros)).rsample().detach()
        weights = cell.weights()
        rate = cell.dropout.p if cell.training else 0.0
        draws = fused.dropout_draws(weights, len(ext_input), ext_input.shape[1], rate, noise)
        start = state.gen_state, state.con_state, state.factor
        return DecoderState(*fused.run_decoder(backend, weights, ci, ext_input, *start, draws))

    def _backend(
        self,
        ci: Tensor,
        ext_input: Tensor,
        state: DecoderState,
        co_posterior: MakePosterior | None,
    ) -> fused.Backend | None:
        """Return what runs the whole sequence at once, None where it is to be done by steps."""
        if not _is_original(self.cell):
            return None
        if co_posterior is not None and not getattr(co_posterior, "location_scale", False):
            return None
        return fused.choose(ext_input, ci, *state, *self.cell.parameters())


def _is_original(cell: DecoderCell) -> bool:
    """Return whether a cell and all of its parts are those of this library, as they are."""
    parts: dict[str, type[nn.Module]] = {
        "dropout": Dropout,
        "gen_cell": ClippedGRUCell,
        "fac_linear": KernelNormalizedLinear,
    }
    if cell.use_con:
        parts |= {"con_cell": ClippedGRUCell, "co_linear": nn.Linear}
    original = is_original(cell, DecoderCell) and all(
        is_original(getattr(cell, name), cls) for name, cls in parts.items()
    )
    if not original or cell.fac_linear.bias is not None:
        return False
    same_clip = not cell.use_con or cell.con_cell.clip_value == cell.gen_cell.clip_value
    return same_clip and (not cell.use_con or cell.co_linear.bias is not None)


class Decoder(nn.Module):
    """Generator, controller and factors over a whole window.

    To replace it, keep :meth:`forward` and :meth:`recurrent_weights`.

    Parameters
    ----------
    ic_dim
        Dimensions of the initial condition.
    ext_input_dim, ci_enc_dim, con_dim, co_dim, gen_dim, fac_dim, dropout_rate, cell_clip, use_con
        As for :class:`DecoderCell`.
    """

    def __init__(
        self,
        *,
        ext_input_dim: int,
        ic_dim: int,
        ci_enc_dim: int,
        con_dim: int,
        co_dim: int,
        gen_dim: int,
        fac_dim: int,
        dropout_rate: float,
        cell_clip: float,
        use_con: bool,
    ) -> None:
        super().__init__()
        self.use_con = use_con
        self.co_dim = co_dim if use_con else 0
        self.ic_to_g0 = nn.Linear(ic_dim, gen_dim)
        init_linear_(self.ic_to_g0)
        self.con_h0 = nn.Parameter(torch.zeros(1, con_dim))
        self.rnn = DecoderRNN(
            DecoderCell(
                ext_input_dim=ext_input_dim,
                ci_enc_dim=ci_enc_dim,
                con_dim=con_dim,
                co_dim=co_dim,
                gen_dim=gen_dim,
                fac_dim=fac_dim,
                dropout_rate=dropout_rate,
                cell_clip=cell_clip,
                use_con=use_con,
            )
        )

    def forward(
        self,
        ic_samp: Tensor,
        ci: Tensor,
        ext_input: Tensor,
        co_posterior: MakePosterior | None = None,
    ) -> DecoderOutput:
        """Unroll the dynamics.

        Parameters
        ----------
        ic_samp
            (B, ic_dim) initial conditions.
        ci
            (B, T_rec, 2 ci_enc_dim) controller inputs; or, where S samples of each trial follow
            each other in the other arguments, those of each trial once, (B / S, T_rec, …).
        ext_input
            (B, T_rec, ext_input_dim) external inputs.
        co_posterior
            Makes the distribution that the controller output is sampled from; None takes the mean.
        """
        n_trials = len(ic_samp)
        gen_init = self.ic_to_g0(ic_samp)
        nothing = ic_samp.new_zeros(n_trials, self.co_dim)
        start = DecoderState(
            gen_state=gen_init,
            con_state=self.con_h0.expand(n_trials, -1),
            factor=self.rnn.cell.factor(gen_init),
            co_mean=nothing,
            co_std=nothing,
            gen_input=nothing,
        )
        states = self.rnn(ci, ext_input, start, co_posterior)
        return DecoderOutput(
            gen_init=gen_init,
            gen_states=states.gen_state,
            con_states=states.con_state,
            co_means=states.co_mean,
            co_stds=states.co_std,
            gen_inputs=states.gen_input,
            factors=states.factor,
        )

    def recurrent_weights(self) -> dict[str, list[Tensor]]:
        """Return the matrices that ``l2_gen_scale`` and ``l2_con_scale`` penalise."""
        cell = self.rnn.cell
        weights: dict[str, list[Tensor]] = {"gen": [cell.gen_cell.weight_hh]}
        if self.use_con:
            weights["con"] = [cell.con_cell.weight_hh]
        return weights
