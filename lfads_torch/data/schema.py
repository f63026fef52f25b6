"""The schema of a session file: the names of its arrays, and how their shapes must agree.

``datasets/README.md`` describes every array. Only the shapes are needed for the checks, so that a
file can be checked without reading its data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfads_torch.errors import UserError

MANDATORY_KEYS = {
    "train": ["encod_data", "recon_data"],
    "valid": ["encod_data", "recon_data"],
    "test": ["encod_data"],
}
"""The arrays that a file must hold for each split (``{split}_{key}``); ``test`` may be absent."""

Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each array of a file, by its name."""


def rename_tf_era(arrays: dict[str, Any]) -> None:
    """Rename, in place, the arrays of files of the TensorFlow implementation of LFADS.

    ``{split}_data`` becomes ``{split}_encod_data``, and also ``{split}_recon_data`` unless there
    is one. Arrays that already have today's names take precedence.

    Parameters
    ----------
    arrays
        Arrays, or their shapes, by name.
    """
    for split in MANDATORY_KEYS:
        old = f"{split}_data"
        if old in arrays and f"{split}_encod_data" not in arrays:
            arrays[f"{split}_encod_data"] = arrays[old]
            arrays.setdefault(f"{split}_recon_data", arrays[old])
            del arrays[old]


def check_shapes(shapes: Shapes, path: Path, to_infer: bool = False) -> None:
    """Check that a file holds what a model needs, and that its shapes agree.

    Parameters
    ----------
    shapes
        The shapes of the arrays in the file, under today's names (see :func:`rename_tf_era`).
    path
        The file, for messages.
    to_infer
        Whether no trials are used for training, so that one of the splits is enough.

    Raises
    ------
    UserError
        If a mandatory array is missing, or a shape does not fit the others.
    """
    present = [split for split in MANDATORY_KEYS if f"{split}_encod_data" in shapes]
    for split in MANDATORY_KEYS:
        optional = split == "test" or (to_infer and bool(present))
        if split in present or not optional:
            _check_mandatory(shapes, split, path, to_infer)
            _check_trials(shapes, split, path)
            _check_bins(shapes, split, path)
    _check_splits_agree(shapes, present, path)
    _check_channels_of_truth(shapes, present, path)


def _check_mandatory(shapes: Shapes, split: str, path: Path, to_infer: bool) -> None:
    """Check that no mandatory array of a split is missing."""
    for name in MANDATORY_KEYS[split]:
        if f"{split}_{name}" not in shapes:
            raise UserError(
                f"{path} has no {split}_{name}. It needs "
                f"{{train,valid}}_{{encod_data,recon_data}}, each (trials, time, channels)"
                f"{', or test_encod_data alone' if to_infer else ''}, and holds "
                f"{sorted(shapes) or 'nothing'}."
            )


def _check_trials(shapes: Shapes, split: str, path: Path) -> None:
    """Check that the arrays of a split have three axes, the same trials, and are not empty."""
    n_trials = shapes[f"{split}_encod_data"][:1]
    for name in ("encod_data", "recon_data", "ext_input", "truth"):
        shape = shapes.get(f"{split}_{name}")
        if shape is None:
            continue
        if len(shape) != 3:
            raise UserError(
                f"{split}_{name} in {path} must be (trials, time, channels), but its shape is "
                f"{shape}."
            )
        if shape[:1] != n_trials:
            raise UserError(
                f"{split}_{name} in {path} has {shape[0]} trials, but {split}_encod_data has "
                f"{n_trials[0]}: every {split} array needs one entry for each trial."
            )
        if 0 in shape:
            raise UserError(f"{split}_{name} in {path} is empty: its shape is {shape}.")


def _check_bins(shapes: Shapes, split: str, path: Path) -> None:
    """Check that the arrays of a split have matching numbers of time bins."""
    n_encod_bins = shapes[f"{split}_encod_data"][1]
    n_recon_bins = shapes.get(f"{split}_recon_data", (0, n_encod_bins))[1]
    if n_encod_bins > n_recon_bins:
        raise UserError(
            f"{split}_encod_data in {path} has {n_encod_bins} time bins and {split}_recon_data has "
            f"{n_recon_bins}: the encoded bins must be the first of the reconstructed ones."
        )
    for name, n_bins in [("ext_input", n_encod_bins), ("truth", n_recon_bins)]:
        found = shapes.get(f"{split}_{name}", (0, n_bins))[1]
        if found != n_bins:
            raise UserError(
                f"{split}_{name} in {path} has {found} time bins, but {n_bins} are expected."
            )


def _check_splits_agree(shapes: Shapes, present: list[str], path: Path) -> None:
    """Check that an array has the same time bins and channels in all splits.

    The trials of the test split may lack targets and external inputs.
    """
    for name in ("encod_data", "recon_data", "ext_input"):
        found = {split: shapes.get(f"{split}_{name}") for split in present}
        first, expected = next((item for item in found.items() if item[1]), ("", None))
        for split, shape in found.items():
            if expected is None or (shape is None and (split == "test" or name == "recon_data")):
                continue
            if shape is None or shape[1:] != expected[1:]:
                raise UserError(
                    f"{first}_{name} and {split}_{name} in {path} must agree in time bins and "
                    f"channels, but their shapes are {expected} and {shape}."
                )


def _check_channels_of_truth(shapes: Shapes, present: list[str], path: Path) -> None:
    """Check that the true rates have as many channels as ``recon_data``."""
    for split in present:
        truth, recon = (shapes.get(f"{split}_{name}") for name in ("truth", "recon_data"))
        if truth is not None and recon is not None and truth[2] != recon[2]:
            raise UserError(
                f"{split}_truth in {path} has {truth[2]} channels, but {split}_recon_data has "
                f"{recon[2]}."
            )
