"""The L2 penalty on recurrent weights."""

from typing import Any

import torch
from torch import Tensor, nn

from lfads_torch.modules.parts import BaseEncoder, declared


def compute_l2_penalty(lfads: Any, hps: Any) -> Tensor:
    r"""Return :math:`Σ_k s_k ½ ‖U_k‖² / (Σ_k \mathrm{numel}(U_k) + 10^{-8})` plus other penalties.

    U_k are the weights that encoder and decoder declare (``recurrent_weights``) and whose scale s_k
    is above 0. Scales are ``l2_{ic_enc,ci_enc,gen,con}_scale``, and those that a part declares for
    its additional groups of weights (``l2_scales``). Each reconstruction may add a penalty
    (``compute_l2``).

    Parameters
    ----------
    lfads
        The model, with ``encoder``, ``decoder`` and ``recon``.
    hps
        Its hyperparameters, ``lfads.hparams``.
    """
    scales = {
        "ic_enc": hps.l2_ic_enc_scale,
        "ci_enc": hps.l2_ci_enc_scale,
        "gen": hps.l2_gen_scale,
        "con": hps.l2_con_scale,
    }
    penalised = [
        (scale, weight)
        for part in (lfads.encoder, lfads.decoder)
        for scale, weight in _scaled_weights(part, scales)
        if scale > 0
    ]
    size = sum(weight.numel() for _, weight in penalised)
    norm = sum(scale * 0.5 * weight.square().sum() for scale, weight in penalised)
    own = sum(recon.compute_l2() for recon in lfads.recon)
    return torch.as_tensor(norm / (size + 1e-8) + own)


def _scaled_weights(part: nn.Module, scales: dict[str, float]) -> list[tuple[float, Tensor]]:
    """Return the weights that a part declares, each with its scale, or 0 if none is known."""
    scales = scales | declared(part, "l2_scales", BaseEncoder)()
    groups = declared(part, "recurrent_weights", BaseEncoder)()
    return [(scales.get(name, 0.0), weight) for name, group in groups.items() for weight in group]
