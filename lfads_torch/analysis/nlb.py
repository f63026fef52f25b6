"""Scores of the Neural Latents Benchmark (Pei et al. 2021, NeurIPS), by the benchmark's own code.

Data and rates are given as ``nlb_tools`` expects them: in dictionaries that
``nlb_tools.evaluation.evaluate({group: targets}, {group: rates})`` accepts as well. The package
``nlb_tools`` is imported only when scores are computed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfads_torch.data.conditions import trial_conditions
from lfads_torch.datasets.nlb.registry import import_nlb_tools
from lfads_torch.errors import UserError

Arrays = Mapping[str, NDArray[Any]]

METRICS = ("co_bps", "fp_bps", "behavior_r2", "psth_r2", "tp_corr")


# ------------------------------------------------------------------ targets


def target_tensors(arrays: Arrays, source: str | Path) -> dict[str, NDArray[Any]]:
    """Collect the targets against which the benchmark scores the validation trials.

    Parameters
    ----------
    arrays
        The arrays of a session file, which ``datasets/README.md`` describes.
    source
        The name of the file in error messages.

    Returns
    -------
    dict
        The following targets, as far as the session has them, under their names in ``nlb_tools``:

        - ``eval_spikes_heldout`` (trials, T_enc, held-out channels), NaN in bins that are not
          scored;
        - ``eval_spikes_heldin_forward`` and ``eval_spikes_heldout_forward`` (trials,
          T_rec - T_enc, channels);
        - ``train_behavior`` and ``eval_behavior`` (trials, T_enc, variables), or (trials,
          variables) of ``dmfc_rsg``;
        - ``train_decode_mask`` and ``eval_decode_mask`` (trials, masks);
        - ``psth`` (conditions, T_enc, channels), with ``eval_cond_idx``, the indices of the trials
          of each condition;
        - ``eval_jitter`` (trials,).

    Raises
    ------
    UserError
        If there is nothing to score, or if arrays that belong together are incomplete or their
        shapes do not match.
    """
    targets = _spike_targets(arrays, source)
    targets |= _behavior_targets(arrays, source)
    targets |= _psth_targets(arrays, source)
    if "valid_jitter" in arrays:
        n_trials = len(arrays["valid_encod_data"])
        targets["eval_jitter"] = _require(arrays, source, "valid_jitter", (n_trials,)).astype(int)
    if not targets:
        raise UserError(
            f"The Neural Latents Benchmark can score nothing in {source}: it has neither held-out "
            f"channels (valid_recon_data with more channels than valid_encod_data) nor later bins, "
            f"{{train,valid}}_behavior or psth. It holds {sorted(arrays)}."
        )
    return targets


def _spike_targets(arrays: Arrays, source: str | Path) -> dict[str, NDArray[Any]]:
    """Return the spikes of held-out channels and of later bins."""
    recon = arrays["valid_recon_data"]
    n_trials, n_bins, n_channels = arrays["valid_encod_data"].shape
    targets = {}
    if recon.shape[2] > n_channels:
        heldout = recon[:, :n_bins, n_channels:].astype(float)
        if "valid_score_mask" in arrays:
            mask = _require(arrays, source, "valid_score_mask", (n_trials, n_bins))
            heldout[mask == 0] = np.nan
        targets["eval_spikes_heldout"] = heldout
    if recon.shape[1] > n_bins:
        targets["eval_spikes_heldin_forward"] = recon[:, n_bins:, :n_channels].astype(float)
        targets["eval_spikes_heldout_forward"] = recon[:, n_bins:, n_channels:].astype(float)
    return targets


def _behavior_targets(arrays: Arrays, source: str | Path) -> dict[str, NDArray[Any]]:
    """Return the behaviour to decode, and which trials and decoders belong together."""
    if not {"train_behavior", "valid_behavior"} & arrays.keys():
        return {}
    n_bins = arrays["valid_encod_data"].shape[1]
    splits = {"train": "train", "valid": "eval"}
    is_per_trial = any(np.ndim(arrays.get(f"{split}_behavior", 0)) == 2 for split in splits)
    has_masks = bool({"train_decode_mask", "valid_decode_mask"} & arrays.keys())
    targets = {}
    for split, name in splits.items():
        n_trials = len(arrays[f"{split}_encod_data"])
        shape = (n_trials, None) if is_per_trial else (n_trials, n_bins, None)
        behavior = _require(arrays, source, f"{split}_behavior", shape)
        targets[f"{name}_behavior"] = behavior.astype(float)
        if is_per_trial:
            continue
        mask = np.ones((n_trials, 1), dtype=bool)
        if has_masks:
            found = _require(arrays, source, f"{split}_decode_mask", (n_trials, None))
            mask = found.astype(bool)
        targets[f"{name}_decode_mask"] = mask
    return targets


def _psth_targets(arrays: Arrays, source: str | Path) -> dict[str, NDArray[Any]]:
    """Return the average responses, and the indices of the validation trials of each condition."""
    if "psth" not in arrays:
        return {}
    n_trials, n_bins, _ = arrays["valid_encod_data"].shape
    n_channels = arrays["valid_recon_data"].shape[2]
    psth = _require(arrays, source, "psth", (None, n_bins, n_channels)).astype(float)
    cond_idx = _require(arrays, source, "valid_cond_idx", (None,))
    trials = _trials_of_conditions(cond_idx, n_trials, len(psth))
    return {"psth": psth, "eval_cond_idx": trials}


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


def _require(
    arrays: Arrays, source: str | Path, key: str, expected: tuple[int | None, ...]
) -> NDArray[Any]:
    """Return an array, or raise an error if it is missing or its shape is not the expected one.

    None in the expected shape stands for any length.
    """
    if key not in arrays:
        raise UserError(
            f"{source} has no {key}, which the Neural Latents Benchmark needs in addition to what "
            f"there is: {sorted(arrays)}. scripts/prepare_nlb.py makes complete files."
        )
    found = np.shape(arrays[key])
    fits = [size in (None, n) for size, n in zip(expected, found, strict=False)]
    if len(found) != len(expected) or not all(fits):
        wanted = ", ".join("any" if size is None else str(size) for size in expected)
        raise UserError(f"{key} in {source} must be of shape ({wanted}), but is {found}.")
    return arrays[key]


# ------------------------------------------------------------------ rates and scores


def rate_tensors(
    train_rates: NDArray[Any], eval_rates: NDArray[Any], n_channels: int, n_bins: int
) -> dict[str, NDArray[Any]]:
    """Divide rates into the regions that a submission to the benchmark consists of.

    Parameters
    ----------
    train_rates, eval_rates
        (trials, T_rec, N_rec) rates in spikes per bin.
    n_channels, n_bins
        N_enc and T_enc, the numbers of channels and bins that the encoder sees.

    Returns
    -------
    dict
        ``{train,eval}_rates_{heldin,heldout}`` and, if there are later bins, the rates in them as
        ``{train,eval}_rates_{heldin,heldout}_forward``. ``nlb_tools`` 0.0.4 does not use
        ``train_…_forward``.
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
    """Score rates with ``nlb_tools.evaluation``.

    Parameters
    ----------
    targets
        The targets from :func:`target_tensors`.
    rates
        The rates from :func:`rate_tensors`.
    decoding_cv_sweep
        If True, the penalty of the decoder of behaviour is chosen by cross-validation on the
        training trials, as in the benchmark. Otherwise it is 0.01, which takes a fraction of the
        time.

    Returns
    -------
    dict of str to float
        The following scores, as far as the targets allow: ``co_bps`` and ``fp_bps`` (bits per spike
        of held-out channels and of later bins), ``behavior_r2`` (R² of velocity, decoded linearly
        from rates), ``psth_r2`` (R² of average responses) and ``tp_corr`` (mean correlation of
        neural speed and produced interval, of ``dmfc_rsg``).

    Raises
    ------
    MissingPackageError
        If ``nlb_tools`` is missing.
    UserError
        If rates are negative or not finite.
    """
    evaluation = import_nlb_tools("evaluation")
    rates = {key: np.array(value, dtype=float) for key, value in rates.items()}
    for key, value in rates.items():
        if not (np.isfinite(value).all() and (value >= 0).all()):
            raise UserError(
                f"{key} hold values that cannot be rates (below 0, or not finite). The Neural "
                f"Latents Benchmark needs a model of spike counts, such as model.reconstruction "
                f"Poisson."
            )

    def all_channels(name: str, suffix: str = "") -> NDArray[Any]:
        return np.concatenate(
            [rates[f"{name}_rates_heldin{suffix}"], rates[f"{name}_rates_heldout{suffix}"]], axis=-1
        )

    scores: dict[str, float] = {}
    if "eval_spikes_heldout" in targets:
        # A copy is passed, because nlb_tools replaces zeros in it.
        scores["co_bps"] = evaluation.bits_per_spike(
            rates["eval_rates_heldout"].copy(), targets["eval_spikes_heldout"]
        )
    if "eval_spikes_heldin_forward" in targets:
        counts = [targets[f"eval_spikes_{part}_forward"] for part in ("heldin", "heldout")]
        scores["fp_bps"] = evaluation.bits_per_spike(
            all_channels("eval", "_forward"), np.concatenate(counts, axis=-1)
        )
    if "train_decode_mask" in targets:
        scores["behavior_r2"] = evaluation.velocity_decoding(
            all_channels("train"),
            targets["train_behavior"],
            targets["train_decode_mask"],
            all_channels("eval"),
            targets["eval_behavior"],
            targets["eval_decode_mask"],
            grid_search=decoding_cv_sweep,
        )
    if "psth" in targets:
        scores["psth_r2"] = evaluation.eval_psth(
            targets["psth"],
            all_channels("eval"),
            targets["eval_cond_idx"],
            jitter=targets.get("eval_jitter"),
        )
    if _has_intervals(targets):
        scores["tp_corr"] = evaluation.speed_tp_correlation(
            targets["eval_spikes_heldout"], all_channels("eval"), targets["eval_behavior"]
        )
    return {name: float(value) for name, value in scores.items()}


def unavailable_scores(targets: Arrays) -> dict[str, str]:
    """Return the scores that targets do not allow, each with the reason.

    Reasons are also given for scores that the benchmark does not define for a recording. An
    exception is behaviour: it allows either ``behavior_r2`` or ``tp_corr``, and the absence of the
    other needs no reason.
    """
    reasons = {}
    if "eval_spikes_heldout" not in targets:
        reasons["co_bps"] = "no held-out channels"
    if "eval_spikes_heldin_forward" not in targets:
        reasons["fp_bps"] = "valid_recon_data has no more bins than valid_encod_data"
    if "eval_behavior" not in targets:
        reasons["behavior_r2"] = reasons["tp_corr"] = "no train_behavior and valid_behavior"
    elif "eval_decode_mask" not in targets and not _has_intervals(targets):
        reasons["tp_corr"] = (
            "no valid_score_mask, which says which bins lie between set and go; "
            "scripts/prepare_nlb.py writes it"
        )
    if "psth" not in targets:
        reasons["psth_r2"] = "no psth"
    return reasons


def _has_intervals(targets: Arrays) -> bool:
    """Return whether the bins between set and go are known, in which neural speed is measured."""
    is_per_trial = np.ndim(targets.get("eval_behavior", 0)) == 2
    return is_per_trial and bool(np.isnan(targets.get("eval_spikes_heldout", 0.0)).any())
