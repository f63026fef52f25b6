"""Measure the time that the trainer, its callbacks and its loggers add to a training step.

    OMP_NUM_THREADS=1 python benchmarks/trainer.py [--epochs 5] [key=value …]

Trains the packaged model of MC_Maze on synthetic spikes of the data set's size (1720 trials to
train on, 574 to validate on), with all callbacks and loggers of configs/single.yaml. From the
seconds of an epoch, those of the steps themselves are subtracted (the model's training and
validation steps, backward passes, clipping, AdamW); the rest is gathering batches, hooks, logs,
checkpoints and the trainer's loops. Prints medians over all epochs but the first, which draws
figures. With one thread, times are those of the processor, so that other programs on the machine
matter little. Arguments of the form key=value override the configuration.
"""

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from lfads_torch.model import LFADS
from lfads_torch.running.compose import compose
from lfads_torch.running.paths import placed_in
from lfads_torch.running.training import build, fit

SIZES = {"train": 1720, "valid": 574}
N_STEPS = SIZES["train"] // 256


def clock() -> float:
    """Return the processor's time in seconds with one thread, else the time of day."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Stopwatch:
    """Measures the seconds of each epoch, and how many of them passed in the steps themselves."""

    def __init__(self) -> None:
        self.epochs: list[tuple[float, float]] = []
        self._in_steps = 0.0
        self._start = 0.0

    def start_epoch(self) -> None:
        """Record the time since the start of the previous epoch, and start from zero."""
        now = clock()
        if self._start:
            self.epochs.append((now - self._start, self._in_steps))
        self._start, self._in_steps = now, 0.0

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, such that its duration counts as time in the step."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = function(*args, **kwargs)
            self._in_steps += clock() - start
            return result

        return watched

    def attach(self, model: LFADS) -> None:
        """Watch everything that a step does, for the rest of the process."""
        start_of_epoch, own_step = model.on_train_epoch_start, torch.optim.AdamW.step

        def on_train_epoch_start() -> None:
            self.start_epoch()
            start_of_epoch()

        def optimizer_step(optimizer: Any, closure: Callable[[], Any]) -> Any:
            loss = closure()
            self.watch(own_step)(optimizer)
            return loss

        model.on_train_epoch_start = on_train_epoch_start  # type: ignore[method-assign]
        for owner, name in [
            (model, "training_step"),
            (model, "validation_step"),
            (torch.Tensor, "backward"),
            (torch.nn.utils, "clip_grad_norm_"),
        ]:
            setattr(owner, name, self.watch(getattr(owner, name)))
        torch.optim.AdamW.step = optimizer_step  # type: ignore[assignment, method-assign]


def write_data(path: Path) -> None:
    """Write synthetic spikes, of which there are about as many as in MC_Maze in 20 ms bins."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for split, n_trials in SIZES.items():
            counts = rng.poisson(0.12, (n_trials, 45, 182)).astype(np.float32)
            file[f"{split}_encod_data"] = counts[:, :35, :137]
            file[f"{split}_recon_data"] = counts


def measure(epochs: int, overrides: list[str], folder: Path) -> tuple[float, float]:
    """Return the seconds of an epoch and those of them that passed in steps."""
    write_data(folder / "maze.h5")
    data = ["datamodule=generic", f"datamodule.datafile_pattern={folder}/maze.h5"]
    sizes = ["datamodule.batch_size=256", f"trainer.max_epochs={epochs + 2}"]
    config = compose(overrides=["model=nlb_mc_maze", *data, *sizes, *overrides])
    stopwatch = Stopwatch()
    config = placed_in(config, folder)
    run = build(config)
    stopwatch.attach(run.model)
    fit(config, run)
    whole, steps = zip(*stopwatch.epochs[1:], strict=True)
    return statistics.median(whole), statistics.median(steps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        epoch, steps = measure(args.epochs, args.overrides, Path(folder))
    print(f"{platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(f"an epoch of {N_STEPS} steps: {epoch:.3f} s, of which in steps: {steps:.3f} s")
    print(f"added to each step: {1e3 * (epoch - steps) / N_STEPS:.1f} ms, {epoch / steps - 1:.1%}")


if __name__ == "__main__":
    main()
