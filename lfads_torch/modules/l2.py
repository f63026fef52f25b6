"""The L2 penalty on recurrent weights."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lfads_torch.model import LFADS


def compute_l2_penalty(lfads: "LFADS", hps: Any) -> Tensor:
    r"""Return :math:`Σ_k s_k ½ ‖U_k‖² / (Σ_k \mathrm{numel}(U_k) + 10^{-8})` and own penalties.

    U_k are the recurrent matrices that encoder and decoder declare (``recurrent_weights``) and
    whose scale s_k, ``l2_{ic_enc,ci_enc,gen,con}_scale``, is above 0. Each reconstruction adds a
    penalty of its own.

    Parameters
    ----------
    lfads
        A model.
    hps
        Its hyperparameters, ``lfads.hparams``.
    """
    scales = {
        "ic_enc": hps.l2_ic_enc_scale,
        "ci_enc": hps.l2_ci_enc_scale,
        "gen": hps.l2_gen_scale,
        "con": hps.l2_con_scale,
    }
    weights = {**lfads.encoder.recurrent_weights(), **lfads.decoder.recurrent_weights()}
    penalised = [(scales[name], w) for name, ws in weights.items() for w in ws if scales[name] > 0]
    size = sum(weight.numel() for _, weight in penalised)
    norm = sum(scale * 0.5 * weight.square().sum() for scale, weight in penalised)
    own = sum(recon.compute_l2() for recon in lfads.recon)
    return torch.as_tensor(norm / (size + 1e-8) + own)
