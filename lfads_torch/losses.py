"""The terms of the loss, and how they add up (Pandarinath et al. 2018; Sussillo et al. 2016).

    L = loss_scale · (recon + ramp_l2 · l2 + ramp_kl · (kl_ic + kl_co))

Pure functions of tensors and numbers.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def ramp(epoch: int, start: int, increase: int) -> float:
    """Return the ramp of a penalty in an epoch: clip((epoch + 1 - start)/(increase + 1), 0, 1).

    The ramp multiplies the penalty. It rises linearly from epoch ``start`` on and reaches 1 after
    ``increase`` further epochs.

    Parameters
    ----------
    epoch
        The epoch, counted from 0.
    start
        The first epoch in which the penalty applies.
    increase
        The number of epochs over which the ramp rises; 0 applies the whole penalty from ``start``.

    Returns
    -------
    float
        A number between 0 and 1.
    """
    return min(max((epoch + 1 - start) / (increase + 1), 0.0), 1.0)


def total_loss(
    recon: Tensor,
    l2: Tensor,
    l2_ramp: float | Tensor,
    kl: Tensor,
    kl_ramp: float | Tensor,
    loss_scale: float,
) -> Tensor:
    """Return the loss that is minimised: loss_scale · (recon + l2_ramp · l2 + kl_ramp · kl).

    Parameters
    ----------
    recon
        Reconstruction loss, the mean over sessions.
    l2, l2_ramp
        L2 penalty, and its ramp.
    kl, kl_ramp
        KL divergences of initial condition and controller output, scaled, and their ramp.
    loss_scale
        Factor of the whole loss.

    Returns
    -------
    Tensor
        A scalar.
    """
    return loss_scale * (recon + (l2_ramp * l2 + kl_ramp * kl))


def reduce_recon(losses: Tensor, mean: bool) -> Tensor:
    """Reduce the reconstruction losses (B, T, N) to a scalar.

    Parameters
    ----------
    losses
        (B, T, N) losses of single samples.
    mean
        Whether to average over all samples. Otherwise the losses are summed over bins and channels
        and averaged over trials.

    Returns
    -------
    Tensor
        A scalar.
    """
    # The sum is divided here, because the gradient of losses.mean() is a tensor as large as losses,
    # while that of a sum is a single number, which is expanded.
    return losses.sum() / (losses.numel() if mean else len(losses))


class LossTerms(NamedTuple):
    """The terms of one batch, each a scalar."""

    recon_sessions: dict[int, Tensor]
    """Reconstruction loss of each session."""
    l2: Tensor
    """L2 penalty, scaled, without its ramp."""
    kl_ic: Tensor
    """KL divergence of the initial condition, scaled, without its ramp."""
    kl_co: Tensor
    """KL divergence of the controller output, scaled, without its ramp."""
    l2_ramp: float
    """Ramp of the L2 penalty, between 0 and 1."""
    kl_ramp: float
    """Ramp of the KL divergences, between 0 and 1."""
    loss_scale: float
    """The factor of the sum of all terms."""

    @property
    def recon(self) -> Tensor:
        """Mean of the reconstruction losses over sessions."""
        return torch.stack(list(self.recon_sessions.values())).mean()

    @property
    def kl(self) -> Tensor:
        """Both divergences together, scaled, without their ramp."""
        return self.kl_ic + self.kl_co

    @property
    def total(self) -> Tensor:
        """The total loss, which is minimised."""
        return total_loss(self.recon, self.l2, self.l2_ramp, self.kl, self.kl_ramp, self.loss_scale)
