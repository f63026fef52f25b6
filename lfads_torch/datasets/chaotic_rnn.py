"""Spikes of a chaotic recurrent network: the benchmark of Sussillo et al. 2016."""

from typing import Any, NamedTuple

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
    ``pulse``, the scalar input u is ``pulse_magnitude`` in one bin and zero otherwise; the bin is
    drawn for each condition from the middle half of the trial, and B_i ~ N(0, 1) is the same for
    all conditions. The pulse affects the rates from its own bin on. The same seed without
    ``pulse`` gives the same network and initial states.

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
        Units of the network; all of them are recorded.
    bin_width
        Width of a bin in seconds, which is also the step dt of the network.
    gain
        Recurrent gain; 1.5 and 2.5 in the paper. Activity is chaotic above 1.
    tau
        Time constant of a unit in seconds, not below ``bin_width``.
    max_rate
        Rate of a neuron at tanh(x) = 1, in Hz.
    pulse
        Whether each condition gets an input pulse.
    pulse_magnitude
        Height of the pulse in its only bin; 50 in the paper. With dt/tau = 0.4 it displaces the
        units by 20 B, which saturates most of them and decays within about 100 ms.
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
        The arrays of :func:`~lfads_torch.datasets.lorenz.lorenz` up to ``conversion_factor``, where
        ``{split}_latents`` are the states x (trial, time, channel). Besides: ``recurrent_weight``
        (channel, channel) float64, W without the gain. With ``pulse`` also ``{split}_input``
        (trial, time, 1) float32, u; ``{split}_pulse_time`` (trial,) int64, the bin of the pulse;
        and ``input_weight`` (channel,) float64, B.

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
    check_network(bin_width, gain, tau, max_rate)
    check_positive("pulse_magnitude", pulse_magnitude)

    inputs = random_stream(seed, "input")
    input_weight = inputs.normal(size=n_neurons)
    pulse_time = np.floor(n_bins * inputs.uniform(0.25, 0.75, n_conditions)).astype(np.int64)
    signal = np.zeros((n_conditions, n_bins, 1))
    if pulse:
        signal[np.arange(n_conditions), pulse_time] = pulse_magnitude

    network = run_network(seed, signal * input_weight, gain=gain, leak=bin_width / tau)
    by_condition: dict[str, NDArray[Any]] = {
        "truth": firing_rates(network.states, max_rate),
        "latents": network.states,
    }
    weights = {"recurrent_weight": network.recurrent_weight}
    if pulse:
        by_condition |= {"input": signal, "pulse_time": pulse_time}
        weights["input_weight"] = input_weight
    arrays = observe(
        by_condition,
        seed=seed,
        n_trials=n_trials,
        bin_width=bin_width,
        valid_ratio=valid_ratio,
        heldout_neurons=heldout_neurons,
        forward_bins=forward_bins,
    )
    return {**arrays, **weights}


def check_network(bin_width: float, gain: float, tau: float, max_rate: float) -> None:
    """Raise a UserError if an argument of the network is out of range."""
    check_positive("gain", gain)
    check_positive("max_rate", max_rate)
    check_positive("tau", tau)
    if tau < bin_width:
        raise argument_error("tau", f"at least `bin_width` ({bin_width} s)", tau)


class Network(NamedTuple):
    """A network and its activity.

    Attributes
    ----------
    recurrent_weight
        W (unit, unit), without the gain.
    states
        x (condition, time, unit).
    """

    recurrent_weight: Floats
    states: Floats


def run_network(seed: int, inputs: Floats, *, gain: float, leak: float) -> Network:
    """Draw a network and let it run from random states; see :func:`chaotic_rnn`.

    Parameters
    ----------
    seed
        Seed of the weights and of the initial states.
    inputs
        B u_t (condition, time, unit); that of the first bin has no effect.
    gain
        Recurrent gain.
    leak
        dt / tau.
    """
    n_conditions, n_bins, n_units = inputs.shape
    weight = random_stream(seed, "network").normal(size=(n_units, n_units)) / np.sqrt(n_units)
    states = np.empty((n_conditions, n_bins, n_units))
    states[:, 0] = random_stream(seed, "initial").normal(size=(n_conditions, n_units))
    for time in range(1, n_bins):
        drive = gain * np.tanh(states[:, time - 1]) @ weight.T + inputs[:, time]
        states[:, time] = (1.0 - leak) * states[:, time - 1] + leak * drive
    return Network(weight, states)


def firing_rates(states: Floats, max_rate: float) -> Floats:
    """Return the rates in Hz of units with these states, in their shape."""
    return max_rate * (1.0 + np.tanh(states)) / 2.0
