"""Compare ways to run a recurrence on a CPU: their preparation time, and the time of a pass.

    pip install numba
    python benchmarks/alternatives.py [--bins 140] [--torch-compile]

Runs one direction of an encoder over time, forward only: the cell bin by bin, on request also with
torch.compile (which unrolls its loop over bins and takes minutes), the fused recurrence in
PyTorch, a Numba function (np.dot into buffers, one pass over rows between products), and the
compiled recurrence. "ready" is the time of the first call with nothing cached, less that of a later
one; for a C++ extension with PyTorch's headers, it is the time to compile one function. Prints
medians of passes that are taken by turns, in milliseconds, on one thread.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy's and PyTorch's libraries are loaded
os.environ["LFADS_TORCH_CACHE"] = tempfile.mkdtemp()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()

import numpy as np
import torch

from lfads_torch.modules.recurrent import ClippedGRU
from lfads_torch.recurrence import using


def numba_gru(gru: ClippedGRU) -> Callable[[np.ndarray], np.ndarray]:
    """Return the recurrence as a function that Numba compiles."""
    import numba

    @numba.njit(fastmath={"contract"})
    def run(gates, w_zr, w_n, states):  # type: ignore[no-untyped-def]
        n_bins, n_trials, _ = gates.shape
        size = states.shape[2]
        zr = np.empty((n_trials, 2 * size), np.float32)
        n = np.empty((n_trials, size), np.float32)
        reset = np.empty((n_trials, size), np.float32)
        one = np.float32(1)
        for t in range(n_bins):
            np.dot(states[t], w_zr, zr)
            for i in range(n_trials):
                for j in range(2 * size):
                    zr[i, j] = one / (one + np.exp(-(zr[i, j] + gates[t, i, j])))
                for j in range(size):
                    reset[i, j] = zr[i, size + j] * states[t, i, j]
            np.dot(reset, w_n, n)
            for i in range(n_trials):
                for j in range(size):
                    value = np.tanh(n[i, j] + gates[t, i, 2 * size + j])
                    states[t + 1, i, j] = value + zr[i, j] * (states[t, i, j] - value)

    cell = gru.cell
    size = cell.hidden_size
    w_ih, w_hh = cell.weight_ih.detach().numpy(), cell.weight_hh.detach().numpy()
    w_zr, w_n = np.ascontiguousarray(w_hh[: 2 * size].T), np.ascontiguousarray(w_hh[2 * size :].T)
    bias = cell.bias_ih.detach().numpy()

    def call(x: np.ndarray) -> np.ndarray:
        gates = np.ascontiguousarray(x.transpose(1, 0, 2)).reshape(-1, x.shape[2]) @ w_ih.T
        gates = (gates + bias).reshape(x.shape[1], x.shape[0], -1)
        states = np.zeros((x.shape[1] + 1, x.shape[0], size), np.float32)
        run(gates, w_zr, w_n, states)
        return states[1:].transpose(1, 0, 2)

    return call


def extension_seconds() -> float:
    """Return how long a C++ extension of one function takes to compile with PyTorch's headers."""
    from torch.utils.cpp_extension import load_inline

    source = "#include <torch/extension.h>\nat::Tensor f(at::Tensor x) { return x; }"
    start = time.perf_counter()
    load_inline("lfads_nothing", source, functions=["f"], build_directory=tempfile.mkdtemp())
    return time.perf_counter() - start


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=256)
    parser.add_argument("--bins", type=int, default=140)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--torch-compile", action="store_true", help="takes many minutes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.poisson(torch.full((args.trials, args.bins, 122), 0.03))
    h_0 = torch.zeros(args.trials, 100)
    gru = ClippedGRU(122, 100, 5.0)
    by_numba = numba_gru(gru)

    def chosen(choice: str) -> torch.Tensor:
        with using(choice):
            return gru(x, h_0)[0]

    runs: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: chosen("plain"),
        "torch": lambda: chosen("torch"),
        "numba": lambda: torch.from_numpy(by_numba(x.numpy())),
        "compiled": lambda: chosen("compiled"),
    }
    if args.torch_compile:
        by_torch_compile = torch.compile(gru)
        runs["torch.compile"] = lambda: by_torch_compile(x, h_0)[0]
    first = {label: seconds(run) for label, run in runs.items()}
    times: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(args.repeats):
        for label, run in runs.items():
            times[label].append(seconds(run))
    expected = runs["plain"]()
    print(f"{'':26}{'ready (s)':>10}{'pass (ms)':>10}{'largest error':>15}")
    for label, run in runs.items():
        later = statistics.median(times[label])
        error = float((run() - expected).abs().max())
        print(f"{label:26}{first[label] - later:10.1f}{later * 1e3:10.1f}{error:15.1e}")
    print(f"{'an extension, headers only':26}{extension_seconds():10.1f}")


if __name__ == "__main__":
    main()
