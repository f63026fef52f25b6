"""Reconstructions: likelihoods of the data given the output of the read-out.

To add one, subclass :class:`Reconstruction`: set ``n_params`` and write ``compute_loss`` and
``compute_means``. Shapes: B trials, T bins, N channels, P = ``n_params``.
"""

import copy
import inspect
import math
import warnings
from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Gamma as GammaDistribution

from lfads_torch.errors import UserError
from lfads_torch.recurrence import poisson_losses


class Reconstruction(nn.Module, ABC):
    """Base class of reconstructions."""

    n_params: int
    """Number of parameters of the distribution of one sample."""

    def __init__(self) -> None:
        super().__init__()

    def reshape_output_params(self, output_params: Tensor) -> Tensor:
        """Turn the read-out (B, T, P·N), P blocks of N channels, into (B, T, N, P).

        Raises
        ------
        UserError
            If the number of features is not a multiple of P.
        """
        if output_params.shape[-1] % self.n_params:
            raise UserError(
                f"model.readout gives {output_params.shape[-1]} features, which is not a multiple "
                f"of the {self.n_params} parameters that {type(self).__name__} needs per channel: "
                f"set its out_features to {self.n_params} x channels."
            )
        if self.n_params == 1:
            return output_params.unsqueeze(-1)
        return torch.stack(output_params.chunk(self.n_params, dim=-1), dim=-1)

    @abstractmethod
    def compute_loss(self, data: Tensor, output_params: Tensor) -> Tensor:
        """Return the loss (B, T, N) of each sample of data (B, T, N) given its parameters.

        Parameters
        ----------
        data
            (B, T, N) observed samples.
        output_params
            (B, T, N, P).
        """

    @abstractmethod
    def compute_means(self, output_params: Tensor) -> Tensor:
        """Return the distribution's mean (B, T, N), in units of the data."""

    def compute_l2(self) -> Tensor | float:
        """Return a penalty on the reconstruction's parameters, which is added to the L2 penalty."""
        return 0.0

    def spike_log_rates(self, output_params: Tensor) -> Tensor | None:
        """Return the log rates (B, T, N) if the data are spike counts, and otherwise None.

        Bits per spike are reported only where there are log rates.
        """
        return None

    def means_are_exponential(self) -> bool:
        """Return whether the means are the exponential of the only parameter.

        Posterior sampling then averages rates without keeping those of every sample.
        """
        return False

    def check_data(self, data: Tensor) -> None:
        """Raise a ValueError if samples that are not NaN lie where the likelihood is zero."""
        return None


def _poisson_loss(output_params: Tensor, data: Tensor, full: bool) -> Tensor:
    """Compute what ``torch.nn.functional.poisson_nll_loss`` does, several times faster."""
    # The gradient of squeeze is a view, while that of an index is written into a tensor of zeros.
    one = output_params.shape[-1] == 1
    log_rates = (output_params.squeeze(-1) if one else output_params[..., 0]).to(data.dtype)
    return poisson_losses(log_rates, data, stirling=full)


class Poisson(Reconstruction):
    r"""Spike counts k with log rate x: :math:`e^x - kx + \log k!`, with Stirling's formula."""

    n_params = 1

    def compute_loss(self, data: Tensor, output_params: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats, including its constant term."""
        return _poisson_loss(output_params, data, full=True)

    def compute_means(self, output_params: Tensor) -> Tensor:
        """Return the rates in spikes per bin."""
        return torch.exp(output_params[..., 0])

    def spike_log_rates(self, output_params: Tensor) -> Tensor:
        """Return the log rates."""
        return output_params[..., 0]

    def means_are_exponential(self) -> bool:
        """Return whether no derived class changes how parameters become means."""
        return (
            type(self).compute_means is Poisson.compute_means
            and type(self).reshape_output_params is Reconstruction.reshape_output_params
            and not {"compute_means", "reshape_output_params"} & set(vars(self))
        )

    def check_data(self, data: Tensor) -> None:
        """Refuse negative counts, and warn of counts that are not whole."""
        if (data < 0).any():
            raise UserError(
                f"{type(self).__name__} models spike counts, which are not negative, but the "
                f"lowest value is {_nan_min(data):g}. Give spikes per bin, or choose another "
                f"reconstruction (Gaussian or MSE, say)."
            )
        fractional = data.isfinite() & (data != data.round())
        if fractional.any():
            warnings.warn(
                f"{type(self).__name__} models spike counts, but {fractional.float().mean():.1%} "
                f"of the values are not whole (the first is {data[fractional][0]:g}). If these are "
                f"rates, multiply them by the bin width.",
                stacklevel=2,
            )


class PoissonBPS(Poisson):
    r"""Poisson loss in bits per spike below a constant rate.

    The loss of :class:`Poisson` minus that of the channel's mean rate over the batch's trials and
    bins, divided by log 2 times the batch's mean count: its mean is minus the bits per spike, so
    that losses compare between data sets.
    """

    def compute_loss(self, data: Tensor, output_params: Tensor) -> Tensor:
        """Return the loss in bits per spike."""
        null_rates = data.mean(dim=(0, 1), keepdim=True)
        # At least one spike is assumed, so that a batch without spikes has a finite loss.
        mean_count = data.mean().clamp(min=1 / data.numel())
        # The term log k! cancels.
        null = null_rates - data * torch.log(null_rates + 1e-8)
        losses = _poisson_loss(output_params, data, full=False)
        return (losses - null) / (math.log(2) * mean_count)


class MSE(Reconstruction):
    """Squared error: a normal distribution of fixed variance, up to constants."""

    n_params = 1

    def compute_loss(self, data: Tensor, output_params: Tensor) -> Tensor:
        """Return the squared error."""
        return F.mse_loss(output_params[..., 0], data, reduction="none")

    def compute_means(self, output_params: Tensor) -> Tensor:
        """Return the means."""
        return output_params[..., 0]


class Gaussian(Reconstruction):
    r"""Normal distribution with parameters mean μ and log variance: ½(log σ² + (x - μ)²/σ²)."""

    n_params = 2

    def compute_loss(self, data: Tensor, output_params: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats, without its constant term."""
        means, logvars = output_params.unbind(-1)
        return F.gaussian_nll_loss(means, data, logvars.exp(), reduction="none")

    def compute_means(self, output_params: Tensor) -> Tensor:
        """Return the means."""
        return output_params[..., 0]


class Gamma(Reconstruction):
    """Positive data: gamma distribution with parameters log shape and log rate."""

    n_params = 2

    def compute_loss(self, data: Tensor, output_params: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats."""
        shapes, rates = output_params.exp().unbind(-1)
        return -GammaDistribution(shapes, rates, validate_args=False).log_prob(data)

    def compute_means(self, output_params: Tensor) -> Tensor:
        """Return shape / rate."""
        log_shapes, log_rates = output_params.unbind(-1)
        return torch.exp(log_shapes - log_rates)

    def check_data(self, data: Tensor) -> None:
        """Refuse data that are not positive."""
        if (data <= 0).any():
            raise UserError(
                f"Gamma models values above 0, but the lowest is {_nan_min(data):g}. Shift or clip "
                f"the data, or use ZeroInflatedGamma if they hold exact zeros."
            )


class ZeroInflatedGamma(Reconstruction):
    r"""Data that are exactly zero or gamma distributed, as deconvolved calcium is.

    :math:`P(0) = 1 - q`; otherwise x - ``gamma_loc`` is gamma distributed. Parameters in order:
    shape, rate, q. Shape and rate are learned scales of each channel times sigmoids, q is a
    sigmoid, and all sigmoids are at least 1e-5 (Zhu et al. 2021, RADICaL).

    Parameters
    ----------
    recon_dim
        N, channels.
    gamma_loc
        Smallest value that is not zero.
    scale_init, scale_prior
        Initial value of the scales, and the value towards which the penalty pulls them.
    scale_penalty
        Weight of the penalty ½ Σ (scale - scale_prior)².
    """

    n_params = 3

    def __init__(
        self,
        recon_dim: int,
        gamma_loc: float,
        scale_init: float,
        scale_prior: float,
        scale_penalty: float,
    ) -> None:
        super().__init__()
        self.recon_dim = recon_dim
        self.gamma_loc = gamma_loc
        self.scale_init = scale_init
        self.scale_prior = scale_prior
        self.scale_penalty = scale_penalty
        self.scale = nn.Parameter(torch.full((2, recon_dim), float(scale_init)))

    def _distribution_params(self, output_params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return shape, rate and q, each (B, T, N)."""
        shapes, rates, q = torch.sigmoid(output_params).clamp(min=1e-5).unbind(-1)
        return self.scale[0] * shapes, self.scale[1] * rates, q

    def compute_loss(self, data: Tensor, output_params: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats."""
        shapes, rates, q = self._distribution_params(output_params)
        q_logits = output_params[..., 2]
        is_zero = data == 0
        # log(1 - q), which stays finite, with its gradient, where q rounds to 1.
        log_zero = F.logsigmoid(-q_logits.clamp(min=math.log(1e-5 / (1 - 1e-5))))
        # Zeros, and what SelectiveBackpropThruTime fills in for missing samples, are not gamma
        # distributed. They get a harmless value, because their gradient would otherwise be NaN.
        shifted = torch.where(data > self.gamma_loc, data - self.gamma_loc, torch.ones_like(data))
        log_gamma = GammaDistribution(shapes, rates, validate_args=False).log_prob(shifted)
        return -torch.where(is_zero, log_zero, torch.log(q) + log_gamma)

    def compute_means(self, output_params: Tensor) -> Tensor:
        """Return q (shape / rate + gamma_loc)."""
        shapes, rates, q = self._distribution_params(output_params)
        return q * (shapes / rates + self.gamma_loc)

    def compute_l2(self) -> Tensor:
        """Return ½ scale_penalty Σ (scale - scale_prior)²."""
        return 0.5 * self.scale_penalty * (self.scale - self.scale_prior).square().sum()

    def check_data(self, data: Tensor) -> None:
        """Refuse data that are neither zero nor above ``gamma_loc``."""
        outside = (data != 0) & (data <= self.gamma_loc)
        if outside.any():
            raise UserError(
                f"ZeroInflatedGamma models values that are 0 or above gamma_loc = "
                f"{self.gamma_loc:g}, but there is {data[outside][0]:g}. Set such values to 0, or "
                f"lower gamma_loc."
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the scales, with a warning, if a published checkpoint lacks them."""
        if f"{prefix}scale" not in state_dict:
            warnings.warn(
                f"The checkpoint has no {prefix}scale (the published implementation did not save "
                f"it): the scales do not change, which in a new model are scale_init = "
                f"{self.scale_init:g}.",
                stacklevel=2,
            )
            state_dict = {**state_dict, f"{prefix}scale": self.scale.detach()}
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class MultisessionReconstruction(nn.ModuleList):
    """One copy of a reconstruction for each session file, with the session's number of channels.

    Parameters
    ----------
    datafile_pattern
        A pattern that matches the files of the sessions.
    recon
        The reconstruction to copy. Its ``recon_dim``, if it has one, is replaced.
    """

    def __init__(self, datafile_pattern: str, recon: Reconstruction) -> None:
        from lfads_torch.data.sessions import find_session_files, session_shapes

        super().__init__(
            for_channels(recon, session_shapes(path).n_recon_channels)
            for path in find_session_files(datafile_pattern)
        )


def for_channels(recon: Reconstruction, n_channels: int) -> Reconstruction:
    """Copy a reconstruction, or make one like it if it depends on the number of channels.

    A reconstruction depends on that number if its constructor takes ``recon_dim``. Its other
    arguments are then read from the attributes of the same names.
    """
    names = inspect.signature(type(recon)).parameters
    if "recon_dim" not in names:
        return copy.deepcopy(recon)
    arguments = {name: getattr(recon, name) for name in names}
    return type(recon)(**{**arguments, "recon_dim": n_channels})


def _nan_min(data: Tensor) -> float:
    """Return the lowest value that is not NaN."""
    return float(data[~data.isnan()].min())
