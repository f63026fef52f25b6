"""Data files made from the NWB files of the Neural Latents Benchmark (Pei et al. 2021).

    NWB file → nlb_tools (bins, trials, targets) → arrays of a session → data file

Trials are cut out and binned by ``nlb_tools``, which is imported where it is used.
"""

import contextlib
import copy
import importlib.metadata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.data.catalogue import DANDI
from lfads_torch.datasets.nlb.compatibility import patched_nlb_tools
from lfads_torch.datasets.nlb.registry import (
    BIN_WIDTHS,
    PHASES,
    file_name,
    import_nlb_tools,
)
from lfads_torch.errors import (
    ExistingFileError,
    FileAccessError,
    MissingFileError,
    UserError,
    did_you_mean,
)
from lfads_torch.files import written_atomically

TIME_SERIES = (
    "cursor_pos",
    "cursor_vel",
    "eye_pos",
    "eye_vel",
    "finger_pos",
    "finger_vel",
    "force",
    "hand_pos",
    "hand_vel",
    "joint_ang",
    "joint_vel",
    "muscle_len",
    "muscle_vel",
    "target_pos",
)
"""Time series in the files on DANDI. Of these, nlb_tools needs only the behaviour to decode."""


def prepare_nlb(
    dataset: str,
    nwb_dir: str | Path,
    output_dir: str | Path = "datasets",
    bin_widths_ms: Sequence[int] = (5,),
    phases: Sequence[str] = ("val",),
    overwrite: bool = False,
) -> list[Path]:
    """Write the data files of a recording, ``{dataset}-{bin width}ms-{phase}.h5``.

    The files of both phases hold the benchmark's training trials as ``train`` and its validation
    trials as ``valid``, with behaviour, PSTHs, conditions, decoder masks and jitter, so that in
    both phases models are compared on validation trials. Files of the test phase also hold the
    test trials, ``test_encod_data``, whose targets are not public. ``datasets/README.md`` describes
    the arrays.

    Parameters
    ----------
    dataset
        The name of the recording: ``mc_maze``, ``mc_rtt``, ….
    nwb_dir
        A folder that holds ``*train*.nwb``, and for the test phase ``*test*.nwb``, at any depth.
    output_dir
        The folder of the data files.
    bin_widths_ms
        Bin widths in ms; the benchmark has targets for 5 and 20.
    phases
        ``"val"``, ``"test"`` or both.
    overwrite
        Whether existing data files are renamed to ``….1.h5``; if false, they are an error.

    Returns
    -------
    list of Path
        The data files.

    Raises
    ------
    MissingPackageError
        If ``nlb_tools`` is missing.
    MissingFileError
        If there is no NWB file.
    ExistingFileError
        If a data file exists and ``overwrite`` is false.
    UserError
        If an argument has a value other than those above, if there are several NWB files, or if a
        file cannot be read or lacks data that the benchmark needs.
    """
    check_arguments(dataset, bin_widths_ms, phases)
    output_dir = Path(output_dir)
    if not overwrite:
        refuse_existing(dataset, output_dir, bin_widths_ms, phases)
    nwb_files = {"train": find_nwb(nwb_dir, "train")}
    if "test" in phases:
        nwb_files["test"] = find_nwb(nwb_dir, "test")
    written = []
    for bin_width_ms in bin_widths_ms:
        arrays = _training_arrays(dataset, nwb_files["train"], bin_width_ms)
        for phase in phases:
            if phase == "test":
                test = _test_arrays(dataset, nwb_files["test"], bin_width_ms)
                _check_same_neurons(arrays, test, nwb_files)
                arrays = {**arrays, **test}
            parts = ("train", "test") if phase == "test" else ("train",)
            attributes = {
                "generator": "scripts/prepare_nlb.py",
                "dataset": dataset,
                "phase": phase,
                "bin_width": bin_width_ms / 1000,
                "nwb_files": [nwb_files[part].name for part in parts],
                "nlb_tools": importlib.metadata.version("nlb_tools"),
            }
            path = output_dir / file_name(dataset, bin_width_ms, phase)
            _write(path, arrays, attributes)
            written.append(path)
    return written


def _check_same_neurons(
    training: dict[str, NDArray[Any]], test: dict[str, NDArray[Any]], nwb_files: dict[str, Path]
) -> None:
    """Check that training and test files have the same number of held-in neurons."""
    n_neurons, expected = test["test_encod_data"].shape[2], training["train_encod_data"].shape[2]
    if n_neurons != expected:
        raise UserError(
            f"{nwb_files['test']} has {n_neurons} held-in neurons, but {nwb_files['train']} has "
            f"{expected}: they are not of the same recording."
        )


def check_arguments(dataset: str, bin_widths_ms: Sequence[int], phases: Sequence[str]) -> None:
    """Raise a UserError if there is no such recording, bin width or phase."""
    if dataset not in DANDI:
        raise UserError(
            f"The Neural Latents Benchmark has no data set {dataset!r}; it has {', '.join(DANDI)}."
            f"{did_you_mean(dataset, DANDI)}"
        )
    for bin_width_ms in bin_widths_ms:
        if bin_width_ms not in BIN_WIDTHS:
            raise UserError(
                f"The bin width must be 5 or 20 ms, for which the Neural Latents Benchmark has "
                f"targets, but is {bin_width_ms}."
            )
    for phase in phases:
        if phase not in PHASES:
            raise UserError(f"The phase must be one of {', '.join(PHASES)}, but is {phase!r}.")


def refuse_existing(
    dataset: str, output_dir: str | Path, bin_widths_ms: Sequence[int], phases: Sequence[str]
) -> None:
    """Raise an ExistingFileError if a data file that would be written exists."""
    for bin_width_ms in bin_widths_ms:
        for phase in phases:
            path = Path(output_dir) / file_name(dataset, bin_width_ms, phase)
            if path.exists():
                raise ExistingFileError(
                    f"{path} exists. Choose another output folder, or use --overwrite, which "
                    f"renames the file."
                )


def find_nwb(nwb_dir: str | Path, part: str) -> Path:
    """Return the NWB file of one part, ``"train"`` or ``"test"``, of a recording.

    Raises
    ------
    MissingFileError
        If there is none.
    UserError
        If there are several.
    """
    found = sorted(Path(nwb_dir).rglob(f"*{part}*.nwb"))
    if not found:
        raise MissingFileError(f"There is no *{part}*.nwb in {Path(nwb_dir).absolute()}.")
    if len(found) > 1:
        raise UserError(
            f"There are several *{part}*.nwb in {Path(nwb_dir).absolute()} "
            f"({', '.join(path.name for path in found)}): name a folder that holds one recording."
        )
    return found[0]


def _training_arrays(dataset: str, nwb_file: Path, bin_width_ms: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of training and validation trials, by their names in a data file."""
    tensors = import_nlb_tools("make_tensors")
    parameters = tensors.PARAMS[dataset]
    behavior = parameters["behavior_field"] if parameters["behavior_source"] == "data" else None
    with patched_nlb_tools():
        recording = _load(nwb_file, bin_width_ms, behavior)
        with _naming_file(nwb_file):
            # nlb_tools would drop bins without behaviour from the counts.
            spikes = copy.copy(recording)
            spikes.data = recording.data[["spikes", "heldout_spikes"]]
            counts = {
                split: tensors.make_train_input_tensors(
                    spikes, dataset, name, save_file=False, include_forward_pred=True
                )
                for split, name in (("train", "train"), ("valid", "val"))
            }
            (targets,) = tensors.make_eval_target_tensors(
                recording,
                dataset,
                "train",
                "val",
                save_file=False,
                include_psth="psth_params" in parameters,
            ).values()
            # These targets show which bins of the training trials would be scored.
            (training_targets,) = tensors.make_eval_target_tensors(
                recording, dataset, "train", "train", save_file=False
            ).values()
    arrays: dict[str, NDArray[Any]] = {}
    for split, name in (("train", "train"), ("valid", "val")):
        heldin, heldout = (counts[split][f"train_spikes_{part}"] for part in ("heldin", "heldout"))
        forward = [counts[split][f"train_spikes_{part}_forward"] for part in ("heldin", "heldout")]
        encoded_bins = np.concatenate([heldin, heldout], axis=2)
        later_bins = np.concatenate(forward, axis=2)
        arrays[f"{split}_encod_data"] = _counts(heldin)
        arrays[f"{split}_recon_data"] = _counts(np.concatenate([encoded_bins, later_bins], axis=1))
        arrays[f"{split}_inds"] = _trial_numbers(recording, name, len(heldin), nwb_file)
        name = {"train": "train", "valid": "eval"}[split]
        arrays[f"{split}_behavior"] = targets[f"{name}_behavior"].astype("float32")
        if arrays[f"{split}_behavior"].ndim == 3:
            every_trial = np.ones((len(heldin), 1), dtype=bool)
            mask = np.asarray(targets.get(f"{name}_decode_mask", every_trial))
            arrays[f"{split}_decode_mask"] = mask.astype(bool)
        if "psth" in targets:
            arrays[f"{split}_cond_idx"] = targets[f"{name}_cond_idx"]
        if f"{name}_jitter" in targets:
            arrays[f"{split}_jitter"] = targets[f"{name}_jitter"].astype("int64")
    if "psth" in targets:
        arrays["psth"] = targets["psth"].astype("float32")
    scored = {
        split: ~np.isnan(of_split["eval_spikes_heldout"][:, :, 0])
        for split, of_split in (("train", training_targets), ("valid", targets))
    }
    if not all(mask.all() for mask in scored.values()):
        arrays |= {f"{split}_score_mask": mask for split, mask in scored.items()}
    return arrays


def _test_arrays(dataset: str, nwb_file: Path, bin_width_ms: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of test trials, by their names in a data file."""
    tensors = import_nlb_tools("make_tensors")
    with patched_nlb_tools():
        recording = _load(nwb_file, bin_width_ms, None)
        with _naming_file(nwb_file):
            inputs = tensors.make_eval_input_tensors(recording, dataset, "test", save_file=False)
    counts = inputs["eval_spikes_heldin"]
    return {
        "test_encod_data": _counts(counts),
        "test_inds": _trial_numbers(recording, "test", len(counts), nwb_file),
    }


def _load(path: Path, bin_width_ms: int, behavior: str | None) -> Any:
    """Load a recording with its spikes and one time series of behaviour, and bin it."""
    interface = import_nlb_tools("nwb_interface")
    skipped = [name for name in TIME_SERIES if name != behavior]
    try:
        recording = interface.NWBDataset(str(path), skip_fields=skipped)
    except OSError as error:
        raise FileAccessError(f"{path} cannot be read as an NWB file: {error}") from error
    fields = set(recording.data.columns.get_level_values(0))
    if behavior is not None and behavior not in fields:
        raise UserError(
            f"{path} has no time series {behavior!r} at multiples of 1 ms, which the Neural "
            f"Latents Benchmark decodes; it has {', '.join(sorted(fields))}."
        )
    if "split" not in recording.trial_info:
        raise UserError(
            f"The trials in {path} have no column 'split', which files of the Neural Latents "
            f"Benchmark have."
        )
    wanted = ("spikes", "heldout_spikes", behavior)
    recording.data = recording.data[[name for name in wanted if name in fields]]
    recording.resample(bin_width_ms)
    return recording


@contextlib.contextmanager
def _naming_file(path: Path) -> Iterator[None]:
    """Name the file in the errors that ``nlb_tools`` raises when it cannot cut out trials."""
    try:
        yield
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(
            f"nlb_tools cannot cut trials out of {path} ({type(error).__name__}: {error}). It "
            f"needs the columns of the benchmark's own files, trials of each split, and spikes and "
            f"behaviour without gaps within trials."
        ) from error


def _counts(values: NDArray[Any]) -> NDArray[Any]:
    """Return spike counts as small integers, or as floats if some are missing."""
    if np.isnan(values).any() or values.max(initial=0) > 255:
        return values.astype("float32")
    return values.astype("uint8")


def _trial_numbers(recording: Any, split: str, n_trials: int, path: Path) -> NDArray[Any]:
    """Return the numbers of a split's trials within the recording (trials,), counted from 0."""
    info = recording.trial_info
    numbers = info.trial_id[info.split == split].to_numpy(dtype="int64")
    if len(numbers) != n_trials:
        raise UserError(
            f"{path} has {len(numbers)} trials of the split {split!r}, but nlb_tools cuts out "
            f"{n_trials}: some have no time to align them to."
        )
    return numbers


def _write(path: Path, arrays: dict[str, NDArray[Any]], attributes: dict[str, Any]) -> None:
    """Write a data file; an existing file of that name is renamed."""
    with written_atomically(path, keep_old=True) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(attributes)
        for key, values in arrays.items():
            if key.endswith("_cond_idx"):  # For each condition, the indices of its trials.
                conditions = file.create_dataset(key, len(values), dtype=h5py.vlen_dtype("int64"))
                for condition, trials in enumerate(values):
                    conditions[condition] = np.asarray(trials, dtype="int64")
            else:
                file.create_dataset(key, data=values, compression="gzip")
