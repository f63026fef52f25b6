"""Measure the time of a training step, and compare it with the time of its matrix products.

    python benchmarks/step.py [--models nlb_mc_maze …] [--threads 1 2] [--repeats 15]

For packaged models and synthetic spikes of the sizes of their data sets, measures by turns, in one
process for each number of threads,

- the floor: the dense matrix products of the step, forward and backward, one after the other and
  nothing else. Those that do not depend on the recurrence (products of the inputs, gradients of the
  weights) run over all bins at once, the others bin by bin;
- the whole training step with each implementation of the recurrences: augmentations, forward pass,
  losses and metrics, backward pass, clipping at norm 200, AdamW; noise and masks are drawn each
  time.

Prints medians, their ratios to the floor, and the memory of a step: by how much the peak of a new
process's memory rises while it trains (Linux only). With one thread, times are those of the
processor, so that other programs on the machine matter little.
"""

import argparse
import multiprocessing
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from lfads_torch.model import LFADS
from lfads_torch.recurrence import BACKENDS
from lfads_torch.running.compose import packaged_configs, register_resolvers
from lfads_torch.tuples import SessionBatch

MODELS = ("nlb_mc_maze", "nlb_mc_maze_small", "nlb_mc_maze_large")
IMPLEMENTATIONS = (*(backend.name for backend in BACKENDS), "plain")
RATE_HZ = 6.0
"""Mean firing rate of the synthetic spikes, about that of motor cortex."""


# ------------------------------------------------------------------ the step


def load(
    name: str, implementation: str, overrides: Sequence[str] = ()
) -> tuple[LFADS, SessionBatch]:
    """Make a packaged model, and a batch of synthetic spikes as its data set would give."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    register_resolvers()
    with initialize_config_dir(str(packaged_configs()), version_base="1.3"):
        words = [f"model={name}", f"datamodule={name}", f"model.recurrence={implementation}"]
        config = compose("single", [*words, *overrides])
    node = OmegaConf.masked_copy(config, ["model"])
    OmegaConf.resolve(node)
    model: LFADS = instantiate(node.model, _convert_="all").train()
    hps = model.hparams
    data = config.datamodule
    bin_ms = float(re.search(r"(\d+)ms", data.datafile_pattern)[1])  # type: ignore[index]
    readout: Any = model.readout[0]
    shape = (data.batch_size, hps.recon_seq_len, readout.out_features)
    counts = torch.poisson(torch.full(shape, RATE_HZ * bin_ms / 1000))
    encoded = counts[:, : hps.encod_seq_len, : hps.encod_data_dim].clone()
    return model, SessionBatch(encoded, counts)


def training_step(model: LFADS, batch: SessionBatch) -> Callable[[], None]:
    """Return a function that does one training step, as the trainer does it."""
    configured: Any = model.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    model.on_train_epoch_start()

    def step() -> None:
        optimizer.zero_grad()
        loss = model.training_step({0: (batch, ())}, 0)
        loss.backward()
        model.on_before_optimizer_step(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 200.0)
        optimizer.step()

    return step


# ------------------------------------------------------------------ the floor


class Linear(NamedTuple):
    """A matrix that is multiplied with a vector of every trial in every bin."""

    n_in: int
    n_out: int
    input_grad: bool = True
    """Whether the loss is differentiated with respect to the input."""


class Stage(NamedTuple):
    """Matrices that are applied to all bins ``at_once``, or bin after bin (``by_bin``)."""

    n_bins: int
    at_once: Sequence[Linear] = ()
    by_bin: Sequence[Linear] = ()


def stages(model: LFADS) -> Iterator[Stage]:
    """Yield the dense products of a model of one session without a read-in."""
    hps = model.hparams
    t_enc, t_rec, t_ic = hps.encod_seq_len, hps.recon_seq_len, hps.ic_enc_seq_len
    encoders = [(t_ic or t_enc, hps.ic_enc_dim)]
    if model.use_con:
        encoders.append((t_enc - t_ic, hps.ci_enc_dim))
    for n_bins, size in encoders:
        for _direction in range(2):
            yield Stage(n_bins, [Linear(hps.encod_data_dim, 3 * size, False)], _recurrent(size))
    yield Stage(1, [Linear(2 * hps.ic_enc_dim, 2 * hps.ic_dim), Linear(hps.ic_dim, hps.gen_dim)])

    factors = Linear(hps.gen_dim, hps.fac_dim)
    at_once, by_bin = [], [*_recurrent(hps.gen_dim), factors]
    if hps.ext_input_dim:
        at_once.append(Linear(hps.ext_input_dim, 3 * hps.gen_dim, False))
    if model.use_con:
        yield Stage(1, [factors])  # of the initial state, for the controller's first input
        at_once.append(Linear(2 * hps.ci_enc_dim, 3 * hps.con_dim))
        by_bin += [
            Linear(hps.fac_dim, 3 * hps.con_dim),
            *_recurrent(hps.con_dim),
            Linear(hps.con_dim, 2 * hps.co_dim),
            Linear(hps.co_dim, 3 * hps.gen_dim),
        ]
    yield Stage(t_rec, at_once, by_bin)
    readout: Any = model.readout[0]
    yield Stage(t_rec, [Linear(hps.fac_dim, readout.out_features)])


def _recurrent(size: int) -> list[Linear]:
    """Return the matrices of both gates, and of the candidate, which needs the reset gate."""
    return [Linear(size, 2 * size), Linear(size, size)]


def floor(model: LFADS, n_trials: int) -> Callable[[], None]:
    """Return a function that does the step's dense products, forward and backward."""
    once: list[Callable[[], None]] = []
    loops: list[tuple[int, list[Callable[[], None]]]] = []
    for stage in stages(model):
        all_bins = n_trials * stage.n_bins
        once += [_product(all_bins, linear, "output") for linear in stage.at_once]
        once += [_product(all_bins, ln, "input_grad") for ln in stage.at_once if ln.input_grad]
        for kind in ("output", "input_grad"):
            products = [_product(n_trials, linear, kind) for linear in stage.by_bin]
            loops.append((stage.n_bins, products))
        every = (*stage.at_once, *stage.by_bin)
        once += [_product(all_bins, linear, "weight_grad") for linear in every]

    @torch.no_grad()
    def run() -> None:
        for product in once:
            product()
        for n_bins, by_bin in loops:
            for _ in range(n_bins):
                for product in by_bin:
                    product()

    return run


def _product(rows: int, linear: Linear, kind: str) -> Callable[[], None]:
    weight = torch.randn(linear.n_out, linear.n_in) / linear.n_in**0.5
    inputs, outputs = torch.randn(rows, linear.n_in), torch.randn(rows, linear.n_out)
    operands: dict[str, tuple[Tensor, Tensor]] = {
        "output": (inputs, weight.T),
        "input_grad": (outputs, weight),
        "weight_grad": (outputs.T, inputs),
    }
    left, right = operands[kind]
    result = torch.empty(left.shape[0], right.shape[1])

    def product() -> None:
        torch.mm(left, right, out=result)

    return product


def floor_flops(model: LFADS, n_trials: int) -> int:
    """Return the floating-point operations of the floor."""
    return sum(
        2 * n_trials * stage.n_bins * linear.n_in * linear.n_out * (3 if linear.input_grad else 2)
        for stage in stages(model)
        for linear in (*stage.at_once, *stage.by_bin)
    )


# ------------------------------------------------------------------ measuring


def seconds(function: Callable[[], None]) -> float:
    """Return how long a call takes.

    With one thread this is the processor's time, so that other programs matter little; with
    several threads it is the time of day, so that their waiting counts.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    function()
    return clock() - start


def measure_time(
    name: str, implementations: Sequence[str], repeats: int, overrides: Sequence[str] = ()
) -> tuple[float, dict[str, float]]:
    """Return the operations of the floor, and median seconds of the floor and of each step."""
    torch.manual_seed(0)
    runs: dict[str, Callable[[], None]] = {}
    flops = 0
    for implementation in implementations:
        model, batch = load(name, implementation, overrides)
        runs[implementation] = training_step(model, batch)
        if "floor" not in runs:
            n_trials = len(batch.encod_data)
            flops, runs["floor"] = floor_flops(model, n_trials), floor(model, n_trials)
    for run in runs.values():
        run()
        run()
    times: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(repeats):
        for label, run in runs.items():
            times[label].append(seconds(run))
    return flops, {label: statistics.median(values) for label, values in times.items()}


def measure_memory(name: str, implementation: str, overrides: Sequence[str] = ()) -> float | None:
    """Return by how many MB three steps raise the peak of this process's memory."""
    torch.manual_seed(0)
    model, batch = load(name, implementation, overrides)
    before = _memory_kb("VmRSS")
    step = training_step(model, batch)
    for _ in range(3):
        step()
    peak = _memory_kb("VmHWM")
    return None if before is None or peak is None else (peak - before) / 1024


def _memory_kb(key: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = (line.split() for line in status.read_text().splitlines())
    return next((int(words[1]) for words in lines if words[0] == f"{key}:"), None)


def in_new_process(threads: int, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a new process with this number of threads."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(threads)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="MODEL")
    parser.add_argument(
        "--implementations", nargs="+", default=IMPLEMENTATIONS, choices=IMPLEMENTATIONS
    )
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()

    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, medians")
    print(f"{'model':18} {'threads':>7} {'':12} {'ms':>8} {'GFLOP/s':>8} {'x floor':>8} {'MB':>6}")
    for name in args.models:
        for threads in args.threads:
            flops, times = in_new_process(
                threads, measure_time, name, args.implementations, args.repeats
            )
            for label in ("floor", *args.implementations):
                memory = None
                if label != "floor":
                    memory = in_new_process(threads, measure_memory, name, label)
                print(
                    f"{name:18} {threads:7} {label:12} {1e3 * times[label]:8.1f} "
                    f"{flops / times[label] / 1e9:8.1f} {times[label] / times['floor']:8.2f} "
                    f"{'' if memory is None else f'{memory:.0f}':>6}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
