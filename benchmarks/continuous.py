"""Decode force from merged LFADS rates of a continuous recording, and from smoothed spikes.

    OMP_NUM_THREADS=1 python benchmarks/continuous.py Day0.mat [--output runs/continuous]

Day0.mat is a recording of motor cortex in an isometric wrist task, in the public repository
SachsLab/IntracranialNeurophysDL (data/ADAN, MIT licence): 24,000 bins of 50 ms, 96 channels. It is
cut into overlapping windows without regard to trials, a model is trained on the training blocks,
and what it infers is merged. Ridge regressions from the rates, and from spikes, to the force are
trained on the training blocks, where their penalty, lag and smoothing are chosen by
cross-validation, and tested on the validation blocks. Nothing is chosen on these: the model's last
weights are used, not its best ones.

The benchmark prints tables of R² and of the steps of rates where windows meet. It writes them to
tables.md, and a picture to continuous.png, in the output folder, which also holds the runs.
Arguments of the form key=value override the configuration of the model. Runs that exist already are
not repeated. docs/continuous.md has the results.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lfads_torch.analysis.figures import COLOURS, save_figure
from lfads_torch.data.recordings import read_recording
from lfads_torch.data.smoothing import smooth
from lfads_torch.data.windows.chop import chop_file
from lfads_torch.data.windows.layout import Chop
from lfads_torch.data.windows.merge import continuous_path, merge
from lfads_torch.running.resume import resume_run
from lfads_torch.running.run_folder import read_summary
from lfads_torch.running.start import start_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPIKES, FORCE = "binnedData.spikeratedata", "binnedData.forcedatabin"
BIN_WIDTH = 0.05
"""Width of a bin in seconds."""
WIDTHS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""Standard deviations of the Gaussian that smooths spikes, in bins."""
LAGS = (0, 2, 4, 6, 8, 10, 12)
"""Bins by which spikes precede the force, one of which a decoder of single bins chooses."""
TAPS = tuple(range(-6, 15, 2))
"""Bins by which spikes precede the force, all of which a decoder with a history uses."""
ALPHAS = (1e-2, 1.0, 1e2, 1e3, 1e4)
"""Penalties of the ridge regression, for features of unit variance."""
N_FOLDS = 5

Features = Iterator[tuple[dict[str, float], NDArray[Any]]]
"""For each setting that a decoder may choose: the setting and the features (bins, features)."""


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording and the rates that a model inferred, for each bin.

    Attributes
    ----------
    counts
        (bins, channels), spikes in each bin.
    force
        (bins, 2).
    rates
        (bins, channels), inferred spikes per bin, merged.
    train, valid
        (bins,), whether each bin is in a training or a validation block.
    """

    counts: NDArray[Any]
    force: NDArray[Any]
    rates: NDArray[Any]
    train: NDArray[np.bool_]
    valid: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Decoded:
    """The force that one decoder predicts in the validation blocks.

    Attributes
    ----------
    r2
        R², the mean of both directions.
    force
        (bins of validation blocks, 2), the predicted force.
    choice
        The settings that were chosen on the training blocks.
    """

    r2: float
    force: NDArray[Any]
    choice: dict[str, float]


# ------------------------------------------------------------------------------------- the model


def train(recording: Path, seed: int, args: argparse.Namespace) -> Path:
    """Chop the recording and train a model, unless both exist; return the folder of the run."""
    data, run_dir = args.output / f"seed{seed}.h5", args.output / f"seed{seed}"
    if not data.exists():
        chop_file(
            recording, data, args.window, args.overlap, spikes=SPIKES, scale=BIN_WIDTH, seed=seed
        )
    if not (run_dir / "config.yaml").exists():
        overrides = [
            "model=generic",
            "datamodule=generic",
            f"datamodule.datafile_pattern={data}",
            f"seed={seed}",
            f"trainer.max_epochs={args.epochs}",
            "trainer.accelerator=cpu",
            "+trainer.enable_progress_bar=false",
            "posterior_sampling.use_best_ckpt=false",
            "callbacks=[checkpoint]",
            "logger=[csv]",
            *args.overrides,
        ]
        start_run(overrides, run_dir)
    elif not read_summary(run_dir).get("scores"):
        resume_run(run_dir)
    return run_dir


def read(recording: Path, run_dir: Path) -> Recording:
    """Read the recording and the rates that were inferred about it."""
    with h5py.File(continuous_path(run_dir / "lfads_output_sess0.h5")) as file:
        return Recording(
            counts=read_recording(recording, SPIKES) * BIN_WIDTH,
            force=read_recording(recording, FORCE),
            rates=file["output_params"][()].astype(float),
            train=file["train_mask"][()],
            valid=file["valid_mask"][()],
        )


# -------------------------------------------------------------------------------------- decoding


def _shifted(features: NDArray[Any], lags: Sequence[int]) -> NDArray[Any]:
    """Concatenate the features of earlier bins; beyond the ends those of the first or last bin."""
    bins = np.arange(len(features))
    return np.concatenate([features[(bins - lag).clip(0, len(bins) - 1)] for lag in lags], axis=1)


def _ridge(alpha: float | NDArray[Any]) -> Any:
    return make_pipeline(StandardScaler(), Ridge(alpha))


def decode(kind: str, recording: Recording) -> Decoded:
    """Choose and train a decoder on the training blocks, and apply it to the validation blocks.

    Parameters
    ----------
    kind
        The kind of decoder, one of :data:`DECODERS`.
    recording
        The recording.
    """
    train = np.flatnonzero(recording.train)
    folds = _folds(train)
    best, best_score = None, -np.inf
    for choice, features in DECODERS[kind](recording):
        scores = np.mean([_scores(recording.force, features, *fold) for fold in folds], axis=0)
        if scores.max() > best_score:
            best_score = scores.max()
            best = {**choice, "alpha": ALPHAS[int(scores.argmax())]}, features
    assert best is not None
    choice, features = best
    decoder = _ridge(choice["alpha"]).fit(features[train], recording.force[train])
    force = decoder.predict(features[recording.valid])
    return Decoded(r2_score(recording.force[recording.valid], force), force, choice)


def _folds(train: NDArray[Any]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Split bins into stretches of time, each of which is tested by training on all others."""
    parts = np.array_split(train, N_FOLDS)
    return [(np.concatenate(parts[:i] + parts[i + 1 :]), part) for i, part in enumerate(parts)]


def _scores(
    force: NDArray[Any], x: NDArray[Any], train: NDArray[Any], test: NDArray[Any]
) -> list[float]:
    """Return R² for each penalty, from one fit to one copy of the force for each penalty."""
    penalties = np.repeat(ALPHAS, force.shape[1])
    decoder = _ridge(penalties).fit(x[train], np.tile(force[train], len(ALPHAS)))
    predicted = np.split(decoder.predict(x[test]), len(ALPHAS), axis=1)
    return [r2_score(force[test], each) for each in predicted]


def _smoothed(recording: Recording) -> Features:
    for width, lag in product(WIDTHS, LAGS):
        features = smooth(recording.counts, width, axis=0)
        yield {"width": width, "lag": lag}, _shifted(features, [lag])


def _smoothed_taps(recording: Recording) -> Features:
    for width in (1.0, 2.0, 4.0, 6.0):
        features = smooth(recording.counts, width, axis=0)
        yield {"width": width}, _shifted(features, TAPS)


def _rates(recording: Recording) -> Features:
    for lag in LAGS:
        yield {"lag": lag}, _shifted(np.log(recording.rates), [lag])


def _rates_taps(recording: Recording) -> Features:
    yield {}, _shifted(np.log(recording.rates), TAPS)


DECODERS = {
    "smoothed spikes": _smoothed,
    "merged LFADS rates": _rates,
    "smoothed spikes, 11 lags at once": _smoothed_taps,
    "merged LFADS rates, 11 lags at once": _rates_taps,
}


# ----------------------------------------------------------------------------------------- seams


def seams(run_dir: Path) -> tuple[float, float]:
    """Compare the steps of log rates where windows meet with those elsewhere.

    Returns
    -------
    tuple of float
        Mean size of the steps where windows meet ÷ mean size of all other steps. First for merged
        windows, then for windows laid end to end, where each bin comes from the one window in
        which it is farthest from the ends.
    """
    with h5py.File(run_dir / "lfads_output_sess0.h5") as file:
        chop = Chop.read(file)
        starts = np.concatenate([*chop.starts.values()])
        windows = np.concatenate([file[f"{split}_output_params"][()] for split in chop.starts])
    to_end = 1 + np.minimum(np.arange(chop.window), np.arange(chop.window)[::-1])
    farthest, owner = np.zeros(chop.n_bins), np.zeros(chop.n_bins, dtype=int)
    for i, start in enumerate(starts):
        held = slice(start, start + chop.window)
        owner[held] = np.where(to_end > farthest[held], i, owner[held])
        farthest[held] = np.maximum(to_end, farthest[held])
    end_to_end = windows[owner, np.arange(chop.n_bins) - starts[owner]]
    takes_over = np.diff(owner) != 0

    def ratio(rates: NDArray[Any]) -> float:
        steps = np.abs(np.diff(np.log(rates), axis=0)).mean(axis=1)
        return float(steps[takes_over].mean() / steps[~takes_over].mean())

    return ratio(merge(windows, starts, chop.n_bins, chop.overlap)), ratio(end_to_end)


# -------------------------------------------------------------------------------------- results


def blocks_won(recording: Recording, decoded: Mapping[str, Decoded]) -> list[str]:
    """Count the validation blocks in which the error of merged rates is below that of spikes."""
    force = recording.force[recording.valid]
    bins = np.flatnonzero(recording.valid)
    stretches = np.split(np.arange(len(bins)), np.flatnonzero(np.diff(bins) > 1) + 1)
    errors = {
        kind: [np.mean(((each.force - force) / force.std(axis=0))[held] ** 2) for held in stretches]
        for kind, each in decoded.items()
    }
    spikes, rates, spikes_taps, rates_taps = errors.values()
    pairs = [(rates, spikes), (rates_taps, spikes_taps)]
    wins = [sum(a < b for a, b in zip(*pair, strict=True)) for pair in pairs]
    return [f"{won} of {len(stretches)}" for won in wins]


def tables(
    recordings: Sequence[Recording],
    results: Sequence[Mapping[str, Decoded]],
    steps: Sequence[tuple[float, float]],
) -> str:
    """Format the results of every seed, and the chosen settings, as tables in Markdown."""
    seeds = [f"seed {seed}" for seed in range(len(results))]
    rows = [["R² of the force", *seeds, "mean", "chosen (seed 0)"]]
    for kind in DECODERS:
        scores = [decoded[kind].r2 for decoded in results]
        choice = ", ".join(f"{name} {value:g}" for name, value in results[0][kind].choice.items())
        rows.append([kind, *(f"{score:.3f}" for score in (*scores, np.mean(scores))), choice])
    won = [["blocks in which merged rates decode better than smoothed spikes", *seeds]]
    counts = [blocks_won(*each) for each in zip(recordings, results, strict=True)]
    for i, name in enumerate(["single bins", "11 lags at once"]):
        won.append([name, *(each[i] for each in counts)])
    more = [["steps where windows meet ÷ steps elsewhere", *seeds]]
    for i, name in enumerate(["merged", "laid end to end"]):
        more.append([name, *(f"{ratios[i]:.2f}" for ratios in steps)])
    return "\n\n".join(_markdown(table) for table in (rows, won, more)) + "\n"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines)


def picture(recording: Recording, decoded: Mapping[str, Decoded], n_bins: int = 300) -> "Figure":
    """Draw spikes, merged rates and force at the beginning of the first validation block."""
    from matplotlib.figure import Figure

    valid = np.flatnonzero(recording.valid)
    shown = slice(valid[0], valid[0] + n_bins)
    seconds = np.arange(n_bins) * BIN_WIDTH
    figure = Figure(figsize=(8, 5), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True, height_ratios=[1, 1, 1.2])
    extent = (0, seconds[-1], 0, recording.counts.shape[1])
    top = np.percentile(recording.counts[shown], 99.5)
    order = np.argsort(recording.rates[recording.train].mean(axis=0))
    for panel, name in zip(panels, ["counts", "rates"], strict=False):
        image = getattr(recording, name)[shown][:, order].T
        panel.imshow(image, aspect="auto", cmap="Greys", vmin=0, vmax=top, extent=extent,
                     origin="lower", interpolation="nearest")  # fmt: skip
        panel.set(ylabel="channel", title={"counts": "spikes", "rates": "merged rates"}[name])
    panels[2].plot(seconds, recording.force[shown, 0], color="#999999", linewidth=3, label="force")
    for kind, colour in zip(list(decoded)[:2], COLOURS[1::-1], strict=True):
        force = decoded[kind].force[:n_bins, 0]
        panels[2].plot(seconds, force, color=colour, linewidth=1, label=f"from {kind}")
    panels[2].set(xlabel="time (s)", ylabel="force (a.u.)", xlim=(0, seconds[-1]))
    panels[2].legend(fontsize=8, ncols=3, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    panels[2].spines[["top", "right"]].set_visible(False)
    for panel in panels:
        panel.tick_params(labelsize=8)
        panel.title.set_size(9)
    return figure


# ----------------------------------------------------------------------------- the benchmark


def options() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recording", type=Path, metavar="FILE", help="Day0.mat")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--output", type=Path, default=Path("runs") / "continuous")
    for name, default, text in [
        ("window", 40, "bins of a window"),
        ("overlap", 10, "bins that neighbouring windows share"),
        ("epochs", 150, "epochs of training"),
        ("seeds", 1, "number of seeds, each with its own validation blocks and model"),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")
    return parser


def main() -> None:
    """Train, decode, and write the results."""
    args = options().parse_intermixed_args()
    args.output, file = args.output.absolute(), args.recording.absolute()
    args.output.mkdir(parents=True, exist_ok=True)
    unimportant = {"recording": None, "output": None, "seeds": None}
    chosen = {**vars(args), **unimportant}
    before = args.output / "options.json"
    if before.exists() and json.loads(before.read_text()) != chosen:
        sys.exit(f"{args.output} was made with other options: choose another --output.")
    before.write_text(json.dumps(chosen, indent=2))
    runs = [train(file, seed, args) for seed in range(args.seeds)]
    recordings = [read(file, run_dir) for run_dir in runs]
    results = [{kind: decode(kind, each) for kind in DECODERS} for each in recordings]
    text = tables(recordings, results, [seams(run_dir) for run_dir in runs])
    (args.output / "tables.md").write_text(text)
    save_figure(picture(recordings[0], results[0]), args.output / "continuous.png", dpi=120)
    seconds = [round(read_summary(run_dir)["training_seconds"]) for run_dir in runs]
    print(f"\n{text}\nTraining took {seconds} s. Everything is in {args.output}.")


if __name__ == "__main__":
    main()
