"""Scores of a model that can be compared between models, and their averages over an epoch."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lfads_torch import utils
from lfads_torch.recurrence import poisson_sums


def r2_score(preds: Tensor, targets: Tensor) -> Tensor:
    """Return the coefficient of determination, averaged over channels.

    Parameters
    ----------
    preds, targets
        (..., N); every axis but the last is a sample. Channels that do not vary are left out.

    Returns
    -------
    Tensor
        A scalar of at most 1; NaN if no channel varies.
    """
    preds, targets = preds.flatten(0, -2), targets.flatten(0, -2)
    total = ((targets - targets.mean(dim=0)) ** 2).sum(dim=0)
    residual = ((targets - preds) ** 2).sum(dim=0)
    # A comparison with 0 would not do, because the mean of a constant channel is rounded.
    varies = targets.amax(dim=0) > targets.amin(dim=0)
    return (1 - residual / total)[varies].mean()


def bits_per_spike(preds: Tensor, targets: Tensor) -> Tensor:
    r"""Return how many bits each spike is better predicted than by a constant rate.

    :math:`(\mathrm{NLL}_{null} - \mathrm{NLL}_{model}) / (\log 2 · Σ counts)` with Poisson
    likelihoods, where the null's rate is each channel's mean (Pei et al. 2021, the Neural Latents
    Benchmark). Terms that do not depend on the rate cancel.

    Parameters
    ----------
    preds
        (B, T, N) log rates in spikes per bin.
    targets
        (B, T, N) spike counts; samples that are NaN are left out.

    Returns
    -------
    Tensor
        A scalar; NaN if there is no spike.
    """
    return _bits(_PoissonSums.of(preds, targets))


class _PoissonSums(NamedTuple):
    """Sums over trials, each (T, N), from which bits per spike are computed."""

    counts: Tensor
    nll: Tensor
    """Negative log-likelihood of the model, without terms that do not depend on the rates."""
    n_observed: Tensor

    @classmethod
    def of(cls, preds: Tensor, targets: Tensor) -> "_PoissonSums":
        preds = preds.to(targets.dtype)
        if utils.on_cpu(targets):  # On other devices, testing for NaN takes longer than masking it.
            counts, nll = poisson_sums(preds, targets)
            if not counts.isnan().any():
                return cls(counts, nll, targets.new_full((), len(targets)).expand_as(counts))
        observed = ~targets.isnan()
        counts = targets.nan_to_num(nan=0.0)
        nll = torch.where(observed, torch.exp(preds) - preds * counts, 0.0)
        return cls(counts.sum(dim=0), nll.sum(dim=0), observed.sum(dim=0))

    def region(self, bins: slice, channels: slice) -> "_PoissonSums":
        return _PoissonSums(*(sums[bins, channels] for sums in self))


def _bits(sums: _PoissonSums) -> Tensor:
    """Return bits per spike, a scalar, or NaN if there is no spike."""
    counts, n_observed = sums.counts.sum(dim=0), sums.n_observed.sum(dim=0)
    null_rates = counts / n_observed.clamp(min=1)
    nll_null = counts - counts * torch.log(null_rates + 1e-8)
    n_spikes = counts.sum()
    bits = (nll_null.sum() - sums.nll.sum()) / (math.log(2) * n_spikes)
    return bits.masked_fill(n_spikes == 0, torch.nan)


def regional_bits_per_spike(
    preds: Tensor, targets: Tensor, encod_data_dim: int, encod_seq_len: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the bits per spike of encoded samples, of held-out channels and of later bins.

    Parameters
    ----------
    preds, targets
        (B, T_rec, N) log rates and spike counts.
    encod_data_dim, encod_seq_len
        N_enc and T_enc.

    Returns
    -------
    tuple of Tensor
        ``bps`` (encoded channels and bins), ``co_bps`` (co-smoothing: the other channels in the
        encoded bins) and ``fp_bps`` (forward prediction: all channels in the later bins); NaN for
        a region that is empty.
    """
    n, t = encod_data_dim, encod_seq_len
    sums = _PoissonSums.of(preds, targets)
    return (
        _bits(sums.region(slice(t), slice(n))),
        _bits(sums.region(slice(t), slice(n, None))),
        _bits(sums.region(slice(t, None), slice(None))),
    )


class ExpSmoothedMetric:
    """A mean over each epoch, smoothed exponentially over epochs: s ← coef · s + (1 - coef) · x.

    It starts at the first epoch's mean. The smoothed value has to be saved in checkpoints, see
    :meth:`state_dict`.

    Parameters
    ----------
    coef
        Weight of the past.
    """

    def __init__(self, coef: float = 0.3) -> None:
        self.coef = coef
        self.smoothed: float | None = None
        self.reset()

    def update(self, value: Tensor | float, batch_size: int = 1) -> None:
        """Add a batch's mean, weighted with the number of its trials."""
        self.total += float(value) * batch_size
        self.count += batch_size

    def compute(self) -> float:
        """End the epoch: smooth its mean, forget its batches, and return the smoothed value.

        It is NaN if there was neither a batch nor an earlier epoch.
        """
        if self.count:
            mean = self.total / self.count
            past = mean if self.smoothed is None else self.smoothed
            self.smoothed = self.coef * past + (1 - self.coef) * mean
        self.reset()
        return math.nan if self.smoothed is None else self.smoothed

    def reset(self) -> None:
        """Forget the batches of this epoch, but not the earlier epochs."""
        self.total = 0.0
        self.count = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state that is saved in checkpoints, to continue after an epoch."""
        return {"smoothed": self.smoothed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that :meth:`state_dict` returned."""
        self.smoothed = state["smoothed"]
        self.reset()


class EpochMeans:
    """Weighted means of named values over the steps of an epoch.

    A value that belongs to a session is averaged within its session first; then the mean is taken
    over sessions, with equal weights. Values that are NaN (bits per spike of a batch without
    spikes, say) are left out. Nothing is copied from the device before :meth:`compute`.
    """

    _MOST_PENDING = 64

    def __init__(self) -> None:
        # Values and weights that have not been added up yet, by name and session, and the sums.
        self._pending: dict[str, dict[int | None, list[tuple[Tensor | float, int]]]] = {}
        self._sums: dict[tuple[str, int | None], Tensor] = {}

    def update(
        self, name: str, value: Tensor | float, weight: int = 1, session: int | None = None
    ) -> None:
        """Add a scalar, weighted with the number of trials that it is a mean of."""
        if isinstance(value, Tensor):
            value = value.detach()
        pending = self._pending.setdefault(name, {}).setdefault(session, [])
        pending.append((value, weight))
        # Adding up many values at once takes little longer than adding up one.
        if len(pending) >= self._MOST_PENDING:
            self._add_up(name, session)

    def _add_up(self, name: str, session: int | None) -> Tensor:
        """Return the sum of values times weights, and that of weights."""
        pending = self._pending[name][session]
        if pending:
            values = torch.stack([torch.as_tensor(value) for value, _ in pending])
            weights = values.new_tensor([weight for _, weight in pending])
            weights = torch.where(values.isnan(), 0.0, weights)
            total = torch.where(weights > 0, values * weights, 0.0).sum()
            sums = torch.stack([total, weights.sum()])
            self._sums[name, session] = self._sums.get((name, session), 0) + sums
            pending.clear()
        return self._sums[name, session]

    def compute(self) -> dict[str, Tensor]:
        """Return the mean of every name, or NaN if there was no value."""
        means = {}
        for name, sessions in self._pending.items():
            sums = torch.stack([self._add_up(name, session) for session in sessions])
            means[name] = (sums[:, 0] / sums[:, 1]).nanmean()
        return means
