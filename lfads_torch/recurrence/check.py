"""Checks that an implementation that was built on this machine computes correct results."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lfads_torch.recurrence.backend import Backend
from lfads_torch.recurrence.build import Unavailable
from lfads_torch.recurrence.tuples import DecoderArguments, DecoderGrads, Draws, GRUArguments

_N_TRIALS, _N_BINS, _SIZE = 3, 2, 5
"""Small sizes that still reach every branch: they are not multiples of a vector's length."""
_CLIP = 0.8


def check(backend: Backend, reference: Backend) -> None:
    """Compare every operation of an implementation with that of another, on small tensors.

    Both directions and both passes of the recurrences are run, in float32 and float64, with noise,
    with dropout, and with a clip that some states reach.

    Raises
    ------
    Unavailable
        If results differ by more than rounding.
    """
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        results, expected = (_results(one, dtype) for one in (backend, reference))
        for (name, actual), (_, wanted) in zip(results, expected, strict=True):
            if not torch.allclose(actual, wanted, rtol=tolerance, atol=tolerance):
                raise Unavailable(f"the compiled library computes wrong numbers ({name})")


def _results(backend: Backend, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield the results of every operation, with its name."""
    generator = torch.Generator("cpu").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype, device="cpu")

    size = _SIZE
    dense = draw(_N_TRIALS, _N_BINS, size)
    for inputs in (dense, dense * (dense > 1.0)):  # The second are mostly zeros.
        args = GRUArguments(inputs, draw(_N_TRIALS, 3), draw(9, size), draw(9, 3), draw(9))
        for reverse in (False, True):
            trace = backend.gru_forward(args, _CLIP, reverse, True)
            grads = draw(_N_BINS, _N_TRIALS, 3), draw(_N_TRIALS, 3)
            gradients = backend.gru_backward(*grads, args, trace, _CLIP, reverse, True)
            yield from (("gru_forward", x) for x in trace[:2])
            yield from (("gru_backward", x) for x in gradients)
    yield from _decoder_results(backend, draw)

    weight, bias = draw(4, size), draw(4)
    log_rates, counts = draw(_N_TRIALS, _N_BINS, 4), 3 * draw(_N_TRIALS, _N_BINS, 4).abs().round()
    yield "linear_forward", backend.linear_forward(dense, weight, bias)
    back_linear = backend.linear_backward(log_rates, dense, weight, True, True)
    yield from (("linear_backward", x) for x in back_linear if x is not None)
    yield "mean_rates", backend.mean_rates(dense, weight, bias, _N_TRIALS)
    yield "poisson_losses", backend.poisson_losses(log_rates, counts, True)
    yield "poisson_gradient", backend.poisson_gradient(log_rates, counts, log_rates)
    yield from (("poisson_sums", x) for x in backend.poisson_sums(log_rates, counts))


def _decoder_results(backend: Backend, draw: Callable[..., Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the results of both passes of the decoder, with their names."""
    n_ci, n_ext, n_gen, n_con, n_fac, n_co = 2, 1, _SIZE, 4, 3, 2
    args = DecoderArguments(
        ci=draw(_N_TRIALS, _N_BINS, n_ci),
        ext=draw(_N_TRIALS, _N_BINS, n_ext),
        gen_0=draw(_N_TRIALS, n_gen),
        con_0=draw(_N_TRIALS, n_con),
        fac_0=draw(_N_TRIALS, n_fac),
        con_ih=draw(3 * n_con, n_ci + n_fac),
        con_hh=draw(3 * n_con, n_con),
        con_bias=draw(3 * n_con),
        co_weight=draw(2 * n_co, n_con),
        co_bias=draw(2 * n_co),
        gen_ih=draw(3 * n_gen, n_co + n_ext),
        gen_hh=draw(3 * n_gen, n_gen),
        gen_bias=draw(3 * n_gen),
        fac_weight=draw(n_fac, n_gen),
    )
    keep_f, keep_g = ((draw(_N_BINS, _N_TRIALS, n) > -0.5).to(torch.uint8) for n in (n_fac, n_gen))
    draws = Draws(draw(_N_BINS, _N_TRIALS, n_co), keep_f, keep_g, 1.4)
    trace = backend.decoder_forward(args, draws, _CLIP, True)
    sizes = (n_gen, n_con, n_fac, n_co, n_co, n_co + n_ext)
    grads = DecoderGrads(*(draw(_N_BINS, _N_TRIALS, n) for n in sizes))
    gradients = backend.decoder_backward(grads, args, draws, trace, _CLIP, True, True)
    yield from (("decoder_forward", x) for x in trace)
    yield from (("decoder_backward", x) for x in gradients)
