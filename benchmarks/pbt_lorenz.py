"""Compare AutoLFADS with a random search of the same cost, and measure the overhead of sweeps.

    OMP_NUM_THREADS=1 python benchmarks/pbt_lorenz.py [--output runs/pbt_lorenz]
    OMP_NUM_THREADS=1 python benchmarks/pbt_lorenz.py --overhead

The data are spikes of neurons whose rates follow a Lorenz system, some of which are held out, in
trials for training, for validation and for testing. For each seed there are two searches of a wide
space, which includes learning rates that are far too low: population-based training, and a random
search with the same number of trials and the same number of epochs in each. Both have the same
seed, so that the population starts with the hyperparameters that the random search keeps. Of each
search, the model with the lowest validation loss (valid/recon_smth) is tested: its bits per spike
of the held-out neurons (co-smoothing), and the R² of its rates to the true ones, over all neurons.
The random search keeps the best epoch of each of its models, population-based training the last.

The tables are printed, and written to tables.md beside the folders of the sweeps. Sweeps that are
finished are not run again, and an interrupted one is resumed. Arguments of the form key=value
override the configuration of every sweep.

With --overhead there is one search on the shipped Lorenz data, in generations of 25 epochs, whose
time outside of epochs is measured. docs/sweeps.md has the results of both.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from lfads_torch.data.hdf5 import write_h5
from lfads_torch.datasets.lorenz import lorenz
from lfads_torch.metrics import r2_score, regional_bits_per_spike
from lfads_torch.running.compose import packaged_configs
from lfads_torch.running.run_folder import read_summary
from lfads_torch.sweeps.history import read_history
from lfads_torch.sweeps.report import BEST_MODEL
from lfads_torch.sweeps.search import resume_sweep, run_sweep
from lfads_torch.sweeps.space import HyperParam

PBT, RANDOM = "population-based training", "random search"
SCORES = {"co_bps": "held-out bits/spike", "r2": "R² to true rates", "loss": "valid/recon_smth"}
CD_RATE = "model.train_aug_stack.transforms.0.cd_rate"
SPACE = {
    "model.lr_init": HyperParam(1e-5, 5e-2, explore_wt=0.3, enforce_limits=True),
    "model.dropout_rate": HyperParam(
        0.0, 0.6, sample_fn="uniform", explore_wt=0.3, enforce_limits=True
    ),
    CD_RATE: HyperParam(0.01, 0.7, sample_fn="uniform", explore_wt=0.3, enforce_limits=True),
    "model.kl_ic_scale": HyperParam(1e-6, 1e-3, explore_wt=0.8),
    "model.l2_gen_scale": HyperParam(1e-4, 1.0, explore_wt=0.8),
}

Scores = Mapping[str, float]


# ------------------------------------------------------------------------------------- the data


def make_data(path: Path, args: argparse.Namespace) -> Path:
    """Generate a session whose validation trials are split in two, one half for testing.

    An existing file does not change.
    """
    if not path.exists():
        sizes = {
            "n_conditions": args.conditions,
            "n_trials": args.trials_per_condition,
            "n_bins": args.bins,
            "n_neurons": args.neurons,
            "heldout_neurons": args.heldout_neurons,
        }
        arrays = lorenz(seed=args.data_seed, bin_width=0.04, valid_ratio=0.4, **sizes)
        for name in [name for name in arrays if name.startswith("valid_")]:
            arrays[name.replace("valid", "test")] = arrays[name][1::2]
            arrays[name] = arrays[name][::2]
        write_h5(path, arrays, {"generator": "lorenz", "seed": args.data_seed, **sizes})
    return path


# ------------------------------------------------------------------------------------ the sweeps


def search(name: str, seed: int, data: Path, run_dir: Path, args: argparse.Namespace) -> None:
    """Run or resume a sweep in its own folder, unless it has been finished."""
    if (run_dir / "config.yaml").exists():
        resume_sweep(run_dir)
        return
    overrides = [
        f"datamodule.datafile_pattern={data}",
        "datamodule.attr_keys=[]",
        f"datamodule.batch_size={args.batch_size}",
        f"model.ic_enc_dim={args.units}",
        f"model.ic_dim={args.units}",
        f"model.gen_dim={args.units}",
        f"model.kl_increase_epoch={args.ramp}",
        f"model.l2_increase_epoch={args.ramp}",
        f"trainer.max_epochs={args.epochs}",
        "trainer.accelerator=cpu",
        f"sweep.num_trials={args.trials}",
        f"sweep.seed={seed}",
    ]
    if name == PBT:
        overrides += [
            f"sweep.scheduler.perturbation_interval={args.generation}",
            f"sweep.scheduler.burn_in_period={args.burn_in}",
            "sweep.stopper=null",  # as many epochs as the random search
        ]
    else:
        overrides += ["callbacks=[checkpoint]", f"sweep.report_every={args.epochs}"]
    config = packaged_configs() / ("pbt.yaml" if name == PBT else "multi.yaml")
    run_sweep([*overrides, *args.overrides], run_dir, config, space=SPACE)


def evaluate(run_dir: Path, data: Path) -> dict[str, float]:
    """Score the rates that the best model of a sweep infers from the test trials."""
    with h5py.File(data) as file, h5py.File(run_dir / BEST_MODEL / "lfads_output_sess0.h5") as out:
        rates = torch.tensor(out["test_output_params"][()]).float()
        counts = torch.tensor(file["test_recon_data"][()]).float()
        truth = torch.tensor(file["test_truth"][()]) / file["conversion_factor"][()].item()
        _, n_bins, n_channels = file["test_encod_data"].shape
    _, co_bps, _ = regional_bits_per_spike(rates.log(), counts, n_channels, n_bins)
    summary = read_summary(run_dir)
    return {
        "co_bps": float(co_bps),
        "r2": float(r2_score(rates, truth.float())),
        "loss": summary["best_score"],
        **spent(run_dir),
    }


def spent(run_dir: Path) -> dict[str, float]:
    """Return the duration of a sweep, of its trials and of their epochs, in seconds."""
    summary = read_summary(run_dir)
    return {
        "seconds": summary["seconds"],
        "trial_seconds": summary["trial_seconds"],
        "train_seconds": summary["trial_train_seconds"],
    }


# -------------------------------------------------------------------------------------- results


def tables(results: Mapping[tuple[str, int], Scores]) -> str:
    """Return the scores of every sweep, with means and standard deviations, in Markdown."""
    seeds = sorted({seed for _, seed in results})
    names = list(dict.fromkeys(name for name, _ in results))
    rows = [["seed", *(f"{title}: {name}" for title in SCORES.values() for name in names)]]
    for seed in seeds:
        rows.append([str(seed), *(f"{results[n, seed][k]:.4f}" for k in SCORES for n in names)])
    columns = [np.array([results[n, seed][k] for seed in seeds]) for k in SCORES for n in names]
    rows.append(["mean ± s.d.", *(_mean(column) for column in columns)])
    times = [["", "seconds by the clock", "seconds of trials", "of these outside of epochs"]]
    for name in names:
        own = [results[name, seed] for seed in seeds]
        clock, trials, epochs = (
            sum(scores[key] for scores in own)
            for key in ("seconds", "trial_seconds", "train_seconds")
        )
        times.append([name, f"{clock:.0f}", f"{trials:.0f}", f"{1 - epochs / trials:.1%}"])
    return f"{_markdown(rows)}\n\n{_markdown(times)}\n"


def _mean(scores: np.ndarray) -> str:
    spread = f" ± {scores.std(ddof=1):.4f}" if len(scores) > 1 else ""
    return f"{scores.mean():.4f}{spread}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines)


# ----------------------------------------------------------------------------------- the overhead


def overhead(output: Path, args: argparse.Namespace) -> str:
    """Run one search in generations of 25 epochs, and tabulate its time outside of epochs."""
    run_dir = output / "overhead"
    if (run_dir / "config.yaml").exists():
        resume_sweep(run_dir)
    else:
        overrides = [
            "trainer.max_epochs=75",
            "trainer.accelerator=cpu",
            "sweep.num_trials=2",
            "sweep.scheduler.burn_in_period=25",
            "sweep.stopper=null",
        ]
        run_sweep([*overrides, *args.overrides], run_dir)
    history = read_history(run_dir)
    slots = min(os.cpu_count() or 1, len({row["trial"] for row in history}))
    # There are as many trials as run at a time, so that all time outside of epochs is overhead.
    end = start = (run_dir / "config.yaml").stat().st_mtime
    rows = [["generation to epoch", "seconds by the clock", "in epochs", "outside of epochs"]]
    for epoch in sorted({row["epoch"] for row in history}):
        own = [row for row in history if row["epoch"] == epoch]
        begin, end = end, max(row["time"] for row in own)
        rows.append([str(epoch), *_shares(end - begin, own, slots)])
    rows.append(["all", *_shares(end - start, history, slots)])
    return f"{_markdown(rows)}\n\n{slots} trials at a time, {len(history)} generations in all.\n"


def _shares(seconds: float, rows: Sequence[Mapping[str, Any]], slots: int) -> list[str]:
    """Return the seconds of a generation, those in epochs, and the share of the rest, as text."""
    epochs = sum(row["train_seconds"] for row in rows) / slots
    return [f"{seconds:.1f}", f"{epochs:.1f}", f"{1 - epochs / seconds:.1%}"]


# ------------------------------------------------------------------------------------- the whole


def options() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--output", type=Path, default=Path("runs") / "pbt_lorenz")
    parser.add_argument("--overhead", action="store_true", help="measure only the overhead")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the sweeps"
    )
    for name, default, text in [
        ("trials", 8, "trials of a sweep"),
        ("epochs", 40, "epochs of a trial"),
        ("generation", 4, "epochs of a generation"),
        ("burn-in", 8, "epochs before the first tournament"),
        ("ramp", 8, "epochs of the ramps of the penalties"),
        ("units", 32, "units of encoder, initial condition and generator"),
        ("batch-size", 32, "trials of a training step"),
        ("conditions", 30, "conditions of the data"),
        ("trials-per-condition", 20, "60 %% for training, 20 %% validation, 20 %% testing"),
        ("bins", 25, "bins of a trial, of 40 ms"),
        ("neurons", 30, "neurons"),
        ("heldout-neurons", 10, "neurons that the encoder does not see"),
        ("data-seed", 0, "seed of the data"),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")
    return parser


def main() -> None:
    """Run the whole benchmark."""
    args = options().parse_args()
    output = args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    if args.overhead:
        print(f"\n{overhead(output, args)}")
        return
    chosen = json.dumps({**vars(args), "output": None, "seeds": None}, indent=2)
    before = output / "options.json"
    if before.exists() and before.read_text() != chosen:
        sys.exit(f"{output} was made with other options (options.json): choose another --output.")
    before.write_text(chosen)
    start = time.monotonic()
    data = make_data(output / "data.h5", args)
    results = {}
    for seed in args.seeds:
        for name, folder in ((PBT, f"pbt_{seed}"), (RANDOM, f"random_{seed}")):
            search(name, seed, data, output / folder, args)
            results[name, seed] = evaluate(output / folder, data)
    text = tables(results)
    (output / "tables.md").write_text(text)
    print(f"\n{text}\nThis took {time.monotonic() - start:.0f} s. Everything is in {args.output}.")


if __name__ == "__main__":
    main()
