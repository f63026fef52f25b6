"""Compare the factors of stitched sessions: eight sessions of one network with known latents.

    OMP_NUM_THREADS=1 python benchmarks/multisession.py [--output runs/multisession]

This imitates the multi-session experiment of Pandarinath et al. 2018 (Nature Methods 15:805) with
synthetic data. Sessions with different neurons of one chaotic network are aligned, and models are
trained on all sessions together (with read-ins from principal components regression, or random
ones) and on each single session. Then a linear decoder of the network's latents is trained on the
factors of all sessions except one, and tested on the validation trials of that one. The benchmark
prints the tables and writes them to tables.md, and a picture to multisession.png, in the output
folder, which also holds the runs.

All models are trained for the same number of epochs, and each of their steps has the same number of
trials of a session, so that all take equally many steps. Runs that exist already are used as they
are, so that an interrupted benchmark continues. Arguments of the form key=value override the
configuration of every model. docs/multisession.md has the results.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from lfads_torch.analysis.figures import COLOURS, save_figure
from lfads_torch.data.alignment.files import align_files
from lfads_torch.data.smoothing import smooth
from lfads_torch.datasets.multisession import multisession_chaotic_rnn, write_sessions
from lfads_torch.running.resume import resume_run
from lfads_torch.running.run_folder import read_summary
from lfads_torch.running.start import start_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALIGNED, RANDOM = "multisession_example", "multisession_example_random"
STITCHED = {"stitched, PCR read-ins": ALIGNED, "stitched, random read-ins": RANDOM}
SINGLE = {"one model a session": RANDOM}
ALIGNED_SINGLE = {"one model a session, PCR read-ins": ALIGNED}
SMOOTHED = "no model: smoothed spikes, aligned"
SESSION_FILES = "sess*.h5"
SMOOTHING_WIDTH = 2.0
"""Standard deviation of the Gaussian that smooths spikes, in bins, as in the alignment."""
LOWEST = -1.0
"""The lowest R² in the picture."""
RIDGE_ALPHA = 1.0
"""Penalty of the decoders, which has little effect with thousands of bins."""


@dataclass(frozen=True, eq=False)
class Session:
    """The inputs of a decoder for one session, and its targets.

    Attributes
    ----------
    train_factors, valid_factors
        (trials, time, factors).
    train_latents, valid_latents
        (trials, time, latents), the true latents.
    valid_cond_idx
        (trials,), condition of each trial.
    """

    train_factors: NDArray[Any]
    valid_factors: NDArray[Any]
    train_latents: NDArray[Any]
    valid_latents: NDArray[Any]
    valid_cond_idx: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Result:
    """The result of one method.

    Attributes
    ----------
    sessions
        The sessions, with the factors of the method.
    rates
        (sessions,), R² between inferred and true rates of validation trials; None without a model.
    seconds
        Duration of the training.
    """

    sessions: list[Session]
    rates: NDArray[Any] | None = None
    seconds: float = 0.0


# ------------------------------------------------------------------------------------- the data


def make_sessions(folder: Path, args: argparse.Namespace) -> list[Path]:
    """Generate the sessions and align them, unless they exist."""
    paths = sorted(folder.glob(SESSION_FILES))
    if not paths or not _is_aligned(paths[-1]):
        sizes = {
            "n_sessions": args.sessions,
            "n_conditions": args.conditions,
            "n_trials": args.trials,
            "n_bins": args.bins,
            "n_neurons": args.neurons,
        }
        sessions = multisession_chaotic_rnn(seed=args.data_seed, **sizes)
        how = {"generator": "multisession", "seed": args.data_seed, **sizes}
        paths = write_sessions(folder, sessions, how, overwrite=True)
        align_files(paths, args.factors, SMOOTHING_WIDTH)
    return paths


def _is_aligned(path: Path) -> bool:
    with h5py.File(path) as file:
        return "readin_weight" in file


def read(path: Path, **others: NDArray[Any]) -> Session:
    """Read a session from a data file or an output file, except for the arrays that are given."""
    names = [field.name for field in fields(Session) if field.name not in others]
    with h5py.File(path) as file:
        return Session(**{name: file[name][()] for name in names}, **others)


def smooth_and_align(path: Path) -> Session:
    """Apply the aligned read-in of a session to the smoothed spikes of its trials."""
    with h5py.File(path) as file:
        weight, bias = file["readin_weight"][()], file["readout_bias"][()]
        spikes = {split: file[f"{split}_encod_data"][()] for split in ("train", "valid")}
    factors = {
        f"{split}_factors": (smooth(data, SMOOTHING_WIDTH) - bias) @ weight
        for split, data in spikes.items()
    }
    return read(path, **factors)


# ------------------------------------------------------------------------------------- training


def train(
    model: str, pattern: Path, n_sessions: int, run_dir: Path, args: argparse.Namespace
) -> Result:
    """Train a packaged model in its own folder, unless it exists, and read the result."""
    if not (run_dir / "config.yaml").exists():
        overrides = [
            f"model={model}",
            "datamodule=multisession_example",
            f"datamodule.datafile_pattern={pattern}",
            f"datamodule.batch_size={args.share * n_sessions}",
            f"model.fac_dim={args.factors}",
            f"seed={args.seed}",
            f"trainer.max_epochs={args.epochs}",
            "trainer.accelerator=cpu",
            "+trainer.enable_progress_bar=false",
            "callbacks=[checkpoint]",
            "logger=[csv]",
            *args.overrides,
        ]
        start_run(overrides, run_dir)
    elif "scores" not in read_summary(run_dir):
        resume_run(run_dir)
    summary = read_summary(run_dir)
    return Result(
        [read(path) for path in sorted(run_dir.glob("lfads_output_sess*.h5"))],
        np.array([scores["r2"] for scores in summary["scores"]]),
        summary["training_seconds"],
    )


def run_all(output: Path, args: argparse.Namespace) -> dict[str, Result]:
    """Make the data, train every model, and return the result of each method."""
    files = make_sessions(output / "data", args)
    pattern = output / "data" / SESSION_FILES
    results = {
        name: train(model, pattern, len(files), output / model, args)
        for name, model in STITCHED.items()
    }
    for name, model in {**SINGLE, **(ALIGNED_SINGLE if args.aligned_single else {})}.items():
        singles = [train(model, path, 1, output / f"{model}_{path.stem}", args) for path in files]
        results[name] = Result(
            [single.sessions[0] for single in singles],
            np.concatenate([single.rates for single in singles if single.rates is not None]),
            sum(single.seconds for single in singles),
        )
    results[SMOOTHED] = Result([smooth_and_align(path) for path in files])
    return results


# ------------------------------------------------------------------------------------- decoding


def decode(training: Sequence[Session], held_out: Session) -> NDArray[Any]:
    """Predict the latents of a session's validation trials from its factors.

    Parameters
    ----------
    training
        The sessions on whose training trials the ridge regression from factors to latents is fit.
    held_out
        The session whose latents are predicted.

    Returns
    -------
    NDArray
        (trials, time, latents).
    """
    decoder = Ridge(RIDGE_ALPHA).fit(
        np.concatenate([_flat(session.train_factors) for session in training]),
        np.concatenate([_flat(session.train_latents) for session in training]),
    )
    return decoder.predict(_flat(held_out.valid_factors)).reshape(held_out.valid_latents.shape)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(-1, values.shape[-1])


def r2(predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the fraction of the variance of all latents together that is predicted."""
    errors = _flat(truth) - _flat(predicted)
    return 1.0 - float(np.sum(errors**2) / np.sum((_flat(truth) - _flat(truth).mean(axis=0)) ** 2))


def decode_all(sessions: Sequence[Session], across: bool) -> list[NDArray[Any]]:
    """Decode each session by a decoder that was fit to all the others (across), or to itself."""
    return [
        decode([*sessions[:i], *sessions[i + 1 :]] if across else [session], session)
        for i, session in enumerate(sessions)
    ]


def score(sessions: Sequence[Session], across: bool) -> NDArray[Any]:
    """Return the R² of `decode_all` for each session."""
    decoded = decode_all(sessions, across)
    return np.array([r2(d, s.valid_latents) for d, s in zip(decoded, sessions, strict=True)])


# -------------------------------------------------------------------------------------- results


def tables(results: Mapping[str, Result]) -> str:
    """Write the scores of each session, and means and standard deviations, in Markdown."""
    across = {name: score(result.sessions, True) for name, result in results.items()}
    rows = [["held-out session", *results]]
    for session in range(len(next(iter(across.values())))):
        rows.append([str(session), *(f"{scores[session]:.3f}" for scores in across.values())])
    rows.append(["mean ± s.d.", *(_mean(scores) for scores in across.values())])

    more = [["", "other sessions' decoder", "own decoder", "rates", "training (s)"]]
    for name, result in results.items():
        rates = "" if result.rates is None else _mean(result.rates)
        seconds = f"{result.seconds:.0f}" if result.seconds else ""
        own = _mean(score(result.sessions, False))
        more.append([name, _mean(across[name]), own, rates, seconds])
    return f"{_markdown(rows)}\n\n{_markdown(more)}\n"


def _mean(scores: NDArray[Any]) -> str:
    return f"{scores.mean():.3f} ± {scores.std(ddof=1):.3f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---|" + "---:|" * (len(rows[0]) - 1))
    return "\n".join(lines)


def picture(results: Mapping[str, Result], n_conditions: int = 4) -> "Figure":
    """Draw the scores, and the first two latents as decoders of the other sessions predict them."""
    from matplotlib.figure import Figure

    n_methods = len(results)
    figure = Figure(figsize=(4 + 2 * n_methods, 3.3), layout="constrained")
    axis, *panels = figure.subplots(1, 1 + n_methods, width_ratios=[1.25, *[1] * n_methods])
    kinds: list[tuple[str, bool, Callable[[str], dict[str, Any]]]] = [
        ("decoder of other sessions", True, lambda colour: {"color": colour}),
        ("decoder of the same session", False, lambda c: {"color": "white", "edgecolor": c}),
    ]
    for label, across, style in kinds:
        for row, (result, colour) in enumerate(zip(results.values(), COLOURS, strict=False)):
            scores = score(result.sessions, across)
            place = np.linspace(-0.12, 0.12, len(scores)) + row + (-0.17 if across else 0.17)
            for chosen, marker in [(scores >= LOWEST, "o"), (scores < LOWEST, "<")]:
                x = scores[chosen].clip(min=LOWEST)
                axis.scatter(
                    x, place[chosen], s=16, marker=marker, linewidth=1, zorder=3, **style(colour)
                )
        axis.scatter([], [], s=16, label=label, **style("#555555"))
    axis.set_yticks(range(len(results)), [name.replace(", ", ",\n") for name in results])
    axis.invert_yaxis()
    axis.axvline(0, color="#999999", linewidth=0.8)
    axis.set(xlabel="R² of decoded latents, one dot for each session", xlim=(LOWEST - 0.1, 1.05))
    axis.legend(fontsize=6, loc="lower left", framealpha=0.8, edgecolor="none")

    truth = next(iter(results.values())).sessions[0]
    shown = np.unique(truth.valid_cond_idx)[:n_conditions]
    limits = _limits(truth.valid_latents, truth.valid_cond_idx, shown)
    for panel, (name, result) in zip(panels, results.items(), strict=True):
        decoded_sessions = decode_all(result.sessions, True)
        for decoded, session in zip(decoded_sessions, result.sessions, strict=True):
            for condition, colour in zip(shown, COLOURS, strict=False):
                trial = np.flatnonzero(session.valid_cond_idx == condition)[0]
                panel.plot(*decoded[trial, :, :2].T, color=colour, linewidth=0.7, alpha=0.8)
                path = session.valid_latents[trial, :, :2].T
                panel.plot(*path, color=colour, linewidth=4, alpha=0.04)
        panel.set(xlim=limits[0], ylim=limits[1], xlabel="latent 1", xticks=[], yticks=[])
        panel.set_title(name.replace(": ", ":\n"), fontsize=8)
    panels[0].set_ylabel("latent 2")
    for each in (axis, *panels):
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=7)
        each.xaxis.label.set_size(8)
        each.yaxis.label.set_size(8)
    return figure


def _limits(
    latents: NDArray[Any], cond_idx: NDArray[Any], shown: NDArray[Any]
) -> list[tuple[float, float]]:
    """Return limits of two axes that leave some room around the true latents."""
    values = _flat(latents[np.isin(cond_idx, shown)])[:, :2]
    low, high = values.min(axis=0), values.max(axis=0)
    room = 0.25 * (high - low)
    return list(zip((low - room).tolist(), (high + room).tolist(), strict=True))


# ----------------------------------------------------------------------------- the benchmark


def options() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--output", type=Path, default=Path("runs") / "multisession")
    parser.add_argument(
        "--aligned-single",
        action="store_true",
        help="also train single-session models that start from the alignment of all sessions",
    )
    for name, default, text in [
        ("sessions", 8, "number of sessions"),
        ("neurons", 25, "neurons of each session"),
        ("conditions", 40, "conditions, the same in all sessions"),
        ("trials", 5, "trials of each condition in a session, one of them for validation"),
        ("bins", 50, "bins of a trial, of 20 ms"),
        ("factors", 10, "factors, and components of the alignment"),
        ("epochs", 80, "epochs of training, for all models"),
        ("share", 20, "trials of each session in a training step, for all models"),
        ("seed", 0, "seed of the models"),
        ("data-seed", 0, "seed of the data"),
    ]:
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} (%(default)s)")
    return parser


def main() -> None:
    """Make the data, train, decode, and write the results."""
    args = options().parse_args()
    output = args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    chosen = json.dumps({**vars(args), "output": None, "aligned_single": None}, indent=2)
    before = output / "options.json"
    if before.exists() and before.read_text() != chosen:
        sys.exit(f"{output} was made with other options (options.json): choose another --output.")
    before.write_text(chosen)
    start = time.monotonic()
    results = run_all(output, args)
    text = tables(results)
    (output / "tables.md").write_text(text)
    save_figure(picture(results), output / "multisession.png", dpi=120)
    print(
        f"\n{text}\nThis took {time.monotonic() - start:.0f} s, and {time.process_time():.0f} s of "
        f"processors. Everything is in {args.output}."
    )


if __name__ == "__main__":
    main()
