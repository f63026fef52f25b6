"""The LFADS model: how its parts are connected, and the methods that the trainer calls.

The flow of the data, in which every step has its own file::

    SessionBatch → augmentations → readin → encoder → decoder → readout → SessionOutput
                 → reconstruction, priors, l2 → losses → epoch_log
"""

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lfads_torch import checkpoints, checks, epoch_log, optimiser, recipes
from lfads_torch import recurrence as fused
from lfads_torch.errors import UserError
from lfads_torch.losses import LossTerms, ramp, reduce_recon
from lfads_torch.metrics import EpochMeans, ExpSmoothedMetric
from lfads_torch.modules.augmentations import AugmentationStack
from lfads_torch.modules.decoder import Decoder
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.l2 import compute_l2_penalty
from lfads_torch.modules.parts import Spec, linear_weights, make_part
from lfads_torch.modules.priors import Prior
from lfads_torch.modules.recons import Reconstruction
from lfads_torch.tuples import (
    DecoderOutput,
    Encoding,
    SessionBatch,
    SessionOutput,
)

log = logging.getLogger(__name__)

PARTS = (
    "readin",
    "readout",
    "reconstruction",
    "co_prior",
    "ic_prior",
    "train_aug_stack",
    "infer_aug_stack",
    "encoder",
    "decoder",
)
"""The constructor's arguments that are objects, not plain values."""

StepBatch = Mapping[int, tuple[SessionBatch, tuple[Tensor, ...]] | SessionBatch | None]
"""What a data loader yields: by session, a batch and its extras (which may be left out)."""

F = TypeVar("F", bound=Callable[..., Any])


def _as_chosen(method: F) -> F:
    """Run a method of the model with the fused implementations that ``recurrence`` chooses."""

    @functools.wraps(method)
    def run(self: "LFADS", *args: Any, **kwargs: Any) -> Any:
        with fused.using(self.hparams.recurrence):
            return method(self, *args, **kwargs)

    return run  # type: ignore[return-value]


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
        Numbers of channels after the read-in, of encoded bins T_enc and of reconstructed bins
        T_rec.
    ext_input_dim
        Number of measured inputs of the generator.
    ic_enc_seq_len
        T_ic, the number of first bins that only the initial-condition encoder sees. With 0, both
        encoders see all bins.
    ic_enc_dim, ci_enc_dim, ci_lag, con_dim, co_dim, ic_dim, gen_dim, fac_dim
        Sizes of the two encoders (in each direction), of the controller, of its output, of the
        initial condition, of the generator and of the factors. ``ci_lag`` is the number of bins by
        which the controller lags behind its encoder.
    dropout_rate, cell_clip
        Probability of dropout, and the largest magnitude of a recurrent state.
    reconstruction, readin, readout
        One module for each session.
    variational
        Whether the posteriors are sampled in training. Otherwise their means are used.
    co_prior, ic_prior
        Priors of the controller output and of the initial condition.
    ic_post_var_min
        Minimum that is added to the variance of the initial condition's posterior.
    train_aug_stack, infer_aug_stack
        The augmentations in training, and those in validation and inference.
    loss_scale, recon_reduce_mean
        Factor of the whole loss; whether reconstruction losses are averaged over bins and channels
        or summed.
    lr_init, lr_adam_beta1, lr_adam_beta2, lr_adam_epsilon, weight_decay
        Options of the optimiser AdamW. The weight decay follows the ramp of the L2 penalty.
    lr_scheduler, lr_stop, lr_decay, lr_patience
        Whether to multiply the learning rate by ``lr_decay`` when ``valid/recon_smth`` has not
        improved for ``lr_patience`` epochs, and its floor.
    l2_start_epoch, l2_increase_epoch, kl_start_epoch, kl_increase_epoch
        Ramps of the penalties, see :func:`lfads_torch.losses.ramp`.
    l2_ic_enc_scale, l2_ci_enc_scale, l2_gen_scale, l2_con_scale, kl_ic_scale, kl_co_scale
        Weights of the penalties.
    recurrence
        How the recurrences are run in everything that the model computes: ``auto``, ``torch``,
        ``compiled`` or ``plain``, see :mod:`lfads_torch.recurrence`. A part that is called by
        itself, as in ``model.decoder(…)``, follows :func:`lfads_torch.recurrence.using`.
    encoder, decoder
        Replacements for :class:`~lfads_torch.modules.encoder.Encoder` and
        :class:`~lfads_torch.modules.decoder.Decoder`: a class or a partial, which is called with
        the arguments above that it takes; a mapping of arguments for the usual class, such as
        ``{"generator": functools.partial(LowRankGenerator, rank=3)}``; or a module. See
        :mod:`lfads_torch.modules.parts`.

    Raises
    ------
    ValueError
        If the numbers of read-ins, read-outs and reconstructions differ, or a size is impossible.
    """

    hparams: Any  # type: ignore[assignment]
    readin: nn.ModuleList
    readout: nn.ModuleList
    recon: Any
    """A ModuleList of :class:`~lfads_torch.modules.recons.Reconstruction`, one for each session."""

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
        encoder: Spec = None,
        decoder: Spec = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=list(PARTS))
        checks.check_sizes(self.hparams)
        fused.check_choice(recurrence)
        self.use_con = all(dim > 0 for dim in (ci_enc_dim, con_dim, co_dim))

        self.readin = _module_list(readin)
        self.readout = _module_list(readout)
        self.recon = _module_list(reconstruction)
        if not len(self.readin) == len(self.readout) == len(self.recon) > 0:
            raise UserError(
                f"model.readin, model.readout and model.reconstruction need one entry for each "
                f"session, but have {len(self.readin)}, {len(self.readout)} and {len(self.recon)}."
            )
        self._part_specs = {"encoder": encoder, "decoder": decoder}
        known = {**self.hparams, "use_con": self.use_con}
        self.encoder = make_part("model.encoder", encoder, Encoder, **known)
        self.decoder = make_part("model.decoder", decoder, Decoder, **known)
        self.ic_prior = ic_prior
        self.co_prior = co_prior
        self.train_aug_stack = train_aug_stack
        self.infer_aug_stack = infer_aug_stack

        self.valid_recon_smth = ExpSmoothedMetric(coef=0.3)
        # Steps add to these means while a trainer runs an epoch; other steps log at once.
        self._epoch_means: dict[str, EpochMeans] = {}

    # ------------------------------------------------------------------ inference

    @_as_chosen
    def encode(self, batch: Mapping[int, SessionBatch]) -> Encoding:
        """Encode the trials of all sessions together, each through its own read-in."""
        data = _concatenated([self.readin[s](b.encod_data) for s, b in batch.items()])
        found = self.encoder(data)
        encoded = checks.check_encoder_output(found, len(data), self.hparams, self.use_con)
        ext_input = _concatenated([self._ext_input(s, b) for s, b in batch.items()])
        n_trials = {session: len(b.encod_data) for session, b in batch.items()}
        return Encoding(*encoded, ext_input, n_trials)

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

    @_as_chosen
    def unroll(self, encoding: Encoding, sample_posteriors: bool = False) -> DecoderOutput:
        """Unroll the dynamics of all trials from (a sample of) the posterior."""
        ic_samp = encoding.ic_mean
        if sample_posteriors:
            ic_samp = self.ic_prior.make_posterior(encoding.ic_mean, encoding.ic_std).rsample()
        co_prior = self.co_prior if sample_posteriors else None
        return DecoderOutput(*self.decoder(ic_samp, encoding.ci, encoding.ext_input, co_prior))

    @_as_chosen
    def read_out(self, session: int, factors: Tensor, output_means: bool = True) -> Tensor:
        """Return the means, or the distribution parameters, given the factors of a session."""
        readout, recon = self.readout[session], self.recon[session]
        linear = linear_weights(readout)
        features = readout(factors) if linear is None else fused.linear(factors, *linear)
        params: Tensor = recon.reshape_output_params(features)
        return recon.compute_means(params) if output_means else params

    @_as_chosen
    def decode(
        self, encoding: Encoding, sample_posteriors: bool = False, output_means: bool = True
    ) -> dict[int, SessionOutput]:
        """Unroll the dynamics from (a sample of) the posterior and compute every session's output.

        Parameters and return value are those of :meth:`forward`.
        """
        decoded = self.unroll(encoding, sample_posteriors)
        shared = {"ic_mean": encoding.ic_mean, "ic_std": encoding.ic_std, **decoded._asdict()}
        sizes = list(encoding.n_trials.values())
        parts = zip(*(tensor.split(sizes) for tensor in shared.values()), strict=True)
        outputs = {}
        for session, tensors in zip(encoding.n_trials, parts, strict=True):
            fields = dict(zip(shared, tensors, strict=True))
            output_params = self.read_out(session, fields["factors"], output_means)
            outputs[session] = SessionOutput(output_params=output_params, **fields)
        return outputs

    @_as_chosen
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
            A :class:`~lfads_torch.tuples.SessionBatch` for each session; or a single one, which is
            taken for session 0.
        sample_posteriors
            Whether to take one sample of each posterior. Otherwise the means are taken.
        output_means
            Whether ``output_params`` holds the means (B, T_rec, N). Otherwise it holds the
            distribution parameters (B, T_rec, N, n_params).

        Returns
        -------
        dict of int to SessionOutput
            The output of each session.
        """
        if isinstance(batch, SessionBatch):
            batch = {0: batch}
        return self.decode(self.encode(batch), sample_posteriors, output_means)

    @_as_chosen
    def predict_step(
        self, batch: StepBatch, batch_idx: int, sample_posteriors: bool = True
    ) -> dict[int, SessionOutput]:
        """Augment for inference and infer; sample the posteriors if the model is variational."""
        return self(
            {s: self.infer_aug_stack.process_batch(b) for s, b in _model_batches(batch).items()},
            sample_posteriors=sample_posteriors and self.hparams.variational,
        )

    # ------------------------------------------------------------------ training

    @_as_chosen
    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        return self._shared_step(batch, batch_idx, "train")

    @_as_chosen
    def validation_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, with augmentations for inference."""
        return self._shared_step(batch, batch_idx, "valid")

    def _shared_step(self, step_batch: StepBatch, batch_idx: int, split: str) -> Tensor:
        """Return the loss of a batch, and add its losses and metrics to the means of the epoch."""
        aug_stack = self.train_aug_stack if split == "train" else self.infer_aug_stack
        means = self._epoch_means.get(split, EpochMeans())

        raw = _model_batches(step_batch)
        batch = {session: aug_stack.process_batch(b) for session, b in raw.items()}
        output = self(batch, sample_posteriors=self.hparams.variational, output_means=False)

        recon, n_trials = {}, {}
        for s, b in batch.items():
            n_trials[s] = len(b.encod_data)

            def log_fn(name: str, value: Any, s: int = s, n: int = n_trials[s], **_: Any) -> None:
                means.update(name, value, n, session=s)

            losses = self.recon[s].compute_loss(b.recon_data, output[s].output_params)
            losses = aug_stack.process_losses(losses, b, log_fn, split)
            recon[s] = reduce_recon(losses, self.hparams.recon_reduce_mean)

        terms = self._loss_terms(recon, output)
        where = f"epoch {self.current_epoch}, step {batch_idx}"
        checks.check_finite(terms, self.hparams, where, split)
        epoch_log.record_losses(means, terms, n_trials)
        for s, b in batch.items():
            parts = self.recon[s], raw[s], b, output[s]
            epoch_log.record_metrics(means, s, *parts, self.hparams)
        if split not in self._epoch_means:
            self.log_dict(epoch_log.named_means(means, split, self.hparams.loss_scale))
        return terms.total

    def _loss_terms(
        self, recon: dict[int, Tensor], output: Mapping[int, SessionOutput]
    ) -> LossTerms:
        """Return the terms of the loss, given the reconstruction loss of each session."""
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
            l2_ramp=self._l2_ramp(),
            kl_ramp=ramp(self.current_epoch, hps.kl_start_epoch, hps.kl_increase_epoch),
            loss_scale=hps.loss_scale,
        )

    def _l2_ramp(self) -> float:
        """Return the ramp of the L2 penalty in this epoch."""
        hps = self.hparams
        return ramp(self.current_epoch, hps.l2_start_epoch, hps.l2_increase_epoch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return AdamW, with a schedule of its learning rate if ``lr_scheduler`` is True."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return optimiser.make_optimiser(trained, self.hparams, self._trainer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Do nothing, because :meth:`on_train_epoch_end` advances the schedules."""
        if all(scheduler is not ours for ours in optimiser.plateau_schedules(self.trainer)):
            super().lr_scheduler_step(scheduler, metric)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the weight decay follow the ramp of the L2 penalty."""
        for group in optimizer.param_groups:
            group["weight_decay"] = self.hparams.weight_decay * self._l2_ramp()

    # ------------------------------------------------------------------ epochs

    def on_fit_start(self) -> None:
        """Check the data before training starts, and warn of recurrences that run step by step."""
        datamodule = getattr(self.trainer, "datamodule", None)
        for split in ("train", "valid"):
            for session, (batch, _) in enumerate(getattr(datamodule, f"{split}_data", [])):
                self.check_data(batch, f"{split} data of session {session}", session)
        reasons = checks.why_step_by_step(self)
        if reasons:
            log.warning("Run step by step, which is slower: %s.", "; ".join(reasons))

    def check_data(self, batch: SessionBatch, name: str, session: int = 0) -> None:
        """Raise a ValueError if the model cannot be trained on these trials.

        Parameters
        ----------
        batch
            The trials.
        name
            What the error message calls them.
        session
            The index of their session.
        """
        checks.check_data(self, batch, name, session)

    def on_train_epoch_start(self) -> None:
        """Start the averages of the training epoch."""
        self._epoch_means["train"] = EpochMeans()

    def on_train_epoch_end(self) -> None:
        """Log the means of the training epoch, and the hyperparameters; advance the schedule.

        The trainer itself would advance the schedule only after it has saved the checkpoints, which
        would then not include that step.
        """
        self._log_epoch("train")
        self.log_dict(epoch_log.hyperparameter_values(self))
        if (smoothed := self.trainer.callback_metrics.get(optimiser.MONITOR)) is not None:
            for schedule in optimiser.plateau_schedules(self.trainer):
                schedule.step(smoothed)

    def on_validation_epoch_start(self) -> None:
        """Start the averages of the validation epoch."""
        self._epoch_means["valid"] = EpochMeans()

    def on_validation_epoch_end(self) -> None:
        """Log the means of the validation epoch, and the smoothed reconstruction loss."""
        if self.trainer.sanity_checking:
            self._epoch_means.pop("valid")
            return
        recon = self._log_epoch("valid")["valid/recon"]
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        self.valid_recon_smth.update(recon)
        smoothed = self.valid_recon_smth.compute()
        self.log(optimiser.MONITOR, smoothed, prog_bar=True)
        self.log_dict({"hp_metric": smoothed, "cur_epoch": float(self.current_epoch)})

    def _log_epoch(self, split: str) -> dict[str, Tensor]:
        """Log the means of an epoch that has ended, and return them by name."""
        means = self._epoch_means.pop(split)
        named = epoch_log.named_means(means, split, self.hparams.loss_scale)
        self.log(f"{split}/loss", named[f"{split}/loss"], prog_bar=True)
        self.log_dict({name: value for name, value in named.items() if name != f"{split}/loss"})
        return named

    # ------------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add descriptions from which parts are rebuilt, and the state of the smoothed metric."""
        checkpoint["lfads_parts"] = {name: recipes.describe(self._part(name)) for name in PARTS}
        checkpoints.describe_arguments(checkpoint)
        checkpoint["lfads_modules"] = checkpoints.describe_modules(self)
        checkpoint["valid_recon_smth"] = self.valid_recon_smth.state_dict()

    def _part(self, name: str) -> Any:
        """Return the value that the constructor would need to make a part again."""
        if name in self._part_specs:
            spec = self._part_specs[name]
            return getattr(self, name) if isinstance(spec, nn.Module) else spec
        return getattr(self, "recon" if name == "reconstruction" else name)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the parts are the saved ones, and restore the state of the smoothed metric.

        Checkpoints of the published implementation hold neither.
        """
        checkpoints.check_modules(self, checkpoint)
        if "valid_recon_smth" in checkpoint:
            self.valid_recon_smth.load_state_dict(checkpoint["valid_recon_smth"])

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        strict: bool = True,
        trusted: Sequence[str] = (),
        modules: Mapping[str, nn.Module] | None = None,
        **overrides: Any,
    ) -> "LFADS":
        """Rebuild a trained model, also one that the published implementation saved.

        No code from the file is executed: only parts from ``lfads_torch`` and ``torch.nn`` are
        rebuilt, unless ``trusted`` names other packages. If a part cannot be rebuilt, an error is
        raised, and no other part takes its place.

        Parameters
        ----------
        checkpoint_path
            A ``.ckpt`` file.
        map_location
            The device to which the weights are loaded.
        strict
            Whether the names of the weights in the file must be exactly those of the model.
        trusted
            Further packages whose classes may be rebuilt, such as ``["my_package"]``.
        modules
            Modules that take the place of those that were saved, by their paths in the model:
            ``{"decoder.rnn.cell.gen_cell": MyCell(…)}``.
        **overrides
            Constructor arguments that replace those in the file: hyperparameters, or parts that
            cannot be rebuilt from it (``reconstruction=[MyReconstruction()]``).

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not a checkpoint of this model, or if a part cannot be rebuilt.
        """
        model: LFADS = checkpoints.load_model(
            cls, PARTS, checkpoint_path, map_location, strict, trusted, modules or {}, overrides
        )
        return model


def _module_list(modules: Iterable[nn.Module]) -> nn.ModuleList:
    """Return modules as a ModuleList, without a copy if they are one already."""
    return modules if isinstance(modules, nn.ModuleList) else nn.ModuleList(modules)


def _model_batches(batch: StepBatch) -> dict[int, SessionBatch]:
    """Remove the extras, and the sessions that have no trials left in this epoch."""
    return {
        session: item if isinstance(item, SessionBatch) else item[0]
        for session, item in batch.items()
        if item is not None
    }


def _concatenated(tensors: list[Tensor]) -> Tensor:
    """Concatenate tensors over trials; a single tensor is returned without a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
