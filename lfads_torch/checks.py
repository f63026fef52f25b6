"""Checks of a model's sizes, of data against a model, and of the loss."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning.plugins.precision import MixedPrecision

from lfads_torch.errors import UserError
from lfads_torch.losses import LossTerms
from lfads_torch.modules.priors import location_scale
from lfads_torch.tuples import EncoderOutput, SessionBatch


class NonFiniteLossError(UserError):
    """The loss is infinite or not a number, so training cannot continue."""


def check_sizes(hps: Any) -> None:
    """Raise a UserError if a size among the model's hyperparameters is impossible."""
    if not 0 <= hps.ic_enc_seq_len < hps.encod_seq_len <= hps.recon_seq_len:
        raise UserError(
            f"The bins must satisfy 0 <= model.ic_enc_seq_len < model.encod_seq_len <= "
            f"model.recon_seq_len, but they are {hps.ic_enc_seq_len}, {hps.encod_seq_len} and "
            f"{hps.recon_seq_len}."
        )
    for name in ("encod_data_dim", "ic_enc_dim", "ic_dim", "gen_dim", "fac_dim"):
        if hps[name] < 1:
            raise UserError(f"model.{name} must be at least 1, but is {hps[name]}.")
    if not 0 <= hps.dropout_rate < 1:
        raise UserError(
            f"model.dropout_rate must be at least 0 and below 1, but is {hps.dropout_rate}."
        )


def check_encoder_output(found: Any, n_trials: int, hps: Any, use_con: bool) -> EncoderOutput:
    """Return the output of an encoder, and raise a UserError if the decoder cannot use it.

    Parameters
    ----------
    found
        What the encoder returned.
    n_trials
        B, the number of encoded trials.
    hps
        The model's hyperparameters.
    use_con
        Whether there is a controller. Without one, the controller input has no channels.
    """
    if not isinstance(found, tuple | list) or len(found) != len(EncoderOutput._fields):
        raise UserError(
            f"model.encoder must return an EncoderOutput({', '.join(EncoderOutput._fields)}), but "
            f"returns a {type(found).__name__}"
            f"{f' of {len(found)}' if isinstance(found, tuple | list) else ''}."
        )
    output = EncoderOutput(*found)
    ci_dim = 2 * hps.ci_enc_dim if use_con else 0
    expected = {
        "ic_mean": (n_trials, hps.ic_dim),
        "ic_std": (n_trials, hps.ic_dim),
        "ci": (n_trials, hps.recon_seq_len, ci_dim),
    }
    for name, shape in expected.items():
        found_shape = tuple(getattr(output, name).shape)
        if found_shape != shape and not (name == "ci" and not use_con):
            raise UserError(
                f"model.encoder must return {name} of shape {shape}, but its shape is "
                f"{found_shape}. (ic_mean and ic_std are (trials, model.ic_dim), ci is (trials, "
                f"model.recon_seq_len, 2 model.ci_enc_dim).)"
            )
    return output


def check_data(model: Any, batch: SessionBatch, name: str, session: int) -> None:
    """Raise a UserError if a model cannot be trained on these trials.

    The parameters are the model and those of :meth:`lfads_torch.model.LFADS.check_data`.
    """
    if session >= len(model.readin):
        raise UserError(
            f"There are data of session {session}, but the model has read-ins, read-outs and "
            f"reconstructions for {len(model.readin)} session(s): give model.readin, "
            f"model.readout and model.reconstruction one entry for each file."
        )
    if torch.isinf(batch.encod_data).any() or torch.isinf(batch.recon_data).any():
        raise UserError(f"The {name} hold infinite values: mark missing samples by NaN.")
    missing = batch.encod_data.isnan().any() or batch.recon_data.isnan().any()
    for stack_name in ("train_aug_stack", "infer_aug_stack") if missing else ():
        processed = getattr(model, stack_name).process_batch(batch)
        for field in ("encod_data", "recon_data"):
            if getattr(processed, field).isnan().any():
                fraction = getattr(batch, field).isnan().float().mean()
                raise UserError(
                    f"{fraction:.2%} of {field} are NaN in the {name}, and model.{stack_name} "
                    f"has no transform that handles missing samples: add "
                    f"lfads_torch.modules.augmentations.SelectiveBackpropThruTime to its "
                    f"transforms, batch_order and loss_order."
                )
    try:
        model.recon[session].check_data(batch.recon_data)
    except ValueError as error:
        raise UserError(f"recon_data in the {name}: {error}") from error


def check_finite(terms: LossTerms, hps: Mapping[str, Any], where: str, split: str) -> None:
    """Raise a NonFiniteLossError that names the term of the loss that is not finite.

    Parameters
    ----------
    terms
        The terms of a step.
    hps
        The model's hyperparameters.
    where
        Epoch and step.
    split
        "train" or "valid".
    """
    if torch.isfinite(terms.total):
        return
    values = {f"recon/sess{s}": loss for s, loss in terms.recon_sessions.items()}
    values |= {"wt_l2": terms.l2, "wt_kl/ic": terms.kl_ic, "wt_kl/co": terms.kl_co}
    found = ", ".join(
        f"{split}/{name} = {torch.as_tensor(v).item():g}" for name, v in values.items()
    )
    raise NonFiniteLossError(
        f"The {split} loss is not finite in {where}: "
        f"{found}. Likely causes: a learning rate that is too high (model.lr_init = "
        f"{hps['lr_init']:g}), gradients that are not clipped (trainer.gradient_clip_val), "
        f"missing samples (NaN) without SelectiveBackpropThruTime in both augmentation stacks, "
        f"or data outside of what the reconstruction can produce. The checkpoints of the "
        f"epochs before are kept."
    )


def why_step_by_step(model: Any) -> list[str]:
    """Return the parts of a model that no fused implementation can run, each with the reason.

    The list is empty if ``recurrence`` is ``plain``, since the user then asked for single steps.
    """
    if model.hparams.recurrence == "plain":
        return []
    trainer = model._trainer
    if trainer is not None and isinstance(trainer.precision_plugin, MixedPrecision):
        return [f"all recurrences (trainer.precision is {trainer.precision})"]
    reasons = [
        f"{path} ({reason})"
        for path, module in model.named_modules()
        if (reason := getattr(module, "why_step_by_step", lambda: None)()) is not None
    ]
    if model.hparams.variational and model.use_con and not location_scale(model.co_prior):
        prior = type(model.co_prior).__name__
        reasons.append(f"decoder ({prior} does not declare location_scale)")
    return reasons
