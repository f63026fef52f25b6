"""The parts that all generators of synthetic data use: argument checks, random streams, spikes.

Both systems, a Lorenz system and a chaotic network, and their use as tests of LFADS are those of
Sussillo et al. 2016 (LFADS, arXiv 1608.06315). A *condition* is one random initial state; its
trials share the rates and differ in their Poisson spikes:

    initial states → dynamics → rates (condition, time, neuron) → spikes of every trial → splits

Every generator returns a dictionary of arrays under the names of the library's data files
(``datasets/README.md``), which :func:`~lfads_torch.data.hdf5.write_h5` writes to a file. The same
arguments give the same arrays on one machine. On another machine, rates may be rounded differently,
and a few counts may then differ.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfads_torch.errors import UserError

Floats = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]

RATE_BITS = 13
"""Significant bits of a rate, a precision of 1 in 8,000. The other bits are 0 and compress well."""

MAX_EXPECTED_COUNT = 100.0
"""The highest expected count in a bin, for which counts do not exceed the 255 that a byte holds."""

STREAMS = ("initial", "readout", "network", "input", "spikes", "split", "electrodes")
"""Purposes of random numbers. Each has its own stream, so that more trials, or another split, do
not change the dynamics that belong to a seed."""


def random_stream(seed: int, purpose: str, session: int | None = None) -> np.random.Generator:
    """Return the random numbers for one purpose, and for one of several sessions.

    Parameters
    ----------
    seed
        The seed of the data set.
    purpose
        One of :data:`STREAMS`.
    session
        The number of the session; None if there is only one or all share the numbers.
    """
    key = (STREAMS.index(purpose),) if session is None else (STREAMS.index(purpose), session)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


# ------------------------------------------------------------------ checks of arguments


def argument_error(name: str, expected: str, found: object) -> UserError:
    """Return the error for an argument: what was expected, and what was found."""
    return UserError(f"`{name}` must be {expected}; got {found!r}.")


def check_integer(name: str, value: int, low: int, high: int | None = None) -> None:
    """Raise a UserError unless a value is an integer within limits (included)."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise argument_error(name, f"an integer {limits}", value)


def check_positive(name: str, value: float) -> None:
    """Raise a UserError unless a value is a positive, finite number."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value <= 0:
        raise argument_error(name, "a positive, finite number", value)


def check_sizes(
    seed: int,
    n_conditions: int,
    n_trials: int,
    n_bins: int,
    n_neurons: int,
    bin_width: float,
    valid_ratio: float,
    heldout_neurons: int = 0,
    forward_bins: int = 0,
) -> None:
    """Raise a UserError if one of the arguments that all generators have is out of range."""
    check_integer("seed", seed, 0)
    check_integer("n_conditions", n_conditions, 1)
    check_integer("n_trials", n_trials, 2)
    check_integer("n_bins", n_bins, 4)
    check_integer("n_neurons", n_neurons, 1)
    check_positive("bin_width", bin_width)
    check_positive("valid_ratio", valid_ratio)
    if valid_ratio >= 1:
        raise argument_error("valid_ratio", "a number between 0 and 1", valid_ratio)
    check_integer("heldout_neurons", heldout_neurons, 0, n_neurons - 1)
    check_integer("forward_bins", forward_bins, 0, n_bins - 1)


# ------------------------------------------------------------------ from rates to a data file


def observe(
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
        ``truth`` (condition, time, channel), rates in Hz, and further arrays with one entry for
        each condition, which its trials repeat. Double-precision arrays become single-precision.
    seed, n_trials, bin_width, valid_ratio, heldout_neurons, forward_bins
        See :func:`~lfads_torch.datasets.lorenz.lorenz`.
    session
        The number of one of several sessions, each of which has its own spikes and split; None if
        there is only one.

    Returns
    -------
    dict
        The arrays that are described at :func:`~lfads_torch.datasets.lorenz.lorenz`.

    Raises
    ------
    UserError
        If the rates are too high.
    """
    shared = {
        key: value.astype(np.float32) if value.dtype == np.float64 else value
        for key, value in {**by_condition, "truth": _rounded(by_condition["truth"])}.items()
    }
    n_conditions, n_bins, n_neurons = shared["truth"].shape
    conversion_factor = 1.0 / bin_width
    # Spikes follow the rates as they are stored, so that the truth in the file is exact.
    expected = shared["truth"].astype(np.float64) / conversion_factor
    if expected.max() > MAX_EXPECTED_COUNT:
        raise UserError(
            f"The rates reach {expected.max():.0f} spikes per bin and at most "
            f"{MAX_EXPECTED_COUNT:.0f} can be drawn: choose lower rates, a weaker modulation or "
            "a smaller `bin_width`."
        )
    size = (n_conditions, n_trials, n_bins, n_neurons)
    counts = random_stream(seed, "spikes", session).poisson(expected[:, None], size)
    spikes = counts.astype(np.uint8)
    arrays: Arrays = {}
    for split, trials in _split_trials(seed, n_conditions, n_trials, valid_ratio, session).items():
        condition = np.repeat(np.arange(n_conditions), trials.shape[1])
        trial = trials.ravel()
        recon_data = spikes[condition, trial]
        encod_data = recon_data[:, : n_bins - forward_bins, : n_neurons - heldout_neurons]
        arrays[f"{split}_encod_data"] = np.ascontiguousarray(encod_data)
        arrays[f"{split}_recon_data"] = recon_data
        for key, value in shared.items():
            arrays[f"{split}_{key}"] = value[condition]
        arrays[f"{split}_inds"] = (condition * n_trials + trial).astype(np.int64)
        arrays[f"{split}_cond_idx"] = condition.astype(np.int64)
    arrays["conversion_factor"] = np.array(conversion_factor)
    return arrays


def _rounded(rates: Floats) -> Floats:
    """Round numbers to :data:`RATE_BITS` significant bits."""
    mantissa, exponent = np.frexp(rates)
    return np.ldexp(np.rint(mantissa * 2.0**RATE_BITS), exponent - RATE_BITS)


def _split_trials(
    seed: int, n_conditions: int, n_trials: int, valid_ratio: float, session: int | None
) -> dict[str, NDArray[np.int64]]:
    """Draw the validation trials of each condition; return trials (condition, trial) by split."""
    n_valid = min(max(round(n_trials * valid_ratio), 1), n_trials - 1)
    trials = np.tile(np.arange(n_trials), (n_conditions, 1))
    shuffled = random_stream(seed, "split", session).permuted(trials, axis=1)
    return {
        "train": np.sort(shuffled[:, n_valid:], axis=1),
        "valid": np.sort(shuffled[:, :n_valid], axis=1),
    }
