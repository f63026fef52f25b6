"""The fused recurrences in PyTorch.

What every step of a backward pass needs of the forward pass is computed for all bins at once before
its loop, and the gradients of weights after it, as one matrix product each.
"""

from typing import Any

import torch
from torch import Tensor

from lfads_torch.recurrence.layout import (
    DecoderGrads,
    DecoderInputs,
    DecoderTrace,
    Draws,
    GRUInputs,
    GRUTrace,
    may_clip,
)
from lfads_torch.recurrence.memory import empty


def gru_forward(args: GRUInputs, clip: float, reverse: bool, keep: bool) -> GRUTrace:
    """Run a gated recurrent unit over time; ``keep`` what a backward pass needs."""
    gates = _project(args.inputs.transpose(0, 1), args.weight_ih, args.bias)
    run = _Unit(gates, args.h_0, args.weight_hh, clip, reverse)
    for t in run.order:
        run.step(t)
    return GRUTrace(run.states, gates)


def gru_backward(
    grad_states: Tensor | None,
    grad_final: Tensor | None,
    args: GRUInputs,
    trace: GRUTrace,
    clip: float,
    reverse: bool,
    needs_inputs: bool,
) -> GRUInputs:
    """Return the gradients of the arguments; that of the inputs may be left out."""
    back = _UnitBack(trace.gates, trace.states, args.weight_hh, clip, reverse, grad_final)
    outer = None if grad_states is None else grad_states.unbind(0)
    for t in reversed(back.order):
        if outer is not None:
            back.carry.add_(outer[t])
        back.step(t)
    inputs = args.inputs.transpose(0, 1)
    grad_inputs: Any = None
    if needs_inputs:
        grad_inputs = _apply(back.grads, args.weight_ih).transpose(0, 1)
    return GRUInputs(
        inputs=grad_inputs,
        h_0=back.carry,
        weight_ih=_outer(back.grads, inputs),
        weight_hh=back.grad_recurrent(),
        bias=back.grads.sum((0, 1)),
    )


def decoder_forward(args: DecoderInputs, draws: Draws, clip: float, keep: bool) -> DecoderTrace:
    """Run the decoder over time; ``keep`` what a backward pass needs."""
    ext = args.ext.transpose(0, 1)
    n_bins, n_trials, n_ext = ext.shape
    n_co = args.gen_ih.shape[1] - n_ext
    gen_inputs = ext.new_empty(n_bins, n_trials, n_co + n_ext)
    gen_inputs[:, :, n_co:] = ext
    factors = empty((n_bins + 1, n_trials, len(args.readout)), ext)
    factors[0] = args.fac_0
    gen_gates = _project(ext, args.gen_ih[:, n_co:], args.gen_bias)
    gen = _Unit(gen_gates, args.gen_0, args.gen_hh, clip)
    use_con = args.con_hh.numel() > 0
    con_gates = co = co_stds = ext.new_empty(0)
    keep_f, keep_g = _masks(draws, ext.dtype)
    if use_con:
        n_ci = args.ci.shape[2]
        con_gates = _project(args.ci.transpose(0, 1), args.con_ih[:, :n_ci], args.con_bias)
        if len(args.ci) < n_trials:
            con_gates = con_gates.repeat_interleave(n_trials // len(args.ci), dim=1)
        con = _Unit(con_gates, args.con_0, args.con_hh, clip)
        co = ext.new_empty(n_bins, n_trials, 2 * n_co)
        co_stds = ext.new_empty(n_bins, n_trials, n_co)
        factor_to_con, output_to_gen = args.con_ih[:, n_ci:].t(), args.gen_ih[:, :n_co].t()
        con_to_output = args.co_weight.t()
    readout = args.readout.t()
    for t in range(n_bins):
        if use_con:
            factor = factors[t] if keep_f is None else factors[t] * keep_f[t]
            con_gates[t].addmm_(factor, factor_to_con)
            con.step(t)
            torch.addmm(args.co_bias, con.after[t], con_to_output, out=co[t])
            mean, logvar = co[t].split(n_co, 1)
            std = torch.exp(0.5 * logvar, out=co_stds[t])
            output = gen_inputs[t, :, :n_co]
            if draws.noise is None:
                output.copy_(mean)
            else:
                torch.addcmul(mean, std, draws.noise[t], out=output)
            gen_gates[t].addmm_(output, output_to_gen)
        gen.step(t)
        kept = gen.after[t] if keep_g is None else gen.after[t] * keep_g[t]
        torch.mm(kept, readout, out=factors[t + 1])
    return DecoderTrace(
        gen_states=gen.states,
        con_states=con.states if use_con else co,
        factors=factors,
        co=co,
        co_stds=co_stds,
        gen_inputs=gen_inputs,
        gen_gates=gen_gates,
        con_gates=con_gates,
    )


def decoder_backward(
    grads: DecoderGrads,
    args: DecoderInputs,
    draws: Draws,
    trace: DecoderTrace,
    clip: float,
    needs_ci: bool,
    needs_ext: bool,
) -> DecoderInputs:
    """Return the gradients of the arguments; those of ci and ext may be left out."""
    n_bins, _, n_inputs = trace.gen_inputs.shape
    n_co = n_inputs - args.ext.shape[2]
    gen = _UnitBack(trace.gen_gates, trace.gen_states, args.gen_hh, clip)
    keep_f, keep_g = _masks(draws, args.ext.dtype)
    grad_factors = empty(trace.factors[1:].shape, args.ext)
    if grads.factors is None:
        grad_factors.zero_()
    else:
        grad_factors.copy_(grads.factors)
    use_con = args.con_hh.numel() > 0
    grad_fac_0 = torch.zeros_like(args.fac_0)
    if use_con:
        con = _UnitBack(trace.con_gates, trace.con_states, args.con_hh, clip)
        n_ci = args.ci.shape[2]
        factor_to_con, output_to_gen = args.con_ih[:, n_ci:], args.gen_ih[:, :n_co]
        grad_co = torch.empty_like(trace.co)
    for t in reversed(range(n_bins)):
        grad_kept = grad_factors[t] @ args.readout
        if keep_g is None:
            gen.carry.add_(grad_kept)
        else:
            gen.carry.addcmul_(grad_kept, keep_g[t])
        if grads.gen_states is not None:
            gen.carry.add_(grads.gen_states[t])
        gen.step(t)
        if not use_con:
            continue
        grad_output = gen.grads[t] @ output_to_gen
        if grads.gen_inputs is not None:
            grad_output.add_(grads.gen_inputs[t, :, :n_co])
        grad_mean, grad_logvar = grad_co[t].split(n_co, 1)
        if draws.noise is None:
            grad_logvar.zero_()
        else:
            torch.mul(grad_output, draws.noise[t], out=grad_logvar)
        if grads.co_stds is not None:
            grad_logvar.add_(grads.co_stds[t])
        grad_logvar.mul_(trace.co_stds[t]).mul_(0.5)
        if grads.co_means is None:
            grad_mean.copy_(grad_output)
        else:
            torch.add(grad_output, grads.co_means[t], out=grad_mean)
        con.carry.addmm_(grad_co[t], args.co_weight)
        if grads.con_states is not None:
            con.carry.add_(grads.con_states[t])
        con.step(t)
        grad_factor = con.grads[t] @ factor_to_con
        if keep_f is not None:
            grad_factor.mul_(keep_f[t])
        if t > 0:
            grad_factors[t - 1].add_(grad_factor)
        else:
            grad_fac_0 = grad_factor

    kept_states = trace.gen_states[1:] if keep_g is None else trace.gen_states[1:] * keep_g
    none: Any = None
    result = DecoderInputs(*[none] * len(DecoderInputs._fields))._replace(
        gen_0=gen.carry,
        fac_0=grad_fac_0,
        gen_ih=_outer(gen.grads, trace.gen_inputs),
        gen_hh=gen.grad_recurrent(),
        gen_bias=gen.grads.sum((0, 1)),
        readout=_outer(grad_factors, kept_states),
    )
    if needs_ext:
        grad_ext = _apply(gen.grads, args.gen_ih[:, n_co:])
        if grads.gen_inputs is not None:
            grad_ext = grad_ext + grads.gen_inputs[:, :, n_co:]
        result = result._replace(ext=grad_ext.transpose(0, 1))
    if not use_con:
        return result
    factors = trace.factors[:-1] if keep_f is None else trace.factors[:-1] * keep_f
    from_ci = _outer(con.grads, args.ci.transpose(0, 1))
    grad_ci = _apply(con.grads, args.con_ih[:, :n_ci]).transpose(0, 1) if needs_ci else none
    return result._replace(
        ci=grad_ci,
        con_0=con.carry,
        con_ih=torch.cat([from_ci, _outer(con.grads, factors)], dim=1),
        con_hh=con.grad_recurrent(),
        con_bias=con.grads.sum((0, 1)),
        co_weight=_outer(grad_co, trace.con_states[1:]),
        co_bias=grad_co.sum((0, 1)),
    )


def mean_rates(factors: Tensor, weight: Tensor, bias: Tensor, n_samples: int) -> Tensor:
    """Return the mean over samples of exp(W f + b), (B, T, N).

    Factors are (B S, T, F), the S samples of each trial one after the other.
    """
    by_bin = factors.transpose(0, 1)  # as the decoder keeps them, so that nothing is copied
    rates = empty((*by_bin.shape[:2], len(weight)), factors)
    torch.addmm(bias, by_bin.flatten(0, 1), weight.t(), out=rates.flatten(0, 1))
    return rates.exp_().unflatten(1, (-1, n_samples)).mean(dim=2).transpose(0, 1)


class _Unit:
    """A gated recurrent unit whose gates hold the projected inputs, to be stepped in order."""

    def __init__(
        self, gates: Tensor, h_0: Tensor, weight_hh: Tensor, clip: float, reverse: bool = False
    ) -> None:
        n_bins, n_trials, _ = gates.shape
        size = h_0.shape[1]
        self.size = size
        self.clip = clip if may_clip(h_0, clip) else None
        self.states = empty((n_bins + 1, n_trials, size), gates)
        self.states[n_bins if reverse else 0] = h_0
        self.order = range(n_bins)[::-1] if reverse else range(n_bins)
        slots = self.states.unbind(0)
        self.before, self.after = (slots[1:], slots[:-1]) if reverse else (slots[:-1], slots[1:])
        self.zr = gates[:, :, : 2 * size].unbind(0)
        self.z = gates[:, :, :size].unbind(0)
        self.r = gates[:, :, size : 2 * size].unbind(0)
        self.n = gates[:, :, 2 * size :].unbind(0)
        self.weight_zr, self.weight_n = weight_hh[: 2 * size].t(), weight_hh[2 * size :].t()
        self.reset = torch.empty_like(self.states[0])

    def step(self, t: int) -> None:
        """Turn the projected inputs of bin t into gates, and write the state after it."""
        before, after = self.before[t], self.after[t]
        self.zr[t].addmm_(before, self.weight_zr).sigmoid_()
        torch.mul(self.r[t], before, out=self.reset)
        self.n[t].addmm_(self.reset, self.weight_n).tanh_()
        torch.lerp(self.n[t], before, self.z[t], out=after)
        if self.clip is not None:
            after.clamp_(-self.clip, self.clip)


class _UnitBack:
    """The way back through a :class:`_Unit`.

    ``carry`` is the gradient of the state after the bin that is next to be stepped back through,
    to which those of other uses of that state are to be added.
    """

    def __init__(
        self,
        gates: Tensor,
        states: Tensor,
        weight_hh: Tensor,
        clip: float,
        reverse: bool = False,
        grad_final: Tensor | None = None,
    ) -> None:
        n_bins = len(gates)
        size = states.shape[2]
        self.order = range(n_bins)[::-1] if reverse else range(n_bins)
        self.carry = torch.zeros_like(states[0]) if grad_final is None else grad_final.clone()
        self.weight_zr, self.weight_n = weight_hh.split([2 * size, size])
        self.gates, self.size = gates, size
        self.h = states[1:] if reverse else states[:-1]
        z, r, n = gates.split(size, dim=2)
        self.z, self.r = z.unbind(0), r.unbind(0)
        # What the gradients of the gates, before their nonlinearities, are multiples of.
        self.grads = empty(gates.shape, gates)
        grad_z, grad_r, grad_n = self.grads.split(size, dim=2)
        torch.sub(1, z, out=grad_z)
        torch.mul(n, n, out=grad_n).neg_().add_(1).mul_(grad_z)
        torch.sub(self.h, n, out=grad_r)
        grad_z.mul_(z).mul_(grad_r)
        torch.sub(1, r, out=grad_r).mul_(r).mul_(self.h)
        self.passes: tuple[Tensor, ...] | None = None
        h_0 = states[n_bins if reverse else 0]
        if may_clip(h_0, clip):
            self.passes = (torch.lerp(n, self.h, z).abs() <= clip).unbind(0)
        self.by_gate = self.grads.unflatten(2, (3, size))[:, :, ::2].unbind(0)  # z and n
        self.grad_zr = self.grads[:, :, : 2 * size].unbind(0)
        self.grad_r, self.grad_n = grad_r.unbind(0), grad_n.unbind(0)
        self.grad_reset = torch.empty_like(self.carry)

    def step(self, t: int) -> None:
        """Write the gradients of the gates of bin t, and of the state before it to ``carry``."""
        if self.passes is not None:
            self.carry.mul_(self.passes[t])
        self.by_gate[t].mul_(self.carry.unsqueeze(1))
        torch.mm(self.grad_n[t], self.weight_n, out=self.grad_reset)
        self.grad_r[t].mul_(self.grad_reset)
        self.carry.mul_(self.z[t]).addcmul_(self.grad_reset, self.r[t])
        self.carry.addmm_(self.grad_zr[t], self.weight_zr)

    def grad_recurrent(self) -> Tensor:
        """Return the gradient of the recurrent weights (3H, H), after all steps."""
        size = self.size
        reset = self.gates[:, :, size : 2 * size] * self.h
        to_zr = _outer(self.grads[:, :, : 2 * size], self.h)
        return torch.cat([to_zr, _outer(self.grads[:, :, 2 * size :], reset)])


def _project(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return W x + b for inputs (T, B, D) as (T, B, 3H)."""
    gates = empty((*inputs.shape[:2], len(weight)), inputs)
    if weight.shape[1] == 0:
        return gates.copy_(bias.expand_as(gates))
    torch.addmm(bias, inputs.flatten(0, 1), weight.t(), out=gates.flatten(0, 1))
    return gates


def _apply(grads: Tensor, weight: Tensor) -> Tensor:
    """Return the gradient (T, B, D) of the inputs of gates with gradients (T, B, 3H)."""
    return (grads.flatten(0, 1) @ weight).unflatten(0, grads.shape[:2])


def _outer(grads: Tensor, inputs: Tensor) -> Tensor:
    """Return the gradient of a weight: the sum of outer products over bins and trials."""
    return grads.flatten(0, 1).t() @ inputs.flatten(0, 1)


def _masks(draws: Draws, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
    """Return the factors that dropout multiplies by."""
    keep_f, keep_g = (
        None if keep is None else keep.to(dtype).mul_(draws.scale)
        for keep in (draws.keep_f, draws.keep_g)
    )
    return keep_f, keep_g
