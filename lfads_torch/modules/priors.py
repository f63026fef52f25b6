"""Priors of the initial condition and of the controller output, and KL divergences to them.

A prior makes the approximate posterior from the mean and standard deviation that the network
computes, and returns the Kullback-Leibler (KL) divergence of that posterior from the prior. To add
one, subclass :class:`Prior` and write ``make_posterior`` and ``forward``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, StudentT

from lfads_torch.errors import UserError


class Prior(nn.Module, ABC):
    """Base class of priors.

    Must be overridden: :meth:`make_posterior` and :meth:`forward`. May be declared:
    :attr:`location_scale`.
    """

    location_scale: bool = False
    """Whether ``make_posterior(mean, std)`` is distributed as mean + std · ε.

    ε is then distributed as ``make_posterior(0, 1)``, independently for every bin and dimension,
    so that the noise of all bins can be drawn at once and a fused implementation can run the
    decoder. Otherwise the controller output is sampled bin by bin. A derived class that overrides
    :meth:`make_posterior` has to set this attribute again.
    """

    def __init__(self) -> None:
        super().__init__()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "make_posterior" in vars(cls) and "location_scale" not in vars(cls):
            cls.location_scale = False

    @abstractmethod
    def make_posterior(self, mean: Tensor, std: Tensor) -> Distribution:
        """Return the posterior of one bin (or of the initial condition).

        Parameters
        ----------
        mean, std
            (B, D), which is also the shape of a sample.

        Returns
        -------
        Distribution
            With ``rsample()`` of shape (B, D).
        """

    @abstractmethod
    def forward(self, mean: Tensor, std: Tensor) -> Tensor:
        """Return the KL divergence, summed over bins and dimensions, averaged over trials.

        Parameters
        ----------
        mean, std
            (B, D) for the initial condition, (B, T, D) for the controller output.

        Returns
        -------
        Tensor
            A scalar, in nats.
        """


def location_scale(prior: Prior) -> bool:
    """Return whether a prior, or an object like one, declares ``location_scale``."""
    return "make_posterior" not in vars(prior) and getattr(prior, "location_scale", False)


def _diagonal_normal(mean: Tensor, std: Tensor) -> Distribution:
    """Return a normal distribution (B, D) with a diagonal covariance."""
    return Independent(Normal(mean, std, validate_args=False), 1, validate_args=False)


def _mean_over_trials(kl: Tensor) -> Tensor:
    """Sum (B, …) over all axes but that of trials, and average over trials."""
    return kl.sum() / len(kl)


class Null(Prior):
    """No prior: the divergence is zero. It is meant for models that are not variational."""

    location_scale = True

    def make_posterior(self, mean: Tensor, std: Tensor) -> Distribution:
        """Return a normal distribution with a diagonal covariance."""
        return _diagonal_normal(mean, std)

    def forward(self, mean: Tensor, std: Tensor) -> Tensor:
        """Return zero."""
        return mean.new_zeros(())


class MultivariateNormal(Prior):
    """A normal prior with a diagonal covariance: its mean is trained, its variance is not.

    Parameters
    ----------
    mean, variance
        Initial mean, and the variance: numbers, or arrays of ``shape``.
    shape
        Dimensions of the variable: an int, or a tuple if mean and variance differ between bins.

    Raises
    ------
    ValueError
        If a variance is not above 0.
    """

    location_scale = True

    def __init__(
        self,
        mean: float | Sequence[float] | Tensor,
        variance: float | Sequence[float] | Tensor,
        shape: int | Sequence[int],
    ) -> None:
        super().__init__()
        self.shape = shape
        variances = _filled("variance", variance, shape, positive=True)
        self.mean = nn.Parameter(_filled("mean", mean, shape))
        self.logvar = nn.Parameter(variances.log(), requires_grad=False)

    @property
    def variance(self) -> Tensor:
        """The fixed variance, of the prior's shape."""
        return self.logvar.exp()

    def make_posterior(self, mean: Tensor, std: Tensor) -> Distribution:
        """Return a normal distribution with a diagonal covariance."""
        return _diagonal_normal(mean, std)

    def forward(self, mean: Tensor, std: Tensor) -> Tensor:
        r"""Return :math:`½ Σ (σ² + (μ - m)²) / v - 1 - \log(σ² / v)`, averaged over trials."""
        ratio = std**2 * torch.exp(-self.logvar)
        distance = (mean - self.mean) ** 2 * torch.exp(-self.logvar)
        return _mean_over_trials(0.5 * (ratio + distance - 1 - torch.log(ratio)))


class AutoregressiveMultivariateNormal(Prior):
    r"""An autoregressive normal prior of order one, independent over dimensions.

    .. math::
        x_1 ∼ N(0, s / (1 - α²)), \quad x_t ∼ N(α x_{t-1}, s), \quad α = \exp(-1 / τ)

    with the time constant τ in bins and the noise variance s (Sussillo et al. 2016, arXiv
    1608.06315). Both are trained for each dimension, as ``logtaus`` and ``lognvars``.

    Parameters
    ----------
    tau, nvar
        Initial τ and s: numbers, or one number for each dimension.
    shape
        Dimensions of the variable.
    exact_kl
        The posterior is normal and independent over bins, so its KL divergence from this prior has
        a closed form, which is the default. With False, it is estimated from one further posterior
        sample, as in the published implementation. The estimate has the same expectation, but it is
        noisy.

    Raises
    ------
    ValueError
        If a tau or an nvar is not above 0.
    """

    location_scale = True

    def __init__(
        self,
        tau: float | Sequence[float] | Tensor,
        nvar: float | Sequence[float] | Tensor,
        shape: int,
        exact_kl: bool = True,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.exact_kl = exact_kl
        self.logtaus = nn.Parameter(_filled("tau", tau, shape, positive=True).log())
        self.lognvars = nn.Parameter(_filled("nvar", nvar, shape, positive=True).log())

    @property
    def tau(self) -> Tensor:
        """(D) time constants in bins."""
        return self.logtaus.exp()

    @property
    def nvar(self) -> Tensor:
        """(D) noise variances of the process."""
        return self.lognvars.exp()

    def make_posterior(self, mean: Tensor, std: Tensor) -> Distribution:
        """Return a normal distribution with a diagonal covariance."""
        return _diagonal_normal(mean, std)

    def _coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return α, log s and the log variance of the first bin, log(s / (1 - α²)); each (D)."""
        rate = torch.exp(-self.logtaus)
        first_logvar = self.lognvars - torch.log(-torch.expm1(-2 * rate))
        return torch.exp(-rate), self.lognvars, first_logvar

    def log_prob(self, sample: Tensor) -> Tensor:
        """Return the log density (B) of samples (B, T, D), summed over bins and dimensions."""
        alpha, logvar, first_logvar = self._coefficients()
        first = _normal_log_density(sample[:, 0] ** 2, first_logvar)
        later = _normal_log_density((sample[:, 1:] - alpha * sample[:, :-1]) ** 2, logvar)
        return first.sum(1) + later.sum((1, 2))

    def forward(self, mean: Tensor, std: Tensor) -> Tensor:
        """Return the KL divergence of N(mean, std²), independent over bins, from this prior."""
        if not self.exact_kl:
            posterior = Independent(Normal(mean, std), 2)
            sample = posterior.rsample()
            return (posterior.log_prob(sample) - self.log_prob(sample)).mean()
        alpha, logvar, first_logvar = self._coefficients()
        variance = std**2
        # The expected squares of x_1 and of x_t - α x_{t-1} under the posterior.
        first_square = mean[:, 0] ** 2 + variance[:, 0]
        later_square = (
            (mean[:, 1:] - alpha * mean[:, :-1]) ** 2
            + variance[:, 1:]
            + alpha**2 * variance[:, :-1]
        )
        first = _normal_log_density(first_square, first_logvar)
        later = _normal_log_density(later_square, logvar)
        negative_entropy = -0.5 * (1 + math.log(2 * math.pi)) - torch.log(std)
        return (negative_entropy.sum() - first.sum() - later.sum()) / len(mean)


def _normal_log_density(square: Tensor, logvar: Tensor) -> Tensor:
    """Return log N(x; m, exp(logvar)) where (x - m)² is ``square``."""
    return -0.5 * (math.log(2 * math.pi) + logvar + square * torch.exp(-logvar))


class MultivariateStudentT(Prior):
    """A Student-t prior, independent over dimensions; the posterior has the same family.

    It has heavier tails than the normal distribution, so it favours inputs that are mostly small
    and rarely large. Location and scale are trained (``loc``, ``logscale``). The KL divergence of
    two Student-t distributions has no closed form: it is estimated from one posterior sample.

    Parameters
    ----------
    loc, scale
        Initial location and scale: numbers, or one number for each dimension.
    df
        Degrees of freedom of prior and posterior, above 0.
    shape
        Dimensions of the variable.

    Raises
    ------
    ValueError
        If a scale or df is not above 0.
    """

    location_scale = True

    def __init__(
        self,
        loc: float | Sequence[float] | Tensor,
        scale: float | Sequence[float] | Tensor,
        df: float,
        shape: int | Sequence[int],
    ) -> None:
        super().__init__()
        if not df > 0:
            raise UserError(f"df of a Student-t prior must be above 0, but is {df}.")
        self.shape = shape
        self.df = df
        self.loc = nn.Parameter(_filled("loc", loc, shape))
        self.logscale = nn.Parameter(_filled("scale", scale, shape, positive=True).log())

    @property
    def scale(self) -> Tensor:
        """The scale, of the prior's shape."""
        return self.logscale.exp()

    def make_posterior(self, mean: Tensor, std: Tensor) -> Distribution:
        """Return a Student-t distribution whose location is ``mean`` and whose scale is ``std``."""
        df = torch.full_like(mean, self.df)
        return Independent(StudentT(df, mean, std, validate_args=False), 1, validate_args=False)

    def forward(self, mean: Tensor, std: Tensor) -> Tensor:
        """Return a one-sample estimate of the KL divergence."""
        posterior = StudentT(torch.full_like(mean, self.df), mean, std)
        prior = StudentT(torch.full_like(mean, self.df), self.loc, self.scale)
        sample = posterior.rsample()
        return _mean_over_trials(posterior.log_prob(sample) - prior.log_prob(sample))


def _filled(
    name: str,
    value: float | Sequence[float] | Tensor,
    shape: int | Sequence[int],
    positive: bool = False,
) -> Tensor:
    """Return ``value`` broadcast to ``shape`` in the default dtype."""
    size = (shape,) if isinstance(shape, int) else tuple(shape)
    tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if positive and not (tensor > 0).all():
        raise UserError(f"{name} of a prior must be above 0, but is {value}.")
    try:
        return tensor.expand(size).clone()
    except RuntimeError:
        raise UserError(
            f"{name} of a prior has shape {tuple(tensor.shape)}, but its shape is {size}: "
            f"give one number, or one for each of its dimensions."
        ) from None
