"""Which implementation runs, and the recurrences as operations that autograd knows."""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from lfads_torch.recurrence import build, compiled, eager
from lfads_torch.recurrence.layout import (
    DecoderGrads,
    DecoderInputs,
    DecoderTrace,
    Draws,
    GRUInputs,
    GRUTrace,
)
from lfads_torch.recurrence.masks import random_mask

if TYPE_CHECKING:
    from lfads_torch.modules.decoder import DecoderCell, MakePosterior
    from lfads_torch.modules.recurrent import ClippedGRUCell

CHOICES = ("auto", "torch", "compiled", "plain")
"""What ``recurrence`` may be."""

F = TypeVar("F", bound=Callable[..., Any])


def check_choice(recurrence: str) -> str:
    """Return a choice of the implementation if it is one.

    Raises
    ------
    ValueError
        If it is none of :data:`CHOICES`.
    """
    if recurrence not in CHOICES:
        raise ValueError(
            f"model.recurrence must be one of {', '.join(CHOICES)}, but is {recurrence!r}."
        )
    return recurrence


def choose(recurrence: str, *tensors: Tensor) -> ModuleType | None:
    """Return the implementation that is to run on these tensors; None for step by step.

    Raises
    ------
    RuntimeError
        If ``recurrence`` is "compiled" and the library cannot be built.
    """
    first = tensors[0]
    alike = all(x.device == first.device and x.dtype == first.dtype for x in tensors)
    if (
        recurrence == "plain"
        or not alike
        or not first.is_floating_point()
        or first.device.type == "meta"
        or torch.is_autocast_enabled(first.device.type)
        or torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    ):
        return None
    if recurrence == "torch" or not compiled.supports(first):
        return eager
    library = compiled.library()
    if not isinstance(library, build.Unavailable):
        return compiled
    if recurrence == "compiled":
        raise RuntimeError(
            f"model.recurrence is 'compiled', but the compiled recurrences cannot be had here: "
            f"{library}. Choose 'auto' or 'torch', or mend that."
        )
    return eager


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


def location_scale(make_posterior: F) -> F:
    """Declare that ``make_posterior(mean, std)`` is distributed as mean + std · ε.

    ε must be distributed as ``make_posterior(0, 1)``, whose dimensions and bins are independent.
    Fused recurrences draw it for all bins at once; other posteriors are sampled bin by bin.
    """
    make_posterior.location_scale = True  # type: ignore[attr-defined]
    return make_posterior


def run_gru(
    cell: "ClippedGRUCell", kernels: ModuleType, inputs: Tensor, h_0: Tensor, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """Run a cell over time.

    Parameters
    ----------
    cell
        A :class:`~lfads_torch.modules.recurrent.ClippedGRUCell`.
    kernels
        The implementation.
    inputs, h_0
        (B, T, D) inputs and (B, H) initial state.
    reverse
        Begin with the last bin.

    Returns
    -------
    tuple of Tensor
        The states (B, T, H) in the order of time, and the one that was computed last (B, H).

    Raises
    ------
    ValueError
        If a shape is not as it should be.
    """
    _expect("inputs", inputs, (len(inputs), inputs.shape[1], cell.input_size))
    _expect("h_0", h_0, (len(inputs), cell.hidden_size))
    args = GRUInputs(inputs, h_0, cell.weight_ih, cell.weight_hh, cell.bias_ih + cell.bias_hh)
    states, final = _GRU.apply(kernels, cell.clip_value, reverse, _is_recorded(args), *args)
    return states.transpose(0, 1), final


def run_decoder(
    cell: "DecoderCell",
    kernels: ModuleType,
    ci: Tensor,
    ext_input: Tensor,
    gen_0: Tensor,
    con_0: Tensor,
    fac_0: Tensor,
    co_posterior: "MakePosterior | None",
    draws: Draws | None = None,
) -> tuple[Tensor, ...]:
    """Run the decoder's cell over time.

    Parameters
    ----------
    cell
        A :class:`~lfads_torch.modules.decoder.DecoderCell`.
    kernels
        The implementation.
    ci, ext_input
        (B, T, 2 ci_enc_dim) controller inputs and (B, T, E) external inputs. Controller inputs may
        be of fewer trials, (B / S, T, …): S samples of each then follow each other.
    gen_0, con_0, fac_0
        (B, …) states of generator and controller, and the factors, before the first bin.
    co_posterior
        Makes the distribution that the controller output is sampled from, which must be declared
        :func:`location_scale`; None takes the mean.
    draws
        Random numbers to take in place of fresh ones.

    Returns
    -------
    tuple of Tensor
        Fields of :class:`~lfads_torch.modules.decoder.DecoderState` over time, (B, T, …).

    Raises
    ------
    ValueError
        If a shape is not as it should be.
    """
    n_trials, n_bins, _ = ext_input.shape
    n_gen, n_fac = cell.gen_cell.hidden_size, len(cell.fac_linear.weight)
    n_co = cell.co_linear.out_features // 2 if cell.use_con else 0
    _expect("ext_input", ext_input, (n_trials, n_bins, cell.gen_cell.input_size - n_co))
    _expect("gen_0", gen_0, (n_trials, n_gen))
    _expect("fac_0", fac_0, (n_trials, n_fac))
    if cell.use_con:
        _expect("con_0", con_0, (n_trials, cell.con_cell.hidden_size))
        n_ci_trials = len(ci) if n_trials % max(len(ci), 1) == 0 else n_trials
        _expect("ci", ci, (n_ci_trials, n_bins, cell.con_cell.input_size - n_fac))
    nothing = ext_input.new_empty(0)
    args = DecoderInputs(*[nothing] * len(DecoderInputs._fields))._replace(
        ext=cell.dropout(ext_input),
        gen_0=gen_0,
        fac_0=fac_0,
        gen_ih=cell.gen_cell.weight_ih,
        gen_hh=cell.gen_cell.weight_hh,
        gen_bias=cell.gen_cell.bias_ih + cell.gen_cell.bias_hh,
        readout=cell.fac_linear.normalized_weight(),
    )
    if cell.use_con:
        args = args._replace(
            ci=cell.dropout(ci),
            con_0=con_0,
            con_ih=cell.con_cell.weight_ih,
            con_hh=cell.con_cell.weight_hh,
            con_bias=cell.con_cell.bias_ih + cell.con_cell.bias_hh,
            co_weight=cell.co_linear.weight,
            co_bias=cell.co_linear.bias,
        )
        if len(ci) < len(ext_input) and _is_recorded(args):
            args = args._replace(ci=args.ci.repeat_interleave(len(ext_input) // len(ci), dim=0))
    draws = draw(cell, args, co_posterior) if draws is None else draws
    outputs = _Decoder.apply(kernels, cell.gen_cell.clip_value, draws, _is_recorded(args), *args)
    if not cell.use_con:
        con_states = con_0.unsqueeze(0).repeat(ext_input.shape[1], 1, 1)
        co = ext_input.new_zeros(ext_input.shape[1], len(ext_input), 0)
        outputs = outputs[0], con_states, outputs[2], co, co, outputs[5]
    return tuple(x.transpose(0, 1) for x in outputs)


def linear(module: nn.Module, recurrence: str, inputs: Tensor) -> Tensor:
    """Apply a module to inputs (B, T, D), compiled where that is chosen and it is a linear map."""
    if is_linear(module) and inputs.dim() == 3:
        fits = inputs.shape[2] == module.in_features
        if fits and choose(recurrence, inputs, *module.parameters()) is compiled:
            return _Linear.apply(inputs, module.weight, module.bias)  # type: ignore[no-untyped-call, no-any-return]
    return module(inputs)  # type: ignore[no-any-return]


def mean_rates(
    readout: nn.Linear, recurrence: str, factors: Tensor, n_samples: int
) -> Tensor | None:
    """Return the mean over samples of exp(readout(factors)), without keeping every sample's rates.

    Parameters
    ----------
    readout
        The read-out of log rates, of which :func:`is_linear` holds.
    recurrence
        The choice of the implementation.
    factors
        (B S, T, F), the S samples of a trial one after the other.
    n_samples
        S.

    Returns
    -------
    Tensor or None
        (B, T, N); None where no implementation can do this, or where there may be a backward pass.
    """
    tensors = (factors, *readout.parameters())
    kernels = choose(recurrence, *tensors)
    if kernels is None or _is_recorded(tensors):
        return None
    rates: Tensor = kernels.mean_rates(factors, readout.weight, readout.bias, n_samples)
    return rates


def draw(cell: "DecoderCell", args: DecoderInputs, co_posterior: "MakePosterior | None") -> Draws:
    """Draw the random numbers of all bins."""
    n_trials, n_bins, n_ext = args.ext.shape
    draws = Draws()
    if cell.use_con and co_posterior is not None:
        zeros = args.ext.new_zeros(n_bins, n_trials, args.gen_ih.shape[1] - n_ext)
        noise = co_posterior(zeros, torch.ones_like(zeros)).rsample()
        draws = draws._replace(noise=noise.detach())
    rate = cell.dropout.p if cell.training else 0.0
    if rate > 0:
        n_fac, n_gen = args.readout.shape
        draws = draws._replace(scale=1 / (1 - rate))
        if cell.use_con:
            keep_f = random_mask((n_bins, n_trials, n_fac), 1 - rate, args.ext.device)
            draws = draws._replace(keep_f=keep_f.view(torch.uint8))
        keep_g = random_mask((n_bins, n_trials, n_gen), 1 - rate, args.ext.device)
        draws = draws._replace(keep_g=keep_g.view(torch.uint8))
    return draws


class _GRU(torch.autograd.Function):
    """A gated recurrent unit over time; returns its states (T, B, H) and the last one (B, H)."""

    @staticmethod
    def forward(
        ctx: Any, kernels: ModuleType, clip: float, reverse: bool, keep: bool, *args: Tensor
    ) -> tuple[Tensor, Tensor]:
        trace = kernels.gru_forward(GRUInputs(*args), clip, reverse, keep)
        ctx.kernels, ctx.clip, ctx.reverse = kernels, clip, reverse
        if keep:
            ctx.save_for_backward(*args, *trace)
        ctx.set_materialize_grads(False)
        if reverse:
            return trace.states[:-1], trace.states[0].clone()
        return trace.states[1:], trace.states[-1].clone()

    @staticmethod
    def backward(ctx: Any, grad_states: Tensor | None, grad_final: Tensor | None) -> Any:  # type: ignore[override]
        _refuse_second_derivatives(grad_states, grad_final)
        saved = ctx.saved_tensors
        n_args = len(GRUInputs._fields)
        grads = ctx.kernels.gru_backward(
            grad_states,
            grad_final,
            GRUInputs(*saved[:n_args]),
            GRUTrace(*saved[n_args:]),
            ctx.clip,
            ctx.reverse,
            needs_inputs=ctx.needs_input_grad[4],
        )
        return None, None, None, None, *grads


class _Decoder(torch.autograd.Function):
    """The decoder over time; returns its states as in :class:`DecoderGrads`."""

    @staticmethod
    def forward(
        ctx: Any, kernels: ModuleType, clip: float, draws: Draws, keep: bool, *args: Tensor
    ) -> tuple[Tensor | None, ...]:
        trace = kernels.decoder_forward(DecoderInputs(*args), draws, clip, keep)
        ctx.kernels, ctx.clip, ctx.draws = kernels, clip, draws
        if keep:
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
        _refuse_second_derivatives(*grads)
        saved = ctx.saved_tensors
        n_args = len(DecoderInputs._fields)
        needs_ci, needs_ext = ctx.needs_input_grad[4:6]
        grads = ctx.kernels.decoder_backward(
            DecoderGrads(*grads),
            DecoderInputs(*saved[:n_args]),
            ctx.draws,
            DecoderTrace(*saved[n_args:]),
            ctx.clip,
            needs_ci,
            needs_ext,
        )
        return None, None, None, None, *grads


class _Linear(torch.autograd.Function):
    """W x + b, compiled."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return compiled.linear_forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        if must_be_differentiable(grad):
            return grad @ weight, (grad.transpose(1, 2) @ x).sum(0), grad.sum((0, 1))
        needs_x, *needs_parameters = ctx.needs_input_grad
        return compiled.linear_backward(grad, x, weight, needs_x, any(needs_parameters))


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a ValueError if a tensor has not the shape that the kernels rely on."""
    if tensor.shape != shape:
        raise ValueError(f"{name} must be of shape {shape}, but is of shape {tuple(tensor.shape)}.")


def _is_recorded(args: Iterable[Tensor]) -> bool:
    """Return whether there may be a backward pass."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in args)


def must_be_differentiable(*grads: Tensor | None) -> bool:
    """Return whether a backward pass is itself to be differentiated, or is of batched gradients."""
    return (
        torch.is_grad_enabled()
        or torch._C._are_functorch_transforms_active()
        or any(x is not None and is_legacy_batchedtensor(x) for x in grads)
    )


def _refuse_second_derivatives(*grads: Tensor | None) -> None:
    if must_be_differentiable(*grads):
        raise RuntimeError(
            "The fused recurrences have no second derivatives (create_graph=True) and no batched "
            "ones (is_grads_batched=True): make the model with recurrence='plain', "
            "LFADS(…, recurrence='plain') or "
            "LFADS.load_from_checkpoint(path, recurrence='plain')."
        )
