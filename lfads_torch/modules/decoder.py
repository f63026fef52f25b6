"""The decoder: computes the factors from the initial condition and the controller's inputs."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lfads_torch import recurrence
from lfads_torch.modules.dropout import Dropout
from lfads_torch.modules.initializers import init_linear_
from lfads_torch.modules.parts import (
    Cell,
    Generator,
    Spec,
    declared,
    linear_weights,
    make_part,
    runs_as_defined,
)
from lfads_torch.modules.priors import Prior, location_scale
from lfads_torch.modules.recurrent import ClippedGRUCell
from lfads_torch.recurrence import Backend, DecoderStates, DecoderWeights
from lfads_torch.tuples import DecoderOutput


class KernelNormalizedLinear(nn.Linear):
    """A linear map whose weight rows are scaled to unit length in every use."""

    def normalized_weight(self) -> Tensor:
        """Return the weight (out_features, in_features) with rows of unit length."""
        return F.normalize(self.weight, dim=1)

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        return F.linear(input, self.normalized_weight(), self.bias)


class DecoderState(NamedTuple):
    """State of the decoder after a bin, which the next bin needs."""

    gen_state: Tensor
    """(B, gen_dim) generator state."""
    con_state: Tensor
    """(B, con_dim) controller state."""
    factor: Tensor
    """(B, fac_dim) factors."""


class GeneratorInput(NamedTuple):
    """The input of the generator in a bin, and the distribution of its inferred part."""

    co_mean: Tensor
    """(B, co_dim) mean of the controller output."""
    co_std: Tensor
    """(B, co_dim) standard deviation of the controller output."""
    value: Tensor
    """(B, co_dim + ext_input_dim) the controller output and the external input."""


class DecoderCell(nn.Module):
    r"""One bin of the decoder (Pandarinath et al. 2018, online methods).

    .. math::
        c_t &= \mathrm{controller}(\mathrm{dropout}([\mathrm{ci}_t, f_{t-1}]), c_{t-1}) \\
        u_t &\sim N(μ_t, σ^2_t), \quad (μ_t, \log σ^2_t) = \mathrm{co\_linear}(c_t) \\
        g_t &= \mathrm{generator}([u_t, \mathrm{dropout}(\mathrm{ext}_t)], g_{t-1}) \\
        f_t &= F\, \mathrm{dropout}(\mathrm{output}(g_t))

    Without a controller there are no c and u. Controller and generator are clipped gated recurrent
    units unless others are given; the output of such a generator is its state.

    Parameters
    ----------
    ext_input_dim, ci_enc_dim, con_dim, co_dim, gen_dim, fac_dim
        Sizes of the external input, of one direction of the controller-input encoder, of the
        controller, its output, the generator and the factors.
    dropout_rate, cell_clip
        Probability of dropout, and the largest magnitude of a recurrent state.
    use_con
        Whether there is a controller.
    generator, controller
        How these are made, see :func:`~lfads_torch.modules.parts.make_part`. They are a
        :class:`~lfads_torch.modules.parts.Generator` and a
        :class:`~lfads_torch.modules.parts.Cell`.
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
        generator: Spec = None,
        controller: Spec = None,
    ) -> None:
        super().__init__()
        self.ext_input_dim = ext_input_dim
        self.ci_enc_dim = ci_enc_dim
        self.con_dim = con_dim
        self.co_dim = co_dim
        self.gen_dim = gen_dim
        self.fac_dim = fac_dim
        self.dropout_rate = dropout_rate
        self.cell_clip = cell_clip
        self.use_con = use_con
        self.dropout = Dropout(dropout_rate)
        options = {"clip_value": cell_clip, "cell_clip": cell_clip, "dropout_rate": dropout_rate}
        self.gen_cell = make_part(
            "model.decoder.generator",
            generator,
            ClippedGRUCell,
            input_size=(co_dim if use_con else 0) + ext_input_dim,
            hidden_size=gen_dim,
            **options,
        )
        output_size = getattr(self.gen_cell, "output_size", gen_dim)
        self.fac_linear = KernelNormalizedLinear(output_size, fac_dim, bias=False)
        init_linear_(self.fac_linear)
        if use_con:
            self.con_cell = make_part(
                "model.decoder.controller",
                controller,
                ClippedGRUCell,
                input_size=2 * ci_enc_dim + fac_dim,
                hidden_size=con_dim,
                **options,
            )
            self.co_linear = nn.Linear(con_dim, 2 * co_dim)
            init_linear_(self.co_linear)

    @property
    def generator(self) -> nn.Module:
        """The generator."""
        return self.gen_cell

    @property
    def controller(self) -> nn.Module | None:
        """The controller, or None if there is none."""
        return self.con_cell if self.use_con else None

    def factor(self, gen_state: Tensor) -> Tensor:
        """Read the factors (B, fac_dim) out of the generator state (B, gen_dim)."""
        output = declared(self.gen_cell, "output", Generator)(gen_state)
        factors: Tensor = self.fac_linear(self.dropout(output))
        return factors

    def forward(
        self, ci: Tensor, ext_input: Tensor, state: DecoderState, co_prior: Prior | None
    ) -> tuple[DecoderState, GeneratorInput]:
        """Advance by one bin.

        Parameters
        ----------
        ci
            (B, 2 ci_enc_dim) controller input.
        ext_input
            (B, ext_input_dim) external input.
        state
            The state after the previous bin.
        co_prior
            The prior, which makes the posterior that the controller output is sampled from. With
            None, the controller output is the mean.
        """
        ext_input = self.dropout(ext_input)
        if self.use_con:
            con_input = self.dropout(torch.cat([ci, state.factor], dim=1))
            con_state = self.con_cell(con_input, state.con_state)
            co_mean, co_logvar = self.co_linear(con_state).chunk(2, dim=1)
            co_std = torch.exp(0.5 * co_logvar)
            co = co_prior.make_posterior(co_mean, co_std).rsample() if co_prior else co_mean
            gen_input = GeneratorInput(co_mean, co_std, torch.cat([co, ext_input], dim=1))
        else:
            con_state = state.con_state
            nothing = ext_input.new_zeros(len(ext_input), 0)
            gen_input = GeneratorInput(nothing, nothing, ext_input)
        gen_state = self.gen_cell(gen_input.value, state.gen_state)
        return DecoderState(gen_state, con_state, self.factor(gen_state)), gen_input

    def recurrent_weights(self) -> dict[str, list[Tensor]]:
        """Return the weights that ``l2_gen_scale`` and ``l2_con_scale`` penalise."""
        weights = {"gen": declared(self.gen_cell, "recurrent_weights", Cell)()}
        if self.use_con:
            weights["con"] = declared(self.con_cell, "recurrent_weights", Cell)()
        return weights

    def fused_weights(self) -> DecoderWeights | None:
        """Return the weights with which the fused decoder computes exactly what this cell does.

        It is None if this is a derived class, if a part does not belong to this library, or if
        there is a hook.
        """
        if not runs_as_defined(self, DecoderCell) or not runs_as_defined(self.dropout, Dropout):
            return None
        fac_linear = self.fac_linear
        if not runs_as_defined(fac_linear, KernelNormalizedLinear) or fac_linear.bias is not None:
            return None
        generator = declared(self.gen_cell, "fused_weights", Cell)()
        if generator is None:
            return None
        state = generator.weight_hh.new_empty(0, self.gen_dim)
        if declared(self.gen_cell, "output", Generator)(state) is not state:
            return None  # the fused decoder reads the factors from the state itself
        fac_weight = fac_linear.normalized_weight()
        if not self.use_con:
            return DecoderWeights(generator, fac_weight)
        controller = declared(self.con_cell, "fused_weights", Cell)()
        co = linear_weights(self.co_linear)
        if controller is None or co is None or controller.clip != generator.clip:
            return None
        return DecoderWeights(generator, fac_weight, controller, *co)


class DecoderRNN(nn.Module):
    """Runs a :class:`DecoderCell` over time, by a fused implementation if one can do this."""

    def __init__(self, cell: DecoderCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(
        self, ci: Tensor, ext_input: Tensor, state: DecoderState, co_prior: Prior | None
    ) -> DecoderStates:
        """Run over ci (B, T, 2 ci_enc_dim) and ext_input (B, T, ext_input_dim).

        ``ci`` may have fewer trials, (B / S, T, …), if S samples of each follow each other in the
        other arguments.
        """
        fused = self._fused(ci, ext_input, state, co_prior)
        if fused is not None:
            return self._run_fused(*fused, ci, ext_input, state, co_prior)
        if len(ci) < len(ext_input):
            ci = ci.repeat_interleave(len(ext_input) // len(ci), dim=0)
        bins = []
        for ci_t, ext_t in zip(ci.unbind(1), ext_input.unbind(1), strict=True):
            state, gen_input = self.cell(ci_t, ext_t, state, co_prior)
            bins.append((*state, *gen_input))
        gen_states, con_states, factors, co_means, co_stds, gen_inputs = (
            torch.stack(field, dim=1) for field in zip(*bins, strict=True)
        )
        return DecoderStates(
            gen_states=gen_states,
            con_states=con_states,
            factors=factors,
            co_means=co_means,
            co_stds=co_stds,
            gen_inputs=gen_inputs,
        )

    def why_step_by_step(self) -> str | None:
        """Return why no fused implementation can run this, or None if one can."""
        if declared(self.cell, "fused_weights", Cell)() is not None:
            return None
        parts = {name: part for name, part in self.cell.named_children() if name.endswith("_cell")}
        slow = [
            f"{name} is {type(part).__name__}"
            for name, part in parts.items()
            if declared(part, "fused_weights", Cell)() is None
        ]
        return ", ".join(slow or [f"{type(self.cell).__name__} or a part of it was changed"])

    def _fused(
        self, ci: Tensor, ext_input: Tensor, state: DecoderState, co_prior: Prior | None
    ) -> tuple[Backend, DecoderWeights] | None:
        """Return the implementation and its weights, or None if the cell must run step by step."""
        weights = declared(self.cell, "fused_weights", Cell)()
        if weights is None or (co_prior is not None and not location_scale(co_prior)):
            return None
        backend = recurrence.choose(ext_input, ci, *state, *self.cell.parameters())
        return None if backend is None else (backend, weights)

    def _run_fused(
        self,
        backend: Backend,
        weights: DecoderWeights,
        ci: Tensor,
        ext_input: Tensor,
        state: DecoderState,
        co_prior: Prior | None,
    ) -> DecoderStates:
        """Draw the random numbers of all bins, and run the whole sequence."""
        cell = self.cell
        n_trials, n_bins, n_ext = ext_input.shape
        ext_input = cell.dropout(ext_input)
        noise = None
        if cell.use_con:
            ci = cell.dropout(ci)
            if co_prior is not None:
                n_co = weights.generator.weight_ih.shape[1] - n_ext
                zeros = ext_input.new_zeros(n_bins, n_trials, n_co)
                noise = co_prior.make_posterior(zeros, torch.ones_like(zeros)).rsample().detach()
        rate = cell.dropout.p if cell.dropout.training else 0.0
        draws = recurrence.dropout_draws(weights, n_trials, n_bins, rate, noise)
        return recurrence.run_decoder(backend, weights, ci, ext_input, *state, draws)


class Decoder(nn.Module):
    """Generator, controller and factors over a whole window.

    Your own decoder needs :meth:`forward`. It also needs :meth:`recurrent_weights` if the L2
    penalty is to include some of its weights.

    Parameters
    ----------
    ic_dim
        Dimensions of the initial condition.
    ext_input_dim, ci_enc_dim, con_dim, co_dim, gen_dim, fac_dim, dropout_rate, cell_clip, use_con
        As for :class:`DecoderCell`.
    generator, controller
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
        generator: Spec = None,
        controller: Spec = None,
    ) -> None:
        super().__init__()
        self.ext_input_dim = ext_input_dim
        self.ic_dim = ic_dim
        self.ci_enc_dim = ci_enc_dim
        self.con_dim = con_dim
        self.co_dim = co_dim
        self.gen_dim = gen_dim
        self.fac_dim = fac_dim
        self.dropout_rate = dropout_rate
        self.cell_clip = cell_clip
        self.use_con = use_con
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
                generator=generator,
                controller=controller,
            )
        )

    @property
    def generator(self) -> nn.Module:
        """The generator."""
        return self.rnn.cell.generator

    @property
    def controller(self) -> nn.Module | None:
        """The controller, or None if there is none."""
        return self.rnn.cell.controller

    def forward(
        self, ic_samp: Tensor, ci: Tensor, ext_input: Tensor, co_prior: Prior | None = None
    ) -> DecoderOutput:
        """Unroll the dynamics.

        Parameters
        ----------
        ic_samp
            (B, ic_dim) initial conditions.
        ci
            (B, T_rec, 2 ci_enc_dim) controller inputs. If :meth:`shares_ci` returns True, they may
            be given once for each trial, (B / S, T_rec, 2 ci_enc_dim), while in the other arguments
            S samples of each trial follow each other.
        ext_input
            (B, T_rec, ext_input_dim) external inputs.
        co_prior
            The prior, which makes the posterior that the controller output is sampled from. With
            None, the controller output is the mean.
        """
        gen_init = self.ic_to_g0(ic_samp)
        start = DecoderState(
            gen_state=gen_init,
            con_state=self.con_h0.expand(len(ic_samp), -1),
            factor=self.rnn.cell.factor(gen_init),
        )
        states = self.rnn(ci, ext_input, start, co_prior)
        return DecoderOutput(gen_init=gen_init, **states._asdict())

    def shares_ci(self) -> bool:
        """Return whether samples of a trial may share its controller inputs."""
        return runs_as_defined(self, Decoder) and runs_as_defined(self.rnn, DecoderRNN)

    def recurrent_weights(self) -> dict[str, list[Tensor]]:
        """Return the weights that ``l2_gen_scale`` and ``l2_con_scale`` penalise."""
        return self.rnn.cell.recurrent_weights()
