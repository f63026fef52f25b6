"""Posterior sampling, compared with running the whole model once for each sample.

    python benchmarks/posterior_sampling.py [--models mc_maze …] [--threads 1 2] [--repeats 3]

For packaged models and synthetic spikes, measures by turns

- the whole model, stepped bin by bin, once for each sample;
- posterior sampling, which encodes once and decodes many samples together, with each implementation
  of the recurrences.

Prints medians in seconds, and how many times faster posterior sampling is.
"""

import argparse
import platform
import statistics
import time
from collections import deque
from collections.abc import Callable

import torch
from omegaconf import OmegaConf

from lfads_torch.model import LFADS
from lfads_torch.running.compose import packaged_configs
from lfads_torch.running.sampling import _Sampling
from lfads_torch.tuples import SessionBatch

MODELS = ("mc_maze", "mc_maze_small", "mc_maze_large")


def load_model(name: str, recurrence: str) -> LFADS:
    """Make a packaged model without its data."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    overrides = [f"model={name}", "~datamodule", f"model.recurrence={recurrence}"]
    with initialize_config_dir(str(packaged_configs()), version_base="1.3"):
        config = compose("single", overrides)
    node = OmegaConf.masked_copy(config, ["model"])
    OmegaConf.resolve(node)
    return instantiate(node.model, _convert_="all").eval()


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(name: str, threads: int, trials: int, samples: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of each way."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    models = {recurrence: load_model(name, recurrence) for recurrence in ("plain", "torch", "auto")}
    hps = models["plain"].hparams
    n_channels = models["plain"].readout[0].out_features
    counts = torch.poisson(torch.full((trials, hps.recon_seq_len, n_channels), 0.05))
    batch = SessionBatch(counts[:, : hps.encod_seq_len, : hps.encod_data_dim].clone(), counts)
    sampling = _Sampling(samples, False, False, max_memory_gb=1.0)

    @torch.no_grad()
    def once_a_sample() -> None:
        for _ in range(samples):
            models["plain"].predict_step({0: batch}, 0)

    def together(recurrence: str) -> Callable[[], None]:
        return lambda: deque(sampling.run(models[recurrence], 0, batch), maxlen=0)  # type: ignore

    runs = {"whole": once_a_sample, "torch": together("torch"), "auto": together("auto")}
    runs["auto"]()  # builds the library
    times: dict[str, list[float]] = {label: [] for label in runs}
    for _ in range(repeats):
        for label, run in runs.items():
            times[label].append(seconds(run))
    return {label: statistics.median(values) for label, values in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--models", nargs="+", default=MODELS)
    args = parser.parse_args()
    print(f"{platform.machine()}, torch {torch.__version__}; seconds, and times faster than whole")
    print(f"{'model':16} threads {'whole':>8} {'torch':>8} {'':6} {'compiled':>8}")
    for threads in args.threads:
        for name in args.models:
            t = measure(name, threads, args.trials, args.samples, args.repeats)
            row = f"{name:16} {threads:7} {t['whole']:8.2f} {t['torch']:8.2f}"
            row += f" {t['whole'] / t['torch']:6.1f} {t['auto']:8.2f} {t['whole'] / t['auto']:6.1f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
