"""Posterior sampling: encode once and decode many samples at a time, or run the whole model often.

    python benchmarks/posterior_sampling.py [--trials 64] [--samples 50] [--repeats 3]

Prints the medians of both, measured by turns in one run, for the packaged models of three data
sets, and their ratio.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from omegaconf import OmegaConf

from lfads_torch.config import packaged_configs
from lfads_torch.model import LFADS
from lfads_torch.post_run.analysis import _Sampling
from lfads_torch.tuples import SessionBatch


def load_model(name: str) -> LFADS:
    """Make a packaged model without its data."""
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(packaged_configs()), version_base="1.3"):
        config = compose("single", [f"model={name}", "~datamodule"])
    node = OmegaConf.masked_copy(config, ["model"])
    OmegaConf.resolve(node)
    return instantiate(node.model, _convert_="all").eval()


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    print(f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(f"{'model':16} {'whole model (s)':>16} {'encode once (s)':>16} {'ratio':>6}")
    for name in ("mc_maze", "mc_maze_small", "mc_maze_large"):
        model = load_model(name)
        hps = model.hparams
        counts = torch.poisson(
            torch.full((args.trials, hps.recon_seq_len, model.readout[0].out_features), 0.2)
        )
        encoded = counts[:, : hps.encod_seq_len, : hps.encod_data_dim]
        batch = SessionBatch(encoded, counts)
        sampling = _Sampling(args.samples, False, False, max_memory_gb=1.0)

        def often(model: LFADS = model, batch: SessionBatch = batch) -> None:
            with torch.no_grad():
                for _ in range(args.samples):
                    model.predict_step({0: batch}, 0)

        def once(
            model: LFADS = model, batch: SessionBatch = batch, sampling: _Sampling = sampling
        ) -> None:
            for _ in sampling.run(model, 0, batch):
                pass

        times = [(seconds(often), seconds(once)) for _ in range(args.repeats)]
        whole, ours = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name:16} {whole:16.2f} {ours:16.2f} {whole / ours:6.1f}")


if __name__ == "__main__":
    main()
