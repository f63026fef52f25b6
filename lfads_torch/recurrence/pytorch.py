"""The fused recurrences in PyTorch, on any device; see ``docs/recurrence.md`` for the equations."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lfads_torch import utils
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.memory import empty
from lfads_torch.recurrence.tuples import (
    DecoderArguments,
    DecoderGrads,
    DecoderTrace,
    Draws,
    GRUArguments,
    GRUTrace,
)
from lfads_torch.recurrence.unit import (
    Unit,
    UnitBackward,
    add_products,
    apply,
    bins_of_block,
    blocks,
    project,
)


class PyTorchBackend(Backend):
    """The operations in PyTorch, on any device and in any floating-point dtype."""

    name = "torch"

    def handles(self, *tensors: Tensor) -> bool:
        """Return True."""
        return True

    # -------------------------------------------------------------- recurrences

    def gru_forward(self, args: GRUArguments, clip: float, reverse: bool, save: bool) -> GRUTrace:
        """Run a gated recurrent unit over time."""
        inputs = args.inputs.transpose(0, 1)
        n_bins, n_trials, _ = inputs.shape
        n_block = bins_of_block(n_bins, n_trials * len(args.bias), inputs)
        unit = Unit(n_bins, args.h_0, args.weight_hh, clip, reverse, None if save else n_block)
        for bins in blocks(n_bins, n_block, reverse):
            unit.enter(bins)
            project(inputs[bins], args.weight_ih, args.bias, out=unit.gates)
            for i in unit.order:
                unit.step(i)
        return GRUTrace(unit.states, unit.buffer)

    def gru_backward(
        self,
        grad_states: Tensor | None,
        grad_final: Tensor | None,
        args: GRUArguments,
        trace: GRUTrace,
        clip: float,
        reverse: bool,
        needs_inputs: bool,
    ) -> GRUArguments:
        """Return the gradients of the arguments; that of the inputs may be left out."""
        inputs = args.inputs.transpose(0, 1)
        n_bins, n_trials, n_gates = trace.gates.shape
        n_block = bins_of_block(n_bins, n_trials * n_gates, inputs)
        unit = UnitBackward(
            trace.gates, trace.states, args.weight_hh, clip, n_block, reverse, grad_final
        )
        grad_weight = torch.zeros_like(args.weight_ih)
        grad_inputs: Any = empty(inputs.shape, inputs) if needs_inputs else None
        for bins in blocks(n_bins, n_block, not reverse):
            unit.enter(bins)
            incoming = _by_bin(grad_states, bins)
            for i in unit.order:
                if incoming is not None:
                    unit.carry.add_(incoming[i])
                unit.step(i)
            unit.leave()
            add_products(grad_weight, unit.grads, inputs[bins])
            if needs_inputs:
                apply(unit.grads, args.weight_ih, out=grad_inputs[bins])
        return GRUArguments(
            inputs=grad_inputs.transpose(0, 1) if needs_inputs else grad_inputs,
            h_0=unit.carry,
            weight_ih=grad_weight,
            weight_hh=unit.grad_weight,
            bias=unit.grad_bias,
        )

    def decoder_forward(
        self, args: DecoderArguments, draws: Draws, clip: float, save: bool
    ) -> DecoderTrace:
        """Run the decoder over time."""
        ext = args.ext.transpose(0, 1)
        n_bins, n_trials, n_ext = ext.shape
        n_co = args.gen_ih.shape[1] - n_ext
        n_gates = n_trials * (len(args.gen_bias) + len(args.con_bias))
        n_block = bins_of_block(n_bins, n_gates, ext)
        gen_inputs = ext.new_empty(n_bins, n_trials, n_co + n_ext)
        gen_inputs[:, :, n_co:] = ext
        factors = empty((n_bins + 1, n_trials, len(args.fac_weight)), ext)
        factors[0] = args.fac_0
        bins_of_buffer = None if save else n_block
        gen = Unit(n_bins, args.gen_0, args.gen_hh, clip, bins_of_buffer=bins_of_buffer)
        input_to_gen = args.gen_ih.t()
        gen_to_fac = _scaled(args.fac_weight, draws.keep_g, draws).t()
        masked_state = torch.empty_like(args.gen_0)
        buffer_g = ext.new_empty(n_block, *args.gen_0.shape)
        buffer_f = ext.new_empty(n_block, *args.fac_0.shape)
        use_con = args.con_hh.numel() > 0
        con_gates = co = co_stds = ext.new_empty(0)
        if use_con:
            con = Unit(n_bins, args.con_0, args.con_hh, clip, bins_of_buffer=bins_of_buffer)
            con_gates = con.buffer
            co = ext.new_empty(n_bins, n_trials, 2 * n_co)
            co_stds = ext.new_empty(n_bins, n_trials, n_co)
            ci, n_ci = args.ci.transpose(0, 1), args.ci.shape[2]
            fac_to_con = _scaled(args.con_ih[:, n_ci:], draws.keep_f, draws).t()
            con_to_co = args.co_weight.t()
            masked_factor = torch.empty_like(args.fac_0)
        for bins in blocks(n_bins, n_block):
            gen.enter(bins)
            keep_g = _as_numbers(draws.keep_g, bins, buffer_g)
            keep_f = _as_numbers(draws.keep_f, bins, buffer_f)
            before, after = factors[:-1][bins].unbind(0), factors[1:][bins].unbind(0)
            gen_input = gen_inputs[bins].unbind(0)
            if use_con:
                con.enter(bins)
                project(ci[bins], args.con_ih[:, :n_ci], args.con_bias, out=con.gates)
                output, std = co[bins].unbind(0), co_stds[bins].unbind(0)
                mean, logvar = (x.unbind(0) for x in co[bins].split(n_co, dim=2))
                drawn = gen_inputs[bins, :, :n_co].unbind(0)
                noise = _by_bin(draws.noise, bins)
            for i in gen.order:
                if use_con:
                    factor = before[i]
                    if keep_f is not None:
                        factor = torch.mul(factor, keep_f[i], out=masked_factor)
                    con.gate[i].addmm_(factor, fac_to_con)
                    con.step(i)
                    torch.addmm(args.co_bias, con.after[i], con_to_co, out=output[i])
                    torch.mul(logvar[i], 0.5, out=std[i]).exp_()
                    if noise is None:
                        drawn[i].copy_(mean[i])
                    else:
                        torch.addcmul(mean[i], std[i], noise[i], out=drawn[i])
                torch.addmm(args.gen_bias, gen_input[i], input_to_gen, out=gen.gate[i])
                gen.step(i)
                state = gen.after[i]
                if keep_g is not None:
                    state = torch.mul(state, keep_g[i], out=masked_state)
                torch.mm(state, gen_to_fac, out=after[i])
        return DecoderTrace(
            gen_states=gen.states,
            con_states=con.states if use_con else co,
            factors=factors,
            co=co,
            co_stds=co_stds,
            gen_inputs=gen_inputs,
            gen_gates=gen.buffer,
            con_gates=con_gates,
        )

    def decoder_backward(
        self,
        grads: DecoderGrads,
        args: DecoderArguments,
        draws: Draws,
        trace: DecoderTrace,
        clip: float,
        needs_ci: bool,
        needs_ext: bool,
    ) -> DecoderArguments:
        """Return the gradients of the arguments; those of ci and ext may be left out."""
        n_bins, n_trials, n_inputs = trace.gen_inputs.shape
        n_co = n_inputs - args.ext.shape[2]
        n_gates = n_trials * (len(args.gen_bias) + len(args.con_bias))
        n_block = bins_of_block(n_bins, n_gates, args.ext)
        none: Any = None
        result = DecoderArguments(*[none] * len(DecoderArguments._fields))._replace(
            gen_ih=torch.zeros_like(args.gen_ih), fac_weight=torch.zeros_like(args.fac_weight)
        )
        if needs_ext:
            result = result._replace(ext=_sequence(args.ext))
        gen = UnitBackward(trace.gen_gates, trace.gen_states, args.gen_hh, clip, n_block)
        fac_weight = _scaled(args.fac_weight, draws.keep_g, draws)
        buffer_g = args.ext.new_empty(n_block, *args.gen_0.shape)
        buffer_f = args.ext.new_empty(n_block, *args.fac_0.shape)
        all_grad_factors = torch.empty_like(buffer_f)
        grad_state = torch.empty_like(gen.carry)
        carry_f = torch.zeros_like(args.fac_0)  # the gradient that a factor gets from the next bin
        use_con = args.con_hh.numel() > 0
        if use_con:
            con = UnitBackward(trace.con_gates, trace.con_states, args.con_hh, clip, n_block)
            n_ci = args.ci.shape[2]
            drawn_to_gen = args.gen_ih[:, :n_co]
            fac_to_con = _scaled(args.con_ih[:, n_ci:], draws.keep_f, draws)
            all_grad_co = torch.empty_like(trace.co[:n_block])
            grad_drawn = torch.empty_like(trace.co_stds[0])
            result = result._replace(
                con_ih=torch.zeros_like(args.con_ih),
                co_weight=torch.zeros_like(args.co_weight),
                co_bias=torch.zeros_like(args.co_bias),
            )
            if needs_ci:
                result = result._replace(ci=_sequence(args.ci))
        for bins in blocks(n_bins, n_block, reverse=True):
            gen.enter(bins)
            keep_g = _as_numbers(draws.keep_g, bins, buffer_g)
            keep_f = _as_numbers(draws.keep_f, bins, buffer_f)
            to_factors, to_gen = _by_bin(grads.factors, bins), _by_bin(grads.gen_states, bins)
            to_con, to_inputs = _by_bin(grads.con_states, bins), _by_bin(grads.gen_inputs, bins)
            grad_factors = all_grad_factors[: len(gen.order)]
            if use_con:
                con.enter(bins)
                # Gradients of mean and log-variance that do not come from the sampled output.
                grad_co = all_grad_co[: len(gen.order)]
                grad_mean, grad_logvar = grad_co.split(n_co, dim=2)
                half_std = 0.5 * trace.co_stds[bins]
                grad_mean.copy_(_or_zero(grads.co_means, bins, half_std))
                torch.mul(half_std, _or_zero(grads.co_stds, bins, half_std), out=grad_logvar)
                grad_mean, grad_logvar = grad_mean.unbind(0), grad_logvar.unbind(0)
                half_noise = None if draws.noise is None else half_std * draws.noise[bins]
            for i in gen.order:
                grad_factor = grad_factors[i]
                if to_factors is None:
                    grad_factor.copy_(carry_f)
                else:
                    torch.add(to_factors[i], carry_f, out=grad_factor)
                if keep_g is None:
                    gen.carry.addmm_(grad_factor, fac_weight)
                else:
                    gen.carry.addcmul_(torch.mm(grad_factor, fac_weight, out=grad_state), keep_g[i])
                if to_gen is not None:
                    gen.carry.add_(to_gen[i])
                gen.step(i)
                if not use_con:
                    continue
                torch.mm(gen.grad[i], drawn_to_gen, out=grad_drawn)
                if to_inputs is not None:
                    grad_drawn.add_(to_inputs[i][:, :n_co])
                grad_mean[i].add_(grad_drawn)
                if half_noise is not None:
                    grad_logvar[i].addcmul_(grad_drawn, half_noise[i])
                con.carry.addmm_(grad_co[i], args.co_weight)
                if to_con is not None:
                    con.carry.add_(to_con[i])
                con.step(i)
                torch.mm(con.grad[i], fac_to_con, out=carry_f)
                if keep_f is not None:
                    carry_f.mul_(keep_f[i])

            gen.leave()
            add_products(result.gen_ih, gen.grads, trace.gen_inputs[bins])
            seen = trace.gen_states[1:][bins]
            seen = seen if keep_g is None else keep_g.mul_(seen)
            add_products(result.fac_weight, grad_factors, seen)
            if needs_ext:
                grad_ext = result.ext.transpose(0, 1)[bins]
                apply(gen.grads, args.gen_ih[:, n_co:], out=grad_ext)
                if grads.gen_inputs is not None:
                    grad_ext.add_(grads.gen_inputs[bins, :, n_co:])
            if use_con:
                con.leave()
                seen = trace.factors[:-1][bins]
                seen = seen if keep_f is None else keep_f.mul_(seen)
                add_products(result.con_ih[:, n_ci:], con.grads, seen)
                add_products(result.con_ih[:, :n_ci], con.grads, args.ci.transpose(0, 1)[bins])
                add_products(result.co_weight, grad_co, trace.con_states[1:][bins])
                result.co_bias.add_(grad_co.sum((0, 1)))
                if needs_ci:
                    grad_ci = result.ci.transpose(0, 1)[bins]
                    apply(con.grads, args.con_ih[:, :n_ci], out=grad_ci)
        if use_con:
            if draws.keep_f is not None:
                result.con_ih[:, n_ci:].mul_(draws.scale)
            result = result._replace(
                con_0=con.carry, con_hh=con.grad_weight, con_bias=con.grad_bias
            )
        if draws.keep_g is not None:
            result.fac_weight.mul_(draws.scale)
        return result._replace(
            gen_0=gen.carry, fac_0=carry_f, gen_hh=gen.grad_weight, gen_bias=gen.grad_bias
        )

    # -------------------------------------------------------------- linear maps

    def linear_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return W x + b."""
        return F.linear(x, weight, bias)

    def linear_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_parameters: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, W and b that are needed."""
        grad_x = grad @ weight if needs_x else None
        if not needs_parameters:
            return grad_x, None, None
        rows = grad.flatten(0, 1)
        return grad_x, rows.t() @ x.flatten(0, 1), rows.sum(dim=0)

    def mean_rates(self, factors: Tensor, weight: Tensor, bias: Tensor, n_samples: int) -> Tensor:
        """Return the mean over samples of exp(W f + b)."""
        by_bin = factors.transpose(0, 1)  # The decoder stores them so: this copies nothing.
        rates = empty((*by_bin.shape[:2], len(weight)), factors)
        torch.addmm(bias, by_bin.flatten(0, 1), weight.t(), out=rates.flatten(0, 1))
        return rates.exp_().unflatten(1, (-1, n_samples)).mean(dim=2).transpose(0, 1)

    # -------------------------------------------------------------- Poisson likelihood

    def poisson_losses(self, log_rates: Tensor, counts: Tensor, stirling: bool) -> Tensor:
        """Return exp(x) - k x, with Stirling's log k! where k > 1 if ``stirling``."""
        losses = torch.exp(log_rates, out=empty(counts.shape, counts))
        losses.addcmul_(counts, log_rates, value=-1)
        return _add_log_factorial_(losses, counts) if stirling else losses

    def poisson_gradient(self, log_rates: Tensor, counts: Tensor, grad: Tensor) -> Tensor:
        """Return (exp(x) - k) · grad."""
        return torch.exp(log_rates, out=empty(counts.shape, counts)).sub_(counts).mul_(grad)

    def poisson_sums(self, log_rates: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over trials of k and of exp(x) - k x."""
        losses = self.poisson_losses(log_rates, counts, stirling=False)
        return counts.sum(dim=0), losses.sum(dim=0)


def _add_log_factorial_(losses: Tensor, counts: Tensor) -> Tensor:
    """Add Stirling's log k! where k > 1, which is rare if bins are short."""
    if not utils.on_cpu(counts):  # Searching for them would take longer than computing all.
        return losses.add_(torch.where(counts > 1, _stirling(counts), 0.0))
    # NumPy finds them in a third of PyTorch's time.
    large = torch.from_numpy(np.flatnonzero(counts.numpy() > 1))
    return losses.put_(large, _stirling(counts.take(large)), accumulate=True)


def _stirling(k: Tensor) -> Tensor:
    """Return Stirling's formula for log k!."""
    return k * torch.log(k) - k + 0.5 * torch.log(2 * math.pi * k)


def _as_numbers(mask: Tensor | None, bins: slice, buffer: Tensor) -> Tensor | None:
    """Write a block of a mask to a buffer (K, B, N) of numbers."""
    return None if mask is None else buffer[: bins.stop - bins.start].copy_(mask[bins])


def _by_bin(sequence: Tensor | None, bins: slice) -> tuple[Tensor, ...] | None:
    """Return some bins of a sequence (T, B, N), if there is one."""
    return None if sequence is None else sequence[bins].unbind(0)


def _or_zero(grad: Tensor | None, bins: slice, like: Tensor) -> Tensor:
    """Return some bins of a gradient, or zero if there is none."""
    return like.new_zeros(()) if grad is None else grad[bins]


def _scaled(weight: Tensor, mask: Tensor | None, draws: Draws) -> Tensor:
    """Return the weight of masked values, multiplied by dropout's scale if there is a mask."""
    return weight if mask is None else weight * draws.scale


def _sequence(like: Tensor) -> Tensor:
    """Return an uninitialised tensor (B, T, N), whose bins follow each other in memory."""
    n_trials, n_bins, size = like.shape
    return empty((n_bins, n_trials, size), like).transpose(0, 1)
