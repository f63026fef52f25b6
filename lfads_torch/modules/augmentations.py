"""Transforms of a batch before the model sees it, and of its reconstruction losses.

A transform is any object with ``process_batch(batch) -> batch``, or with
``process_losses(losses, batch, log_fn, split) -> losses``, or with both; there is nothing to
subclass. Anything that a transform must remember about a batch travels with the batch, in
:class:`AugmentedBatch`, never on the transform.

Where there are bins that only the initial-condition encoder sees (``ic_enc_seq_len`` = T_ic > 0),
no mask hides them, and their losses always pass gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lfads_torch import recurrence
from lfads_torch.errors import UserError
from lfads_torch.recurrence import random_mask
from lfads_torch.tuples import SessionBatch

LogFn = Callable[..., None]
"""Called as ``log_fn(name, value)``; further keyword arguments are accepted and ignored."""


class AugmentedBatch(SessionBatch):
    """A :class:`~lfads_torch.tuples.SessionBatch` with notes that transforms made about it."""

    notes: Mapping[Any, Tensor] = MappingProxyType({})
    """Tensors, such as the mask of hidden samples, by the transform that made them."""

    def _replace(self, **fields: Any) -> "AugmentedBatch":
        """Return a batch with other fields and the same notes."""
        return self.annotate(super()._replace(**fields), self.notes)

    @classmethod
    def annotate(cls, batch: SessionBatch, notes: Mapping[Any, Tensor]) -> "AugmentedBatch":
        """Return ``batch`` with ``notes`` in addition to any that it already has."""
        annotated = cls(*batch)
        annotated.notes = {**notes_of(batch), **notes}
        return annotated


def notes_of(batch: SessionBatch) -> Mapping[Any, Tensor]:
    """Return the notes that transforms made about the batch."""
    return batch.notes if isinstance(batch, AugmentedBatch) else {}


class AugmentationStack:
    """Transforms, and the orders in which they act on batches and on losses.

    Parameters
    ----------
    transforms
        The transforms.
    batch_order, loss_order
        Indices of the transforms that act on the batch, and on the losses, in this order.

    Raises
    ------
    ValueError
        If an index is out of range, or if the transform that it names lacks the method needed.
    """

    def __init__(
        self,
        transforms: Sequence[Any] = (),
        batch_order: Sequence[int] = (),
        loss_order: Sequence[int] = (),
    ) -> None:
        self.transforms = list(transforms)
        self.batch_order = list(batch_order)
        self.loss_order = list(loss_order)
        for name, order, method in [
            ("batch_order", self.batch_order, "process_batch"),
            ("loss_order", self.loss_order, "process_losses"),
        ]:
            for i in order:
                if not -len(self.transforms) <= i < len(self.transforms):
                    raise UserError(
                        f"{name} names transform {i}, but there are {len(self.transforms)} "
                        f"transforms, counted from 0."
                    )
                if not callable(getattr(self.transforms[i], method, None)):
                    raise UserError(
                        f"{name} names transform {i}, but {type(self.transforms[i]).__name__} has "
                        f"no method {method}: take {i} out of {name}, or write the method."
                    )

    def process_batch(self, batch: SessionBatch) -> SessionBatch:
        """Apply the transforms of ``batch_order``."""
        for i in self.batch_order:
            notes = notes_of(batch)
            batch = AugmentedBatch.annotate(self.transforms[i].process_batch(batch), notes)
        return batch

    def process_losses(
        self, losses: Tensor, batch: SessionBatch, log_fn: LogFn, split: str
    ) -> Tensor:
        """Apply the transforms of ``loss_order`` to losses (B, T_rec, N).

        ``batch`` is what :meth:`process_batch` returned; ``split`` is "train" or "valid".
        """
        for i in self.loss_order:
            losses = self.transforms[i].process_losses(losses, batch, log_fn, split)
        return losses


class CoordinatedDropout:
    """Hide input samples, and learn only from how those are reconstructed.

    Each input sample is zeroed with probability ``cd_rate`` and the others are scaled up by
    1 / (1 - cd_rate). Gradients of the loss flow only through samples that were zeroed, so that
    the model cannot learn to copy its input (Keshtkaran & Pandarinath 2019, arXiv 1908.07896).
    Samples that the encoder never sees always pass gradients. The loss's value does not change.

    Parameters
    ----------
    cd_rate
        Probability that an input sample is zeroed; 0 switches the transform off.
    cd_pass_rate
        Fraction of the samples that were not zeroed whose gradients flow nevertheless.
    ic_enc_seq_len
        T_ic.

    Raises
    ------
    ValueError
        If a rate is out of range.
    """

    def __init__(self, cd_rate: float, cd_pass_rate: float = 0.0, ic_enc_seq_len: int = 0) -> None:
        if not 0 <= cd_rate < 1:
            raise UserError(f"cd_rate must be at least 0 and below 1, but is {cd_rate}.")
        if not 0 <= cd_pass_rate <= 1:
            raise UserError(f"cd_pass_rate must be between 0 and 1, but is {cd_pass_rate}.")
        self.cd_rate = cd_rate
        self.cd_pass_rate = cd_pass_rate
        self.ic_enc_seq_len = ic_enc_seq_len

    def process_batch(self, batch: SessionBatch) -> SessionBatch:
        """Zero and scale the input from bin T_ic on."""
        if self.cd_rate == 0:
            return batch
        t_ic, data = self.ic_enc_seq_len, batch.encod_data
        maskable = data[:, t_ic:]
        passed = random_mask(maskable.shape, self.cd_rate, data.device)
        masked = recurrence.masked(maskable, ~passed, 1 / (1 - self.cd_rate))
        if t_ic:
            masked = torch.cat([data[:, :t_ic], masked], dim=1)
        if self.cd_pass_rate > 0:
            passed |= random_mask(maskable.shape, self.cd_pass_rate, data.device)
        return AugmentedBatch.annotate(batch._replace(encod_data=masked), {self: passed})

    def process_losses(
        self, losses: Tensor, batch: SessionBatch, log_fn: LogFn, split: str
    ) -> Tensor:
        """Stop the gradients of the samples that were not zeroed."""
        if self.cd_rate == 0:
            return losses
        passed = _in_target(_note(self, batch), losses, self.ic_enc_seq_len)
        return recurrence.pass_gradients(losses, passed)


class SelectiveBackpropThruTime:
    """Train on data with missing samples, marked by NaN (Zhu et al. 2021, NeurIPS).

    A missing input becomes 0. A missing target has neither loss nor gradient, and the losses of
    the others are divided by the fraction of the batch's target that was observed, so that means
    and sums stay comparable.
    """

    def process_batch(self, batch: SessionBatch) -> SessionBatch:
        """Replace missing samples (NaN) of input and target.

        Missing targets become the mean of their channel over the batch. They then lie in the
        support of the likelihood, so that their losses, which are masked later, are finite. A
        channel without any observed sample gets the mean over channels.
        """
        observed = ~batch.recon_data.isnan()
        counts = observed.sum(dim=(0, 1), keepdim=True)
        means = batch.recon_data.nansum(dim=(0, 1), keepdim=True) / counts.clamp(min=1)
        overall = batch.recon_data.nanmean().nan_to_num(nan=1.0)
        filled = torch.where(counts > 0, means, overall)
        return AugmentedBatch.annotate(
            batch._replace(
                encod_data=batch.encod_data.nan_to_num(nan=0.0),
                recon_data=torch.where(observed, batch.recon_data, filled),
            ),
            {self: observed},
        )

    def process_losses(
        self, losses: Tensor, batch: SessionBatch, log_fn: LogFn, split: str
    ) -> Tensor:
        """Mask the losses of missing targets and scale up the others."""
        observed = _note(self, batch)
        fraction = observed.to(losses.dtype).mean().clamp(min=torch.finfo(losses.dtype).tiny)
        return torch.where(observed, losses / fraction, torch.zeros_like(losses))


class SpikeJitter:
    """Move every spike by a uniformly drawn number of bins, independently in input and target.

    Counts are kept: a spike that would leave the window is reflected at its end. Fractional parts
    and missing samples do not move.

    Parameters
    ----------
    width
        Spikes move by -width … width bins.
    """

    def __init__(self, width: int = 2) -> None:
        if width < 0:
            raise UserError(f"width of SpikeJitter must be at least 0, but is {width}.")
        self.width = width

    def process_batch(self, batch: SessionBatch) -> SessionBatch:
        """Jitter input and target."""
        return batch._replace(
            encod_data=self._jitter(batch.encod_data), recon_data=self._jitter(batch.recon_data)
        )

    def _jitter(self, data: Tensor) -> Tensor:
        """Jitter data (B, T, N)."""
        n_bins = data.shape[1]
        spikes = data.nan_to_num(nan=0.0).floor().clamp(min=0)
        trial, time, channel = spikes.nonzero(as_tuple=True)
        repeats = spikes[trial, time, channel].long()
        trial, time, channel = (i.repeat_interleave(repeats) for i in (trial, time, channel))
        moved = time + torch.randint(-self.width, self.width + 1, time.shape, device=time.device)
        # A triangle wave of this period reflects at both ends, however far a spike would go.
        period = max(2 * (n_bins - 1), 1)
        moved = moved.remainder(period)
        moved = torch.minimum(moved, period - moved) if n_bins > 1 else torch.zeros_like(time)
        # A spike that would move to a missing sample stays.
        time = torch.where(data.isnan()[trial, moved, channel], time, moved)
        jittered = torch.zeros_like(data).index_put(
            (trial, time, channel), data.new_ones(()), accumulate=True
        )
        return jittered + (data - spikes)


class TemporalShift:
    """Shift each channel of each trial in time, independently in input and target.

    Parameters
    ----------
    std
        Standard deviation, in bins, of the normal distribution that the shifts are rounded from.
    max_shift
        Largest shift in bins; larger ones are clipped.
    """

    def __init__(self, std: float = 3.0, max_shift: int = 6) -> None:
        if std < 0 or max_shift < 0:
            raise UserError(
                f"std and max_shift of TemporalShift must be at least 0, but are {std} and "
                f"{max_shift}."
            )
        self.std = std
        self.max_shift = max_shift

    def process_batch(self, batch: SessionBatch) -> SessionBatch:
        """Shift input and target; bins at the ends repeat the first or the last sample."""
        return batch._replace(
            encod_data=self._shift(batch.encod_data), recon_data=self._shift(batch.recon_data)
        )

    def _shift(self, data: Tensor) -> Tensor:
        """Shift data (B, T, N)."""
        n_trials, n_bins, n_channels = data.shape
        drawn = torch.randn(n_trials, 1, n_channels, device=data.device) * self.std
        shifts = drawn.round().clamp(-self.max_shift, self.max_shift).long()
        time = torch.arange(n_bins, device=data.device)[None, :, None]
        return data.gather(1, (time - shifts).clamp(0, n_bins - 1))


class SampleValidation:
    """Hold out single samples for validation.

    The data module draws ``sv_mask`` once, from ``sv_seed`` with rate ``sv_rate``. Samples where it
    is 0 are zeroed in the input and have no part in the loss; their own loss is logged as
    ``{split}/recon/sv``.

    Parameters
    ----------
    sv_rate
        Fraction of the samples that the mask holds out; 0 switches the transform off.
    ic_enc_seq_len
        T_ic.
    recon_reduce_mean
        Whether the mean over the held-out samples is logged. Otherwise, their sum over bins and
        channels is logged, averaged over trials.
    """

    def __init__(
        self, sv_rate: float, ic_enc_seq_len: int = 0, recon_reduce_mean: bool = True
    ) -> None:
        if not 0 <= sv_rate < 1:
            raise UserError(f"sv_rate must be at least 0 and below 1, but is {sv_rate}.")
        self.sv_rate = sv_rate
        self.ic_enc_seq_len = ic_enc_seq_len
        self.recon_reduce_mean = recon_reduce_mean

    def _kept(self, batch: SessionBatch) -> Tensor | None:
        """Return the mask as booleans, or None where nothing is held out."""
        if self.sv_rate == 0:
            return None
        if batch.sv_mask is None or batch.sv_mask.numel() == 0:
            raise UserError(
                f"SampleValidation has sv_rate = {self.sv_rate}, but the data have no sv_mask: set "
                f"datamodule.sv_rate to the same value."
            )
        return batch.sv_mask.bool()

    def process_batch(self, batch: SessionBatch) -> SessionBatch:
        """Zero the held-out samples of the input."""
        kept = self._kept(batch)
        if kept is None:
            return batch
        t_ic, data = self.ic_enc_seq_len, batch.encod_data
        masked = data[:, t_ic:] * kept
        if t_ic:
            masked = torch.cat([data[:, :t_ic], masked], dim=1)
        return batch._replace(encod_data=masked)

    def process_losses(
        self, losses: Tensor, batch: SessionBatch, log_fn: LogFn, split: str
    ) -> Tensor:
        """Log the losses of the held-out samples and set them to zero."""
        kept = self._kept(batch)
        if kept is None:
            return losses
        kept = _in_target(kept, losses, self.ic_enc_seq_len)
        held_out = losses.detach()[~kept]
        denominator = held_out.numel() if self.recon_reduce_mean else len(losses)
        log_fn(f"{split}/recon/sv", held_out.sum() / max(denominator, 1))
        return torch.where(kept, losses, torch.zeros_like(losses))


def _note(transform: Any, batch: SessionBatch) -> Tensor:
    """Return what a transform stored about the batch when it processed it."""
    notes = notes_of(batch)
    if transform not in notes:
        raise UserError(
            f"{type(transform).__name__} has to process the losses of a batch that it did not "
            f"process: name it in batch_order as well as in loss_order, and pass on the batch that "
            f"process_batch returned."
        )
    return notes[transform]


def _in_target(mask: Tensor, losses: Tensor, t_ic: int) -> Tensor:
    """Extend a mask of the encoded samples from bin T_ic on to the target, by True elsewhere."""
    _, n_bins, n_channels = mask.shape
    later, unseen = losses.shape[1] - t_ic - n_bins, losses.shape[2] - n_channels
    if later < 0 or unseen < 0:
        raise UserError(
            f"The input has {t_ic + n_bins} bins and {n_channels} channels, the target "
            f"{losses.shape[1]} and {losses.shape[2]}: this transform needs the input to be the "
            f"first bins and channels of the target."
        )
    return F.pad(mask, (0, unseen, t_ic, later), value=True)
