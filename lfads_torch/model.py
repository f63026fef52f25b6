"""The LFADS model: how its parts are wired, and what the trainer calls.

The way of the data, one station a file::

    SessionBatch → augmentations → readin → encoder → decoder → readout → SessionOutput
                 → reconstruction, priors, l2 → losses → log
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lfads_torch import checkpoints, utils
from lfads_torch import recurrence as fused
from lfads_torch.errors import UserError
from lfads_torch.losses import LossTerms, ramp, reduce_recon
from lfads_torch.metrics import (
    EpochMeans,
    ExpSmoothedMetric,
    r2_score,
    regional_bits_per_spike,
)
from lfads_torch.modules.augmentations import AugmentationStack, CoordinatedDropout
from lfads_torch.modules.decoder import Decoder
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.l2 import compute_l2_penalty
from lfads_torch.modules.priors import Prior
from lfads_torch.modules.recons import Reconstruction
from lfads_torch.modules.recurrent import is_linear
from lfads_torch.tuples import Encoding, SessionBatch, SessionOutput

PARTS = (
    "readin",
    "readout",
    "reconstruction",
    "co_prior",
    "ic_prior",
    "train_aug_stack",
    "infer_aug_stack",
)
"""The constructor's arguments that are objects, not plain values."""

StepBatch = Mapping[int, tuple[SessionBatch, tuple[Tensor, ...]] | SessionBatch | None]
"""What a data loader yields: by session, a batch and its extras (which may be left out)."""


class NonFiniteLossError(UserError):
    """The loss is infinite or not a number, so training cannot go on."""


class LFADS(pl.LightningModule):
    """Latent factor analysis via dynamical systems.

    A sequential variational autoencoder: an encoder turns the binned spikes of a trial into the
    posterior of an initial condition, from which a generator unrolls the dynamics; a controller
    infers the inputs that the dynamics alone cannot explain; factors are read out of the
    generator, and rates out of the factors (Sussillo et al. 2016, arXiv 1608.06315; Pandarinath
    et al. 2018, Nature Methods).

    The controller exists only if ``ci_enc_dim``, ``con_dim`` and ``co_dim`` are all above 0.

    Parameters
    ----------
    encod_data_dim, encod_seq_len, recon_seq_len
        Channels behind the read-in, encoded bins T_enc, reconstructed bins T_rec.
    ext_input_dim
        Measured inputs of the generator.
    ic_enc_seq_len
        T_ic: the first bins, which only the initial-condition encoder sees; 0 lets both encoders
        see everything.
    ic_enc_dim, ci_enc_dim, ci_lag, con_dim, co_dim, ic_dim, gen_dim, fac_dim
        Sizes of the encoders (each direction), of the controller, its output, the initial
        condition, the generator and the factors; bins by which the controller lags.
    dropout_rate, cell_clip
        Dropout, and the largest magnitude of a recurrent state.
    reconstruction, readin, readout
        One module for each session.
    variational
        Sample the posteriors in training, rather than take their means.
    co_prior, ic_prior
        Priors of the controller output and of the initial condition.
    ic_post_var_min
        Added to the variance of the initial condition's posterior.
    train_aug_stack, infer_aug_stack
        Augmentations in training, and in validation and inference.
    loss_scale, recon_reduce_mean
        Factor of the whole loss; whether reconstruction losses are averaged over bins and channels
        or summed.
    lr_init, lr_adam_beta1, lr_adam_beta2, lr_adam_epsilon, weight_decay
        Of AdamW; the decay follows the ramp of the L2 penalty.
    lr_scheduler, lr_stop, lr_decay, lr_patience
        Whether to multiply the learning rate by ``lr_decay`` when ``valid/recon_smth`` has not
        improved for ``lr_patience`` epochs, and its floor.
    l2_start_epoch, l2_increase_epoch, kl_start_epoch, kl_increase_epoch
        Ramps of the penalties, see :func:`lfads_torch.losses.ramp`.
    l2_ic_enc_scale, l2_ci_enc_scale, l2_gen_scale, l2_con_scale, kl_ic_scale, kl_co_scale
        Weights of the penalties.
    recurrence
        How the recurrences are run: ``auto``, ``torch``, ``compiled`` or ``plain``, see
        :mod:`lfads_torch.recurrence`.

    Raises
    ------
    ValueError
        If there are not as many read-ins, read-outs and reconstructions, or a size is impossible.
    """

    hparams: Any  # type: ignore[assignment]
    readin: nn.ModuleList
    readout: nn.ModuleList
    recon: Any
    """A ModuleList of :class:`~lfads_torch.modules.recons.Reconstruction`, one a session."""

    def __init__(
        self,
        encod_data_dim: int,
        encod_seq_len: int,
        recon_seq_len: int,
        ext_input_dim: int,
        ic_enc_seq_len: int,
        ic_enc_dim: int,
        ci_enc_dim: int,
        ci_lag: int,
        con_dim: int,
        co_dim: int,
        ic_dim: int,
        gen_dim: int,
        fac_dim: int,
        dropout_rate: float,
        reconstruction: Iterable[Reconstruction],
        variational: bool,
        co_prior: Prior,
        ic_prior: Prior,
        ic_post_var_min: float,
        cell_clip: float,
        train_aug_stack: AugmentationStack,
        infer_aug_stack: AugmentationStack,
        readin: Iterable[nn.Module],
        readout: Iterable[nn.Module],
        loss_scale: float,
        recon_reduce_mean: bool,
        lr_scheduler: bool,
        lr_init: float,
        lr_stop: float,
        lr_decay: float,
        lr_patience: int,
        lr_adam_beta1: float,
        lr_adam_beta2: float,
        lr_adam_epsilon: float,
        weight_decay: float,
        l2_start_epoch: int,
        l2_increase_epoch: int,
        l2_ic_enc_scale: float,
        l2_ci_enc_scale: float,
        l2_gen_scale: float,
        l2_con_scale: float,
        kl_start_epoch: int,
        kl_increase_epoch: int,
        kl_ic_scale: float,
        kl_co_scale: float,
        recurrence: str = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=list(PARTS))
        fused.check_choice(recurrence)
        _check_sizes(self.hparams)
        self.use_con = all(dim > 0 for dim in (ci_enc_dim, con_dim, co_dim))

        self.readin = _module_list(readin)
        self.readout = _module_list(readout)
        self.recon = _module_list(reconstruction)
        if not len(self.readin) == len(self.readout) == len(self.recon) > 0:
            raise UserError(
                f"model.readin, model.readout and model.reconstruction need one entry for each "
                f"session, but have {len(self.readin)}, {len(self.readout)} and {len(self.recon)}."
            )
        self.encoder = Encoder(
            encod_data_dim=encod_data_dim,
            encod_seq_len=encod_seq_len,
            recon_seq_len=recon_seq_len,
            ic_enc_seq_len=ic_enc_seq_len,
            ic_enc_dim=ic_enc_dim,
            ci_enc_dim=ci_enc_dim,
            ci_lag=ci_lag,
            ic_dim=ic_dim,
            ic_post_var_min=ic_post_var_min,
            dropout_rate=dropout_rate,
            cell_clip=cell_clip,
            use_con=self.use_con,
        )
        self.decoder = Decoder(
            ext_input_dim=ext_input_dim,
            ic_dim=ic_dim,
            ci_enc_dim=ci_enc_dim,
            con_dim=con_dim,
            co_dim=co_dim,
            gen_dim=gen_dim,
            fac_dim=fac_dim,
            dropout_rate=dropout_rate,
            cell_clip=cell_clip,
            use_con=self.use_con,
        )
        self.ic_prior = ic_prior
        self.co_prior = co_prior
        self.train_aug_stack = train_aug_stack
        self.infer_aug_stack = infer_aug_stack

        self.valid_recon_smth = ExpSmoothedMetric(coef=0.3)
        # While an epoch runs under a trainer, its steps add to these; a step outside logs at once.
        self._epoch_means: dict[str, EpochMeans] = {}

    # ------------------------------------------------------------------ inference

    def encode(self, batch: Mapping[int, SessionBatch]) -> Encoding:
        """Encode the trials of all sessions together, each through its own read-in."""
        data = _concatenated([self.readin[s](b.encod_data) for s, b in batch.items()])
        with fused.using(self.hparams.recurrence):
            ic_mean, ic_std, ci = self.encoder(data)
        ext_input = _concatenated([self._ext_input(s, b) for s, b in batch.items()])
        n_trials = {session: len(b.encod_data) for session, b in batch.items()}
        return Encoding(ic_mean, ic_std, ci, ext_input, n_trials)

    def _ext_input(self, session: int, batch: SessionBatch) -> Tensor:
        """Return external inputs (B, T_rec, ext_input_dim), zero outside of bins T_ic … T_enc."""
        hps = self.hparams
        n_trials, t_ic, t_enc = len(batch.encod_data), hps.ic_enc_seq_len, hps.encod_seq_len
        padded = batch.encod_data.new_zeros(n_trials, hps.recon_seq_len, hps.ext_input_dim)
        if hps.ext_input_dim == 0:
            return padded
        shape = (n_trials, t_enc - t_ic, hps.ext_input_dim)
        if batch.ext_input is None or batch.ext_input.shape != shape:
            found = None if batch.ext_input is None else tuple(batch.ext_input.shape)
            raise UserError(
                f"model.ext_input_dim = {hps.ext_input_dim} asks for external inputs of shape "
                f"{shape} (trials, T_enc - T_ic, inputs) in session {session}, but the batch has "
                f"{found}. Set model.ext_input_dim to what the data hold, and "
                f"datamodule.dm_ic_enc_seq_len to model.ic_enc_seq_len = {hps.ic_enc_seq_len}."
            )
        padded[:, t_ic:t_enc] = batch.ext_input
        return padded

    def decode(
        self, encoding: Encoding, sample_posteriors: bool = False, output_means: bool = True
    ) -> dict[int, SessionOutput]:
        """Unroll the dynamics from (a sample of) the posterior and read every session out.

        Parameters and return value are those of :meth:`forward`.
        """
        return {
            session: SessionOutput(
                self.read_out(session, fields["factors"], output_means), **fields
            )
            for session, fields in self.unroll(encoding, sample_posteriors).items()
        }

    def unroll(
        self, encoding: Encoding, sample_posteriors: bool = False
    ) -> dict[int, dict[str, Tensor]]:
        """Unroll the dynamics from (a sample of) the posterior.

        Returns, by session, the fields of :class:`~lfads_torch.tuples.SessionOutput` by name, but
        for ``output_params``.
        """
        if sample_posteriors:
            ic_samp = self.ic_prior.make_posterior(encoding.ic_mean, encoding.ic_std).rsample()
        else:
            ic_samp = encoding.ic_mean
        with fused.using(self.hparams.recurrence):
            decoded = self.decoder(
                ic_samp,
                encoding.ci,
                encoding.ext_input,
                self.co_prior.make_posterior if sample_posteriors else None,
            )
        sizes = list(encoding.n_trials.values())
        shared = {
            "factors": decoded.factors,
            "ic_mean": encoding.ic_mean,
            "ic_std": encoding.ic_std,
            "co_means": decoded.co_means,
            "co_stds": decoded.co_stds,
            "gen_states": decoded.gen_states,
            "gen_init": decoded.gen_init,
            "gen_inputs": decoded.gen_inputs,
            "con_states": decoded.con_states,
        }
        by_session = {name: tensor.split(sizes) for name, tensor in shared.items()}
        return {
            session: {name: tensors[i] for name, tensors in by_session.items()}
            for i, session in enumerate(encoding.n_trials)
        }

    def read_out(self, session: int, factors: Tensor, output_means: bool = True) -> Tensor:
        """Return the means, or the distribution parameters, given the factors of a session."""
        readout: Any = self.readout[session]
        with fused.using(self.hparams.recurrence):
            if is_linear(readout):
                features = fused.linear(factors, readout.weight, readout.bias)
            else:
                features = readout(factors)
        params = self.recon[session].reshape_output_params(features)
        return self.recon[session].compute_means(params) if output_means else params

    def forward(
        self,
        batch: Mapping[int, SessionBatch] | SessionBatch,
        sample_posteriors: bool = False,
        output_means: bool = True,
    ) -> dict[int, SessionOutput]:
        """Infer everything about a batch.

        Parameters
        ----------
        batch
            By session, a :class:`~lfads_torch.tuples.SessionBatch`; or one alone, of session 0.
        sample_posteriors
            Take one sample of the posteriors, rather than their means.
        output_means
            Return in ``output_params`` the means (B, T_rec, N), rather than the distribution
            parameters (B, T_rec, N, n_params).

        Returns
        -------
        dict of int to SessionOutput
            By session.
        """
        if isinstance(batch, SessionBatch):
            batch = {0: batch}
        return self.decode(self.encode(batch), sample_posteriors, output_means)

    def predict_step(
        self, batch: StepBatch, batch_idx: int, sample_posteriors: bool = True
    ) -> dict[int, SessionOutput]:
        """Augment for inference and infer; sample the posteriors if the model is variational."""
        return self(
            {s: self.infer_aug_stack.process_batch(b) for s, b in _model_batches(batch).items()},
            sample_posteriors=sample_posteriors and self.hparams.variational,
        )

    # ------------------------------------------------------------------ training

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        with fused.using(self.hparams.recurrence):
            return self._shared_step(batch, batch_idx, "train")

    def validation_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, with augmentations for inference."""
        with fused.using(self.hparams.recurrence):
            return self._shared_step(batch, batch_idx, "valid")

    def _shared_step(self, step_batch: StepBatch, batch_idx: int, split: str) -> Tensor:
        aug_stack = self.train_aug_stack if split == "train" else self.infer_aug_stack
        means = self._epoch_means.get(split, EpochMeans())

        raw = _model_batches(step_batch)
        batch = {session: aug_stack.process_batch(b) for session, b in raw.items()}
        output = self(batch, sample_posteriors=self.hparams.variational, output_means=False)

        recon = {}
        for s, b in batch.items():
            n_trials = len(b.encod_data)

            def log_fn(name: str, value: Any, s: int = s, n: int = n_trials, **_: Any) -> None:
                means.update(name, value, n, session=s)

            losses = self.recon[s].compute_loss(b.recon_data, output[s].output_params)
            losses = aug_stack.process_losses(losses, b, log_fn, split)
            recon[s] = reduce_recon(losses, self.hparams.recon_reduce_mean)

        terms = self._loss_terms(recon, output)
        if not torch.isfinite(terms.total):
            raise NonFiniteLossError(self._explain(terms, batch_idx, split))
        self._record(means, terms, raw, batch, output)
        if split not in self._epoch_means:
            self.log_dict(self._named(means, split))
        return terms.total

    def _loss_terms(
        self, recon: dict[int, Tensor], output: Mapping[int, SessionOutput]
    ) -> LossTerms:
        hps = self.hparams
        outputs = list(output.values())
        ic_mean, ic_std, co_means, co_stds = (
            _concatenated([getattr(out, field) for out in outputs])
            for field in ("ic_mean", "ic_std", "co_means", "co_stds")
        )
        return LossTerms(
            recon_sessions=recon,
            l2=compute_l2_penalty(self, hps),
            kl_ic=hps.kl_ic_scale * self.ic_prior(ic_mean, ic_std),
            kl_co=hps.kl_co_scale
            * (self.co_prior(co_means, co_stds) if self.use_con else ic_mean.new_zeros(())),
            l2_ramp=ramp(self.current_epoch, hps.l2_start_epoch, hps.l2_increase_epoch),
            kl_ramp=ramp(self.current_epoch, hps.kl_start_epoch, hps.kl_increase_epoch),
            loss_scale=hps.loss_scale,
        )

    @torch.no_grad()
    def _record(
        self,
        means: EpochMeans,
        terms: LossTerms,
        raw: Mapping[int, SessionBatch],
        batch: Mapping[int, SessionBatch],
        output: Mapping[int, SessionOutput],
    ) -> None:
        """Add a step's losses and metrics to the means of its epoch."""
        hps = self.hparams
        for s, b in batch.items():
            n_trials = len(b.encod_data)
            means.update("recon", terms.recon_sessions[s], n_trials, session=s)
            means.update(f"recon/sess{s}", terms.recon_sessions[s], n_trials)
            log_rates = self.recon[s].spike_log_rates(output[s].output_params)
            if log_rates is not None:
                bps = regional_bits_per_spike(
                    log_rates,
                    _with_missing(b.recon_data, raw[s].recon_data),
                    raw[s].encod_data.shape[2],
                    hps.encod_seq_len,
                )
                for name, value in zip(("bps", "co_bps", "fp_bps"), bps, strict=True):
                    means.update(name, value.clamp(min=-1), n_trials, session=s)
            r2 = b.recon_data.new_tensor(torch.nan)
            if b.truth is not None and b.truth.numel():
                rates = self.recon[s].compute_means(output[s].output_params)
                t_ic = hps.ic_enc_seq_len
                r2 = r2_score(rates[:, t_ic : t_ic + b.truth.shape[1]], b.truth)
            means.update("r2", r2, n_trials, session=s)
        n_trials = sum(len(b.encod_data) for b in batch.values())
        means.update("wt_l2", terms.l2, n_trials)
        means.update("wt_l2/ramp", terms.l2_ramp, n_trials)
        means.update("wt_kl", terms.kl, n_trials)
        means.update("wt_kl/ic", terms.kl_ic, n_trials)
        means.update("wt_kl/co", terms.kl_co, n_trials)
        means.update("wt_kl/ramp", terms.kl_ramp, n_trials)

    def _named(self, means: EpochMeans, split: str) -> dict[str, Tensor]:
        """Return the means under the names that they are logged by, with the loss they make."""
        values = means.compute()
        penalties = values["wt_l2/ramp"] * values["wt_l2"] + values["wt_kl/ramp"] * values["wt_kl"]
        loss = self.hparams.loss_scale * (values["recon"] + penalties)
        named = {f"{split}/loss": loss}
        for name, value in values.items():
            # Augmentations give full names.
            named[name if name.startswith(f"{split}/") else f"{split}/{name}"] = value
        return named

    def _explain(self, terms: LossTerms, batch_idx: int, split: str) -> str:
        """Say which term of the loss is not finite, and why this may be."""
        values = {f"recon/sess{s}": loss for s, loss in terms.recon_sessions.items()}
        values |= {"wt_l2": terms.l2, "wt_kl/ic": terms.kl_ic, "wt_kl/co": terms.kl_co}
        found = ", ".join(
            f"{split}/{name} = {torch.as_tensor(v).item():g}" for name, v in values.items()
        )
        hps = self.hparams
        return (
            f"The {split} loss is not finite in epoch {self.current_epoch}, step {batch_idx}: "
            f"{found}. Likely causes: a learning rate that is too high (model.lr_init = "
            f"{hps.lr_init:g}), gradients that are not clipped (trainer.gradient_clip_val), "
            f"missing samples (NaN) without SelectiveBackpropThruTime in both augmentation stacks, "
            f"or data outside of what the reconstruction can produce. The checkpoints of the "
            f"epochs before are kept."
        )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW, with a schedule of its learning rate if there is to be one."""
        hps = self.hparams
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            lr=hps.lr_init,
            betas=(hps.lr_adam_beta1, hps.lr_adam_beta2),
            eps=hps.lr_adam_epsilon,
            weight_decay=hps.weight_decay,
            fused=True if self._may_fuse_optimizer(trained) else None,
        )
        if not hps.lr_scheduler:
            return optimizer
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=hps.lr_decay,
            patience=hps.lr_patience,
            threshold=0.0,
            min_lr=hps.lr_stop,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "valid/recon_smth"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Leave the schedules that :meth:`on_train_epoch_end` has advanced."""
        if all(scheduler is not ours for ours in self._plateau_schedules()):
            super().lr_scheduler_step(scheduler, metric)

    def _plateau_schedules(self) -> list[Any]:
        """Return the schedules that watch the smoothed validation loss after every epoch."""
        return [
            config.scheduler
            for config in self.trainer.lr_scheduler_configs
            if config.reduce_on_plateau
            and config.monitor == "valid/recon_smth"
            and (config.interval, config.frequency) == ("epoch", 1)
        ]

    def _may_fuse_optimizer(self, parameters: Sequence[Tensor]) -> bool:
        """Whether AdamW may be one kernel: it is not PyTorch's own choice on a CPU.

        Under mixed precision Lightning does not clip the gradients of such an optimiser.
        """
        plugin = None if self._trainer is None else self.trainer.precision_plugin
        on_cpu = all(utils.on_cpu(parameter) for parameter in parameters)
        return on_cpu and not isinstance(plugin, MixedPrecision)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the weight decay follow the ramp of the L2 penalty."""
        hps = self.hparams
        l2_ramp = ramp(self.current_epoch, hps.l2_start_epoch, hps.l2_increase_epoch)
        for group in optimizer.param_groups:
            group["weight_decay"] = hps.weight_decay * l2_ramp

    # ------------------------------------------------------------------ epochs

    def on_fit_start(self) -> None:
        """Check the data before anything is trained on them."""
        datamodule = getattr(self.trainer, "datamodule", None)
        for split in ("train", "valid"):
            for session, (batch, _) in enumerate(getattr(datamodule, f"{split}_data", [])):
                self.check_data(batch, f"{split} data of session {session}", session)

    def check_data(self, batch: SessionBatch, name: str, session: int = 0) -> None:
        """Raise a ValueError if the model cannot be trained on these trials.

        Parameters
        ----------
        batch
            Trials.
        name
            What to call them in the message.
        session
            Their session.
        """
        if session >= len(self.readin):
            raise UserError(
                f"There are data of session {session}, but the model has read-ins, read-outs and "
                f"reconstructions for {len(self.readin)} session(s): give model.readin, "
                f"model.readout and model.reconstruction one entry for each file."
            )
        if torch.isinf(batch.encod_data).any() or torch.isinf(batch.recon_data).any():
            raise UserError(f"The {name} hold infinite values: mark missing samples by NaN.")
        missing = batch.encod_data.isnan().any() or batch.recon_data.isnan().any()
        for stack_name in ("train_aug_stack", "infer_aug_stack") if missing else ():
            processed = getattr(self, stack_name).process_batch(batch)
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
            self.recon[session].check_data(batch.recon_data)
        except ValueError as error:
            raise UserError(f"recon_data in the {name}: {error}") from error

    def on_train_epoch_start(self) -> None:
        """Begin the means of the training epoch."""
        self._epoch_means["train"] = EpochMeans()

    def on_train_epoch_end(self) -> None:
        """Log the means of the training epoch, and the hyperparameters; advance the schedule.

        The trainer would do the latter after checkpoints are saved, which would then lack it.
        """
        means = self._epoch_means.pop("train")
        self._log_means(means, "train")
        hps = self.hparams
        names = ["lr_init", "dropout_rate", "weight_decay", "kl_co_scale", "kl_ic_scale"]
        names += [f"l2_{part}_scale" for part in ("ic_enc", "ci_enc", "gen", "con")]
        values = {f"hp/{name}": float(hps[name]) for name in names}
        for transform in self.train_aug_stack.transforms:
            if isinstance(transform, CoordinatedDropout):
                values["hp/cd_rate"] = float(transform.cd_rate)
        self.log_dict(values)
        if (smoothed := self.trainer.callback_metrics.get("valid/recon_smth")) is not None:
            for schedule in self._plateau_schedules():
                schedule.step(smoothed)

    def on_validation_epoch_start(self) -> None:
        """Begin the means of the validation epoch."""
        self._epoch_means["valid"] = EpochMeans()

    def on_validation_epoch_end(self) -> None:
        """Log the means of the validation epoch, and the smoothed one that training watches."""
        means = self._epoch_means.pop("valid")
        if self.trainer.sanity_checking:
            return
        recon = self._log_means(means, "valid")["valid/recon"]
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        self.valid_recon_smth.update(recon)
        smoothed = self.valid_recon_smth.compute()
        self.log("valid/recon_smth", smoothed, prog_bar=True)
        self.log_dict({"hp_metric": smoothed, "cur_epoch": float(self.current_epoch)})

    def _log_means(self, means: EpochMeans, split: str) -> dict[str, Tensor]:
        named = self._named(means, split)
        self.log(f"{split}/loss", named[f"{split}/loss"], prog_bar=True)
        self.log_dict({name: value for name, value in named.items() if name != f"{split}/loss"})
        return named

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the parts, and the memory of the smoothed metric."""
        checkpoint["lfads_parts"] = {name: checkpoints.describe(self._part(name)) for name in PARTS}
        checkpoint["valid_recon_smth"] = self.valid_recon_smth.state_dict()

    def _part(self, name: str) -> Any:
        return getattr(self, "recon" if name == "reconstruction" else name)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the memory of the smoothed metric; published checkpoints have none."""
        if "valid_recon_smth" in checkpoint:
            self.valid_recon_smth.load_state_dict(checkpoint["valid_recon_smth"])

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        strict: bool = True,
        trusted: Sequence[str] = (),
        **overrides: Any,
    ) -> "LFADS":
        """Rebuild a trained model, also one that the published implementation saved.

        No code from the file is executed: only parts from ``lfads_torch`` and ``torch.nn`` are
        rebuilt, unless you say otherwise.

        Parameters
        ----------
        checkpoint_path
            A ``.ckpt`` file.
        map_location
            Device to load the weights to.
        strict
            Insist that the weights in the file are exactly those of the model.
        trusted
            Packages of your own whose classes may be rebuilt too (``["my_package"]``).
        **overrides
            Constructor arguments that replace those in the file: hyperparameters, or parts that
            cannot be rebuilt from it (``reconstruction=[MyReconstruction()]``).

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is no checkpoint of this model, or a part cannot be rebuilt.
        """
        checkpoint = checkpoints.load_checkpoint(checkpoint_path, map_location)
        arguments = checkpoints.constructor_arguments(cls, checkpoint, PARTS, overrides, trusted)
        model = cls(**arguments)
        model.load_state_dict(checkpoint["state_dict"], strict=strict)
        model.on_load_checkpoint(checkpoint)
        return model.to(map_location)


def _module_list(modules: Iterable[nn.Module]) -> nn.ModuleList:
    return modules if isinstance(modules, nn.ModuleList) else nn.ModuleList(modules)


def _model_batches(batch: StepBatch) -> dict[int, SessionBatch]:
    """Take the extras away, and the sessions that have no more trials."""
    return {
        session: item if isinstance(item, SessionBatch) else item[0]
        for session, item in batch.items()
        if item is not None
    }


def _with_missing(processed: Tensor, raw: Tensor) -> Tensor:
    """Mark again what an augmentation filled in for missing samples: metrics leave it out."""
    # On other devices than a CPU, to ask takes longer than to assume.
    if processed is raw or (utils.on_cpu(raw) and not raw.sum().isnan()):
        return processed
    return processed.masked_fill(raw.isnan(), torch.nan)


def _concatenated(tensors: list[Tensor]) -> Tensor:
    """Concatenate over trials; one tensor is returned as it is, not copied."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _check_sizes(hps: Any) -> None:
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
