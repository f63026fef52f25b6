"""The fused recurrences in PyTorch.

Bins are worked on in blocks, so few of them that what belongs to a block stays in the processor's
cache. On the way forward, inputs are projected for a block, which is then stepped through. On the
way back, what the gradients of gates are multiples of is computed for a block; it is stepped
through; then its part of the gradients of the weights is added up.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lfads_torch import utils
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.memory import empty, pieces
from lfads_torch.recurrence.tuples import (
    DecoderArguments,
    DecoderGrads,
    DecoderTrace,
    Draws,
    GRUArguments,
    GRUTrace,
    may_clip,
)

_BLOCK_BYTES = 4 << 20
"""Largest size of a block's gates, if it has more than one bin."""


class PyTorchBackend(Backend):
    """The operations in PyTorch, on any device and of any floating-point dtype."""

    name = "torch"

    def handles(self, *tensors: Tensor) -> bool:
        """Return True."""
        return True

    def gru_forward(self, args: GRUArguments, clip: float, reverse: bool, save: bool) -> GRUTrace:
        """Run a gated recurrent unit over time."""
        inputs = args.inputs.transpose(0, 1)
        n_bins, n_trials, _ = inputs.shape
        n_block = _bins_of_block(n_bins, n_trials * len(args.bias), inputs)
        unit = _Unit(n_bins, args.h_0, args.weight_hh, clip, reverse, None if save else n_block)
        for bins in _blocks(n_bins, n_block, reverse):
            unit.enter(bins)
            _project(inputs[bins], args.weight_ih, args.bias, out=unit.gates)
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
        n_block = _bins_of_block(n_bins, n_trials * n_gates, inputs)
        back = _UnitBack(
            trace.gates, trace.states, args.weight_hh, clip, n_block, reverse, grad_final
        )
        grad_weight = torch.zeros_like(args.weight_ih)
        grad_inputs: Any = empty(inputs.shape, inputs) if needs_inputs else None
        for bins in _blocks(n_bins, n_block, not reverse):
            back.enter(bins)
            outer = _by_bin(grad_states, bins)
            for i in back.order:
                if outer is not None:
                    back.carry.add_(outer[i])
                back.step(i)
            back.leave()
            _add_outer(grad_weight, back.grads, inputs[bins])
            if needs_inputs:
                _apply(back.grads, args.weight_ih, out=grad_inputs[bins])
        return GRUArguments(
            inputs=grad_inputs.transpose(0, 1) if needs_inputs else grad_inputs,
            h_0=back.carry,
            weight_ih=grad_weight,
            weight_hh=back.grad_weight,
            bias=back.grad_bias,
        )

    def decoder_forward(
        self, args: DecoderArguments, draws: Draws, clip: float, save: bool
    ) -> DecoderTrace:
        """Run the decoder over time."""
        ext = args.ext.transpose(0, 1)
        n_bins, n_trials, n_ext = ext.shape
        n_co = args.gen_ih.shape[1] - n_ext
        n_gates = n_trials * (len(args.gen_bias) + len(args.con_bias))
        n_block = _bins_of_block(n_bins, n_gates, ext)
        gen_inputs = ext.new_empty(n_bins, n_trials, n_co + n_ext)
        gen_inputs[:, :, n_co:] = ext
        factors = empty((n_bins + 1, n_trials, len(args.fac_weight)), ext)
        factors[0] = args.fac_0
        kept_bins = None if save else n_block
        gen = _Unit(n_bins, args.gen_0, args.gen_hh, clip, bins_of_buffer=kept_bins)
        input_to_gen, readout = args.gen_ih.t(), _scaled(args.fac_weight, draws.keep_g, draws).t()
        kept_state = torch.empty_like(args.gen_0)
        buffer_g = ext.new_empty(n_block, *args.gen_0.shape)
        buffer_f = ext.new_empty(n_block, *args.fac_0.shape)
        use_con = args.con_hh.numel() > 0
        con_gates = co = co_stds = ext.new_empty(0)
        if use_con:
            con = _Unit(n_bins, args.con_0, args.con_hh, clip, bins_of_buffer=kept_bins)
            con_gates = con.buffer
            co = ext.new_empty(n_bins, n_trials, 2 * n_co)
            co_stds = ext.new_empty(n_bins, n_trials, n_co)
            ci, n_ci = args.ci.transpose(0, 1), args.ci.shape[2]
            factor_to_con = _scaled(args.con_ih[:, n_ci:], draws.keep_f, draws).t()
            con_to_output = args.co_weight.t()
            kept_factor = torch.empty_like(args.fac_0)
        for bins in _blocks(n_bins, n_block):
            gen.enter(bins)
            keep_g = _numbers(draws.keep_g, bins, buffer_g)
            keep_f = _numbers(draws.keep_f, bins, buffer_f)
            before, after = factors[:-1][bins].unbind(0), factors[1:][bins].unbind(0)
            gen_input = gen_inputs[bins].unbind(0)
            if use_con:
                con.enter(bins)
                _project(ci[bins], args.con_ih[:, :n_ci], args.con_bias, out=con.gates)
                output, std = co[bins].unbind(0), co_stds[bins].unbind(0)
                mean, logvar = (x.unbind(0) for x in co[bins].split(n_co, dim=2))
                drawn = gen_inputs[bins, :, :n_co].unbind(0)
                noise = _by_bin(draws.noise, bins)
            for i in gen.order:
                if use_con:
                    factor = before[i]
                    if keep_f is not None:
                        factor = torch.mul(factor, keep_f[i], out=kept_factor)
                    con.gate[i].addmm_(factor, factor_to_con)
                    con.step(i)
                    torch.addmm(args.co_bias, con.after[i], con_to_output, out=output[i])
                    torch.mul(logvar[i], 0.5, out=std[i]).exp_()
                    if noise is None:
                        drawn[i].copy_(mean[i])
                    else:
                        torch.addcmul(mean[i], std[i], noise[i], out=drawn[i])
                torch.addmm(args.gen_bias, gen_input[i], input_to_gen, out=gen.gate[i])
                gen.step(i)
                state = gen.after[i]
                if keep_g is not None:
                    state = torch.mul(state, keep_g[i], out=kept_state)
                torch.mm(state, readout, out=after[i])
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
        n_block = _bins_of_block(n_bins, n_gates, args.ext)
        none: Any = None
        result = DecoderArguments(*[none] * len(DecoderArguments._fields))._replace(
            gen_ih=torch.zeros_like(args.gen_ih), fac_weight=torch.zeros_like(args.fac_weight)
        )
        if needs_ext:
            result = result._replace(ext=_sequence(args.ext))
        gen = _UnitBack(trace.gen_gates, trace.gen_states, args.gen_hh, clip, n_block)
        readout = _scaled(args.fac_weight, draws.keep_g, draws)
        buffer_g = args.ext.new_empty(n_block, *args.gen_0.shape)
        buffer_f = args.ext.new_empty(n_block, *args.fac_0.shape)
        all_grad_factors = torch.empty_like(buffer_f)
        grad_state = torch.empty_like(gen.carry)
        grad_factor = torch.zeros_like(args.fac_0)  # what reaches a factor from the bin after it
        use_con = args.con_hh.numel() > 0
        if use_con:
            con = _UnitBack(trace.con_gates, trace.con_states, args.con_hh, clip, n_block)
            n_ci = args.ci.shape[2]
            output_to_gen = args.gen_ih[:, :n_co]
            factor_to_con = _scaled(args.con_ih[:, n_ci:], draws.keep_f, draws)
            all_grad_co = torch.empty_like(trace.co[:n_block])
            grad_output = torch.empty_like(trace.co_stds[0])
            result = result._replace(
                con_ih=torch.zeros_like(args.con_ih),
                co_weight=torch.zeros_like(args.co_weight),
                co_bias=torch.zeros_like(args.co_bias),
            )
            if needs_ci:
                result = result._replace(ci=_sequence(args.ci))
        for bins in _blocks(n_bins, n_block, reverse=True):
            gen.enter(bins)
            keep_g = _numbers(draws.keep_g, bins, buffer_g)
            keep_f = _numbers(draws.keep_f, bins, buffer_f)
            outer_factors, outer_gen = _by_bin(grads.factors, bins), _by_bin(grads.gen_states, bins)
            outer_con, outer_inputs = (
                _by_bin(grads.con_states, bins),
                _by_bin(grads.gen_inputs, bins),
            )
            grad_factors = all_grad_factors[: len(gen.order)]
            if use_con:
                con.enter(bins)
                # Of mean and log-variance, but for what reaches them through the generator.
                grad_co = all_grad_co[: len(gen.order)]
                grad_mean, grad_logvar = grad_co.split(n_co, dim=2)
                half_std = 0.5 * trace.co_stds[bins]
                grad_mean.copy_(_or_zeros(grads.co_means, bins, half_std))
                torch.mul(half_std, _or_zeros(grads.co_stds, bins, half_std), out=grad_logvar)
                grad_mean, grad_logvar = grad_mean.unbind(0), grad_logvar.unbind(0)
                noise = None if draws.noise is None else (half_std * draws.noise[bins]).unbind(0)
                grad_output_of = grad_co.unbind(0)
            for i in gen.order:
                grad_after = grad_factors[i]
                if outer_factors is None:
                    grad_after.copy_(grad_factor)
                else:
                    torch.add(outer_factors[i], grad_factor, out=grad_after)
                if keep_g is None:
                    gen.carry.addmm_(grad_after, readout)
                else:
                    gen.carry.addcmul_(torch.mm(grad_after, readout, out=grad_state), keep_g[i])
                if outer_gen is not None:
                    gen.carry.add_(outer_gen[i])
                gen.step(i)
                if not use_con:
                    continue
                torch.mm(gen.grad[i], output_to_gen, out=grad_output)
                if outer_inputs is not None:
                    grad_output.add_(outer_inputs[i][:, :n_co])
                grad_mean[i].add_(grad_output)
                if noise is not None:
                    grad_logvar[i].addcmul_(grad_output, noise[i])
                con.carry.addmm_(grad_output_of[i], args.co_weight)
                if outer_con is not None:
                    con.carry.add_(outer_con[i])
                con.step(i)
                torch.mm(con.grad[i], factor_to_con, out=grad_factor)
                if keep_f is not None:
                    grad_factor.mul_(keep_f[i])

            gen.leave()
            _add_outer(result.gen_ih, gen.grads, trace.gen_inputs[bins])
            kept = trace.gen_states[1:][bins]
            _add_outer(
                result.fac_weight, grad_factors, kept if keep_g is None else keep_g.mul_(kept)
            )
            if needs_ext:
                grad_ext = result.ext.transpose(0, 1)[bins]
                _apply(gen.grads, args.gen_ih[:, n_co:], out=grad_ext)
                if grads.gen_inputs is not None:
                    grad_ext.add_(grads.gen_inputs[bins, :, n_co:])
            if use_con:
                con.leave()
                kept = trace.factors[:-1][bins]
                kept = kept if keep_f is None else keep_f.mul_(kept)
                _add_outer(result.con_ih[:, n_ci:], con.grads, kept)
                _add_outer(result.con_ih[:, :n_ci], con.grads, args.ci.transpose(0, 1)[bins])
                _add_outer(result.co_weight, grad_co, trace.con_states[1:][bins])
                result.co_bias.add_(grad_co.sum((0, 1)))
                if needs_ci:
                    grad_ci = result.ci.transpose(0, 1)[bins]
                    _apply(con.grads, args.con_ih[:, :n_ci], out=grad_ci)
        if use_con:
            if draws.keep_f is not None:
                result.con_ih[:, n_ci:].mul_(draws.scale)
            result = result._replace(
                con_0=con.carry, con_hh=con.grad_weight, con_bias=con.grad_bias
            )
        if draws.keep_g is not None:
            result.fac_weight.mul_(draws.scale)
        return result._replace(
            gen_0=gen.carry, fac_0=grad_factor, gen_hh=gen.grad_weight, gen_bias=gen.grad_bias
        )

    def linear_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return W x + b."""
        return F.linear(x, weight, bias)

    def linear_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_parameters: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, and of W and b, that are needed."""
        grad_x = grad @ weight if needs_x else None
        if not needs_parameters:
            return grad_x, None, None
        rows = grad.flatten(0, 1)
        return grad_x, rows.t() @ x.flatten(0, 1), rows.sum(dim=0)

    def mean_rates(self, factors: Tensor, weight: Tensor, bias: Tensor, n_samples: int) -> Tensor:
        """Return the mean over samples of exp(W f + b), (B, T, N).

        Factors are (B S, T, F), the S samples of each trial one after the other.
        """
        by_bin = factors.transpose(0, 1)  # as the decoder keeps them, so that nothing is copied
        rates = empty((*by_bin.shape[:2], len(weight)), factors)
        torch.addmm(bias, by_bin.flatten(0, 1), weight.t(), out=rates.flatten(0, 1))
        return rates.exp_().unflatten(1, (-1, n_samples)).mean(dim=2).transpose(0, 1)

    def masked(self, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        """Return x · keep · scale, a piece after the other."""
        result = empty(x.shape, x)
        for out, part, mask in pieces(result, x, keep):
            # Bytes become numbers faster than booleans, and a product is faster than a choice.
            out.copy_(mask).mul_(part)
            if scale != 1:
                out.mul_(scale)
        return result

    def poisson_losses(self, log_rates: Tensor, counts: Tensor, stirling: bool) -> Tensor:
        """Return exp(x) - k x, with Stirling's log k! where k > 1 if that is wanted."""
        losses = empty(counts.shape, counts)
        for out, x, k in pieces(losses, log_rates, counts):
            torch.exp(x, out=out).addcmul_(k, x, value=-1)
        return _add_log_factorial_(losses, counts) if stirling else losses

    def poisson_gradient(self, log_rates: Tensor, counts: Tensor, grad: Tensor) -> Tensor:
        """Return (exp(x) - k) · grad."""
        grad_input = empty(counts.shape, counts)
        for out, x, k, part in pieces(grad_input, log_rates, counts, grad):
            torch.exp(x, out=out).sub_(k).mul_(part)
        return grad_input

    def poisson_sums(self, log_rates: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over trials of k and of exp(x) - k x."""
        losses = empty(counts.shape, counts)
        for out, x, k in pieces(losses, log_rates, counts):
            torch.exp(x, out=out).addcmul_(x, k, value=-1)
        return counts.sum(dim=0), losses.sum(dim=0)


def _add_log_factorial_(losses: Tensor, counts: Tensor) -> Tensor:
    """Add Stirling's log k! where k > 1, which in spikes of short bins is nearly nowhere."""
    if not utils.on_cpu(counts):  # looking for these would take longer than computing all
        return losses.add_(torch.where(counts > 1, _stirling(counts), 0.0))
    # NumPy finds them in a third of PyTorch's time.
    large = torch.from_numpy(np.flatnonzero(counts.numpy() > 1))
    return losses.put_(large, _stirling(counts.take(large)), accumulate=True)


def _stirling(k: Tensor) -> Tensor:
    return k * torch.log(k) - k + 0.5 * torch.log(2 * math.pi * k)


class _Unit:
    """A gated recurrent unit.

    A block of bins is entered, its projected inputs are written to ``gates`` (or to ``gate``, bin
    by bin), and its bins are stepped through in ``order``.
    """

    def __init__(
        self,
        n_bins: int,
        h_0: Tensor,
        weight_hh: Tensor,
        clip: float,
        reverse: bool = False,
        bins_of_buffer: int | None = None,
    ) -> None:
        n_trials, size = h_0.shape
        self.size, self.reverse = size, reverse
        self.clip = clip if may_clip(h_0, clip) else None
        self.states = empty((n_bins + 1, n_trials, size), h_0)
        self.states[n_bins if reverse else 0] = h_0
        self.buffer = empty((bins_of_buffer or n_bins, n_trials, 3 * size), h_0)
        """(T, B, 3H) gates of all bins, or (bins_of_buffer, B, 3H) of a block at a time."""
        self.of_a_block = bins_of_buffer is not None
        self.weight_zr, self.weight_n = weight_hh[: 2 * size].t(), weight_hh[2 * size :].t()
        self.reset = torch.empty_like(self.states[0])
        # Half precision would lose what lies near 0; elsewhere an operation more costs its launch.
        by_sigmoid = utils.on_cpu(h_0) and h_0.dtype in (torch.float32, torch.float64)
        self.minus_one = h_0.new_full((), -1) if by_sigmoid else None

    def enter(self, bins: slice) -> None:
        """Turn to a block of bins."""
        n_bins = bins.stop - bins.start
        self.order = range(n_bins)[::-1] if self.reverse else range(n_bins)
        self.gates = self.buffer[:n_bins] if self.of_a_block else self.buffer[bins]
        self.gate = self.gates.unbind(0)
        self.zr = self.gates[:, :, : 2 * self.size].unbind(0)
        self.z, self.r, self.n = (x.unbind(0) for x in self.gates.split(self.size, dim=2))
        slots = self.states[bins.start : bins.stop + 1].unbind(0)
        earlier, later = slots[:-1], slots[1:]
        self.before, self.after = (later, earlier) if self.reverse else (earlier, later)

    def step(self, i: int) -> None:
        """Turn the projected inputs of bin i of the block into gates, and write its state."""
        before, after = self.before[i], self.after[i]
        self.zr[i].addmm_(before, self.weight_zr).sigmoid_()
        torch.mul(self.r[i], before, out=self.reset)
        n = self._tanh_(i)
        torch.lerp(n, before, self.z[i], out=after)
        if self.clip is not None:
            after.clamp_(-self.clip, self.clip)

    def _tanh_(self, i: int) -> Tensor:
        """Turn what is projected to the candidate of bin i into the candidate."""
        n = self.n[i]
        if self.minus_one is None:
            return n.addmm_(self.reset, self.weight_n).tanh_()
        # As 2 sigmoid(2 x) - 1, which takes PyTorch a fraction of the time of tanh(x).
        n.addmm_(self.reset, self.weight_n, beta=2, alpha=2).sigmoid_()
        return torch.add(self.minus_one, n, alpha=2, out=n)


class _UnitBack:
    """The way back through a :class:`_Unit`.

    A block of bins is entered, its bins are stepped through in ``order``, and it is left, which
    adds to the gradients of weights. ``carry`` is the gradient of the state after the bin that is
    next to be stepped back through, to which those of other uses of that state are to be added.
    """

    def __init__(
        self,
        gates: Tensor,
        states: Tensor,
        weight_hh: Tensor,
        clip: float,
        bins_of_block: int,
        reverse: bool = False,
        grad_final: Tensor | None = None,
    ) -> None:
        self.all_gates, self.reverse, self.size = gates, reverse, states.shape[2]
        self.all_before = states[1:] if reverse else states[:-1]
        self.carry = torch.zeros_like(states[0]) if grad_final is None else grad_final.clone()
        self.weight_zr, self.weight_n = weight_hh.split([2 * self.size, self.size])
        self.grad_weight = torch.zeros_like(weight_hh)
        self.grad_bias = weight_hh.new_zeros(len(weight_hh))
        self.clip = clip if may_clip(states[-1 if reverse else 0], clip) else None
        self.buffer = gates.new_empty(bins_of_block, *gates.shape[1:])
        self.reset_buffer = states.new_empty(bins_of_block, *states.shape[1:])
        self.grad_reset = torch.empty_like(self.carry)
        self.grad = self.buffer.unbind(0)
        grad_zr = self.buffer[:, :, : 2 * self.size]
        grad_z_n = self.buffer.unflatten(2, (3, self.size))[:, :, ::2]
        _, grad_r, grad_n = self.buffer.split(self.size, dim=2)
        self.grad_z_n, self.grad_zr = grad_z_n.unbind(0), grad_zr.unbind(0)
        self.grad_r, self.grad_n = grad_r.unbind(0), grad_n.unbind(0)

    def enter(self, bins: slice) -> None:
        """Compute what the gradients of the gates, before nonlinearities, are multiples of."""
        n_bins, size = bins.stop - bins.start, self.size
        self.order = range(n_bins) if self.reverse else range(n_bins)[::-1]
        self.h = self.all_before[bins]
        self.grads, self.reset = self.buffer[:n_bins], self.reset_buffer[:n_bins]
        gates = self.all_gates[bins].split(size, dim=2)
        for h, z, r, n, grad_z, grad_r, grad_n, other in pieces(
            self.h, *gates, *self.grads.split(size, dim=2), self.reset
        ):
            torch.sub(h, n, out=other)
            _sigmoid_backward(other, z, grad_input=grad_z)  # (h - n) z (1 - z)
            _sigmoid_backward(h, r, grad_input=grad_r)  # h r (1 - r)
            torch.sub(1, z, out=other)
            _tanh_backward(other, n, grad_input=grad_n)  # (1 - z) (1 - n²)
            torch.mul(r, h, out=other)
        z, r, n = gates
        self.z, self.r = z.unbind(0), r.unbind(0)
        if self.clip is not None:
            self.passes = (torch.lerp(n, self.h, z).abs() <= self.clip).unbind(0)

    def step(self, i: int) -> None:
        """Make the gradients of the gates of bin i, and of the state before it, in ``carry``."""
        if self.clip is not None:
            self.carry.mul_(self.passes[i])
        self.grad_z_n[i].mul_(self.carry.unsqueeze(1))
        torch.mm(self.grad_n[i], self.weight_n, out=self.grad_reset)
        self.grad_r[i].mul_(self.grad_reset)
        self.carry.mul_(self.z[i]).addcmul_(self.grad_reset, self.r[i])
        self.carry.addmm_(self.grad_zr[i], self.weight_zr)

    def leave(self) -> None:
        """Add the block's part of the gradients of recurrent weights and bias."""
        size = self.size
        _add_outer(self.grad_weight[: 2 * size], self.grads[:, :, : 2 * size], self.h)
        _add_outer(self.grad_weight[2 * size :], self.grads[:, :, 2 * size :], self.reset)
        self.grad_bias.add_(self.grads.sum((0, 1)))


_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
"""Of (g, y): g y (1 - y)."""
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
"""Of (g, y): g (1 - y²)."""


def _bins_of_block(n_bins: int, n_gates: int, like: Tensor) -> int:
    """Return how many bins a block has, given how many gates there are in a bin.

    On other devices than a CPU it has all of them, as operations take as long as their launch.
    """
    if not utils.on_cpu(like):
        return n_bins
    return max(1, min(n_bins, _BLOCK_BYTES // max(1, n_gates * like.element_size())))


def _blocks(n_bins: int, bins_of_block: int, reverse: bool = False) -> Iterator[slice]:
    """Yield the bins of each block, from the last one on if ``reverse``."""
    starts = range(0, n_bins, bins_of_block)
    for start in reversed(starts) if reverse else starts:
        yield slice(start, min(start + bins_of_block, n_bins))


def _project(inputs: Tensor, weight: Tensor, bias: Tensor, out: Tensor) -> None:
    """Write W x + b of inputs (K, B, D) to gates (K, B, 3H).

    Of fewer trials in the inputs, (K, B / S, D), each is for S that follow each other.
    """
    if weight.shape[1] == 0:
        out.copy_(bias)
    elif inputs.shape[1] < out.shape[1]:
        n_inputs = inputs.shape[1]
        out.unflatten(1, (n_inputs, -1)).copy_((inputs @ weight.t()).add_(bias).unsqueeze(2))
    else:
        torch.addmm(bias, inputs.flatten(0, 1), weight.t(), out=out.flatten(0, 1))


def _apply(grads: Tensor, weight: Tensor, out: Tensor) -> None:
    """Write the gradient (K, B, D) of the inputs of gates with gradients (K, B, 3H)."""
    torch.mm(grads.flatten(0, 1), weight, out=out.flatten(0, 1))


def _add_outer(total: Tensor, grads: Tensor, inputs: Tensor) -> None:
    """Add to the gradient of a weight: the sum of outer products over bins and trials."""
    total.addmm_(grads.flatten(0, 1).t(), inputs.flatten(0, 1))


def _numbers(mask: Tensor | None, bins: slice, buffer: Tensor) -> Tensor | None:
    """Write a block of a mask to a buffer (K, B, D)."""
    return None if mask is None else buffer[: bins.stop - bins.start].copy_(mask[bins])


def _by_bin(sequence: Tensor | None, bins: slice) -> tuple[Tensor, ...] | None:
    """Return some bins (T, B, D) of a sequence, if there is one."""
    return None if sequence is None else sequence[bins].unbind(0)


def _or_zeros(grad: Tensor | None, bins: slice, like: Tensor) -> Tensor:
    """Return some bins of a gradient, or zero where there is none."""
    return like.new_zeros(()) if grad is None else grad[bins]


def _scaled(weight: Tensor, mask: Tensor | None, draws: Draws) -> Tensor:
    """Return the weight of what a mask is applied to, with dropout's scale in it."""
    return weight if mask is None else weight * draws.scale


def _sequence(like: Tensor) -> Tensor:
    """Return an uninitialised (B, T, D), whose bins follow each other in memory."""
    n_trials, n_bins, size = like.shape
    return empty((n_bins, n_trials, size), like).transpose(0, 1)
