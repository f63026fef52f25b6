"""Scores of what a model inferred, read from the file that posterior sampling wrote."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lfads_torch.data.hdf5 import open_hdf5
from lfads_torch.data.smoothing import smooth
from lfads_torch.metrics import r2_score, regional_bits_per_spike
from lfads_torch.model import LFADS
from lfads_torch.modules.recons import Poisson


def validation_scores(model: LFADS, output_file: str | Path, session: int = 0) -> dict[str, float]:
    """Score the inferred rates of the validation trials.

    Parameters
    ----------
    model
        The model. Its reconstruction of the session decides which scores there are.
    output_file
        The file with the output of the session.
    session
        The session.

    Returns
    -------
    dict of str to float
        For spike counts, bits per spike of encoded channels and bins (``bps``), of held-out
        channels (``co_bps``) and of later bins (``fp_bps``), as far as there are any. If the true
        rates are known, ``r2`` is that of the inferred to the true rates. For comparison,
        ``smoothing_r2`` is that of the validation data after they have been smoothed by a Gaussian,
        whose standard deviation in bins, ``smoothing_width``, is chosen by :func:`best_smoothing`.
    """
    with open_hdf5(output_file) as file:
        arrays = {
            key: torch.tensor(file[f"valid_{key}"][()]).float()
            for key in ("encod_data", "recon_data", "output_params", "truth")
            if f"valid_{key}" in file
        }
        conversion_factor = (
            np.asarray(file["conversion_factor"]).item() if "conversion_factor" in file else 1.0
        )
    rates, counts = arrays["output_params"], arrays["recon_data"]
    _, n_bins, n_channels = arrays["encod_data"].shape
    scores: dict[str, float] = {}
    if isinstance(model.recon[session], Poisson):
        bits = regional_bits_per_spike(rates.log(), counts, n_channels, n_bins)
        scores |= {
            name: float(value)
            for name, value in zip(("bps", "co_bps", "fp_bps"), bits, strict=True)
        }
    if "truth" in arrays:
        truth = arrays["truth"] / conversion_factor
        scores["r2"] = float(r2_score(rates, truth))
        scores["smoothing_r2"], scores["smoothing_width"] = best_smoothing(counts, truth)
    return {name: value for name, value in scores.items() if not np.isnan(value)}


def best_smoothing(counts: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return the R² of counts, smoothed by the best Gaussian, to the true rates, and its width.

    Every model of single trials should exceed this baseline. The comparison favours the baseline,
    since the width is chosen on the trials on which it is scored.

    Parameters
    ----------
    counts, truth
        (B, T, N) spike counts and true rates, in spikes per bin.

    Returns
    -------
    r2 : float
        R², averaged over channels.
    width : float
        Standard deviation of the Gaussian, in bins.
    """
    widths = np.geomspace(0.5, max(counts.shape[1] / 2, 1.0), 24)
    scores = [
        float(r2_score(torch.tensor(smooth(counts.numpy(), width)), truth)) for width in widths
    ]
    best = int(np.argmax(scores))
    return scores[best], float(widths[best])
