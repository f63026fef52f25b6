"""Alignment of sessions that record different neurons in the same task.

Principal components regression, as for the stitched models of Pandarinath et al. 2018 (Nature
Methods 15:805, online methods on several sessions): the trials of each session are smoothed and
averaged into the responses of each condition (PSTHs); a principal component analysis of the
channels of all sessions together gives components that the sessions share; and a ridge regression
leads from the channels of each session alone to these components. The regression weights and the
channel means are ``readin_weight`` and ``readout_bias`` in the session files, from which
:class:`~lfads_torch.modules.readin_readout.MultisessionReadin` and
:class:`~lfads_torch.modules.readin_readout.MultisessionReadout` start.
"""

import os
import shutil
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.data.conditions import trial_conditions
from lfads_torch.datamodules import find_session_files, session_shapes
from lfads_torch.errors import ExistingFileError, FileAccessError, UserError

__all__ = ["AlignedSession", "Alignment", "ConditionPSTHs", "align", "align_files",
           "condition_psths"]  # fmt: skip

Floats = NDArray[np.float64]

WEIGHT, BIAS = "readin_weight", "readout_bias"  # their names in a session file
_NEGLIGIBLE = 1e-10  # changes of a channel, relative to its values, that are rounding
_DEPENDENT = 1e-6  # singular values, relative to the largest, that inversion must not meet


class ConditionPSTHs(NamedTuple):
    """The average response of one session to each condition.

    Attributes
    ----------
    rates
        (conditions, time, channels), in the unit of the data: spikes per bin for counts.
    labels
        (conditions,), sorted.
    n_trials
        (conditions,), how many trials were averaged.
    """

    rates: Floats
    labels: NDArray[Any]
    n_trials: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Alignment:
    """The linear map between the channels of one session and the components that sessions share.

    With x (time, N) spikes per bin, a read-in computes
    ``x @ readin_weight - readout_bias @ readin_weight``, and a read-out of components f (time, P)
    ``f @ pinv(readin_weight) + readout_bias``.

    Attributes
    ----------
    readin_weight
        (N, P), components per spike per bin.
    readout_bias
        (N,), the mean of each channel over conditions and bins: what centres the PSTHs. With a
        Poisson reconstruction the read-out gives log rates, so that these means of rates are no
        more than where its training starts, as in the published package.
    score
        R²: the fraction of the shared components' variance that this session's PSTHs explain
        through ``readin_weight``.
    explained_variance
        The fraction of the variance of this session's PSTHs that the shared components hold.
    """

    readin_weight: Floats
    readout_bias: Floats
    score: float
    explained_variance: float


@dataclass(frozen=True, eq=False)
class AlignedSession:
    """What :func:`align_files` did with one session.

    Attributes
    ----------
    source, path
        The file that was read, and the one that holds the alignment: the same, unless there is an
        output folder.
    n_channels, n_trials, n_conditions
        What the PSTHs are of.
    score, explained_variance
        See :class:`Alignment`.
    """

    source: Path
    path: Path
    n_channels: int
    n_trials: int
    n_conditions: int
    score: float
    explained_variance: float


# ------------------------------------------------------------------------------------- responses


def condition_psths(path: str | Path, smoothing_width: float = 2.0) -> ConditionPSTHs:
    """Smooth the training trials of a session and average them by condition.

    Only ``train_encod_data`` and ``train_cond_idx`` are read, so that validation and test trials
    have no part in the alignment. Missing samples (NaN) are left out and bins beyond the ends of
    a trial count as missing: the rate at a bin is a mean of the samples of all trials at all bins
    near it, weighted by the Gaussian. Trials without a condition are left out too.

    Parameters
    ----------
    path
        Of the session file.
    smoothing_width
        Standard deviation of the Gaussian in bins, cut off at 4 of them; 0 does not smooth. The
        default of 2 bins suits bins of 20 ms; the shorter the bins, the more of them it takes.

    Returns
    -------
    ConditionPSTHs
        The averages, the sorted conditions and their numbers of trials. Where the file has, for
        each condition, the indices of its trials, the labels are the conditions' numbers.

    Raises
    ------
    ValueError
        If the file has no conditions, or if samples are infinite or never observed.
    """
    path = Path(path)
    if path.exists() and not h5py.is_hdf5(path):
        raise UserError(f"{path} is no HDF5 file: sessions are HDF5 files, see datasets/README.md.")
    shapes = session_shapes(path)
    if not 0 <= smoothing_width < shapes.n_encod_bins:
        raise UserError(
            f"smoothing_width = {smoothing_width}, but it must be at least 0 and less than the "
            f"{shapes.n_encod_bins} bins of a trial in {path}: it counts bins, not milliseconds."
        )
    with h5py.File(path) as file:
        cond_idx = file["train_cond_idx"][()] if "train_cond_idx" in file else None
        data = file["train_encod_data" if "train_encod_data" in file else "train_data"][()]
    trial_labels = _labels(cond_idx, len(data), path)
    labelled = _is_label(trial_labels)
    if not labelled.any():
        raise UserError(
            f"train_cond_idx in {path} gives none of the {len(data)} training trials a condition."
        )
    data = data[labelled]
    labels, condition_of, n_trials = np.unique(
        trial_labels[labelled], return_inverse=True, return_counts=True
    )

    totals = np.empty((len(labels), *data.shape[1:]))
    numbers = np.empty_like(totals)
    for condition in range(len(labels)):
        trials = data[condition_of == condition].astype(np.float64)
        observed = ~np.isnan(trials)
        totals[condition] = np.where(observed, trials, 0).sum(axis=0)
        numbers[condition] = observed.sum(axis=0)
    if not np.isfinite(totals).all():
        raise UserError(
            f"train_encod_data in {path} holds infinite values: mark missing samples by NaN."
        )
    totals, numbers = _smooth(totals, smoothing_width), _smooth(numbers, smoothing_width)
    if not (numbers > 0).all():
        condition, time, channel = np.argwhere(numbers == 0)[0].tolist()
        raise UserError(
            f"{path}: channel {channel} was never observed at bin {time} of condition "
            f"{labels[condition].item()!r} (NaN in all of its {n_trials[condition]} training "
            f"trials, at the bins near it too): leave that channel or condition out, or smooth "
            f"more (smoothing_width = {smoothing_width})."
        )
    return ConditionPSTHs(totals / numbers, labels, n_trials)


def _labels(cond_idx: Any, n_trials: int, path: Path) -> NDArray[Any]:
    """Return the condition of each training trial (trials,)."""
    try:
        labels = trial_conditions(cond_idx, n_trials)
    except ValueError as error:
        raise UserError(f"{path}: train_{error}") from error
    if labels is None:
        raise UserError(
            f"{path} has no train_cond_idx. Sessions are aligned by their average responses to the "
            f"same conditions: add the condition of each training trial, an array of {n_trials} "
            f"labels, or for each condition the indices of its trials."
        )
    return labels


def _is_label(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell labels from the NaN of trials without a condition."""
    return ~np.isnan(labels) if labels.dtype.kind == "f" else np.ones(len(labels), dtype=bool)


def _smooth(values: Floats, width: float) -> Floats:
    """Convolve (conditions, time, channels) with a Gaussian along time; zeros beyond the ends."""
    if width == 0:
        return values
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(values, width, axis=1, mode="constant")


# ------------------------------------------------------------------------------------- alignment


def align(
    psths: Sequence[NDArray[Any]],
    n_components: int,
    ridge_alpha: float = 1.0,
    names: Sequence[str] | None = None,
) -> list[Alignment]:
    """Align sessions by principal components regression (Pandarinath et al. 2018).

    With X_s (conditions · time, N_s) the centred PSTHs of session s, and Z (conditions · time, P)
    the first principal components of [X_1 X_2 …], the read-in weights are

        W_s = (X_sᵀ X_s + α I)⁻¹ X_sᵀ Z

    Channels are not scaled: those with the largest changes of rate determine most. A single
    session is aligned with itself.

    Parameters
    ----------
    psths
        Of each session, (conditions, time, channels); conditions and bins the same in all.
    n_components
        P, the number of shared components.
    ridge_alpha
        α, the penalty on the squared weights.
    names
        Of the sessions, for messages.

    Returns
    -------
    list of Alignment
        One for each session. A channel that does not vary has no weight.

    Raises
    ------
    ValueError
        If the shapes differ, values are not finite, a session does not vary, or there are fewer
        than ``n_components`` dimensions.

    Warns
    -----
    UserWarning
        If a session has fewer (varying) channels than there are components: its read-in after its
        read-out is then a projection and not the identity.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge

    arrays = [np.asarray(psth, dtype=np.float64) for psth in psths]
    names = [f"session {s}" for s in range(len(arrays))] if names is None else list(names)
    _check_arguments(n_components, ridge_alpha)
    _check_psths(arrays, names)
    sessions = [array.reshape(-1, array.shape[-1]) for array in arrays]
    means = [session.mean(axis=0) for session in sessions]
    centred = [session - mean for session, mean in zip(sessions, means, strict=True)]
    varying = [
        np.abs(session).max(axis=0) > _NEGLIGIBLE * np.abs(mean)
        for session, mean in zip(centred, means, strict=True)
    ]
    for name, channels in zip(names, varying, strict=True):
        if not channels.any():
            raise UserError(
                f"The PSTHs of {name} do not vary over bins and conditions, so nothing in them can "
                f"be aligned: leave the session out, or check its data and conditions."
            )

    pca = PCA(svd_solver="full")
    components = pca.fit_transform(np.concatenate(centred, axis=1))
    n_samples, n_channels = len(components), sum(len(mean) for mean in means)
    tolerance = pca.singular_values_[0] * max(n_samples, n_channels) * np.finfo(np.float64).eps
    n_dimensions = int((pca.singular_values_ > tolerance).sum())
    if n_components > n_dimensions:
        n_conditions, n_bins = arrays[0].shape[:2]
        raise UserError(
            f"n_components = {n_components}, but the PSTHs (conditions: {n_conditions}, bins: "
            f"{n_bins}, channels of all sessions: {n_channels}) have {n_dimensions} dimensions: "
            f"choose at most as many components."
        )
    shared = components[:, :n_components]
    variance = np.sum(shared**2)

    alignments = []
    for name, session, mean, channels in zip(names, centred, means, varying, strict=True):
        ridge = Ridge(alpha=ridge_alpha, fit_intercept=False, solver="svd")
        weight = np.zeros((len(mean), n_components))
        weight[channels] = ridge.fit(session[:, channels], shared).coef_.reshape(n_components, -1).T
        _check_rank(weight, int(channels.sum()), name)
        # The components are orthogonal, so the projection of the session onto them is quick.
        held = np.sum((shared.T @ session) ** 2 / np.sum(shared**2, axis=0)[:, None])
        alignments.append(
            Alignment(
                readin_weight=weight,
                readout_bias=mean,
                score=float(1 - np.sum((shared - session @ weight) ** 2) / variance),
                explained_variance=float(held / np.sum(session**2)),
            )
        )
    return alignments


def _check_arguments(n_components: int, ridge_alpha: float) -> None:
    integer = isinstance(n_components, int | np.integer) and not isinstance(n_components, bool)
    if not integer or n_components < 1:
        raise UserError(
            f"n_components = {n_components!r}, but it must be an integer of at least 1."
        )
    if not 0 < ridge_alpha < np.inf:
        raise UserError(
            f"ridge_alpha = {ridge_alpha}, but it must be positive and finite: without a penalty "
            f"the weights of channels that fire together are not determined."
        )


def _check_psths(arrays: Sequence[Floats], names: Sequence[str]) -> None:
    if not arrays:
        raise UserError("There is no session to align: give the PSTHs of at least one.")
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 3 or 0 in array.shape:
            raise UserError(
                f"The PSTHs of {name} must be (conditions, time, channels), but their shape is "
                f"{array.shape}."
            )
        if array.shape[:2] != arrays[0].shape[:2]:
            here, first = (
                f"{a.shape[0]} conditions of {a.shape[1]} bins" for a in (array, arrays[0])
            )
            raise UserError(
                f"The PSTHs of {name} have {here}, but those of {names[0]} have {first}: sessions "
                f"are aligned by the same conditions and bins. Cut their trials alike."
            )
        if not np.isfinite(array).all():
            raise UserError(
                f"The PSTHs of {name} hold values that are not finite: every channel needs a rate "
                f"at every bin of every condition."
            )


def _check_rank(weight: Floats, n_varying: int, name: str) -> None:
    """Refuse weights whose pseudoinverse would explode; warn if it is no inverse."""
    n_components = weight.shape[1]
    values = np.linalg.svd(weight, compute_uv=False)
    rank = int((values > _DEPENDENT * values[0]).sum())
    if rank < min(n_varying, n_components):
        raise UserError(
            f"n_components = {n_components}, but the {n_varying} channels of {name} that vary "
            f"determine only {rank} of the components, so no read-out can be made from them: "
            f"choose at most {rank} components, or leave out channels that copy others."
        )
    if rank < n_components:
        warnings.warn(
            f"{name} has {rank} channels that vary, fewer than the {n_components} components: its "
            f"read-in after its read-out is no identity. At most {rank} components make it one.",
            stacklevel=3,
        )


# ----------------------------------------------------------------------------------------- files


def align_files(
    pattern_or_paths: str | Path | Iterable[str | Path],
    n_components: int,
    smoothing_width: float = 2.0,
    ridge_alpha: float = 1.0,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
) -> list[AlignedSession]:
    """Align session files and write ``readin_weight`` and ``readout_bias`` into them.

    Nothing else in the files changes. The two arrays are written to hidden copies beside the
    files, which take their place once all of them are complete: whatever fails before leaves every
    file as it was. They keep, as attributes, ``n_components``, ``smoothing_width``,
    ``ridge_alpha`` and ``sessions``, the names of all files that were aligned together.

    Parameters
    ----------
    pattern_or_paths
        Path or glob pattern, or several of them; the sorted matches are the sessions.
    n_components
        P, the number of shared components: the factors (``model.fac_dim``) of the model.
    smoothing_width
        Of the Gaussian that smooths the responses, in bins; see :func:`condition_psths`.
    ridge_alpha
        Penalty of the regression; see :func:`align`.
    output_dir
        Write copies of the files, with the same names, to this folder, which is made if need be,
        and leave the files themselves alone.
    overwrite
        Whether an earlier alignment in the files, or existing files in ``output_dir``, may be
        replaced.

    Returns
    -------
    list of AlignedSession
        One for each session, in their order.

    Raises
    ------
    FileNotFoundError
        If a pattern matches no file.
    FileExistsError
        If a file exists in ``output_dir`` and ``overwrite`` is False.
    PermissionError
        If a file that would be changed is write-protected.
    ValueError
        If files are aligned already and ``overwrite`` is False, if they differ in conditions or
        bins, or for the reasons given in :func:`condition_psths` and :func:`align`.
    """
    _check_arguments(n_components, ridge_alpha)
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
    how = {
        "n_components": int(n_components),
        "smoothing_width": float(smoothing_width),
        "ridge_alpha": float(ridge_alpha),
        "sessions": _short_names(sources),
    }
    _write_all(sources, targets, alignments, how)
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
    """Return the file that each alignment goes to, and refuse to replace what is there."""
    if output_dir is None:
        targets = list(sources)
    else:
        targets = [Path(output_dir) / source.name for source in sources]
    finals = [target.resolve() for target in targets]
    for i, final in enumerate(finals):
        if final in finals[:i]:
            raise UserError(
                f"{sources[finals.index(final)]} and {sources[i]} would both be written to "
                f"{final}: every session needs a file of its own, with a name of its own."
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
    if not os.access(path, os.W_OK):
        raise FileAccessError(
            f"{path} is write-protected: allow writing, or have copies made with output_dir (on "
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
    labels = [psth.labels.tolist() for psth in psths]
    known = list(dict.fromkeys(label for here in labels for label in here))
    lacking = [
        f"{path} lacks {[label for label in known if label not in here]}"
        for path, here in zip(paths, labels, strict=True)
        if len(here) < len(known)
    ]
    if lacking:
        raise UserError(
            f"Sessions are aligned by the same conditions, but of the {len(known)} in "
            f"train_cond_idx {'; '.join(lacking)}. Give a condition the same label in every file, "
            f"and take out those that a session has no training trials of."
        )


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return the paths without the folders that they share."""
    absolute = [path.absolute() for path in paths]
    shared = os.path.commonpath([path.parent for path in absolute])
    return [path.relative_to(shared).as_posix() for path in absolute]


def _write_all(
    sources: Sequence[Path],
    targets: Sequence[Path],
    alignments: Sequence[Alignment],
    how: dict[str, Any],
) -> None:
    """Copy every file with its alignment, then put all copies in place."""
    # A link stays a link: the file that it leads to is replaced. No pattern of sessions matches
    # the name of a copy that a kill leaves behind, and the next alignment overwrites it.
    finals = [target.resolve() for target in targets]
    unfinished = [final.with_name(f".{final.name}.aligning") for final in finals]
    try:
        for source, final, copy, alignment in zip(
            sources, finals, unfinished, alignments, strict=True
        ):
            final.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
            if final.exists():
                shutil.copymode(final, copy)
            _write(copy, alignment, how)
        for copy, final in zip(unfinished, finals, strict=True):
            os.replace(copy, final)
    finally:
        for copy in unfinished:
            copy.unlink(missing_ok=True)


def _write(path: Path, alignment: Alignment, how: dict[str, Any]) -> None:
    """Set the two arrays of a file, and nothing else, and wait until they are on the disk."""
    with h5py.File(path, "r+") as file:
        for name, array in ((WEIGHT, alignment.readin_weight), (BIAS, alignment.readout_bias)):
            if name in file:
                del file[name]
            dataset = file.create_dataset(name, data=array.astype(np.float32), track_times=False)
            dataset.attrs.update(how)
    with path.open("rb+") as written:
        os.fsync(written.fileno())
