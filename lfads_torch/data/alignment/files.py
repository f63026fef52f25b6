"""Aligns session files, and writes the alignment into them or into copies of them."""

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from lfads_torch.data.alignment.regression import Alignment, align, check_arguments
from lfads_torch.data.alignment.responses import ConditionPSTHs, condition_psths
from lfads_torch.data.sessions import find_session_files
from lfads_torch.errors import ExistingFileError, FileAccessError, UserError
from lfads_torch.files import all_written_atomically

WEIGHT, BIAS = "readin_weight", "readout_bias"
"""The names of the two arrays of an alignment in a session file."""


@dataclass(frozen=True, eq=False)
class AlignedSession:
    """The result of :func:`align_files` for one session.

    Attributes
    ----------
    source, path
        The file that was read, and the file that holds the alignment. They are the same file unless
        there is an output folder.
    n_channels, n_trials, n_conditions
        Channels of the session, and the training trials and conditions that were averaged.
    score, explained_variance
        See :class:`~lfads_torch.data.alignment.regression.Alignment`.
    """

    source: Path
    path: Path
    n_channels: int
    n_trials: int
    n_conditions: int
    score: float
    explained_variance: float


def align_files(
    pattern_or_paths: str | Path | Iterable[str | Path],
    n_components: int,
    smoothing_width: float = 2.0,
    ridge_alpha: float = 1.0,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
) -> list[AlignedSession]:
    """Align session files and write ``readin_weight`` and ``readout_bias`` into them.

    Nothing else in the files changes. The two arrays are written to hidden copies in the same
    folder, which take their place once all of them are complete: if anything fails before, no file
    changes. The attributes of the arrays are ``n_components``, ``smoothing_width``,
    ``ridge_alpha`` and ``sessions``, the names of all files that were aligned together.

    Parameters
    ----------
    pattern_or_paths
        Path or glob pattern, or several of them; the sorted matches are the sessions.
    n_components
        P, the number of shared components: the factors (``model.fac_dim``) of the model.
    smoothing_width
        Standard deviation in bins of the Gaussian that smooths the responses; see
        :func:`~lfads_torch.data.alignment.responses.condition_psths`.
    ridge_alpha
        Penalty of the regression; see :func:`~lfads_torch.data.alignment.regression.align`.
    output_dir
        A folder to which copies of the files are written, with the same names, so that the files
        themselves do not change. It is made if it is missing.
    overwrite
        Whether an earlier alignment in the files, or existing files in ``output_dir``, may be
        replaced.

    Returns
    -------
    list of AlignedSession
        One for each session, in their order.

    Raises
    ------
    MissingFileError
        If a pattern matches no file.
    ExistingFileError
        If a file exists in ``output_dir`` and ``overwrite`` is False.
    FileAccessError
        If a file cannot be read, or one that would be changed is write-protected.
    UserError
        If files are aligned already and ``overwrite`` is False, if they differ in conditions or
        bins, or for the reasons given in
        :func:`~lfads_torch.data.alignment.responses.condition_psths` and
        :func:`~lfads_torch.data.alignment.regression.align`.
    """
    check_arguments(n_components, ridge_alpha)
    if isinstance(pattern_or_paths, str | Path):
        pattern_or_paths = [pattern_or_paths]
    found = {path for pattern in pattern_or_paths for path in find_session_files(pattern)}
    sources = sorted(found)
    targets = _targets(sources, output_dir, overwrite)
    psths = [condition_psths(path, smoothing_width) for path in sources]
    _check_conditions(sources, psths)
    alignments = align(
        [psth.rates for psth in psths], n_components, ridge_alpha, [str(path) for path in sources]
    )
    attributes = {
        "n_components": int(n_components),
        "smoothing_width": float(smoothing_width),
        "ridge_alpha": float(ridge_alpha),
        "sessions": _names_without_shared_folders(sources),
    }
    with all_written_atomically(targets) as copies:
        for source, copy, alignment in zip(sources, copies, alignments, strict=True):
            shutil.copyfile(source, copy)
            _write_alignment(copy, alignment, attributes)
    return [
        AlignedSession(
            source=source,
            path=target,
            n_channels=len(alignment.readout_bias),
            n_trials=int(psth.n_trials.sum()),
            n_conditions=len(psth.labels),
            score=alignment.score,
            explained_variance=alignment.explained_variance,
        )
        for source, target, psth, alignment in zip(sources, targets, psths, alignments, strict=True)
    ]


def _targets(sources: Sequence[Path], output_dir: str | Path | None, overwrite: bool) -> list[Path]:
    """Return the file that each alignment is written to; existing files are refused."""
    if output_dir is None:
        targets = list(sources)
    else:
        targets = [Path(output_dir) / source.name for source in sources]
    finals = [target.resolve() for target in targets]
    for i, final in enumerate(finals):
        if final in finals[:i]:
            raise UserError(
                f"{sources[finals.index(final)]} and {sources[i]} would both be written to "
                f"{final}: every session needs its own file, with its own name."
            )
    for target in targets:
        if output_dir is None:
            _check_changeable(target, overwrite)
        elif target.exists() and not overwrite:
            raise ExistingFileError(
                f"{target} exists already: choose another output_dir, or pass overwrite=True (on "
                f"the command line --overwrite) to replace it."
            )
    return targets


def _check_changeable(path: Path, overwrite: bool) -> None:
    """Refuse a file that is write-protected or has already been aligned."""
    if not os.access(path, os.W_OK):
        raise FileAccessError(
            f"{path} is write-protected: allow writing, or write copies with output_dir (on "
            f"the command line --output-dir)."
        )
    if overwrite or not h5py.is_hdf5(path):
        return
    with h5py.File(path) as file:
        present = [name for name in (WEIGHT, BIAS) if name in file]
    if present:
        raise UserError(
            f"{path} has {' and '.join(present)} already: pass overwrite=True (on the command line "
            f"--overwrite) to replace that alignment, or output_dir (--output-dir) to write copies."
        )


def _check_conditions(paths: Sequence[Path], psths: Sequence[ConditionPSTHs]) -> None:
    """Check that all sessions have the same conditions."""
    labels_of = [psth.labels.tolist() for psth in psths]
    known = list(dict.fromkeys(label for labels in labels_of for label in labels))
    lacking = [
        f"{path} lacks {[label for label in known if label not in labels]}"
        for path, labels in zip(paths, labels_of, strict=True)
        if len(labels) < len(known)
    ]
    if lacking:
        raise UserError(
            f"Sessions are aligned by the same conditions, but of the {len(known)} in "
            f"train_cond_idx {'; '.join(lacking)}. Give a condition the same label in every file, "
            f"and leave out conditions without training trials in one of the sessions."
        )


def _names_without_shared_folders(paths: Sequence[Path]) -> list[str]:
    """Return the paths without the folders that they share."""
    absolute = [path.absolute() for path in paths]
    shared = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(shared).as_posix() for path in absolute]


def _write_alignment(path: Path, alignment: Alignment, attributes: dict[str, Any]) -> None:
    """Set the two arrays in a file, and change nothing else."""
    with h5py.File(path, "r+") as file:
        for name, array in ((WEIGHT, alignment.readin_weight), (BIAS, alignment.readout_bias)):
            if name in file:
                del file[name]
            dataset = file.create_dataset(name, data=array.astype(np.float32), track_times=False)
            dataset.attrs.update(attributes)
