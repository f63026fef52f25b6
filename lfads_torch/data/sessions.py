"""Finds the session files that match a pattern, reads their sizes, and loads their arrays.

A file is one recording session. ``datasets/README.md`` states what it must hold.
"""

import glob
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lfads_torch.data.catalogue import how_to_get
from lfads_torch.data.hdf5 import read_arrays, read_shapes
from lfads_torch.data.schema import MANDATORY_KEYS, check_shapes, rename_tf_era
from lfads_torch.data.splits import reshuffle_train_valid
from lfads_torch.errors import MissingFileError, UserError


def find_session_files(datafile_pattern: str | Path) -> list[Path]:
    """Return the sorted files that a glob pattern matches, one for each session.

    Raises
    ------
    MissingFileError
        If there is none. If the data set is known, the message says how to get the file.
    """
    if Path(datafile_pattern).is_file():  # Its name may contain characters special to patterns.
        return [Path(datafile_pattern)]
    paths = sorted(Path(match) for match in glob.glob(str(datafile_pattern)))
    if paths:
        return paths
    raise MissingFileError(
        f"datamodule.datafile_pattern = {str(datafile_pattern)!r} matches no file "
        f"(looked from {Path.cwd()}). {how_to_get(Path(datafile_pattern))}"
    )


@dataclass(frozen=True)
class SessionShapes:
    """The sizes that a session file imposes on a model.

    Attributes
    ----------
    n_encod_bins, n_recon_bins
        Time bins that the encoder sees (T_enc) and that the model reconstructs (T_rec).
    n_encod_channels, n_recon_channels
        Channels that the encoder sees and that the model reconstructs.
    n_ext_inputs
        Dimensions of ``ext_input``; 0 if there is none.
    n_components
        Columns of ``readin_weight``, or None if the session has not been aligned to others.
    """

    n_encod_bins: int
    n_recon_bins: int
    n_encod_channels: int
    n_recon_channels: int
    n_ext_inputs: int
    n_components: int | None


def session_shapes(path: str | Path) -> SessionShapes:
    """Read the sizes of a session from the shapes of its training arrays.

    Raises
    ------
    UserError
        If the file cannot be read or lacks an array that a model needs.
    """
    shapes = read_shapes(path)
    rename_tf_era(shapes)
    check_shapes(shapes, Path(path))
    encod, recon = shapes["train_encod_data"], shapes["train_recon_data"]
    return SessionShapes(
        n_encod_bins=encod[1],
        n_recon_bins=recon[1],
        n_encod_channels=encod[2],
        n_recon_channels=recon[2],
        n_ext_inputs=shapes.get("train_ext_input", (0, 0, 0))[2],
        n_components=shapes["readin_weight"][-1] if "readin_weight" in shapes else None,
    )


def load_session(
    path: str | Path,
    reshuffle_seed: int | None = None,
    reshuffle_ratio: float | None = None,
    to_infer: bool = False,
) -> dict[str, np.ndarray]:
    """Read every array of a session file, and check the arrays that a model needs.

    If the file has no trial numbers ``{split}_inds``, they are added: they count the trials of the
    file, training trials first, then validation and test trials.

    Parameters
    ----------
    path
        The session file.
    reshuffle_seed, reshuffle_ratio
        See :func:`~lfads_torch.data.splits.reshuffle_train_valid`. With the seed None, every trial
        stays in its split.
    to_infer
        Whether no trials are used for training, so that one of the splits is enough, such as
        ``test_encod_data`` alone.

    Raises
    ------
    UserError
        If the file cannot be read, if a mandatory array is missing, or if one has the wrong number
        of axes, trials or time bins.
    """
    path = Path(path)
    arrays = read_arrays(path)
    rename_tf_era(arrays)
    check_shapes({key: np.shape(value) for key, value in arrays.items()}, path, to_infer)
    _check_conversion_factor(arrays, path)
    _number_trials(arrays)
    if reshuffle_seed is not None and "chop_overlap" in arrays:
        raise UserError(
            f"datamodule.reshuffle_tv_seed = {reshuffle_seed} would put bins of {path} into both "
            f"training and validation: its trials are windows of a recording that overlap. Chop "
            f"the recording again, with another seed (scripts/chop.py --seed)."
        )
    if reshuffle_seed is not None and {"train_encod_data", "valid_encod_data"} <= arrays.keys():
        arrays = reshuffle_train_valid(arrays, reshuffle_seed, reshuffle_ratio)
    return arrays


def _check_conversion_factor(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Check that ``conversion_factor`` is a positive number, if there is one."""
    factor = np.asarray(arrays.get("conversion_factor", 1.0))
    if factor.size != 1 or not factor > 0:
        raise UserError(f"conversion_factor in {path} must be a number above 0, but is {factor}.")


def _number_trials(arrays: dict[str, np.ndarray]) -> None:
    """Add trial numbers ``{split}_inds`` to the splits that lack them."""
    first = 0
    for split in MANDATORY_KEYS:
        if f"{split}_encod_data" in arrays:
            n_trials = len(arrays[f"{split}_encod_data"])
            arrays.setdefault(f"{split}_inds", np.arange(first, first + n_trials))
            first += n_trials
