"""What is compiled (C++, in ``kernels``), for tensors on a CPU.

The same functions as in :mod:`.eager`, and those that :mod:`.pointwise` and the read-out use.
"""

import ctypes
import logging
import math
import weakref
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lfads_torch import utils
from lfads_torch.recurrence import build, eager
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

_NAMES = {torch.float32: "float", torch.float64: "double"}
_log = logging.getLogger(__name__)


def supports(tensor: Tensor) -> bool:
    """Return whether tensors of this kind can be worked on."""
    return utils.on_cpu(tensor) and tensor.dtype in _NAMES


@cache
def library() -> ctypes.CDLL | build.Unavailable:
    """Return the library, or why there is none (which is logged, once)."""
    try:
        _check()
        return _opened()
    except build.Unavailable as reason:
        _log.warning("The model runs in PyTorch, not compiled: %s.", reason)
        return reason


@cache
def _opened() -> ctypes.CDLL:
    return build.load()


def _check() -> None:
    """Raise if what was built does not compute what it should."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 2), (2, 4), (12, 2), (12, 4), (12,)]
    for dtype in _NAMES:
        args = GRUInputs(*(torch.randn(s, generator=generator, dtype=dtype) for s in shapes))
        x, counts = args.inputs, args.inputs.abs().round()
        pairs = [
            (
                gru_forward(args, 5.0, False, True).states,
                eager.gru_forward(args, 5.0, False, True).states,
            ),
            (linear_forward(x, args.weight_ih, args.bias), x @ args.weight_ih.t() + args.bias),
            (poisson_losses(x, counts, False), x.exp() - counts * x),
        ]
        for ours, expected in pairs:
            if not torch.allclose(ours, expected, rtol=1e-5, atol=1e-6):
                raise build.Unavailable("what the compiler made computes wrong numbers")


def gru_forward(args: GRUInputs, clip: float, reverse: bool, keep: bool) -> GRUTrace:
    """Run a gated recurrent unit over time."""
    inputs, h_0, weight_ih, weight_hh, bias = (_rows(x) for x in args)
    n_trials, n_bins, _ = inputs.shape
    states = empty((n_bins + 1, *h_0.shape), h_0)
    states[n_bins if reverse else 0] = h_0
    n_gates = len(weight_hh)
    gates = empty((n_bins, n_trials, n_gates), h_0) if keep else h_0.new_empty(0)
    sizes = _gru_sizes(inputs, h_0, None, clip, reverse)
    trace = GRUTrace(states, gates, *_without_zeros(sizes, inputs))
    tensors = inputs, weight_ih, weight_hh, bias, *trace[2:], states, gates
    _call("gru_forward", sizes, *tensors)
    return trace


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
    inputs, h_0, weight_ih, weight_hh, bias = (_rows(x) for x in args)
    outer = None if grad_states is None else _rows(grad_states)
    if grad_final is None:
        carry = torch.zeros(h_0.shape, dtype=h_0.dtype)
    else:
        carry = grad_final.clone(memory_format=torch.contiguous_format)
    grad_inputs: Any = empty(inputs.shape, inputs) if needs_inputs else None
    grads = [torch.empty(x.shape, dtype=x.dtype) for x in (weight_ih, weight_hh, bias)]
    sizes = _gru_sizes(inputs, h_0, outer, clip, reverse)
    tensors = inputs, weight_ih, weight_hh, *trace[2:], trace.states, trace.gates, outer, carry
    _call("gru_backward", sizes, *tensors, grad_inputs, *grads)
    return GRUInputs(grad_inputs, carry, *grads)


_DENSE = 0.25
"""Fraction of inputs other than zero from which a dense product is faster."""
_last: tuple[Any, int, tuple[Tensor | None, Tensor | None, Tensor | None]] | None = None
"""The inputs that were compressed last, their version, and the result; encoders share inputs."""


def _without_zeros(
    sizes: Any, inputs: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return ``first``, ``channel`` and ``value`` of a :class:`GRUTrace`."""
    global _last
    version = -1 if inputs.is_inference() else inputs._version
    if _last is not None and version >= 0 and _last[0]() is inputs and _last[1] == version:
        return _last[2]
    name = _NAMES[inputs.dtype]
    first = torch.empty(sizes.bins * sizes.trials + 1, dtype=torch.int32)
    count = getattr(_opened(), f"lfads_count_inputs_{name}")
    count.restype = ctypes.c_int64
    n_values = count(ctypes.byref(sizes), _at(inputs), _at(first))
    result: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
    if n_values < _DENSE * inputs.numel() and n_values < 2**31:
        channel = torch.empty(n_values, dtype=torch.int32)
        value = torch.empty(n_values, dtype=inputs.dtype)
        _call("compress_inputs", sizes, inputs, first, channel, value)
        result = first, channel, value
    _last = weakref.ref(inputs), version, result
    return result


def decoder_forward(args: DecoderInputs, draws: Draws, clip: float, keep: bool) -> DecoderTrace:
    """Run the decoder over time."""
    args = DecoderInputs(*(_rows(x) for x in args))
    sizes = _decoder_sizes(args, draws, clip)
    n_bins, n_trials = sizes.bins, sizes.trials

    def new(bins: int, size: int, first: Tensor | None = None) -> Tensor:
        tensor = empty((bins, n_trials, size), args.ext)
        if first is not None and size:
            tensor[0] = first
        return tensor

    trace = DecoderTrace(
        gen_states=new(n_bins + 1, sizes.gen, args.gen_0),
        con_states=new(n_bins + 1, sizes.con, args.con_0),
        factors=new(n_bins + 1, sizes.fac, args.fac_0),
        co=new(n_bins, 2 * sizes.co),
        co_stds=new(n_bins, sizes.co),
        gen_inputs=new(n_bins, sizes.co + sizes.ext),
        gen_gates=new(n_bins if keep else 0, 3 * sizes.gen),
        con_gates=new(n_bins if keep else 0, 3 * sizes.con),
    )
    arrays, _alive = _decoder_arrays(args, draws, trace)
    function = getattr(_opened(), f"lfads_decoder_forward_{_NAMES[args.ext.dtype]}")
    function(ctypes.byref(sizes), ctypes.byref(arrays))
    return trace


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
    args = DecoderInputs(*(_rows(x) for x in args))
    sizes = _decoder_sizes(args, draws, clip)
    arrays, _alive = _decoder_arrays(args, draws, trace)
    none: Any = None
    result = DecoderInputs(none, none, *(torch.empty(x.shape, dtype=x.dtype) for x in args[2:]))
    if needs_ci and sizes.con:
        ci = torch.empty_strided(args.ci.shape, args.ci.stride(), dtype=args.ci.dtype)
        result = result._replace(ci=ci)
    if needs_ext:
        result = result._replace(ext=torch.empty(args.ext.shape, dtype=args.ext.dtype))
    outer = [None if x is None else _rows(x) for x in grads]
    gradients = _Gradients()
    for i, x in enumerate(outer):
        gradients.outer[i] = _at(x)
        if x is not None:
            gradients.bin[i], gradients.trial[i] = x.stride()[:2]
    for name, x in result._asdict().items():
        setattr(gradients, name, _at(x))
    function = getattr(_opened(), f"lfads_decoder_backward_{_NAMES[args.ext.dtype]}")
    function(*map(ctypes.byref, (sizes, arrays, gradients)))
    return result


def mean_rates(factors: Tensor, weight: Tensor, bias: Tensor, n_samples: int) -> Tensor:
    """Return the mean over samples of exp(W f + b), (B, T, N).

    Factors are (B S, T, F), the S samples of each trial one after the other.
    """
    factors = _rows(factors)
    n_bins, n_channels = factors.shape[1], len(weight)
    rates = empty((len(factors) // n_samples, n_bins, n_channels), factors)
    sizes = _RatesSizes(
        trials=len(rates),
        samples=n_samples,
        bins=n_bins,
        factors=factors.shape[2],
        channels=n_channels,
        row=factors.stride(0),
        bin=factors.stride(1),
        threads=torch.get_num_threads(),
    )
    _call("mean_rates", sizes, factors, weight.contiguous(), bias.contiguous(), rates)
    return rates


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return W x + b, (B, T, N), of x (B, T, D)."""
    x = _rows(x)
    outputs = empty((*x.shape[:2], len(weight)), x)
    sizes = _linear_sizes(x, None, len(weight))
    _call("linear_forward", sizes, x, weight.contiguous(), bias.contiguous(), outputs)
    return outputs


def linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_parameters: bool
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the gradients of x, and of W and b, that are needed, given that of W x + b."""
    x = _rows(x)
    grad_x = grad_weight = grad_bias = None
    if needs_x:  # bin after bin, as the decoder reads it
        grad_x = empty(x.transpose(0, 1).shape, x).transpose(0, 1)
    if needs_parameters:
        grad_weight, grad_bias = weight.new_empty(weight.shape), weight.new_empty(len(weight))
    sizes = _linear_sizes(x, grad_x, len(weight))
    tensors = x, weight.contiguous(), grad.contiguous(), grad_x, grad_weight, grad_bias
    _call("linear_backward", sizes, *tensors)
    return grad_x, grad_weight, grad_bias


def masked(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    """Return x · keep · scale, of x of three axes and a mask of bytes."""
    out = empty(x.shape, x)
    sizes = _MaskSizes(*x.shape, *x.stride(), torch.get_num_threads(), scale)
    _call("mask", sizes, x, keep.contiguous(), out)
    return out


def poisson_losses(log_rates: Tensor, counts: Tensor, stirling: bool) -> Tensor:
    """Return exp(x) - k x, with Stirling's log k! where k > 1 if that is wanted."""
    losses = empty(counts.shape, counts)
    _call_poisson("losses", log_rates, counts, losses, stirling=stirling)
    return losses


def poisson_gradient(log_rates: Tensor, counts: Tensor, outer: Tensor) -> Tensor:
    """Return (exp(x) - k) · outer."""
    grads = empty(counts.shape, counts)
    _call_poisson("gradient", log_rates, counts, outer.contiguous(), grads)
    return grads


def poisson_sums(log_rates: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums over trials of k and of exp(x) - k x."""
    sums = counts.new_empty(counts.shape[1:]), counts.new_empty(counts.shape[1:])
    _call_poisson("sums", log_rates, counts, *sums)
    return sums


def _call_poisson(
    name: str, log_rates: Tensor, counts: Tensor, *tensors: Tensor, stirling: bool = False
) -> None:
    sizes = _PoissonSizes(
        trials=len(counts),
        size=math.prod(counts.shape[1:]),
        stirling=stirling,
        threads=torch.get_num_threads(),
    )
    _call(f"poisson_{name}", sizes, log_rates.contiguous(), counts.contiguous(), *tensors)


# ------------------------------------------------------------------ as kernels/*.h declare them


def _structure(name: str, *groups: tuple[str, Any]) -> type[ctypes.Structure]:
    fields = [(field, kind) for names, kind in groups for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


_INT, _POINTER = ctypes.c_int64, ctypes.c_void_p
_GRUSizes: Any = _structure(
    "_GRUSizes",
    ("trials bins inputs units input_trial input_bin grad_bin grad_trial", _INT),
    ("reverse clips threads", _INT),
    ("clip", ctypes.c_double),
)
_DecoderSizes: Any = _structure(
    "_DecoderSizes",
    ("trials repeats bins ci con co ext gen fac ci_trial ci_bin ext_trial ext_bin", _INT),
    ("clips_con clips_gen threads", _INT),
    ("clip scale", ctypes.c_double),
)
_RatesSizes: Any = _structure(
    "_RatesSizes", ("trials samples bins factors channels row bin threads", _INT)
)
_LinearSizes: Any = _structure(
    "_LinearSizes",
    ("trials bins inputs outputs x_trial x_bin grad_trial grad_bin threads", _INT),
)
_MaskSizes: Any = _structure(
    "_MaskSizes",
    ("outer middle inner x_outer x_middle x_inner threads", _INT),
    ("scale", ctypes.c_double),
)
_PoissonSizes: Any = _structure("_PoissonSizes", ("trials size stirling threads", _INT))
_Arrays: Any = _structure(
    "_Arrays",
    ("ci ext con_ih con_hh con_bias co_weight co_bias gen_ih gen_hh gen_bias readout", _POINTER),
    ("noise keep_f keep_g", _POINTER),
    ("gen_states con_states factors co co_stds gen_inputs gen_gates con_gates", _POINTER),
)
_Gradients: Any = _structure(
    "_Gradients",
    ("outer", _POINTER * 6),
    ("bin trial", _INT * 6),
    ("gen_0 con_0 fac_0 ci ext", _POINTER),
    ("con_ih con_hh con_bias co_weight co_bias gen_ih gen_hh gen_bias readout", _POINTER),
)


def _linear_sizes(x: Tensor, grad_x: Tensor | None, n_outputs: int) -> Any:
    strides = *x.stride()[:2], *((0, 0) if grad_x is None else grad_x.stride()[:2])
    return _LinearSizes(*x.shape, n_outputs, *strides, torch.get_num_threads())


def _gru_sizes(
    inputs: Tensor, h_0: Tensor, grad_states: Tensor | None, clip: float, reverse: bool
) -> Any:
    n_trials, n_bins, n_inputs = inputs.shape
    return _GRUSizes(
        trials=n_trials,
        bins=n_bins,
        inputs=n_inputs,
        units=h_0.shape[1],
        input_trial=inputs.stride(0),
        input_bin=inputs.stride(1),
        grad_bin=0 if grad_states is None else grad_states.stride(0),
        grad_trial=0 if grad_states is None else grad_states.stride(1),
        reverse=reverse,
        clips=may_clip(h_0, clip),
        threads=torch.get_num_threads(),
        clip=clip,
    )


def _decoder_sizes(args: DecoderInputs, draws: Draws, clip: float) -> Any:
    n_trials, n_bins, n_ext = args.ext.shape
    use_con = args.con_hh.numel() > 0
    return _DecoderSizes(
        trials=n_trials,
        repeats=n_trials // len(args.ci) if use_con else 1,
        bins=n_bins,
        ci=args.ci.shape[2] if use_con else 0,
        con=args.con_hh.shape[1] if use_con else 0,
        co=args.gen_ih.shape[1] - n_ext,
        ext=n_ext,
        gen=args.gen_hh.shape[1],
        fac=len(args.readout),
        ci_trial=args.ci.stride(0) if use_con else 0,
        ci_bin=args.ci.stride(1) if use_con else 0,
        ext_trial=args.ext.stride(0),
        ext_bin=args.ext.stride(1),
        clips_con=use_con and may_clip(args.con_0, clip),
        clips_gen=may_clip(args.gen_0, clip),
        threads=torch.get_num_threads(),
        clip=clip,
        scale=draws.scale,
    )


def _decoder_arrays(
    args: DecoderInputs, draws: Draws, trace: DecoderTrace
) -> tuple[Any, Sequence[Tensor | None]]:
    """Return the addresses of the arrays, and what keeps them valid."""
    noise = None if draws.noise is None else draws.noise.contiguous()
    named = {
        "noise": noise,
        "keep_f": None if draws.keep_f is None else draws.keep_f.contiguous(),
        "keep_g": None if draws.keep_g is None else draws.keep_g.contiguous(),
        **trace._asdict(),
    }
    fields = {field for field, _ in _Arrays._fields_}
    named |= {name: x for name, x in args._asdict().items() if name in fields}
    return _Arrays(**{name: _at(x) for name, x in named.items()}), list(named.values())


def _rows(tensor: Tensor) -> Tensor:
    """Return a tensor whose last axis is dense in memory; weights must be dense as a whole."""
    if tensor.dim() < 3:
        return tensor.contiguous()
    dense = tensor.stride(-1) == 1 or tensor.shape[-1] <= 1
    overlapping = 0 in tensor.stride()
    return tensor.contiguous() if not dense or overlapping else tensor


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    """Return the address of a tensor; null where there is none or nothing in it."""
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None and tensor.numel() else None)


def _call(name: str, sizes: Any, *tensors: Tensor | None) -> None:
    """Call a function for the type of the first tensor."""
    first: Any = tensors[0]
    function = getattr(_opened(), f"lfads_{name}_{_NAMES[first.dtype]}")
    function(ctypes.byref(sizes), *map(_at, tensors))
