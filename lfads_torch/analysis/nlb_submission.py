"""A run's rates become a submission to the Neural Latents Benchmark (Pei et al. 2021)."""

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.analysis.nlb import rate_tensors, target_tensors
from lfads_torch.datasets.nlb.registry import BIN_WIDTHS, DANDI, PHASES, import_nlb_tools
from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.files import move_aside


@dataclass(frozen=True)
class Recording:
    """What the benchmark has to know about a file of rates."""

    dataset: str
    bin_width_ms: int
    phase: str

    @property
    def group(self) -> str:
        """The name of its group in a submission."""
        return self.dataset + ("" if self.bin_width_ms == 5 else f"_{self.bin_width_ms}")


def make_nlb_submission(
    run_dirs: str | Path | Sequence[str | Path],
    output: str | Path | None = None,
    rate_files: Sequence[str | Path] = (),
    dataset: str | None = None,
    bin_width_ms: int | None = None,
    phase: str | None = None,
) -> Path:
    """Write what runs inferred as the file that ``nlb_tools.evaluation.evaluate`` scores.

    For each recording a group, named ``mc_maze`` for bins of 5 ms and ``mc_maze_20`` for 20 ms,
    with ``{train,eval}_rates_{heldin,heldout}`` and, with ``_forward``, those of later bins: spikes
    per bin, averaged over samples of the posterior. In the validation phase, ``train`` and
    ``eval`` are the training and validation trials; in the test phase they are training and
    validation trials together, in the order of the recording, and test trials.

    Parameters
    ----------
    run_dirs
        The folder of a run (or of a sweep whose best model is in ``best_model/``), or several
        folders, of different recordings, to be submitted together.
    output
        The file; by default ``nlb_submission_{phase}.h5`` in the first folder. An earlier file of
        that name is renamed.
    rate_files
        Take the rates from these files, such as ``scripts/infer.py`` writes, rather than from what
        is in the folders.
    dataset, bin_width_ms, phase
        Which recording of the benchmark this is. By default the name of the data file says so:
        ``{dataset}-{bin width}ms-{phase}.h5``, as ``scripts/prepare_nlb.py`` names it.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    FileNotFoundError
        If there are no rates.
    ValueError
        If it is not clear which recording they are of, trials are missing or in another order than
        the benchmark's, or the rates cannot be rates.
    """
    run_dirs = [run_dirs] if isinstance(run_dirs, str | Path) else run_dirs
    files = [Path(f) for f in rate_files] or [
        f for run_dir in run_dirs for f in find_rates(run_dir)
    ]
    groups: dict[str, dict[str, NDArray[Any]]] = {}
    phases: dict[str, Path] = {}
    for path in files:
        recording = identify(path, dataset, bin_width_ms, phase)
        if recording.group in groups:
            raise UserError(
                f"{path} holds rates of {recording.group}, of which there are some already: "
                f"a submission has one set of rates for each recording."
            )
        groups[recording.group] = _submitted_rates(path, recording.phase)
        phases.setdefault(recording.phase, path)
    if len(phases) > 1:
        raise UserError(
            f"A submission is for one phase of the benchmark, but these are of both: "
            f"{', '.join(f'{path} ({name})' for name, path in phases.items())}."
        )
    (phase,) = phases
    output = Path(output) if output else Path(run_dirs[0]) / f"nlb_submission_{phase}.h5"
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.partial")
    with h5py.File(partial, "w") as file:
        for name, tensors in groups.items():
            for key, rates in tensors.items():
                file.create_dataset(f"{name}/{key}", data=rates, dtype="f4", compression="gzip")
    move_aside(output)
    os.replace(partial, output)
    return output


def score_nlb_submission(
    submission: str | Path,
    rate_files: Sequence[str | Path],
    dataset: str | None = None,
    bin_width_ms: int | None = None,
) -> list[dict[str, dict[str, float]]]:
    """Score a submission for the validation phase by ``nlb_tools.evaluation.evaluate``.

    Parameters
    ----------
    submission
        From :func:`make_nlb_submission`.
    rate_files
        The files that it was made of, which hold copies of the data to score against.
    dataset, bin_width_ms
        As for :func:`make_nlb_submission`.

    Returns
    -------
    list of dict
        As ``evaluate`` returns it: ``co-bps``, ``vel R2``, … by recording.

    Raises
    ------
    ImportError
        If ``nlb_tools`` is missing.
    ValueError
        If the files do not hold what is scored against.
    """
    evaluation = import_nlb_tools("evaluation")
    targets = {}
    for path in map(Path, rate_files):
        with h5py.File(path) as file:
            arrays = {key: file[key][()] for key in file if "output_params" not in key}
        group = identify(path, dataset, bin_width_ms, "val").group
        targets[group] = target_tensors(arrays, path)
        if "eval_behavior" not in targets[group]:
            raise UserError(
                f"{path} has no train_behavior and valid_behavior, without which nlb_tools does "
                f"not evaluate: prepare the data with scripts/prepare_nlb.py."
            )
    return evaluation.evaluate(targets, str(submission))


def find_rates(run_dir: str | Path) -> list[Path]:
    """Return the files of rates in the folder of a run, or of a sweep's best model.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    for folder in (Path(run_dir), Path(run_dir, "best_model")):
        outputs = sorted(folder.glob("lfads_output_sess*.h5"))
        # Not those that were renamed, ….1.h5, when the run sampled anew.
        found = [path for path in outputs if re.fullmatch(r"\w+_sess\d+\.h5", path.name)]
        if found:
            return found
    raise MissingFileError(
        f"{run_dir} has no lfads_output_sess*.h5, which a run (scripts/run_single.py) leaves after "
        f"sampling its posterior."
    )


def identify(
    path: str | Path,
    dataset: str | None = None,
    bin_width_ms: int | None = None,
    phase: str | None = None,
) -> Recording:
    """Tell which recording of the benchmark a file of rates is of.

    Parameters
    ----------
    path
        From :func:`lfads_torch.running.sampling.run_posterior_sampling`; it says what the data
        file was called.
    dataset, bin_width_ms, phase
        What is known better.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the name of the data file does not say, or there is no such recording.
    """
    if not Path(path).is_file():
        raise MissingFileError(f"There is no file of rates {path}.")
    with h5py.File(path) as file:
        name = str(file.attrs.get("session_file", ""))
    match = re.search(rf"({'|'.join(sorted(DANDI, reverse=True))})-0?(\d+)ms-(val|test)", name)
    said = match.groups() if match else (None, None, None)
    found = (dataset or said[0], bin_width_ms or said[1], phase or said[2])
    if None in found:
        raise UserError(
            f"The data of {path} were in {name!r}, which is not called "
            f"{{dataset}}-{{bin width}}ms-{{val,test}}.h5: say --dataset (one of "
            f"{', '.join(DANDI)}), --bin-width-ms and --phase."
        )
    recording = Recording(str(found[0]), int(found[1]), str(found[2]))  # type: ignore[arg-type]
    for key, allowed in (("dataset", DANDI), ("bin_width_ms", BIN_WIDTHS), ("phase", PHASES)):
        if getattr(recording, key) not in allowed:
            raise UserError(
                f"{path}: {key} must be one of {', '.join(map(str, allowed))}, but is "
                f"{getattr(recording, key)}."
            )
    return recording


def _submitted_rates(path: Path, phase: str) -> dict[str, NDArray[Any]]:
    """Read the rates of a file as the tensors of its group."""
    splits = ("train", "valid") if phase == "val" else ("train", "valid", "test")
    with h5py.File(path) as file:
        for split in splits:
            if f"{split}_output_params" not in file:
                raise UserError(
                    f"{path} has no {split}_output_params: a submission for the {phase} phase "
                    f"needs rates of {', '.join(splits)} trials. Train on, or infer "
                    f"(scripts/infer.py), a file {{dataset}}-{{bin width}}ms-{phase}.h5."
                )
        rates = {split: file[f"{split}_output_params"][()] for split in splits}
        inds = {split: file[f"{split}_inds"][()] for split in splits}
        _, n_bins, n_channels = file["train_encod_data"].shape
    for split in splits:
        if not (np.isfinite(rates[split]).all() and (rates[split] >= 0).all()):
            raise UserError(
                f"{split}_output_params in {path} hold values that are no rates (below 0, or not "
                f"finite): the benchmark needs a model of spike counts, such as "
                f"model.reconstruction Poisson."
            )
    if phase == "val":
        for split in splits:
            if (np.diff(inds[split]) <= 0).any():
                raise UserError(
                    f"The trials of {split}_output_params in {path} are not in the order of the "
                    f"recording ({split}_inds is not ascending), as after "
                    f"datamodule.reshuffle_tv_seed. In the validation phase the benchmark says "
                    f"which trials are for validation: train without dealing them out anew."
                )
        return rate_tensors(rates["train"], rates["valid"], n_channels, n_bins)
    known = np.concatenate([inds["train"], inds["valid"]])
    if len(np.unique(known)) != len(known):
        raise UserError(
            f"train_inds and valid_inds in {path} name trials twice, so that their order in the "
            f"recording is not known."
        )
    if inds["train"].max() < inds["valid"].min():
        warnings.warn(
            f"By train_inds and valid_inds in {path}, all validation trials come after all "
            f"training trials. If these are not the numbers of the trials in the recording "
            f"(scripts/prepare_nlb.py writes them), the training rates are in a wrong order.",
            stacklevel=3,
        )
    train = np.concatenate([rates["train"], rates["valid"]])[np.argsort(known)]
    return rate_tensors(train, rates["test"], n_channels, n_bins)
