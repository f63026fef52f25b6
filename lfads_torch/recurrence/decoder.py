"""The decoder over time, as a differentiable operation."""

from typing import Any

import torch
from torch import Tensor

from lfads_torch.recurrence.autograd import expect, is_recorded, refuse_second_derivatives
from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.gru import expect_gru_weights
from lfads_torch.recurrence.masks import random_mask
from lfads_torch.recurrence.tuples import (
    DecoderArguments,
    DecoderGrads,
    DecoderStates,
    DecoderTrace,
    DecoderWeights,
    Draws,
)


def dropout_draws(
    weights: DecoderWeights, n_trials: int, n_bins: int, rate: float, noise: Tensor | None = None
) -> Draws:
    """Draw the dropout masks of all bins.

    The mask of the factors, which exists only with a controller, is drawn before the mask of the
    generator.

    Parameters
    ----------
    weights
        The weights of the decoder, which determine the sizes and the device of the masks.
    n_trials, n_bins
        B and T.
    rate
        Probability that an element is hidden. If it is 0, nothing is drawn.
    noise
        (T, B, U) noise of the controller output, which is returned with the masks.
    """
    if rate == 0:
        return Draws(noise)
    n_fac, n_gen = weights.fac_weight.shape
    device = weights.fac_weight.device
    keep_f = None
    if weights.controller is not None:
        keep_f = random_mask((n_bins, n_trials, n_fac), 1 - rate, device).view(torch.uint8)
    keep_g = random_mask((n_bins, n_trials, n_gen), 1 - rate, device).view(torch.uint8)
    return Draws(noise, keep_f, keep_g, 1 / (1 - rate))


def run_decoder(
    backend: Backend,
    weights: DecoderWeights,
    ci: Tensor,
    ext_input: Tensor,
    gen_0: Tensor,
    con_0: Tensor,
    fac_0: Tensor,
    draws: Draws,
) -> DecoderStates:
    """Run the decoder over time.

    Parameters
    ----------
    backend
        The implementation, from :func:`~lfads_torch.recurrence.choose`.
    weights
        The weights of the decoder. Generator and controller must have the same clip.
    ci
        (B, T, I) controller inputs, after dropout. There may be fewer of them, (B / S, T, I), where
        S consecutive trials of the other arguments share one. Not used without a controller.
    ext_input
        (B, T, E) external inputs, after dropout.
    gen_0, con_0, fac_0
        (B, G), (B, C) and (B, F): states of generator and controller, and the factors, before the
        first bin. Without a controller, C is the size of ``con_0``.
    draws
        Noise and dropout masks, as from :func:`dropout_draws`.

    Raises
    ------
    ValueError
        If the shape, dtype or device of a tensor is wrong, or if the clips differ.
    """
    args = _arguments(weights, ci, ext_input, gen_0, con_0, fac_0)
    _check_draws(weights, args, draws)
    n_trials, n_bins, _ = ext_input.shape
    save = is_recorded(args)
    if weights.controller is not None and len(ci) < n_trials and save:
        args = args._replace(ci=ci.repeat_interleave(n_trials // len(ci), dim=0))
    outputs = _Decoder.apply(backend, weights.generator.clip, draws, save, *args)  # type: ignore[no-untyped-call]
    if weights.controller is None:
        con_states = con_0.unsqueeze(0).repeat(n_bins, 1, 1)
        co = ext_input.new_zeros(n_bins, n_trials, 0)
        outputs = outputs[0], con_states, outputs[2], co, co, outputs[5]
    return DecoderStates(*(x.transpose(0, 1) for x in outputs))


def _arguments(
    weights: DecoderWeights, ci: Tensor, ext: Tensor, gen_0: Tensor, con_0: Tensor, fac_0: Tensor
) -> DecoderArguments:
    """Check the tensors and collect them."""
    generator, controller = weights.generator, weights.controller
    if len({x is None for x in weights[2:]}) > 1:
        raise ValueError("controller, co_weight and co_bias must be given together, or none.")
    n_trials, n_bins = ext.shape[:2]
    n_gen, n_fac = generator.weight_hh.shape[-1], len(weights.fac_weight)
    n_co = 0 if weights.co_bias is None else len(weights.co_bias) // 2
    expect_gru_weights("generator ", generator, ext)
    expect("fac_weight", weights.fac_weight, (n_fac, n_gen), ext)
    expect("ext_input", ext, (n_trials, n_bins, generator.weight_ih.shape[1] - n_co), ext)
    expect("gen_0", gen_0, (n_trials, n_gen), ext)
    expect("fac_0", fac_0, (n_trials, n_fac), ext)
    nothing = ext.new_empty(0)
    args = DecoderArguments(*[nothing] * len(DecoderArguments._fields))._replace(
        ext=ext,
        gen_0=gen_0,
        fac_0=fac_0,
        gen_ih=generator.weight_ih,
        gen_hh=generator.weight_hh,
        gen_bias=generator.bias,
        fac_weight=weights.fac_weight,
    )
    if controller is None or weights.co_weight is None or weights.co_bias is None:
        return args
    if controller.clip != generator.clip:
        raise ValueError(
            f"The fused decoder has one clip, but that of the generator is {generator.clip:g} and "
            f"that of the controller {controller.clip:g}: run it step by step."
        )
    n_con = controller.weight_hh.shape[-1]
    expect_gru_weights("controller ", controller, ext)
    expect("co_weight", weights.co_weight, (2 * n_co, n_con), ext)
    expect("co_bias", weights.co_bias, (2 * n_co,), ext)
    expect("con_0", con_0, (n_trials, n_con), ext)
    n_ci_trials = len(ci) if n_trials % max(len(ci), 1) == 0 else n_trials
    expect("ci", ci, (n_ci_trials, n_bins, controller.weight_ih.shape[1] - n_fac), ext)
    return args._replace(
        ci=ci,
        con_0=con_0,
        con_ih=controller.weight_ih,
        con_hh=controller.weight_hh,
        con_bias=controller.bias,
        co_weight=weights.co_weight,
        co_bias=weights.co_bias,
    )


def _check_draws(weights: DecoderWeights, args: DecoderArguments, draws: Draws) -> None:
    """Check the shapes of noise and masks."""
    n_trials, n_bins, _ = args.ext.shape
    n_fac, n_gen = args.fac_weight.shape
    if draws.noise is not None:
        expect("noise", draws.noise, (n_bins, n_trials, len(args.co_bias) // 2), args.ext)
    byte = torch.empty(0, dtype=torch.uint8, device=args.ext.device)
    if draws.keep_f is not None and weights.controller is not None:
        expect("keep_f", draws.keep_f, (n_bins, n_trials, n_fac), byte)
    if draws.keep_g is not None:
        expect("keep_g", draws.keep_g, (n_bins, n_trials, n_gen), byte)


class _Decoder(torch.autograd.Function):
    """The decoder over time; returns its states as in :class:`DecoderGrads`."""

    @staticmethod
    def forward(
        ctx: Any, backend: Backend, clip: float, draws: Draws, save: bool, *args: Tensor
    ) -> tuple[Tensor | None, ...]:
        trace = backend.decoder_forward(DecoderArguments(*args), draws, clip, save)
        ctx.backend, ctx.clip, ctx.draws = backend, clip, draws
        if save:
            ctx.save_for_backward(*args, *trace)
        ctx.set_materialize_grads(False)
        if not trace.co.numel():
            return trace.gen_states[1:], None, trace.factors[1:], None, None, trace.gen_inputs
        return (
            trace.gen_states[1:],
            trace.con_states[1:],
            trace.factors[1:],
            trace.co[:, :, : trace.co_stds.shape[2]],
            trace.co_stds,
            trace.gen_inputs,
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]
        refuse_second_derivatives(*grads)
        saved = ctx.saved_tensors
        n_args = len(DecoderArguments._fields)
        needs_ci, needs_ext = ctx.needs_input_grad[4:6]
        grads = ctx.backend.decoder_backward(
            DecoderGrads(*grads),
            DecoderArguments(*saved[:n_args]),
            ctx.draws,
            DecoderTrace(*saved[n_args:]),
            ctx.clip,
            needs_ci,
            needs_ext,
        )
        return None, None, None, None, *grads
