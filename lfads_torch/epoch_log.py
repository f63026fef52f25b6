"""Averages losses and metrics over the steps of an epoch, and names them for logging."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lfads_torch import utils
from lfads_torch.losses import LossTerms, total_loss
from lfads_torch.metrics import EpochMeans, r2_score, regional_bits_per_spike
from lfads_torch.modules.augmentations import CoordinatedDropout
from lfads_torch.modules.recons import Reconstruction
from lfads_torch.tuples import SessionBatch, SessionOutput


@torch.no_grad()
def record_losses(means: EpochMeans, terms: LossTerms, n_trials: Mapping[int, int]) -> None:
    """Add the losses of a step to the means of its epoch.

    Parameters
    ----------
    means
        The means of the epoch.
    terms
        The terms of the step's loss.
    n_trials
        Trials of each session in the step.
    """
    for session, loss in terms.recon_sessions.items():
        means.update("recon", loss, n_trials[session], session=session)
        means.update(f"recon/sess{session}", loss, n_trials[session])
    values: dict[str, Tensor | float] = {
        "wt_l2": terms.l2,
        "wt_l2/ramp": terms.l2_ramp,
        "wt_kl": terms.kl,
        "wt_kl/ic": terms.kl_ic,
        "wt_kl/co": terms.kl_co,
        "wt_kl/ramp": terms.kl_ramp,
    }
    for name, value in values.items():
        means.update(name, value, sum(n_trials.values()))


@torch.no_grad()
def record_metrics(
    means: EpochMeans,
    session: int,
    recon: Reconstruction,
    raw: SessionBatch,
    batch: SessionBatch,
    output: SessionOutput,
    hps: Any,
) -> None:
    """Add bits per spike and R² of a session in a step to the means of its epoch.

    Parameters
    ----------
    means
        The means of the epoch.
    session
        The session.
    recon
        Its reconstruction.
    raw, batch
        Its trials before and after augmentation.
    output
        What the model infers about them, with distribution parameters.
    hps
        The model's hyperparameters.
    """
    n_trials = len(batch.encod_data)
    log_rates = recon.spike_log_rates(output.output_params)
    if log_rates is not None:
        bps = regional_bits_per_spike(
            log_rates,
            _with_missing(batch.recon_data, raw.recon_data),
            raw.encod_data.shape[2],
            hps.encod_seq_len,
        )
        for name, value in zip(("bps", "co_bps", "fp_bps"), bps, strict=True):
            means.update(name, value.clamp(min=-1), n_trials, session=session)
    r2 = batch.recon_data.new_tensor(torch.nan)
    if batch.truth is not None and batch.truth.numel():
        rates = recon.compute_means(output.output_params)
        t_ic = hps.ic_enc_seq_len
        r2 = r2_score(rates[:, t_ic : t_ic + batch.truth.shape[1]], batch.truth)
    means.update("r2", r2, n_trials, session=session)


def _with_missing(processed: Tensor, raw: Tensor) -> Tensor:
    """Return processed data with NaN where the raw data have NaN, so that metrics leave it out."""
    # On devices other than a CPU, testing for NaN takes longer than replacing all values.
    if processed is raw or (utils.on_cpu(raw) and not raw.sum().isnan()):
        return processed
    return processed.masked_fill(raw.isnan(), torch.nan)


def named_means(means: EpochMeans, split: str, loss_scale: float) -> dict[str, Tensor]:
    """Return the means under the names by which they are logged, and the loss that follows.

    Parameters
    ----------
    means
        The means of the epoch.
    split
        ``"train"`` or ``"valid"``, which precedes the names.
    loss_scale
        Factor of the whole loss.
    """
    values = means.compute()
    loss = total_loss(
        values["recon"],
        values["wt_l2"],
        values["wt_l2/ramp"],
        values["wt_kl"],
        values["wt_kl/ramp"],
        loss_scale,
    )
    named = {f"{split}/loss": loss}
    for name, value in values.items():
        # Augmentations log their values under full names.
        named[name if name.startswith(f"{split}/") else f"{split}/{name}"] = value
    return named


def hyperparameter_values(model: Any) -> dict[str, float]:
    """Return the hyperparameters that are logged in each epoch, under ``hp/…``."""
    hps = model.hparams
    names = ["lr_init", "dropout_rate", "weight_decay", "kl_co_scale", "kl_ic_scale"]
    names += [f"l2_{part}_scale" for part in ("ic_enc", "ci_enc", "gen", "con")]
    values = {f"hp/{name}": float(hps[name]) for name in names}
    for transform in model.train_aug_stack.transforms:
        if isinstance(transform, CoordinatedDropout):
            values["hp/cd_rate"] = float(transform.cd_rate)
    return values
