"""Principal components regression: the linear maps between channels and shared components."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfads_torch.errors import UserError

Floats = NDArray[np.float64]

NEGLIGIBLE_VARIATION = 1e-10
"""A channel whose changes, relative to its mean, are smaller than this counts as constant."""

NEGLIGIBLE_SINGULAR_VALUE = 1e-6
"""A singular value of the weights, relative to the largest, that is smaller counts as zero."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """The linear map between the channels of one session and the components that sessions share.

    With x (time, N) in spikes per bin, a read-in computes
    ``x @ readin_weight - readout_bias @ readin_weight``, and a read-out of components f (time, P)
    computes ``f @ pinv(readin_weight) + readout_bias``.

    Attributes
    ----------
    readin_weight
        (N, P), components per spike per bin.
    readout_bias
        (N,), the mean of each channel over conditions and bins, which centres the PSTHs. With a
        Poisson reconstruction the read-out gives log rates, so that these means of rates are only
        initial values for its training, as in the published package.
    score
        R²: the fraction of the shared components' variance that this session's PSTHs explain
        through ``readin_weight``.
    explained_variance
        The fraction of the variance of this session's PSTHs that lies in the space of the shared
        components.
    """

    readin_weight: Floats
    readout_bias: Floats
    score: float
    explained_variance: float


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

    Channels are not scaled, so that those whose rates change most have the largest influence. A
    single session is aligned with itself.

    Parameters
    ----------
    psths
        The PSTHs of each session, (conditions, time, channels); conditions and bins must be the
        same in all sessions.
    n_components
        P, the number of shared components.
    ridge_alpha
        α, the penalty on the squared weights.
    names
        Names of the sessions, for messages.

    Returns
    -------
    list of Alignment
        One for each session. The weights of a channel that does not vary are zero.

    Raises
    ------
    UserError
        If the shapes differ, values are not finite, a session does not vary, or there are fewer
        than ``n_components`` dimensions.

    Warns
    -----
    UserWarning
        If a session has fewer (varying) channels than there are components: its read-in applied
        after its read-out is then a projection and not the identity.
    """
    arrays = [np.asarray(psth, dtype=np.float64) for psth in psths]
    names = [f"session {s}" for s in range(len(arrays))] if names is None else list(names)
    check_arguments(n_components, ridge_alpha)
    _check_psths(arrays, names)
    sessions = [array.reshape(-1, array.shape[-1]) for array in arrays]
    means = [session.mean(axis=0) for session in sessions]
    centred = [session - mean for session, mean in zip(sessions, means, strict=True)]
    varying = [
        np.abs(session).max(axis=0) > NEGLIGIBLE_VARIATION * np.abs(mean)
        for session, mean in zip(centred, means, strict=True)
    ]
    for name, channels in zip(names, varying, strict=True):
        if not channels.any():
            raise UserError(
                f"The PSTHs of {name} do not vary over bins and conditions, so nothing in them can "
                f"be aligned: leave the session out, or check its data and conditions."
            )
    shared = _shared_components(centred, n_components, arrays[0].shape[:2])
    alignments = []
    for session in zip(names, centred, means, varying, strict=True):
        alignments.append(_align_session(*session, shared, ridge_alpha))
    return alignments


def _shared_components(
    centred: Sequence[Floats], n_components: int, n_conditions_and_bins: tuple[int, ...]
) -> Floats:
    """Return the principal components (samples, P) of the channels of all sessions together."""
    from sklearn.decomposition import PCA

    together = np.concatenate(centred, axis=1)
    pca = PCA(svd_solver="full")
    components = pca.fit_transform(together)
    largest = pca.singular_values_[0]
    tolerance = largest * max(together.shape) * np.finfo(np.float64).eps
    n_dimensions = int((pca.singular_values_ > tolerance).sum())
    if n_components > n_dimensions:
        n_conditions, n_bins = n_conditions_and_bins
        raise UserError(
            f"n_components = {n_components}, but the PSTHs (conditions: {n_conditions}, bins: "
            f"{n_bins}, channels of all sessions: {together.shape[1]}) have {n_dimensions} "
            f"dimensions: choose at most as many components."
        )
    return components[:, :n_components]


def _align_session(
    name: str,
    centred: Floats,
    mean: Floats,
    varying: NDArray[np.bool_],
    shared: Floats,
    ridge_alpha: float,
) -> Alignment:
    """Regress the shared components (samples, P) on the channels of a session (samples, N)."""
    from sklearn.linear_model import Ridge

    n_components = shared.shape[1]
    ridge = Ridge(alpha=ridge_alpha, fit_intercept=False, solver="svd")
    coefficients = ridge.fit(centred[:, varying], shared).coef_.reshape(n_components, -1)
    weight = np.zeros((len(mean), n_components))
    weight[varying] = coefficients.T
    _check_rank(weight, int(varying.sum()), name)
    # The components are orthogonal, so the variance within their space is a sum over components.
    within = np.sum((shared.T @ centred) ** 2 / np.sum(shared**2, axis=0)[:, None])
    return Alignment(
        readin_weight=weight,
        readout_bias=mean,
        score=float(1 - np.sum((shared - centred @ weight) ** 2) / np.sum(shared**2)),
        explained_variance=float(within / np.sum(centred**2)),
    )


def check_arguments(n_components: int, ridge_alpha: float) -> None:
    """Raise a UserError if the number of components or the penalty is out of range."""
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
    """Refuse PSTHs of different or wrong shapes, or with values that are not finite."""
    if not arrays:
        raise UserError("There is no session to align: give the PSTHs of at least one.")
    for name, array in zip(names, arrays, strict=True):
        if array.ndim != 3 or 0 in array.shape:
            raise UserError(
                f"The PSTHs of {name} must be (conditions, time, channels), but their shape is "
                f"{array.shape}."
            )
        if array.shape[:2] != arrays[0].shape[:2]:
            this, first = (
                f"{a.shape[0]} conditions of {a.shape[1]} bins" for a in (array, arrays[0])
            )
            raise UserError(
                f"The PSTHs of {name} have {this}, but those of {names[0]} have {first}: sessions "
                f"are aligned by the same conditions and bins. Cut their trials alike."
            )
        if not np.isfinite(array).all():
            raise UserError(
                f"The PSTHs of {name} hold values that are not finite: every channel needs a rate "
                f"at every bin of every condition."
            )


def _check_rank(weight: Floats, n_varying: int, name: str) -> None:
    """Refuse weights that have no stable pseudoinverse; warn if it is not an inverse."""
    n_components = weight.shape[1]
    values = np.linalg.svd(weight, compute_uv=False)
    rank = int((values > NEGLIGIBLE_SINGULAR_VALUE * values[0]).sum())
    if rank < min(n_varying, n_components):
        raise UserError(
            f"n_components = {n_components}, but the {n_varying} channels of {name} that vary "
            f"determine only {rank} of the components, so no read-out can be made from them: "
            f"choose at most {rank} components, or leave out channels that copy others."
        )
    if rank < n_components:
        warnings.warn(
            f"{name} has {rank} channels that vary, fewer than the {n_components} components: its "
            f"read-in after its read-out is not the identity. At most {rank} components make it "
            f"one.",
            stacklevel=4,
        )
