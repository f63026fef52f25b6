"""Spikes driven by a Lorenz system: the Lorenz benchmark of Sussillo et al. 2016."""

import math

import numpy as np
from numpy.typing import NDArray

from lfads_torch.datasets.simulation import (
    Arrays,
    Floats,
    argument_error,
    check_positive,
    check_sizes,
    observe,
    random_stream,
)

SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
"""The parameters of Lorenz (1963), which Sussillo et al. 2016 use."""

ATTRACTOR_MEAN = (0.0, 0.0, 23.55)
ATTRACTOR_STD = (7.92, 9.01, 8.62)
"""Long-run mean and standard deviation of (x, y, z) on the attractor."""

ATTRACTOR_XY_CORRELATION = 0.88
"""Long-run correlation of x with y; by symmetry the other correlations are zero."""

BURN_IN = 20.0
"""Time, in Lorenz time units, after which a trajectory is on the attractor."""

TOLERANCE = 1e-9
"""Relative and absolute tolerance of the integration."""


def lorenz(
    seed: int = 0,
    n_conditions: int = 65,
    n_trials: int = 24,
    n_bins: int = 50,
    n_neurons: int = 29,
    bin_width: float = 0.02,
    speed: float = 2.0,
    mean_rates: tuple[float, float] = (5.0, 15.0),
    modulation: float = 1.0,
    max_rate: float = 80.0,
    valid_ratio: float = 0.2,
    heldout_neurons: int = 0,
    forward_bins: int = 0,
) -> Arrays:
    """Generate Poisson spikes whose log rates are linear in the state of a Lorenz system.

    The system (sigma 10, rho 28, beta 8/3) starts each condition at a random point of its
    attractor. Neuron n has the rate exp(w_n . s + b_n), with s the standardised state and w_n a
    vector of random direction. The length of w_n gives the log rate the standard deviation
    ``modulation``, or less if the rate would otherwise exceed ``max_rate``; b_n is such that the
    mean over conditions and bins is a number drawn uniformly from ``mean_rates``. (The Lorenz
    benchmark of Sussillo et al. 2016, with the modest rates of cortical neurons.)

    Parameters
    ----------
    seed
        Seed of all random numbers, at least 0.
    n_conditions
        Number of initial states.
    n_trials
        Trials of each condition, training and validation together; at least 2.
    n_bins
        Bins of a trial; at least 4.
    n_neurons
        Channels of the target.
    bin_width
        Width of a bin in seconds.
    speed
        Lorenz time units per second. One turn around a lobe takes about 0.7 units.
    mean_rates
        Lowest and highest mean rate of a neuron, in Hz.
    modulation
        Standard deviation of a neuron's log rate (natural logarithm) over the attractor; at most
        10.
    max_rate
        Highest rate of any neuron in Hz; above ``mean_rates``.
    valid_ratio
        Fraction of each condition's trials that is held out for validation, rounded to whole
        trials, but at least one trial in either split.
    heldout_neurons
        Number of channels, the last ones, that ``encod_data`` lacks.
    forward_bins
        Number of bins, the last ones, that ``encod_data`` lacks.

    Returns
    -------
    dict
        For each split ("train", "valid"), with trials ordered by condition:
        ``{split}_encod_data`` (trial, time, channel) uint8 counts;
        ``{split}_recon_data`` (trial, time, channel) uint8 counts of all channels and bins;
        ``{split}_truth`` (trial, time, channel) float32, true rates in Hz;
        ``{split}_latents`` (trial, time, 3) float32, the Lorenz state x, y, z at the start of
        each bin, whose rate holds for the whole bin;
        ``{split}_inds`` (trial,) int64, index in the whole data set;
        ``{split}_cond_idx`` (trial,) int64, condition of the trial.
        Besides: ``conversion_factor`` () float64, truth / conversion_factor = expected spikes
        per bin; ``rate_weight`` (channel, 3) and ``rate_bias`` (channel,) float64, with
        log(truth) = latents @ rate_weight.T + rate_bias, up to the rounding of the rates to 13
        significant bits, which precedes the drawing of spikes.

    Raises
    ------
    UserError
        If an argument is out of range.
    """
    check_sizes(
        seed,
        n_conditions,
        n_trials,
        n_bins,
        n_neurons,
        bin_width,
        valid_ratio,
        heldout_neurons,
        forward_bins,
    )
    _check_rates(speed, mean_rates, modulation, max_rate)
    states = _states(seed, n_conditions, n_bins, speed * bin_width)
    rates, weight, bias = _rates(seed, states, n_neurons, mean_rates, modulation, max_rate)
    arrays = observe(
        {"truth": rates, "latents": states},
        seed=seed,
        n_trials=n_trials,
        bin_width=bin_width,
        valid_ratio=valid_ratio,
        heldout_neurons=heldout_neurons,
        forward_bins=forward_bins,
    )
    return {**arrays, "rate_weight": weight, "rate_bias": bias}


def _check_rates(
    speed: float, mean_rates: tuple[float, float], modulation: float, max_rate: float
) -> None:
    """Check the arguments that determine the rates."""
    check_positive("speed", speed)
    check_positive("modulation", modulation)
    if modulation > 10:
        raise argument_error("modulation", "at most 10", modulation)
    if np.shape(mean_rates) != (2,) or not 0 < mean_rates[0] <= mean_rates[1] < math.inf:
        raise argument_error("mean_rates", "two rates in Hz, 0 < lowest <= highest", mean_rates)
    check_positive("max_rate", max_rate)
    if max_rate <= mean_rates[1]:
        expected = f"above the highest mean rate ({mean_rates[1]} Hz)"
        raise argument_error("max_rate", expected, max_rate)


def _velocity(_: float, state: Floats) -> Floats:
    """Return the right-hand side of the Lorenz equations, for states (3 · conditions,)."""
    x, y, z = state.reshape(3, -1)
    return np.concatenate([SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z])


def _states(seed: int, n_conditions: int, n_bins: int, bin_time: float) -> Floats:
    """Integrate the Lorenz system from random points of its attractor.

    Returns
    -------
    NDArray
        (condition, time, 3), the state at the start of every bin of ``bin_time`` time units.
    """
    from scipy.integrate import solve_ivp

    mean, std = np.array(ATTRACTOR_MEAN), np.array(ATTRACTOR_STD)
    start = random_stream(seed, "initial").uniform(-2.0, 2.0, (n_conditions, 3)) * std + mean
    times = BURN_IN + bin_time * np.arange(n_bins)
    solution = solve_ivp(
        _velocity,
        (0.0, times[-1]),
        start.T.ravel(),
        method="DOP853",
        t_eval=times,
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )
    return np.moveaxis(solution.y.reshape(3, n_conditions, n_bins), 0, 2)


def _rates(
    seed: int,
    states: Floats,
    n_neurons: int,
    mean_rates: tuple[float, float],
    modulation: float,
    max_rate: float,
) -> tuple[Floats, Floats, Floats]:
    """Give every neuron a rate, in Hz, whose logarithm is linear in the states.

    Returns
    -------
    rates
        (condition, time, neuron), in Hz.
    weight, bias
        (neuron, 3) and (neuron,): log(rates) = states @ weight.T + bias.
    """
    rng = random_stream(seed, "readout")
    mean, std = np.array(ATTRACTOR_MEAN), np.array(ATTRACTOR_STD)
    direction = rng.normal(size=(n_neurons, 3))
    direction /= np.sqrt(_variance_along(direction))[:, None]
    projection = (states - mean) / std @ direction.T  # Its variance over the attractor is 1.
    target = rng.uniform(*mean_rates, n_neurons)
    depth = np.full(n_neurons, float(modulation))
    while True:
        relative = np.exp(depth * projection)
        base = target / relative.mean(axis=(0, 1))
        rates = base * relative
        too_high = rates.max(axis=(0, 1)) > max_rate
        if not too_high.any():
            break
        depth = np.where(too_high, 0.98 * depth, depth)
    weight = depth[:, None] * direction / std
    return rates, weight, np.log(base) - weight @ mean


def _variance_along(direction: NDArray[np.float64]) -> Floats:
    """Return the variance of the standardised state along each direction (neuron, 3)."""
    x, y, _ = direction.T
    return np.sum(direction**2, axis=1) + 2.0 * ATTRACTOR_XY_CORRELATION * x * y
