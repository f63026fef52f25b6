"""Computes the scores of the Neural Latents Benchmark while a model trains."""

import math
import warnings
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.trainer.states import TrainerFn

from lfads_torch.analysis.nlb import (
    METRICS,
    benchmark_scores,
    rate_tensors,
    target_tensors,
    unavailable_scores,
)
from lfads_torch.data.conditions import trial_conditions
from lfads_torch.data.sessions import load_session
from lfads_torch.data.splits import reshuffle_train_valid
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.datasets.nlb.registry import import_nlb_tools
from lfads_torch.errors import UserError
from lfads_torch.metrics import ExpSmoothedMetric
from lfads_torch.running.callbacks.trials import infer_trials

_SMOOTHING = 0.3
"""Weight of the past in the smoothed scores."""


class NLBEvaluation(pl.Callback):
    """Logs the scores of the Neural Latents Benchmark on validation trials while a model trains.

    The scores ``nlb/{co_bps,fp_bps,behavior_r2,psth_r2,tp_corr}``, as far as the data allow them,
    are computed from rates for the means of the posteriors. Each of them is also smoothed over the
    evaluations, ``nlb/…_smth``, with weight 0.3 of the past and 0.7 of the present value; the
    smoothed values are saved in the checkpoint. With several sessions, the scores of session S are
    ``nlb/…/sess{S}``, and those without a suffix are their means over sessions.

    Test trials are not used, even if the files contain them, so these scores may be monitored.

    Parameters
    ----------
    log_every_n_epochs
        Evaluate in epochs 0, n, 2n, ….
    decoding_cv_sweep
        Whether the penalty of the decoder is chosen by cross-validation, see
        :func:`lfads_torch.analysis.nlb.benchmark_scores`.

    Raises
    ------
    UserError
        If ``log_every_n_epochs`` is less than 1; when training begins, if ``nlb_tools`` is missing
        (:class:`~lfads_torch.errors.MissingPackageError`) or the data lack an array.
    """

    def __init__(self, log_every_n_epochs: int = 20, decoding_cv_sweep: bool = False) -> None:
        if log_every_n_epochs < 1:
            raise UserError(
                f"NLBEvaluation: log_every_n_epochs must be at least 1, but is "
                f"{log_every_n_epochs}."
            )
        self.log_every_n_epochs = log_every_n_epochs
        self.decoding_cv_sweep = decoding_cv_sweep
        self._targets: list[dict[str, NDArray[Any]]] = []
        self._smoothed: dict[str, ExpSmoothedMetric] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Read the targets of the scores from the session files."""
        if stage not in ("fit", "validate"):
            return
        import_nlb_tools("evaluation")
        datamodule = getattr(trainer, "datamodule", None)
        if not isinstance(datamodule, BasicDataModule):
            raise UserError(
                f"NLBEvaluation reads the targets of the benchmark from the session files of a "
                f"lfads_torch.datamodules.BasicDataModule, but the trainer has {datamodule!r}."
            )
        self._targets = []
        for session, path in enumerate(datamodule.session_files):
            targets = target_tensors(_arrays_of_session(datamodule, session), path)
            self._targets.append(targets)
            if unavailable := unavailable_scores(targets):
                named = "; ".join(f"nlb/{name} ({why})" for name, why in unavailable.items())
                warnings.warn(
                    f"The Neural Latents Benchmark's scores that {path} does not allow are left "
                    f"out: {named}.",
                    stacklevel=2,
                )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate the model if this is due, and log the scores."""
        is_fitting = trainer.state.fn == TrainerFn.FITTING
        is_due = not is_fitting or trainer.current_epoch % self.log_every_n_epochs == 0
        if trainer.sanity_checking or not is_due:
            return
        scores = _combine_sessions(
            [
                self._scores_of_session(trainer, pl_module, session)
                for session in range(len(self._targets))
            ]
        )
        pl_module.log_dict({f"nlb/{name}": value for name, value in scores.items()})
        if is_fitting:
            self._log_smoothed(pl_module, scores)

    def _scores_of_session(
        self, trainer: pl.Trainer, model: pl.LightningModule, session: int
    ) -> dict[str, float]:
        """Return the scores of a session, for the means of the posteriors."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        batch_size = max(1, datamodule.hparams.batch_size)
        rates = {}
        for split in ("train", "valid"):
            n_trials = len(getattr(datamodule, f"{split}_ds")[session])
            batches = np.split(np.arange(n_trials), range(batch_size, n_trials, batch_size))
            inferred = [
                infer_trials(trainer, model, split, session, batch).output.output_params
                for batch in batches
            ]
            rates[split] = torch.cat([batch.cpu().float() for batch in inferred]).numpy()
        n_bins, n_channels = datamodule.valid_data[session][0].encod_data.shape[1:]
        tensors = rate_tensors(rates["train"], rates["valid"], n_channels, n_bins)
        return benchmark_scores(self._targets[session], tensors, self.decoding_cv_sweep)

    def _log_smoothed(self, model: pl.LightningModule, scores: dict[str, float]) -> None:
        """Smooth the scores over the evaluations, without those that are not finite."""
        for name, value in scores.items():
            metric = self._smoothed.setdefault(name, ExpSmoothedMetric(coef=_SMOOTHING))
            if math.isfinite(value):
                metric.update(value)
            score, slash, session = name.partition("/")
            model.log(f"nlb/{score}_smth{slash}{session}", metric.compute())

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the smoothed scores, which is saved in the checkpoint."""
        return {name: metric.state_dict() for name, metric in self._smoothed.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of the smoothed scores from a checkpoint."""
        self._smoothed = {name: ExpSmoothedMetric(coef=_SMOOTHING) for name in state_dict}
        for name, state in state_dict.items():
            self._smoothed[name].load_state_dict(state)


def _combine_sessions(by_session: list[dict[str, float]]) -> dict[str, float]:
    """Return the means of scores over sessions and, if there are several, those of each session.

    Scores that are not finite are left out of the means.
    """
    combined: dict[str, float] = {}
    for name in METRICS:
        found = {s: scores[name] for s, scores in enumerate(by_session) if name in scores}
        if len(by_session) > 1:
            combined |= {f"{name}/sess{session}": value for session, value in found.items()}
        finite = [value for value in found.values() if math.isfinite(value)]
        if found:
            combined[name] = float(np.mean(finite)) if finite else math.nan
    return combined


def _arrays_of_session(datamodule: BasicDataModule, session: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of a session, shuffled between the splits as in the data module."""
    hps = datamodule.hparams
    path = datamodule.session_files[session]
    arrays = load_session(path)
    if hps.reshuffle_tv_seed is None:
        return arrays
    unpaired = [
        key
        for key in arrays
        if key.startswith("valid_") and f"train_{key.removeprefix('valid_')}" not in arrays
    ]
    if unpaired:
        raise UserError(
            f"datamodule.reshuffle_tv_seed shuffles training and validation trials, but {path} "
            f"holds {', '.join(unpaired)} only for validation trials."
        )
    for split in ("train", "valid"):
        key, n_trials = f"{split}_cond_idx", len(arrays[f"{split}_encod_data"])
        if key in arrays:  # labels can be shuffled with the trials, indices of trials cannot
            arrays[key] = np.asarray(trial_conditions(arrays[key], n_trials))
    return reshuffle_train_valid(arrays, hps.reshuffle_tv_seed, hps.reshuffle_tv_ratio)
