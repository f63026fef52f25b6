"""Writes submissions to the Neural Latents Benchmark (Pei et al. 2021) from the rates of runs."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.analysis.nlb import rate_tensors, target_tensors
from lfads_torch.data.catalogue import DANDI
from lfads_torch.data.hdf5 import open_hdf5
from lfads_torch.datasets.nlb.registry import BIN_WIDTHS, PHASES, import_nlb_tools
from lfads_torch.errors import MissingFileError, UserError
from lfads_torch.files import written_atomically

_SPLITS_OF_PHASE = {"val": ("train", "valid"), "test": ("train", "valid", "test")}


@dataclass(frozen=True)
class Recording:
    """The recording that rates belong to, and the phase of the benchmark they are made for.

    Attributes
    ----------
    dataset
        The name of the recording, such as ``mc_maze``.
    bin_width_ms
        5 or 20.
    phase
        ``"val"`` or ``"test"``.
    """

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
    """Write the rates that runs inferred to a file that ``nlb_tools.evaluation.evaluate`` scores.

    The file has a group for each recording, named ``mc_maze`` for bins of 5 ms and ``mc_maze_20``
    for bins of 20 ms. A group holds ``{train,eval}_rates_{heldin,heldout}`` and, with ``_forward``,
    the rates in later bins: spikes per bin, averaged over samples of the posterior. In the
    validation phase, ``train`` and ``eval`` are the training and the validation trials. In the test
    phase, ``train`` are training and validation trials together, in the order of the recording, and
    ``eval`` are the test trials.

    Parameters
    ----------
    run_dirs
        The folder of a run (or of a sweep with its best model in ``best_model/``), or several
        folders of different recordings, which are submitted together.
    output
        Path of the file. By default it is ``nlb_submission_{phase}.h5`` in the first folder. An
        earlier file of that name is renamed.
    rate_files
        Files to read the rates from, such as ``scripts/infer.py`` writes. By default they are the
        output files in the folders.
    dataset, bin_width_ms, phase
        The recording of the benchmark and the phase. By default they are taken from the name that
        ``scripts/prepare_nlb.py`` gives the data file, ``{dataset}-{bin width}ms-{phase}.h5``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UserError
        If there are no rates (:class:`~lfads_torch.errors.MissingFileError`), if the recording is
        not known, if trials are missing or not in the order of the benchmark, or if the values
        cannot be rates.
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
    _write_submission(output, groups)
    return output


def _write_submission(path: Path, groups: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    """Write the rates of each group. An earlier file of that name is renamed."""
    with (
        written_atomically(path, keep_old=True) as temporary,
        h5py.File(temporary, "w") as file,
    ):
        for group, tensors in groups.items():
            for name, rates in tensors.items():
                file.create_dataset(f"{group}/{name}", data=rates, dtype="f4", compression="gzip")


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
        The file that :func:`make_nlb_submission` wrote.
    rate_files
        The files from which it was made. They contain copies of the data to score against.
    dataset, bin_width_ms
        As for :func:`make_nlb_submission`.

    Returns
    -------
    list of dict
        The result of ``evaluate``: the scores ``co-bps``, ``vel R2``, … of each recording.

    Raises
    ------
    MissingPackageError
        If ``nlb_tools`` is missing.
    UserError
        If the files lack data to score against.
    """
    evaluation = import_nlb_tools("evaluation")
    targets = {}
    for path in map(Path, rate_files):
        with open_hdf5(path) as file:
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
    """Return the files with rates in the folder of a run, or of the best model of a sweep.

    Raises
    ------
    MissingFileError
        If there are none.
    """
    for folder in (Path(run_dir), Path(run_dir, "best_model")):
        outputs = sorted(folder.glob("lfads_output_sess*.h5"))
        # Earlier files, which were renamed to ….1.h5 when the run was sampled again, are left out.
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
    """Return the recording of the benchmark that a file of rates belongs to.

    Parameters
    ----------
    path
        A file with the output of a session, which contains the name of the data file.
    dataset, bin_width_ms, phase
        Values that take precedence over those in the name of the data file.

    Returns
    -------
    Recording
        The recording.

    Raises
    ------
    UserError
        If there is no such file (:class:`~lfads_torch.errors.MissingFileError`), if the name of
        the data file does not contain these values, or if there is no such recording.
    """
    with open_hdf5(path) as file:
        data_file = str(file.attrs.get("session_file", ""))
    names = "|".join(sorted(DANDI, reverse=True))
    match = re.search(rf"({names})-0?(\d+)ms-(val|test)", data_file)
    named = match.groups() if match else (None, None, None)
    found = (dataset or named[0], bin_width_ms or named[1], phase or named[2])
    if None in found:
        raise UserError(
            f"The data of {path} were in {data_file!r}, which is not called "
            f"{{dataset}}-{{bin width}}ms-{{val,test}}.h5: give --dataset (one of "
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
    """Read the rates of a file, and divide them into the tensors of its group."""
    splits = _SPLITS_OF_PHASE[phase]
    with open_hdf5(path) as file:
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
                f"{split}_output_params in {path} hold values that cannot be rates (below 0, or "
                f"not finite): the benchmark needs a model of spike counts, such as "
                f"model.reconstruction Poisson."
            )
    if phase == "val":
        _check_order(path, inds)
        return rate_tensors(rates["train"], rates["valid"], n_channels, n_bins)
    train = _in_order_of_recording(path, rates, inds)
    return rate_tensors(train, rates["test"], n_channels, n_bins)


def _check_order(path: Path, inds: Mapping[str, NDArray[Any]]) -> None:
    """Raise an error if trials of the validation phase are not in the order of the recording."""
    for split, numbers in inds.items():
        if (np.diff(numbers) <= 0).any():
            raise UserError(
                f"The trials of {split}_output_params in {path} are not in the order of the "
                f"recording ({split}_inds is not ascending), as after "
                f"datamodule.reshuffle_tv_seed. In the validation phase the benchmark determines "
                f"which trials are for validation: train without shuffling them."
            )


def _in_order_of_recording(
    path: Path, rates: Mapping[str, NDArray[Any]], inds: Mapping[str, NDArray[Any]]
) -> NDArray[Any]:
    """Return the rates of training and validation trials in the order of the recording."""
    numbers = np.concatenate([inds["train"], inds["valid"]])
    if len(np.unique(numbers)) != len(numbers):
        raise UserError(
            f"train_inds and valid_inds in {path} contain numbers of trials twice, so that the "
            f"order of the trials in the recording is not known."
        )
    if inds["train"].max() < inds["valid"].min():
        warnings.warn(
            f"According to train_inds and valid_inds in {path}, all validation trials come after "
            f"all training trials. If these are not the numbers of the trials in the recording "
            f"(scripts/prepare_nlb.py writes them), the training rates are in a wrong order.",
            stacklevel=4,
        )
    return np.concatenate([rates["train"], rates["valid"]])[np.argsort(numbers)]
