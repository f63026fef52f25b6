"""The fused recurrences in C++ (``kernels``), for tensors on a CPU."""

import logging
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from lfads_torch import utils
from lfads_torch.recurrence import build
from lfads_torch.recurrence.check import check
from lfads_torch.recurrence.library import (
    SUFFIXES,
    DecoderArrays,
    DecoderGradients,
    DecoderSizes,
    GRUSizes,
    Library,
    LinearSizes,
    PoissonSizes,
    RatesSizes,
    address,
)
from lfads_torch.recurrence.memory import empty
from lfads_torch.recurrence.pytorch import PyTorchBackend
from lfads_torch.recurrence.tuples import (
    DecoderArguments,
    DecoderGrads,
    DecoderTrace,
    Draws,
    GRUArguments,
    GRUTrace,
    may_clip,
)

_DENSE = 0.25
"""Fraction of non-zero inputs above which a dense product is faster."""
_log = logging.getLogger(__name__)


class CompiledBackend(PyTorchBackend):
    """The operations in C++, for float32 and float64 on a CPU.

    The library is built, opened and checked when the first operation is requested.

    Parameters
    ----------
    library
        A library to use without a check.
    """

    name = "compiled"

    def __init__(self, library: Library | None = None) -> None:
        self._opening = threading.Lock()
        self._library: Library | build.Unavailable | None = library

    def handles(self, *tensors: Tensor) -> bool:
        """Return whether all tensors are on a CPU, and float32 or float64."""
        return all(utils.on_cpu(tensor) and tensor.dtype in SUFFIXES for tensor in tensors)

    def unavailable(self) -> str | None:
        """Return why there is no library (which is also logged once), or None if there is one."""
        library = self._opened()
        return str(library) if isinstance(library, build.Unavailable) else None

    def _opened(self) -> Library | build.Unavailable:
        """Return the library, which is opened at the first call, or why it cannot be used."""
        if self._library is not None:
            return self._library
        with self._opening:
            if self._library is None:
                # The modes of PyTorch that may be active here (a default device, counting of
                # operations, …) do not apply in a new thread.
                with ThreadPoolExecutor(1) as thread:
                    self._library = thread.submit(_checked_library).result()
        return self._library

    def _call(self, name: str, dtype: torch.dtype, *arguments: Any) -> None:
        """Call a function of the library."""
        library = self._opened()
        if isinstance(library, build.Unavailable):
            raise library
        library.call(name, dtype, *arguments)

    # -------------------------------------------------------------- recurrences

    def gru_forward(self, args: GRUArguments, clip: float, reverse: bool, save: bool) -> GRUTrace:
        """Run a gated recurrent unit over time."""
        inputs, h_0, weight_ih, weight_hh, bias = (_rows(x) for x in args)
        n_trials, n_bins, _ = inputs.shape
        states = empty((n_bins + 1, *h_0.shape), h_0)
        states[n_bins if reverse else 0] = h_0
        n_gates = len(weight_hh)
        gates = empty((n_bins, n_trials, n_gates), h_0) if save else h_0.new_empty(0)
        sizes = _gru_sizes(inputs, h_0, None, clip, reverse)
        trace = GRUTrace(states, gates, *self._without_zeros(sizes, inputs))
        tensors = inputs, weight_ih, weight_hh, bias, *trace[2:], states, gates
        self._call("gru_forward", inputs.dtype, sizes, *tensors)
        return trace

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
        inputs, h_0, weight_ih, weight_hh, bias = (_rows(x) for x in args)
        incoming = None if grad_states is None else _rows(grad_states)
        if grad_final is None:
            carry = h_0.new_zeros(h_0.shape)
        else:
            carry = grad_final.clone(memory_format=torch.contiguous_format)
        grad_inputs: Any = empty(inputs.shape, inputs) if needs_inputs else None
        grads = [x.new_empty(x.shape) for x in (weight_ih, weight_hh, bias)]
        sizes = _gru_sizes(inputs, h_0, incoming, clip, reverse)
        tensors = inputs, weight_ih, weight_hh, *trace[2:], trace.states, trace.gates, incoming
        self._call("gru_backward", inputs.dtype, sizes, *tensors, carry, grad_inputs, *grads)
        return GRUArguments(grad_inputs, carry, *grads)

    def _without_zeros(
        self, sizes: Any, inputs: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return ``first``, ``channel`` and ``value`` of a :class:`GRUTrace`.

        They are stored with inputs that several recurrences read, see
        :func:`~lfads_torch.recurrence.sequences.shared`.
        """
        version = -1 if inputs.is_inference() else inputs._version
        derived: dict[int, tuple[Tensor | None, Tensor | None, Tensor | None]]
        derived = getattr(inputs, "_lfads_derived", {})
        if version >= 0 and version in derived:
            return derived[version]
        first = inputs.new_empty(sizes.bins * sizes.trials + 1, dtype=torch.int32)
        total = inputs.new_empty(1, dtype=torch.int64)
        self._call("count_inputs", inputs.dtype, sizes, inputs, first, total)
        n_values = int(total)
        result: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
        if n_values < _DENSE * inputs.numel() and n_values < 2**31:
            channel = inputs.new_empty(n_values, dtype=torch.int32)
            value = inputs.new_empty(n_values)
            self._call("compress_inputs", inputs.dtype, sizes, inputs, first, channel, value)
            result = first, channel, value
        derived[version] = result
        return result

    def decoder_forward(
        self, args: DecoderArguments, draws: Draws, clip: float, save: bool
    ) -> DecoderTrace:
        """Run the decoder over time."""
        args, draws = _dense(args, draws)
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
            gen_gates=new(n_bins if save else 0, 3 * sizes.gen),
            con_gates=new(n_bins if save else 0, 3 * sizes.con),
        )
        self._call("decoder_forward", args.ext.dtype, sizes, _decoder_arrays(args, draws, trace))
        return trace

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
        args, draws = _dense(args, draws)
        sizes = _decoder_sizes(args, draws, clip)
        arrays = _decoder_arrays(args, draws, trace)
        none: Any = None
        weights = (x.new_empty(x.shape) for x in args[2:])
        result = DecoderArguments(none, none, *weights)
        if needs_ci and sizes.con:
            ci = args.ci.new_empty_strided(args.ci.shape, args.ci.stride())
            result = result._replace(ci=ci)
        if needs_ext:
            result = result._replace(ext=args.ext.new_empty(args.ext.shape))
        incoming = [None if x is None else _rows(x) for x in grads]
        gradients = DecoderGradients()
        for i, x in enumerate(incoming):
            gradients.incoming[i] = address(x)
            if x is not None:
                gradients.bin[i], gradients.trial[i] = x.stride()[:2]
        for name, x in result._asdict().items():
            setattr(gradients, name, address(x))
        self._call("decoder_backward", args.ext.dtype, sizes, arrays, gradients)
        return result

    # -------------------------------------------------------------- linear maps

    def linear_forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return W x + b."""
        x = _rows(x)
        outputs = empty((*x.shape[:2], len(weight)), x)
        sizes = _linear_sizes(x, None, len(weight))
        tensors = x, weight.contiguous(), bias.contiguous(), outputs
        self._call("linear_forward", x.dtype, sizes, *tensors)
        return outputs

    def linear_backward(
        self, grad: Tensor, x: Tensor, weight: Tensor, needs_x: bool, needs_parameters: bool
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of x, and of W and b, that are needed."""
        x = _rows(x)
        grad_x = grad_weight = grad_bias = None
        if needs_x:  # The bins follow each other in memory, as the decoder reads them.
            grad_x = empty(x.transpose(0, 1).shape, x).transpose(0, 1)
        if needs_parameters:
            grad_weight, grad_bias = weight.new_empty(weight.shape), weight.new_empty(len(weight))
        sizes = _linear_sizes(x, grad_x, len(weight))
        tensors = x, weight.contiguous(), grad.contiguous(), grad_x, grad_weight, grad_bias
        self._call("linear_backward", x.dtype, sizes, *tensors)
        return grad_x, grad_weight, grad_bias

    def mean_rates(self, factors: Tensor, weight: Tensor, bias: Tensor, n_samples: int) -> Tensor:
        """Return the mean over samples of exp(W f + b)."""
        factors = _rows(factors)
        n_bins, n_channels = factors.shape[1], len(weight)
        rates = empty((len(factors) // n_samples, n_bins, n_channels), factors)
        sizes = RatesSizes(
            trials=len(rates),
            samples=n_samples,
            bins=n_bins,
            factors=factors.shape[2],
            channels=n_channels,
            row=factors.stride(0),
            bin=factors.stride(1),
            threads=torch.get_num_threads(),
        )
        tensors = factors, weight.contiguous(), bias.contiguous(), rates
        self._call("mean_rates", factors.dtype, sizes, *tensors)
        return rates

    # -------------------------------------------------------------- Poisson likelihood

    def poisson_losses(self, log_rates: Tensor, counts: Tensor, stirling: bool) -> Tensor:
        """Return exp(x) - k x, with Stirling's log k! where k > 1 if ``stirling``."""
        losses = empty(counts.shape, counts)
        self._call_poisson("losses", log_rates, counts, losses, stirling=stirling)
        return losses

    def poisson_gradient(self, log_rates: Tensor, counts: Tensor, grad: Tensor) -> Tensor:
        """Return (exp(x) - k) · grad."""
        result = empty(counts.shape, counts)
        self._call_poisson("gradient", log_rates, counts, grad.contiguous(), result)
        return result

    def poisson_sums(self, log_rates: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over trials of k and of exp(x) - k x."""
        sums = counts.new_empty(counts.shape[1:]), counts.new_empty(counts.shape[1:])
        self._call_poisson("sums", log_rates, counts, *sums)
        return sums

    def _call_poisson(
        self, name: str, log_rates: Tensor, counts: Tensor, *tensors: Tensor, stirling: bool = False
    ) -> None:
        """Call a function of the library for log rates and counts of the same shape."""
        sizes = PoissonSizes(
            trials=len(counts),
            size=math.prod(counts.shape[1:]),
            stirling=stirling,
            threads=torch.get_num_threads(),
        )
        both = log_rates.contiguous(), counts.contiguous()
        self._call(f"poisson_{name}", counts.dtype, sizes, *both, *tensors)


def _checked_library() -> Library | build.Unavailable:
    """Return the library, or why it cannot be used, which is logged."""
    try:
        library = Library()
        check(CompiledBackend(library), PyTorchBackend())
        return library
    except build.Unavailable as reason:
        _log.warning("The model runs in PyTorch, not compiled: %s.", reason)
        return reason


def _linear_sizes(x: Tensor, grad_x: Tensor | None, n_outputs: int) -> Any:
    """Return the sizes and strides of a linear map."""
    strides = *x.stride()[:2], *((0, 0) if grad_x is None else grad_x.stride()[:2])
    return LinearSizes(*x.shape, n_outputs, *strides, torch.get_num_threads())


def _gru_sizes(
    inputs: Tensor, h_0: Tensor, grad_states: Tensor | None, clip: float, reverse: bool
) -> Any:
    """Return the sizes, strides and options of a gated recurrent unit."""
    n_trials, n_bins, n_inputs = inputs.shape
    return GRUSizes(
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


def _decoder_sizes(args: DecoderArguments, draws: Draws, clip: float) -> Any:
    """Return the sizes, strides and options of the decoder."""
    n_trials, n_bins, n_ext = args.ext.shape
    use_con = args.con_hh.numel() > 0
    return DecoderSizes(
        trials=n_trials,
        repeats=n_trials // len(args.ci) if use_con else 1,
        bins=n_bins,
        ci=args.ci.shape[2] if use_con else 0,
        con=args.con_hh.shape[1] if use_con else 0,
        co=args.gen_ih.shape[1] - n_ext,
        ext=n_ext,
        gen=args.gen_hh.shape[1],
        fac=len(args.fac_weight),
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


def _dense(args: DecoderArguments, draws: Draws) -> tuple[DecoderArguments, Draws]:
    """Return arguments and draws as dense in memory as the library needs them."""
    noise, keep_f, keep_g = (None if x is None else x.contiguous() for x in draws[:3])
    return DecoderArguments(*map(_rows, args)), Draws(noise, keep_f, keep_g, draws.scale)


def _decoder_arrays(args: DecoderArguments, draws: Draws, trace: DecoderTrace) -> Any:
    """Return the addresses of dense arrays, which the caller must keep alive."""
    named = {**args._asdict(), **draws._asdict(), **trace._asdict()}
    return DecoderArrays(**{name: address(named[name]) for name, _ in DecoderArrays._fields_})


def _rows(tensor: Tensor) -> Tensor:
    """Return a tensor whose last axis is dense in memory; weights must be dense as a whole."""
    if tensor.dim() < 3:
        return tensor.contiguous()
    dense = tensor.stride(-1) == 1 or tensor.shape[-1] <= 1
    overlapping = 0 in tensor.stride()
    return tensor.contiguous() if not dense or overlapping else tensor
