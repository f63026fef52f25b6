"""Benchmark data with known truth: spikes driven by a Lorenz system or by a chaotic network.

Both systems and their use as tests of LFADS are those of Sussillo et al. 2016 (LFADS,
arXiv 1608.06315). A *condition* is one random initial state; its trials share the rates and
differ in their Poisson spikes. Each generator returns a dictionary of arrays under the names of
the library's HDF5 layout (``datasets/README.md``), which `write_h5` writes to a file::

    python -m lfads_torch.datasets.synthetic lorenz --output datasets/lorenz.h5
    python -m lfads_torch.datasets.synthetic chaotic_rnn --gain 2.5 --pulse

Several sessions of one network, each with neurons of its own, are a list of such dictionaries, and
a folder of such files::

    python -m lfads_torch.datasets.synthetic multisession --output datasets/multisession

Reproducibility
---------------
The same arguments give the same bits on every processor, so that a file can be checked against
the command that made it. Chaos would amplify a difference in the last bit, hence only operations
that IEEE 754 defines exactly are used: elementwise ``+ - * /``, square root, rounding and scaling
by powers of two. There are no matrix products and no `numpy.sum`, whose order of summation
depends on the processor, and none of NumPy's transcendental functions, whose last bits do. The
random numbers come from the raw 64-bit stream of PCG64, which NumPy keeps stable. One array is an
exception: the latents of several sessions are principal components, for which linear algebra is
needed, and are the same up to rounding only. Nothing else depends on them.
"""

from __future__ import annotations

import argparse
import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from lfads_torch.errors import ExistingFileError, UserError

__all__ = [
    "chaotic_rnn",
    "lorenz",
    "main",
    "multisession_chaotic_rnn",
    "write_h5",
    "write_sessions",
]

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

# Lorenz (1963), with the parameters of Sussillo et al. 2016.
SIGMA, RHO, BETA = 10.0, 28.0, 8.0 / 3.0
# Long-run mean and standard deviation of (x, y, z) on that attractor, and the correlation of x
# with y; symmetry makes the other correlations zero.
ATTRACTOR_MEAN = (0.0, 0.0, 23.55)
ATTRACTOR_STD = (7.92, 9.01, 8.62)
ATTRACTOR_XY_CORRELATION = 0.88
LORENZ_STEP = 0.005  # longest Runge-Kutta step, in Lorenz time units
LORENZ_BURN_IN = 20.0  # in Lorenz time units

RATE_BITS = 13  # significant bits of a rate (1 in 8,000): the bits that are zero compress well
MAX_EXPECTED_COUNT = 100.0  # per bin; far below the 255 that a byte holds
CHUNK_BYTES = 2**20

# One independent stream of random numbers for each purpose: more trials or another split leave
# the dynamics of a seed as they are.
STREAMS = ("initial", "readout", "network", "input", "spikes", "split", "electrodes")


# ------------------------------------------------------------------ exact elementary functions


def _exp(x: Floats) -> Floats:
    """Exponential, to about 1 unit in the last place, from exact operations alone."""
    twos = np.rint(x * 1.4426950408889634)
    # ln 2 in two parts, the first short enough for an exact product (Cody & Waite 1980).
    rest = (x - twos * 0.693147180369123816490) - twos * 1.90821492927058770002e-10
    series = np.ones_like(rest)
    for order in range(14, 0, -1):
        series = 1.0 + series * rest / order
    return np.ldexp(series, twos.astype(np.int32))


def _log(x: Floats) -> Floats:
    """Natural logarithm of positive numbers, from exact operations alone."""
    mantissa, exponent = np.frexp(x)
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, 2.0 * mantissa, mantissa)
    twos = exponent - small.astype(np.float64)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    square = ratio * ratio
    series = np.zeros_like(ratio)
    for order in range(23, 0, -2):  # log m = 2 artanh((m - 1) / (m + 1))
        series = series * square + 1.0 / order
    return twos * 0.6931471805599453 + 2.0 * ratio * series


def _tanh(x: Floats) -> Floats:
    """Hyperbolic tangent, to about 1e-16 absolute, from exact operations alone."""
    power = _exp(2.0 * np.minimum(np.abs(x), 20.0))
    return np.copysign(1.0 - 2.0 / (power + 1.0), x)


# ------------------------------------------------------------------------------ random numbers


def _stream(seed: int, purpose: str, session: int | None = None) -> np.random.PCG64:
    """Return the random stream that `seed`, and a session, have for `purpose` (of `STREAMS`)."""
    key = (STREAMS.index(purpose),) if session is None else (STREAMS.index(purpose), session)
    return np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key))


def _uniform(stream: np.random.PCG64, *shape: int) -> Floats:
    """Draw uniform numbers in [0, 1): multiples of 2**-53."""
    raw = np.asarray(stream.random_raw(math.prod(shape)), dtype=np.uint64)
    return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)


def _normal(stream: np.random.PCG64, *shape: int) -> Floats:
    """Draw standard normal numbers with the polar method (Marsaglia & Bray 1964)."""
    wanted = math.prod(shape)
    drawn = np.empty(0)
    while len(drawn) < wanted:
        points = 2.0 * _uniform(stream, wanted, 2) - 1.0
        square = points[:, 0] * points[:, 0] + points[:, 1] * points[:, 1]
        inside = (square > 0.0) & (square < 1.0)
        points, square = points[inside], square[inside]
        scale = np.sqrt(-2.0 * _log(square) / square)
        drawn = np.concatenate([drawn, (points * scale[:, None]).ravel()])
    return drawn[:wanted].reshape(shape)


def _poisson(expected: Floats, uniform: Floats) -> NDArray[np.uint8]:
    """Turn uniform numbers into Poisson counts by inverting the cumulative distribution.

    Parameters
    ----------
    expected
        Expected counts, at most `MAX_EXPECTED_COUNT`; broadcast against `uniform`.
    uniform
        Numbers in [0, 1).

    Returns
    -------
    counts
        In the shape of `uniform`.
    """
    probability = _exp(-expected)
    cumulative = probability
    counts = np.zeros(uniform.shape, dtype=np.uint8)
    for count in range(1, 256):
        above = uniform >= cumulative
        if not above.any():
            break
        counts += above
        probability = probability * expected / count
        cumulative = cumulative + probability
    return counts


# ---------------------------------------------------------------------------------- validation


def _error(name: str, expected: str, found: object) -> UserError:
    return UserError(f"`{name}` must be {expected}; got {found!r}.")


def _check_integer(name: str, value: int, low: int, high: int | None = None) -> None:
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise _error(name, f"an integer {limits}", value)


def _check_positive(name: str, value: float) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise _error(name, "a positive, finite number", value)


def _check_sizes(
    seed: int,
    n_conditions: int,
    n_trials: int,
    n_bins: int,
    n_neurons: int,
    bin_width: float,
    valid_ratio: float,
    heldout_neurons: int,
    forward_bins: int,
) -> None:
    """Check the arguments that the generators share."""
    _check_integer("seed", seed, 0)
    _check_integer("n_conditions", n_conditions, 1)
    _check_integer("n_trials", n_trials, 2)
    _check_integer("n_bins", n_bins, 4)
    _check_integer("n_neurons", n_neurons, 1)
    _check_positive("bin_width", bin_width)
    _check_positive("valid_ratio", valid_ratio)
    if valid_ratio >= 1:
        raise _error("valid_ratio", "a number between 0 and 1", valid_ratio)
    _check_integer("heldout_neurons", heldout_neurons, 0, n_neurons - 1)
    _check_integer("forward_bins", forward_bins, 0, n_bins - 1)


# ---------------------------------------------------------------------------------- generators


def _lorenz_velocity(x: Floats, y: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
    """Right-hand side of the Lorenz equations."""
    return SIGMA * (y - x), x * (RHO - z) - y, x * y - BETA * z


def _lorenz_step(state: Sequence[Floats], step: float) -> list[Floats]:
    """Advance (x, y, z) by one classical Runge-Kutta step of `step` Lorenz time units."""
    slope_1 = _lorenz_velocity(*state)
    slope_2 = _lorenz_velocity(*(s + 0.5 * step * k for s, k in zip(state, slope_1, strict=True)))
    slope_3 = _lorenz_velocity(*(s + 0.5 * step * k for s, k in zip(state, slope_2, strict=True)))
    slope_4 = _lorenz_velocity(*(s + step * k for s, k in zip(state, slope_3, strict=True)))
    return [
        s + step / 6.0 * (a + 2.0 * b + 2.0 * c + d)
        for s, a, b, c, d in zip(state, slope_1, slope_2, slope_3, slope_4, strict=True)
    ]


def _lorenz_states(seed: int, n_conditions: int, n_bins: int, bin_time: float) -> Floats:
    """Integrate the Lorenz system from random points of its attractor.

    Returns
    -------
    states
        (condition, time, 3), the state at the start of every bin of `bin_time` time units.
    """
    start = _uniform(_stream(seed, "initial"), n_conditions, 3) - 0.5
    state = [
        mean + 4.0 * std * start[:, axis]
        for axis, (mean, std) in enumerate(zip(ATTRACTOR_MEAN, ATTRACTOR_STD, strict=True))
    ]
    for _ in range(round(LORENZ_BURN_IN / LORENZ_STEP)):
        state = _lorenz_step(state, LORENZ_STEP)
    n_steps = math.ceil(bin_time / LORENZ_STEP)
    states = np.empty((n_conditions, n_bins, 3))
    for time in range(n_bins):
        states[:, time] = np.stack(state, axis=-1)
        for _ in range(n_steps):
            state = _lorenz_step(state, bin_time / n_steps)
    return states


def _dot(vectors: Floats, rows: Floats) -> Floats:
    """Scalar products of 3-vectors (..., 3) with `rows` (n, 3), in a fixed order: (..., n)."""
    x, y, z = vectors[..., 0, None], vectors[..., 1, None], vectors[..., 2, None]
    return x * rows[:, 0] + y * rows[:, 1] + z * rows[:, 2]


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
    vector of random direction. Its length gives the log rate the standard deviation `modulation`,
    or less where the rate would otherwise exceed `max_rate`; b_n is such that the mean over
    conditions and bins is a number drawn uniformly from `mean_rates`. (The Lorenz benchmark of
    Sussillo et al. 2016, with the modest rates of cortical neurons.)

    Parameters
    ----------
    seed
        Of all random draws; not negative.
    n_conditions
        Number of initial states.
    n_trials
        Trials of each condition, training and validation together; at least 2.
    n_bins
        Bins of a trial; at least 4.
    n_neurons
        Channels of the target.
    bin_width
        In seconds.
    speed
        Lorenz time units per second. One turn around a lobe takes about 0.7 units.
    mean_rates
        Lowest and highest mean rate of a neuron, in Hz.
    modulation
        Standard deviation of a neuron's log rate (natural logarithm) over the attractor; at most
        10.
    max_rate
        Highest rate of any neuron in Hz; above `mean_rates`.
    valid_ratio
        Fraction of each condition's trials that is held out for validation, rounded to whole
        trials, but at least one trial on either side.
    heldout_neurons
        Number of channels, the last ones, that `encod_data` lacks.
    forward_bins
        Number of bins, the last ones, that `encod_data` lacks.

    Returns
    -------
    arrays
        For each split ("train", "valid"), with trials ordered by condition:
        ``{split}_encod_data`` (trial, time, channel) uint8 counts;
        ``{split}_recon_data`` likewise, with all channels and bins;
        ``{split}_truth`` (trial, time, channel) float32, true rates in Hz;
        ``{split}_latents`` (trial, time, 3) float32, the Lorenz state x, y, z at the start of
        each bin, whose rate holds for the whole bin;
        ``{split}_inds`` (trial,) int64, index in the whole data set;
        ``{split}_cond_idx`` (trial,) int64, condition of the trial.
        Besides: ``conversion_factor`` () float64, truth / conversion_factor = expected spikes
        per bin; ``rate_weight`` (channel, 3) and ``rate_bias`` (channel,) float64, with
        log(truth) = latents @ rate_weight.T + rate_bias, up to the rounding of the rates to
        `RATE_BITS` significant bits, which precedes the drawing of spikes.
    """
    _check_sizes(
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
    _check_positive("speed", speed)
    _check_positive("modulation", modulation)
    if modulation > 10:
        raise _error("modulation", "at most 10", modulation)
    if np.shape(mean_rates) != (2,) or not 0 < mean_rates[0] <= mean_rates[1] < math.inf:
        raise _error("mean_rates", "two rates in Hz, 0 < lowest <= highest", mean_rates)
    _check_positive("max_rate", max_rate)
    if max_rate <= mean_rates[1]:
        raise _error("max_rate", f"above the highest mean rate ({mean_rates[1]} Hz)", max_rate)

    states = _lorenz_states(seed, n_conditions, n_bins, speed * bin_width)
    mean, std = np.array(ATTRACTOR_MEAN), np.array(ATTRACTOR_STD)
    standardised = (states - mean) / std

    readout = _stream(seed, "readout")
    direction = _normal(readout, n_neurons, 3)
    x, y, z = direction[:, 0], direction[:, 1], direction[:, 2]
    variance = x * x + y * y + z * z + 2.0 * ATTRACTOR_XY_CORRELATION * x * y
    direction = direction / np.sqrt(variance)[:, None]
    projection = _dot(standardised, direction)  # of unit variance over the attractor
    lowest, highest = mean_rates
    target = lowest + (highest - lowest) * _uniform(readout, n_neurons)

    depth = np.full(n_neurons, float(modulation))
    while True:
        relative = _exp(depth * projection)
        total = [math.fsum(relative[:, :, neuron].ravel()) for neuron in range(n_neurons)]
        base = target * (n_conditions * n_bins) / np.array(total)
        rates = base * relative
        too_high = rates.max(axis=(0, 1)) > max_rate
        if not too_high.any():
            break
        depth = np.where(too_high, 0.98 * depth, depth)

    arrays = _observe(
        {"truth": rates, "latents": states},
        seed=seed,
        n_trials=n_trials,
        bin_width=bin_width,
        valid_ratio=valid_ratio,
        heldout_neurons=heldout_neurons,
        forward_bins=forward_bins,
    )
    weight = depth[:, None] * direction / std
    return {**arrays, "rate_weight": weight, "rate_bias": _log(base) - _dot(mean, weight)}


def chaotic_rnn(
    seed: int = 0,
    n_conditions: int = 400,
    n_trials: int = 10,
    n_bins: int = 100,
    n_neurons: int = 50,
    bin_width: float = 0.01,
    gain: float = 2.5,
    tau: float = 0.025,
    max_rate: float = 30.0,
    pulse: bool = False,
    pulse_magnitude: float = 50.0,
    valid_ratio: float = 0.2,
    heldout_neurons: int = 0,
    forward_bins: int = 0,
) -> Arrays:
    """Generate Poisson spikes of a chaotic recurrent network, with or without input pulses.

    The network of Sussillo et al. 2016 (after Sompolinsky et al. 1988), stepped once a bin::

        x_t = (1 - dt/tau) x_{t-1} + (dt/tau) (gain W tanh(x_{t-1}) + B u_t),   x_0 ~ N(0, 1)

    with W_ij ~ N(0, 1/n_neurons); neuron i has the rate max_rate (1 + tanh(x_i)) / 2. With
    `pulse`, the scalar input u is `pulse_magnitude` in one bin and zero otherwise; the bin is
    drawn for each condition from the middle half of the trial, and B_i ~ N(0, 1), one vector for
    all conditions. The pulse shows in the rates from its own bin on. The same seed without
    `pulse` gives the same network and initial states.

    Parameters
    ----------
    seed
        Of all random draws; not negative.
    n_conditions
        Number of initial states.
    n_trials
        Trials of each condition, training and validation together; at least 2.
    n_bins
        Bins of a trial; at least 4.
    n_neurons
        Units of the network; all of them are recorded.
    bin_width
        In seconds; also the step dt of the network.
    gain
        Recurrent gain; 1.5 and 2.5 in the paper. Activity is chaotic above 1.
    tau
        Time constant of a unit in seconds, not below `bin_width`.
    max_rate
        Rate of a neuron at tanh(x) = 1, in Hz.
    pulse
        Whether each condition gets an input pulse.
    pulse_magnitude
        Height of the pulse in its only bin; 50 in the paper. Through dt/tau = 0.4 it displaces the
        units by 20 B, which saturates most of them and decays within some 100 ms.
    valid_ratio
        Fraction of each condition's trials that is held out for validation, rounded to whole
        trials, but at least one trial on either side.
    heldout_neurons
        Number of channels, the last ones, that `encod_data` lacks.
    forward_bins
        Number of bins, the last ones, that `encod_data` lacks.

    Returns
    -------
    arrays
        The arrays of `lorenz` up to ``conversion_factor``, where ``{split}_latents`` are the
        states x (trial, time, channel). Besides: ``recurrent_weight`` (channel, channel)
        float64, W without the gain. With `pulse` also ``{split}_input`` (trial, time, 1)
        float32, u; ``{split}_pulse_time`` (trial,) int64, the bin of the pulse; ``input_weight``
        (channel,) float64, B.
    """
    _check_sizes(
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
    _check_network(bin_width, gain, tau, max_rate)
    _check_positive("pulse_magnitude", pulse_magnitude)

    inputs = _stream(seed, "input")
    input_weight = _normal(inputs, n_neurons)
    pulse_time = np.floor(n_bins * (0.25 + 0.5 * _uniform(inputs, n_conditions))).astype(np.int64)
    signal = np.zeros((n_conditions, n_bins, 1))
    if pulse:
        signal[np.arange(n_conditions), pulse_time] = pulse_magnitude

    recurrent, states, activity = _run_network(
        seed, signal * input_weight, gain=gain, leak=bin_width / tau
    )
    by_condition: dict[str, NDArray[Any]] = {
        "truth": max_rate * (1.0 + activity) / 2.0,
        "latents": states,
    }
    weights = {"recurrent_weight": recurrent}
    if pulse:
        by_condition |= {"input": signal, "pulse_time": pulse_time}
        weights["input_weight"] = input_weight
    arrays = _observe(
        by_condition,
        seed=seed,
        n_trials=n_trials,
        bin_width=bin_width,
        valid_ratio=valid_ratio,
        heldout_neurons=heldout_neurons,
        forward_bins=forward_bins,
    )
    return {**arrays, **weights}


def multisession_chaotic_rnn(
    seed: int = 0,
    n_sessions: int = 8,
    n_conditions: int = 40,
    n_trials: int = 5,
    n_bins: int = 50,
    n_neurons: int = 25,
    n_latents: int = 8,
    bin_width: float = 0.02,
    gain: float = 1.5,
    tau: float = 0.05,
    max_rate: float = 30.0,
    valid_ratio: float = 0.2,
) -> list[Arrays]:
    """Generate Poisson spikes of one chaotic network, recorded in sessions with different neurons.

    The network of `chaotic_rnn` without pulses has as many units as all sessions have neurons
    together. They are dealt out at random, so that no unit is in two sessions. All sessions have
    the same conditions, of which each has trials and spikes of its own; what the sessions have in
    common is the state of the network. (After the sessions from one brain area that a single model
    was trained on in Pandarinath et al. 2018, Nature Methods.)

    Parameters
    ----------
    seed
        Of all random draws; not negative.
    n_sessions
        Number of sessions.
    n_conditions
        Number of initial states, the same in all sessions.
    n_trials
        Trials of each condition in each session, training and validation together; at least 2.
    n_bins
        Bins of a trial; at least 4.
    n_neurons
        Channels of each session. The network has n_sessions * n_neurons units.
    n_latents
        Principal components of the network that are kept as its latents; at most the number of
        units.
    bin_width
        In seconds; also the step dt of the network.
    gain
        Recurrent gain. Activity is chaotic above 1.
    tau
        Time constant of a unit in seconds, not below `bin_width`.
    max_rate
        Rate of a neuron at tanh(x) = 1, in Hz.
    valid_ratio
        Fraction of each condition's trials that is held out for validation, rounded to whole
        trials, but at least one trial on either side.

    Returns
    -------
    sessions
        For each session the arrays of `lorenz` up to ``conversion_factor``, where
        ``{split}_latents`` (trial, time, n_latents) are the leading principal components of the
        states x of all units over all conditions and bins, with the sign that makes the largest
        weight positive: the same numbers for a condition in every session. Besides:
        ``unit_idx`` (channel,) int64, the unit of the network that a channel records;
        ``latent_variance`` (n_latents,) float64, the fraction of the variance of all states
        that each latent has.
    """
    _check_sizes(seed, n_conditions, n_trials, n_bins, n_neurons, bin_width, valid_ratio, 0, 0)
    _check_integer("n_sessions", n_sessions, 1)
    n_units = n_sessions * n_neurons
    _check_integer("n_latents", n_latents, 1, n_units)
    _check_network(bin_width, gain, tau, max_rate)

    quiet = np.zeros((n_conditions, n_bins, n_units))
    _, states, activity = _run_network(seed, quiet, gain=gain, leak=bin_width / tau)
    rates = max_rate * (1.0 + activity) / 2.0
    latents, variance = _principal_components(states, n_latents)
    dealt = np.argsort(_uniform(_stream(seed, "electrodes"), n_units), kind="stable")
    sessions = []
    for session in range(n_sessions):
        units = np.sort(dealt[session * n_neurons : (session + 1) * n_neurons]).astype(np.int64)
        arrays = _observe(
            {"truth": rates[:, :, units], "latents": latents},
            seed=seed,
            session=session,
            n_trials=n_trials,
            bin_width=bin_width,
            valid_ratio=valid_ratio,
        )
        sessions.append({**arrays, "unit_idx": units, "latent_variance": variance})
    return sessions


def _check_network(bin_width: float, gain: float, tau: float, max_rate: float) -> None:
    """Check the arguments of a network."""
    _check_positive("gain", gain)
    _check_positive("max_rate", max_rate)
    _check_positive("tau", tau)
    if tau < bin_width:
        raise _error("tau", f"at least `bin_width` ({bin_width} s)", tau)


def _run_network(
    seed: int, inputs: Floats, *, gain: float, leak: float
) -> tuple[Floats, Floats, Floats]:
    """Draw a network and let it run from random states; see `chaotic_rnn`.

    Parameters
    ----------
    inputs
        B u_t (condition, time, unit); that of the first bin has no effect.
    leak
        dt / tau.

    Returns
    -------
    recurrent
        W (unit, unit), without the gain.
    states
        x (condition, time, unit).
    activity
        tanh(x), likewise.
    """
    n_conditions, n_bins, n_units = inputs.shape
    recurrent = _normal(_stream(seed, "network"), n_units, n_units) / np.sqrt(float(n_units))
    states = np.empty((n_conditions, n_bins, n_units))
    activity = np.empty_like(states)
    state = _normal(_stream(seed, "initial"), n_conditions, n_units)
    for time in range(n_bins):
        if time > 0:
            drive = inputs[:, time]
            for unit in range(n_units):  # a matrix product in a fixed order
                drive = drive + gain * recurrent[:, unit] * activity[:, time - 1, unit, None]
            state = (1.0 - leak) * state + leak * drive
        states[:, time] = state
        activity[:, time] = _tanh(state)
    return recurrent, states, activity


def _principal_components(states: Floats, n_components: int) -> tuple[Floats, Floats]:
    """Project (condition, time, unit) to (condition, time, component), up to rounding.

    Also return the fraction of the variance that each component has.
    """
    samples = states.reshape(-1, states.shape[2])
    samples = samples - samples.mean(axis=0)
    variances, directions = np.linalg.eigh(samples.T @ samples)
    variances, directions = variances[::-1].clip(min=0.0), directions[:, ::-1]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.sign(directions[largest, np.arange(len(largest))])
    projected = samples @ directions[:, :n_components]
    explained = variances[:n_components] / variances.sum()
    return projected.reshape(*states.shape[:2], n_components), explained


def _observe(
    by_condition: Mapping[str, NDArray[Any]],
    *,
    seed: int,
    n_trials: int,
    bin_width: float,
    valid_ratio: float,
    heldout_neurons: int = 0,
    forward_bins: int = 0,
    session: int | None = None,
) -> Arrays:
    """Draw the spikes of every trial, split the trials, and name the arrays.

    Parameters
    ----------
    by_condition
        "truth" (condition, time, channel), rates in Hz, and anything else with one entry per
        condition that its trials shall carry. Floating-point arrays become float32.
    session
        Gives the spikes and the split of one of several sessions; None where there is only one.

    Returns
    -------
    arrays
        As documented in `lorenz`.
    """
    mantissa, exponent = np.frexp(by_condition["truth"])
    rates = np.ldexp(np.rint(mantissa * 2.0**RATE_BITS), exponent - RATE_BITS)
    shared = {
        key: value.astype(np.float32) if value.dtype == np.float64 else value
        for key, value in {**by_condition, "truth": rates}.items()
    }
    n_conditions, n_bins, n_neurons = shared["truth"].shape
    conversion_factor = 1.0 / bin_width
    # From the rates as they are stored, so that the truth of the file is exact.
    expected = shared["truth"].astype(np.float64) / conversion_factor
    if expected.max() > MAX_EXPECTED_COUNT:
        raise UserError(
            f"The rates reach {expected.max():.0f} spikes per bin and at most "
            f"{MAX_EXPECTED_COUNT:.0f} can be drawn: choose lower rates, a weaker modulation or "
            "a smaller `bin_width`."
        )
    spikes = np.empty((n_conditions, n_trials, n_bins, n_neurons), dtype=np.uint8)
    stream = _stream(seed, "spikes", session)
    for condition in range(n_conditions):
        uniform = _uniform(stream, n_trials, n_bins, n_neurons)
        spikes[condition] = _poisson(expected[condition], uniform)

    n_valid = min(max(round(n_trials * valid_ratio), 1), n_trials - 1)
    order = _uniform(_stream(seed, "split", session), n_conditions, n_trials)
    shuffled = np.argsort(order, kind="stable")
    arrays: Arrays = {}
    for split, chosen in (("train", shuffled[:, n_valid:]), ("valid", shuffled[:, :n_valid])):
        trial = np.sort(chosen, axis=1).ravel()
        condition_of_trial = np.repeat(np.arange(n_conditions), chosen.shape[1])
        recon_data = spikes[condition_of_trial, trial]
        encod_data = recon_data[:, : n_bins - forward_bins, : n_neurons - heldout_neurons]
        arrays[f"{split}_encod_data"] = np.ascontiguousarray(encod_data)
        arrays[f"{split}_recon_data"] = recon_data
        for key, value in shared.items():
            arrays[f"{split}_{key}"] = value[condition_of_trial]
        arrays[f"{split}_inds"] = (condition_of_trial * n_trials + trial).astype(np.int64)
        arrays[f"{split}_cond_idx"] = condition_of_trial.astype(np.int64)
    arrays["conversion_factor"] = np.array(conversion_factor)
    return arrays


# --------------------------------------------------------------------------------------- files


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise ExistingFileError(
            f"{path} exists already: choose another path, or pass overwrite=True (on the command "
            "line --overwrite) to replace it."
        )


def write_h5(
    path: str | os.PathLike[str],
    arrays: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write arrays to a compressed HDF5 file.

    The file appears under its name only once it is complete, and holds no times or versions, so
    that equal contents give equal bytes.

    Parameters
    ----------
    path
        Of the file; missing folders are made.
    arrays
        Datasets by name, written in alphabetical order. Chunks hold whole trials (the first
        axis), so that repeated trials compress well.
    attributes
        Attributes of the file: numbers, strings, or sequences of numbers.
    overwrite
        Whether an existing file may be replaced.

    Returns
    -------
    path
        Of the file.

    Raises
    ------
    FileExistsError
        If the file exists and `overwrite` is false.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(unfinished, "w", libver=("earliest", "v108")) as file:
            for name, value in sorted(arrays.items()):
                # Every choice is explicit: the defaults of h5py have changed between versions.
                layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                layout.set_fill_time(h5py.h5d.FILL_TIME_IFSET)
                if value.ndim > 0 and value.size > 0:
                    rows = CHUNK_BYTES // (value.nbytes // len(value))
                    layout.set_chunk((min(max(rows, 1), len(value)), *value.shape[1:]))
                    layout.set_shuffle()
                    layout.set_deflate(6)
                little_endian = value.astype(value.dtype.newbyteorder("<"), copy=False)
                file.create_dataset(name, data=little_endian, dcpl=layout, track_times=False)
            for name, value in (attributes or {}).items():
                file.attrs[name] = value
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def write_sessions(
    folder: str | os.PathLike[str],
    sessions: Sequence[Mapping[str, NDArray[Any]]],
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write one file for each session, ``sess0.h5``, ``sess1.h5``, …, with `write_h5`.

    Parameters
    ----------
    folder
        Of the files; made if need be. ``folder/sess*.h5`` matches them all, in their order.
    sessions
        The arrays of each session.
    attributes
        Attributes of every file, which also gets its number as ``session``.
    overwrite
        Whether existing files may be replaced.

    Returns
    -------
    paths
        Of the files.

    Raises
    ------
    FileExistsError
        If a file exists and `overwrite` is false, or if the folder holds files of further
        sessions, which the pattern would match too; then nothing is written.
    """
    folder = Path(folder)
    paths = _session_paths(folder, len(sessions), overwrite)
    for session, (path, arrays) in enumerate(zip(paths, sessions, strict=True)):
        write_h5(path, arrays, {**(attributes or {}), "session": session}, overwrite)
    return paths


def _session_paths(folder: Path, n_sessions: int, overwrite: bool) -> list[Path]:
    """Return the paths that `write_sessions` writes to, once it is certain that it may."""
    digits = len(str(n_sessions - 1))
    paths = [folder / f"sess{session:0{digits}d}.h5" for session in range(n_sessions)]
    for path in paths:
        _refuse_existing(path, overwrite)
    others = sorted(path.name for path in set(folder.glob("sess*.h5")) - set(paths))
    if others:
        raise ExistingFileError(
            f"{folder} holds {', '.join(others)} besides the {n_sessions} session(s) to be written,"
            f" and sess*.h5 would match them too: choose another folder, or remove them."
        )
    return paths


# -------------------------------------------------------------------------------- command line

GENERATORS: dict[str, Callable[..., Arrays] | Callable[..., list[Arrays]]] = {
    "lorenz": lorenz,
    "chaotic_rnn": chaotic_rnn,
    "multisession": multisession_chaotic_rnn,
}
FOLDERS = ("multisession",)  # generators of several files
HELP = {
    "seed": "seed of all random draws",
    "n_sessions": "number of sessions",
    "n_conditions": "number of initial states",
    "n_trials": "trials of each condition, training and validation together",
    "n_bins": "bins of a trial",
    "n_neurons": "number of neurons, in each session if there are several",
    "n_latents": "principal components of the network that are kept as latents",
    "bin_width": "width of a bin in seconds",
    "speed": "Lorenz time units per second",
    "mean_rates": "lowest and highest mean rate of a neuron in Hz",
    "modulation": "standard deviation of a neuron's log rate, below max_rate",
    "gain": "recurrent gain; chaotic above 1",
    "tau": "time constant of a unit in seconds",
    "max_rate": "highest rate of a neuron in Hz",
    "pulse": "give each condition an input pulse at a random time",
    "pulse_magnitude": "height of the pulse in its only bin",
    "valid_ratio": "fraction of each condition's trials held out for validation",
    "heldout_neurons": "number of last channels that encod_data lacks",
    "forward_bins": "number of last bins that encod_data lacks",
}


def _parser() -> argparse.ArgumentParser:
    """Offer every parameter of a generator as an option of its command."""
    parser = argparse.ArgumentParser(
        prog="python -m lfads_torch.datasets.synthetic",
        description="Write benchmark data with known rates.",
    )
    commands = parser.add_subparsers(dest="generator", required=True)
    for name, generator in GENERATORS.items():
        summary = (inspect.getdoc(generator) or name).splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        command.add_argument(
            "--output",
            type=Path,
            default=Path("datasets") / (name if name in FOLDERS else f"{name}.h5"),
            help=f"{'folder' if name in FOLDERS else 'file'} to write (default: %(default)s)",
        )
        command.add_argument("--overwrite", action="store_true", help="replace existing files")
        for key, parameter in inspect.signature(generator).parameters.items():
            option, default = "--" + key.replace("_", "-"), parameter.default
            text = f"{HELP[key]} (default: %(default)s)"
            if isinstance(default, bool):
                command.add_argument(option, action="store_true", help=HELP[key])
            elif isinstance(default, tuple):
                command.add_argument(option, nargs=2, type=float, default=default, help=text)
            else:
                command.add_argument(option, type=type(default), default=default, help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line: generate, write, and say what was written."""
    parser = _parser()
    options = vars(parser.parse_args(argv))
    generator, output, overwrite = (options.pop(k) for k in ("generator", "output", "overwrite"))
    try:
        # Before the work is done, and again when it is written.
        if generator not in FOLDERS:
            _refuse_existing(output, overwrite)
        elif options["n_sessions"] > 0:
            _session_paths(output, options["n_sessions"], overwrite)
        made = GENERATORS[generator](**options)
        attributes = {"generator": generator, **options}
        if isinstance(made, list):
            paths = write_sessions(output, made, attributes, overwrite)
        else:
            paths, made = [write_h5(output, made, attributes, overwrite)], [made]
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for path, arrays in zip(paths, made, strict=True):
        _report(path, arrays)


def _report(path: Path, arrays: Arrays) -> None:
    """Say what was written to a file."""
    rates = np.concatenate([arrays["train_truth"], arrays["valid_truth"]])
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
    for name, value in sorted(arrays.items()):
        print(f"  {name:<18} {value.dtype.name:<8} {value.shape}")
    print(f"  mean rate {rates.mean(dtype=np.float64):.1f} Hz, highest {rates.max():.1f} Hz")


if __name__ == "__main__":
    main()
