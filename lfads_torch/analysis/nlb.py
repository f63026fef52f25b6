"""Scores of the Neural Latents Benchmark (Pei et al. 2021, NeurIPS), by the benchmark's own code.

Data and rates take the forms of ``nlb_tools``: dictionaries that
``nlb_tools.evaluation.evaluate({group: targets}, {group: rates})`` would accept too. ``nlb_tools``
is imported where it is used.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.trainer.states import TrainerFn

from lfads_torch.analysis.figures import trial_conditions
from lfads_torch.data.sessions import load_session
from lfads_torch.data.splits import reshuffle_train_valid
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.datasets.nlb.registry import import_nlb_tools
from lfads_torch.errors import UserError
from lfads_torch.metrics import ExpSmoothedMetric
from lfads_torch.running.callbacks import infer_trials

Arrays = Mapping[str, NDArray[Any]]

METRICS = ("co_bps", "fp_bps", "behavior_r2", "psth_r2", "tp_corr")


def target_tensors(arrays: Arrays, source: str | Path) -> dict[str, NDArray[Any]]:
    """Collect what the benchmark scores the validation trials against.

    Parameters
    ----------
    arrays
        Of a session file, as ``datasets/README.md`` describes it.
    source
        What to call it in messages.

    Returns
    -------
    dict
        Under the names of ``nlb_tools``, those that the session has: ``eval_spikes_heldout``
        (trials, T_enc, held-out channels), NaN in bins that are not scored;
        ``eval_spikes_{heldin,heldout}_forward`` (trials, T_rec - T_enc, channels);
        ``{train,eval}_behavior`` (trials, T_enc, variables), or (trials, variables) of
        ``dmfc_rsg``; ``{train,eval}_decode_mask`` (trials, masks); ``psth`` (conditions, T_enc,
        channels) and ``eval_cond_idx``, the trials of each condition; ``eval_jitter`` (trials,).

    Raises
    ------
    ValueError
        If there is nothing to score, or arrays that belong together do not all exist or do not
        agree.
    """
    encod, recon = arrays["valid_encod_data"], arrays["valid_recon_data"]
    n_trials = {split: len(arrays[f"{split}_encod_data"]) for split in ("train", "valid")}
    n_bins, n_channels = encod.shape[1:]
    targets: dict[str, NDArray[Any]] = {}

    def check(key: str, expected: tuple[int | None, ...]) -> NDArray[Any]:
        if key not in arrays:
            raise UserError(
                f"{source} has no {key}, which the Neural Latents Benchmark needs beside what "
                f"there is: {sorted(arrays)}. scripts/prepare_nlb.py makes complete files."
            )
        found = np.shape(arrays[key])
        fits = [size in (None, n) for size, n in zip(expected, found, strict=False)]
        if len(found) != len(expected) or not all(fits):
            wanted = ", ".join("any" if size is None else str(size) for size in expected)
            raise UserError(f"{key} in {source} must be of shape ({wanted}), but is {found}.")
        return arrays[key]

    if recon.shape[2] > n_channels:
        heldout = recon[:, :n_bins, n_channels:].astype(float)
        if "valid_score_mask" in arrays:
            heldout[check("valid_score_mask", (n_trials["valid"], n_bins)) == 0] = np.nan
        targets["eval_spikes_heldout"] = heldout
    if recon.shape[1] > n_bins:
        targets["eval_spikes_heldin_forward"] = recon[:, n_bins:, :n_channels].astype(float)
        targets["eval_spikes_heldout_forward"] = recon[:, n_bins:, n_channels:].astype(float)

    pairs = (("train", "train"), ("valid", "eval"))
    if {"train_behavior", "valid_behavior"} & arrays.keys():
        per_trial = any(np.ndim(arrays.get(f"{split}_behavior", 0)) == 2 for split, _ in pairs)
        for split, name in pairs:
            bins = () if per_trial else (n_bins,)
            behavior = check(f"{split}_behavior", (n_trials[split], *bins, None))
            targets[f"{name}_behavior"] = behavior.astype(float)
        has_masks = {"train_decode_mask", "valid_decode_mask"} & arrays.keys()
        for split, name in () if per_trial else pairs:
            mask = np.ones((n_trials[split], 1), dtype=bool)
            if has_masks:
                mask = check(f"{split}_decode_mask", (n_trials[split], None)).astype(bool)
            targets[f"{name}_decode_mask"] = mask
    if "psth" in arrays:
        psth = check("psth", (None, n_bins, recon.shape[2])).astype(float)
        cond_idx = check("valid_cond_idx", (None,))
        targets["psth"] = psth
        targets["eval_cond_idx"] = _trials_of_conditions(cond_idx, n_trials["valid"], len(psth))
    if "valid_jitter" in arrays:
        targets["eval_jitter"] = check("valid_jitter", (n_trials["valid"],)).astype(int)
    if not targets:
        raise UserError(
            f"The Neural Latents Benchmark can score nothing in {source}: it has neither held-out "
            f"channels (valid_recon_data with more channels than valid_encod_data) nor later bins, "
            f"{{train,valid}}_behavior or psth. It holds {sorted(arrays)}."
        )
    return targets


def _trials_of_conditions(cond_idx: NDArray[Any], n_trials: int, n_conditions: int) -> NDArray[Any]:
    """Return an array of objects: for each condition of ``psth``, the indices of its trials."""
    labels = np.asarray(trial_conditions(cond_idx, n_trials))
    found = set(labels[labels == labels].tolist())  # without the NaN of trials in no condition
    if not found <= set(range(n_conditions)):
        raise UserError(
            f"psth has {n_conditions} conditions, so valid_cond_idx may name conditions 0 to "
            f"{n_conditions - 1}, but it names {sorted(found)}."
        )
    groups = np.empty(n_conditions, dtype=object)
    for condition in range(n_conditions):
        groups[condition] = np.flatnonzero(labels == condition)
    return groups


def rate_tensors(
    train_rates: NDArray[Any], eval_rates: NDArray[Any], n_channels: int, n_bins: int
) -> dict[str, NDArray[Any]]:
    """Divide rates as the benchmark wants them submitted.

    Parameters
    ----------
    train_rates, eval_rates
        (trials, T_rec, N_rec), in spikes per bin.
    n_channels, n_bins
        N_enc and T_enc: how many channels and bins the encoder saw.

    Returns
    -------
    dict
        ``{train,eval}_rates_{heldin,heldout}``, and with ``_forward`` those of later bins, if there
        are any. ``nlb_tools`` 0.0.4 needs neither of ``train_…_forward``.
    """
    tensors = {}
    for name, rates in (("train", train_rates), ("eval", eval_rates)):
        tensors[f"{name}_rates_heldin"] = rates[:, :n_bins, :n_channels]
        tensors[f"{name}_rates_heldout"] = rates[:, :n_bins, n_channels:]
        if rates.shape[1] > n_bins:
            tensors[f"{name}_rates_heldin_forward"] = rates[:, n_bins:, :n_channels]
            tensors[f"{name}_rates_heldout_forward"] = rates[:, n_bins:, n_channels:]
    return tensors


def benchmark_scores(
    targets: Arrays, rates: Arrays, decoding_cv_sweep: bool = False
) -> dict[str, float]:
    """Score rates by ``nlb_tools.evaluation``.

    Parameters
    ----------
    targets
        From :func:`target_tensors`.
    rates
        From :func:`rate_tensors`.
    decoding_cv_sweep
        Choose the penalty of the decoder by cross-validation on the training trials, as the
        benchmark does; otherwise it is 0.01, which takes a fraction of the time.

    Returns
    -------
    dict of str to float
        What the targets allow of ``co_bps``, ``fp_bps`` (bits per spike of held-out channels and
        of later bins), ``behavior_r2`` (R² of velocity, decoded linearly from rates), ``psth_r2``
        and ``tp_corr`` (mean correlation of neural speed and produced interval, of ``dmfc_rsg``).

    Raises
    ------
    ImportError
        If ``nlb_tools`` is missing.
    ValueError
        If rates are below 0 or not finite.
    """
    evaluation = import_nlb_tools("evaluation")
    rates = {key: np.array(value, dtype=float) for key, value in rates.items()}
    for key, value in rates.items():
        if not (np.isfinite(value).all() and (value >= 0).all()):
            raise UserError(
                f"{key} hold values that are no rates (below 0, or not finite). The Neural Latents "
                f"Benchmark needs a model of spike counts, such as model.reconstruction Poisson."
            )

    def joined(name: str, suffix: str = "") -> NDArray[Any]:
        return np.concatenate(
            [rates[f"{name}_rates_heldin{suffix}"], rates[f"{name}_rates_heldout{suffix}"]], axis=-1
        )

    scores: dict[str, float] = {}
    if "eval_spikes_heldout" in targets:
        # A copy, in which nlb_tools replaces zeros.
        scores["co_bps"] = evaluation.bits_per_spike(
            rates["eval_rates_heldout"].copy(), targets["eval_spikes_heldout"]
        )
    if "eval_spikes_heldin_forward" in targets:
        counts = [targets[f"eval_spikes_{part}_forward"] for part in ("heldin", "heldout")]
        scores["fp_bps"] = evaluation.bits_per_spike(
            joined("eval", "_forward"), np.concatenate(counts, axis=-1)
        )
    if "train_decode_mask" in targets:
        scores["behavior_r2"] = evaluation.velocity_decoding(
            joined("train"),
            targets["train_behavior"],
            targets["train_decode_mask"],
            joined("eval"),
            targets["eval_behavior"],
            targets["eval_decode_mask"],
            grid_search=decoding_cv_sweep,
        )
    if "psth" in targets:
        scores["psth_r2"] = evaluation.eval_psth(
            targets["psth"],
            joined("eval"),
            targets["eval_cond_idx"],
            jitter=targets.get("eval_jitter"),
        )
    if _has_intervals(targets):
        scores["tp_corr"] = evaluation.speed_tp_correlation(
            targets["eval_spikes_heldout"], joined("eval"), targets["eval_behavior"]
        )
    return {name: float(value) for name, value in scores.items()}


def _has_intervals(targets: Arrays) -> bool:
    """Tell whether the set-go intervals are known over which neural speed is to be measured."""
    per_trial = np.ndim(targets.get("eval_behavior", 0)) == 2
    return per_trial and bool(np.isnan(targets.get("eval_spikes_heldout", 0.0)).any())


def _left_out(targets: Arrays) -> list[str]:
    """Say which scores there cannot be, and why."""
    reasons = []
    if "eval_spikes_heldout" not in targets:
        reasons.append("nlb/co_bps (no held-out channels)")
    if "eval_spikes_heldin_forward" not in targets:
        reasons.append("nlb/fp_bps (valid_recon_data has no more bins than valid_encod_data)")
    if "eval_behavior" not in targets:
        reasons.append("nlb/behavior_r2 and nlb/tp_corr (no train_behavior and valid_behavior)")
    elif "eval_decode_mask" not in targets and not _has_intervals(targets):
        reasons.append(
            "nlb/tp_corr (no valid_score_mask, which says what lies between set and go; "
            "scripts/prepare_nlb.py writes it)"
        )
    if "psth" not in targets:
        reasons.append("nlb/psth_r2 (no psth)")
    return reasons


class NLBEvaluation(pl.Callback):
    """Logs the scores of the Neural Latents Benchmark on validation trials while a model trains.

    ``nlb/{co_bps,fp_bps,behavior_r2,psth_r2,tp_corr}``, those that the data allow, from rates of
    the posterior means, and each smoothed over the evaluations, ``nlb/…_smth``: 0.3 of the past and
    0.7 of the present, with its memory in the checkpoint. For several sessions, scores of session S
    are ``nlb/…/sess{S}``, and those without a suffix are their means over sessions.

    Test trials have no part in it, whatever the files hold: these scores may be monitored.

    Parameters
    ----------
    log_every_n_epochs
        Evaluate in epochs 0, n, 2n, ….
    decoding_cv_sweep
        See :func:`benchmark_scores`.

    Raises
    ------
    ImportError, ValueError
        When training begins, if ``nlb_tools`` is missing or the data do not hold what is needed.
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
        """Read from the session files what to score against."""
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
            targets = target_tensors(_arrays(datamodule, session), path)
            self._targets.append(targets)
            if missing := _left_out(targets):
                warnings.warn(
                    f"The Neural Latents Benchmark's scores that {path} does not allow are left "
                    f"out: {'; '.join(missing)}.",
                    stacklevel=2,
                )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Evaluate, if it is time."""
        fitting = trainer.state.fn == TrainerFn.FITTING
        off = trainer.current_epoch % self.log_every_n_epochs != 0
        if trainer.sanity_checking or (fitting and off):
            return
        by_session = [self._scores(trainer, pl_module, s) for s in range(len(self._targets))]
        named: dict[str, float] = {}
        for name in METRICS:
            found = {s: scores[name] for s, scores in enumerate(by_session) if name in scores}
            if len(by_session) > 1:
                named |= {f"{name}/sess{session}": value for session, value in found.items()}
            finite = [value for value in found.values() if math.isfinite(value)]
            if found:
                named[name] = float(np.mean(finite)) if finite else math.nan
        pl_module.log_dict({f"nlb/{name}": value for name, value in named.items()})
        if not fitting:
            return
        for name, value in named.items():
            metric = self._smoothed.setdefault(name, ExpSmoothedMetric(coef=0.3))
            if math.isfinite(value):
                metric.update(value)
            base, _, session = name.partition("/")
            smoothed_name = f"nlb/{base}_smth{'/' if session else ''}{session}"
            pl_module.log(smoothed_name, metric.compute())

    def _scores(
        self, trainer: pl.Trainer, model: pl.LightningModule, session: int
    ) -> dict[str, float]:
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        rates = {}
        for split in ("train", "valid"):
            dataset = getattr(datamodule, f"{split}_ds")[session]
            n_at_once = max(1, datamodule.hparams.batch_size)
            parts = [
                infer_trials(trainer, model, split, session, trials).output.output_params
                for trials in np.split(
                    np.arange(len(dataset)), range(n_at_once, len(dataset), n_at_once)
                )
            ]
            rates[split] = torch.cat([part.cpu().float() for part in parts]).numpy()
        n_bins, n_channels = datamodule.valid_data[session][0].encod_data.shape[1:]
        tensors = rate_tensors(rates["train"], rates["valid"], n_channels, n_bins)
        return benchmark_scores(self._targets[session], tensors, self.decoding_cv_sweep)

    def state_dict(self) -> dict[str, Any]:
        """Return the memory of the smoothed scores, for the checkpoint."""
        return {name: metric.state_dict() for name, metric in self._smoothed.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._smoothed = {name: ExpSmoothedMetric(coef=0.3) for name in state_dict}
        for name, state in state_dict.items():
            self._smoothed[name].load_state_dict(state)


def _arrays(datamodule: BasicDataModule, session: int) -> dict[str, NDArray[Any]]:
    """Return the arrays of a session, as the data module has dealt its trials out."""
    hps = datamodule.hparams
    arrays = load_session(datamodule.session_files[session])
    if hps.reshuffle_tv_seed is None:
        return arrays
    lone = [key for key in arrays if key.startswith("valid_") and f"train{key[5:]}" not in arrays]
    if lone:
        raise UserError(
            f"datamodule.reshuffle_tv_seed deals trials out anew, but "
            f"{datamodule.session_files[session]} holds {', '.join(lone)} of validation trials "
            f"alone."
        )
    for split in ("train", "valid"):
        key, n_trials = f"{split}_cond_idx", len(arrays[f"{split}_encod_data"])
        if key in arrays:  # labels are dealt out with the trials; indices would not be
            arrays[key] = np.asarray(trial_conditions(arrays[key], n_trials))
    return reshuffle_train_valid(arrays, hps.reshuffle_tv_seed, hps.reshuffle_tv_ratio)
