"""Spikes of one chaotic network in several sessions, each with different neurons.

In memory, the sessions are a list of dictionaries of arrays; on disk, they are a folder of files.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfads_torch.data.hdf5 import refuse_existing, write_h5
from lfads_torch.datasets.chaotic_rnn import check_network, firing_rates, run_network
from lfads_torch.datasets.simulation import (
    Arrays,
    Floats,
    check_integer,
    check_sizes,
    observe,
    random_stream,
)
from lfads_torch.errors import ExistingFileError


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

    The network of :func:`~lfads_torch.datasets.chaotic_rnn.chaotic_rnn` without pulses has as many
    units as all sessions have neurons together. They are assigned to sessions at random, and no
    unit is in two sessions. All sessions have the same conditions, but different trials and spikes;
    they have the state of the network in common. (This imitates the sessions from one brain area on
    which Pandarinath et al. 2018, Nature Methods, trained a single model.)

    Parameters
    ----------
    seed
        Seed of all random numbers, at least 0.
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
        units and that of conditions times bins.
    bin_width
        Width of a bin in seconds, which is also the step dt of the network.
    gain
        Recurrent gain. Activity is chaotic above 1.
    tau
        Time constant of a unit in seconds, not below ``bin_width``.
    max_rate
        Rate of a neuron at tanh(x) = 1, in Hz.
    valid_ratio
        Fraction of each condition's trials that is held out for validation, rounded to whole
        trials, but at least one trial in either split.

    Returns
    -------
    list of dict
        For each session the arrays of :func:`~lfads_torch.datasets.lorenz.lorenz` up to
        ``conversion_factor``, where ``{split}_latents`` (trial, time, n_latents) are the leading
        principal components of the states x of all units over all conditions and bins, with the
        sign that makes the largest weight positive. A condition has the same latents in every
        session. Besides: ``unit_idx`` (channel,) int64, the unit of the network that a channel
        records; ``latent_variance`` (n_latents,) float64, the fraction of the variance of all
        states that each latent has.

    Raises
    ------
    UserError
        If an argument is out of range.
    """
    check_sizes(seed, n_conditions, n_trials, n_bins, n_neurons, bin_width, valid_ratio)
    check_integer("n_sessions", n_sessions, 1)
    n_units = n_sessions * n_neurons
    check_integer("n_latents", n_latents, 1, min(n_units, n_conditions * n_bins))
    check_network(bin_width, gain, tau, max_rate)

    no_input = np.zeros((n_conditions, n_bins, n_units))
    states = run_network(seed, no_input, gain=gain, leak=bin_width / tau).states
    rates = firing_rates(states, max_rate)
    latents, variance = _principal_components(states, n_latents)
    shuffled = random_stream(seed, "electrodes").permutation(n_units)
    sessions = []
    for session, recorded in enumerate(np.split(shuffled, n_sessions)):
        units = np.sort(recorded).astype(np.int64)
        arrays = observe(
            {"truth": rates[:, :, units], "latents": latents},
            seed=seed,
            session=session,
            n_trials=n_trials,
            bin_width=bin_width,
            valid_ratio=valid_ratio,
        )
        sessions.append({**arrays, "unit_idx": units, "latent_variance": variance})
    return sessions


def _principal_components(states: Floats, n_components: int) -> tuple[Floats, Floats]:
    """Project (condition, time, unit) to (condition, time, component).

    The fraction of the variance that each component has is returned as well.
    """
    from sklearn.decomposition import PCA

    pca = PCA(n_components, svd_solver="full")
    projected = pca.fit_transform(states.reshape(-1, states.shape[2]))
    largest = np.abs(pca.components_).argmax(axis=1)
    projected *= np.sign(pca.components_[np.arange(n_components), largest])
    return projected.reshape(*states.shape[:2], n_components), pca.explained_variance_ratio_


def write_sessions(
    folder: str | os.PathLike[str],
    sessions: Sequence[Mapping[str, NDArray[Any]]],
    attributes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write one file for each session, ``sess0.h5``, ``sess1.h5``, ….

    Parameters
    ----------
    folder
        The folder of the files; made if it is missing. ``folder/sess*.h5`` matches them all, in
        their order.
    sessions
        The arrays of each session.
    attributes
        Attributes of every file, which also gets its number as ``session``.
    overwrite
        Whether existing files may be replaced.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    ExistingFileError
        If a file exists and ``overwrite`` is false, or if the folder holds files of further
        sessions, which the pattern would match too; then nothing is written.
    """
    paths = session_paths(Path(folder), len(sessions), overwrite)
    for session, (path, arrays) in enumerate(zip(paths, sessions, strict=True)):
        write_h5(path, arrays, {**(attributes or {}), "session": session}, overwrite)
    return paths


def session_paths(folder: Path, n_sessions: int, overwrite: bool) -> list[Path]:
    """Return the paths that :func:`write_sessions` writes to.

    Parameters
    ----------
    folder
        The folder of the files.
    n_sessions
        The number of sessions.
    overwrite
        Whether existing files may be replaced.

    Raises
    ------
    ExistingFileError
        See :func:`write_sessions`.
    """
    digits = len(str(n_sessions - 1))
    paths = [folder / f"sess{session:0{digits}d}.h5" for session in range(n_sessions)]
    for path in paths:
        refuse_existing(path, overwrite)
    others = sorted(path.name for path in set(folder.glob("sess*.h5")) - set(paths))
    if others:
        raise ExistingFileError(
            f"{folder} holds {', '.join(others)} besides the {n_sessions} session(s) to be written,"
            f" and sess*.h5 would match them too: choose another folder, or remove them."
        )
    return paths
