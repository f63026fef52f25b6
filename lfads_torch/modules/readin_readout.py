"""Linear maps between each session's channels and the inputs or factors that sessions share."""

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

from lfads_torch.data.sessions import find_session_files, session_shapes
from lfads_torch.errors import UserError
from lfads_torch.modules.initializers import init_linear_


class FanInLinear(nn.Linear):
    """A linear map whose weights start as N(0, 1 / in_features), and its bias at zero."""

    def reset_parameters(self) -> None:
        """Draw new initial weights."""
        init_linear_(self)


class MultisessionReadin(nn.ModuleList):
    """One linear map from the channels of each session to inputs that all sessions share.

    Parameters
    ----------
    datafile_pattern
        A pattern that matches the files of the sessions.
    out_features
        Number of shared inputs, P. With ``pcr_init`` it is read from the files.
    pcr_init
        Whether the maps start from ``readin_weight`` (N, P) and ``readout_bias`` (N) in each file,
        which principal components regression finds (Pandarinath et al. 2018):
        weight = readin_weightᵀ and bias = -readout_bias · readin_weight. Otherwise they start at
        random.
    requires_grad
        Whether the maps are trained.

    Raises
    ------
    ValueError
        If a file lacks these arrays, or their number of components is not ``out_features``.
    """

    def __init__(
        self,
        datafile_pattern: str,
        out_features: int | None = None,
        pcr_init: bool = True,
        requires_grad: bool = False,
    ) -> None:
        layers = []
        for path in find_session_files(datafile_pattern):
            if pcr_init:
                weight, bias = _alignment(path, out_features, "model.readin.out_features")
                n_channels = session_shapes(path).n_encod_channels
                if len(weight) != n_channels:
                    raise UserError(
                        f"readin_weight in {path} has {len(weight)} channels, but train_encod_data "
                        f"has {n_channels}: align the session again."
                    )
                layers.append(_linear(weight.T, -bias @ weight, requires_grad))
            else:
                if out_features is None:
                    raise UserError(
                        "model.readin needs out_features (the number of inputs that the sessions "
                        "share) where pcr_init is False."
                    )
                n_channels = session_shapes(path).n_encod_channels
                layers.append(FanInLinear(n_channels, out_features).requires_grad_(requires_grad))
        super().__init__(layers)


class MultisessionReadout(nn.ModuleList):
    """One linear map from the factors to the distribution parameters of each session's channels.

    Parameters
    ----------
    datafile_pattern
        A pattern that matches the files of the sessions.
    in_features
        Number of factors, P. With ``pcr_init`` it is read from the files.
    pcr_init
        Whether the maps start from ``readin_weight`` (N, P) and ``readout_bias`` (N) in each file:
        weight = pinv(readin_weight)ᵀ and bias = readout_bias, so that read-in after read-out is
        the identity. Otherwise they start at random.
    requires_grad
        Whether the maps are trained.
    recon_params
        Number of parameters that the reconstruction has per channel. Only the first block of
        channels, which determines the mean, starts from the files. The other blocks start at
        random, and so do the channels that were held out from the encoder, since the alignment does
        not include them.

    Raises
    ------
    ValueError
        If a file lacks these arrays, or their number of components is not ``in_features``.
    """

    def __init__(
        self,
        datafile_pattern: str,
        in_features: int | None = None,
        pcr_init: bool = True,
        requires_grad: bool = True,
        recon_params: int = 1,
    ) -> None:
        layers = []
        for path in find_session_files(datafile_pattern):
            n_channels = session_shapes(path).n_recon_channels
            if pcr_init:
                weight, bias = _alignment(path, in_features, "model.readout.in_features")
                if len(bias) > n_channels:
                    raise UserError(
                        f"readout_bias in {path} has {len(bias)} channels, but train_recon_data "
                        f"has {n_channels}: align the session again."
                    )
                layer = FanInLinear(weight.shape[1], n_channels * recon_params)
                with torch.no_grad():
                    layer.weight[: len(bias)] = torch.as_tensor(np.linalg.pinv(weight).T)
                    layer.bias[: len(bias)] = torch.as_tensor(bias)
            else:
                if in_features is None:
                    raise UserError(
                        "model.readout needs in_features (the number of factors) where pcr_init "
                        "is False."
                    )
                layer = FanInLinear(in_features, n_channels * recon_params)
            layers.append(layer.requires_grad_(requires_grad))
        super().__init__(layers)


def _alignment(path: Path, components: int | None, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Read readin_weight (N, P) and readout_bias (N) of a session in float64."""
    with h5py.File(path) as file:
        missing = [name for name in ("readin_weight", "readout_bias") if name not in file]
        if missing:
            raise UserError(
                f"{path} has no {' and no '.join(missing)}, from which aligned read-ins and "
                f"read-outs start: align the sessions first, or set pcr_init to False."
            )
        weight = np.asarray(file["readin_weight"], dtype=np.float64)
        bias = np.asarray(file["readout_bias"], dtype=np.float64)
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise UserError(
            f"{path}: readin_weight must be (channels, components) and readout_bias (channels), "
            f"but they are {weight.shape} and {bias.shape}."
        )
    if components not in (None, weight.shape[1]):
        raise UserError(
            f"{key} is {components}, but readin_weight in {path} has {weight.shape[1]} components."
        )
    return weight, bias


def _linear(weight: np.ndarray, bias: np.ndarray, requires_grad: bool) -> nn.Linear:
    """Make a linear layer with this weight (out, in) and bias (out)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weight))
        layer.bias.copy_(torch.as_tensor(bias))
    return layer.requires_grad_(requires_grad)
