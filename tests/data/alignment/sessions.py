"""Makes sessions whose channels depend on the same latents."""

from itertools import zip_longest

import numpy as np

from tests.conftest import write_file

N_CONDITIONS, N_BINS, N_LATENTS = 4, 12, 3


def latents(seed=0):
    """Make smooth latents (conditions, time, latents) that all sessions share."""
    rng = np.random.default_rng(seed)
    t = np.arange(N_BINS)[None, :, None]
    frequency, phase = rng.uniform(0.2, 0.8, (2, N_CONDITIONS, 1, N_LATENTS)) * [[[[1]]], [[[8]]]]
    return np.sin(frequency * t + phase)


def shared_psths(n_channels=(7, 10, 8), noise=0.0):
    """Make sessions of rates (conditions, time, channels) that read out the same latents."""
    rng = np.random.default_rng(1)
    shared = latents()
    return [
        10
        + shared @ rng.normal(size=(N_LATENTS, n))
        + noise * rng.normal(size=(*shared.shape[:2], n))
        for n in n_channels
    ]


def session_arrays(rates, n_trials=20, seed=0, counts=True):
    """Make the arrays of a file whose trials, in random order, have these rates per condition."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, n in (("train", n_trials), ("valid", 4)):
        condition = rng.permutation(np.arange(n) % len(rates))
        data = rng.poisson(rates[condition]) if counts else rates[condition]
        arrays[f"{split}_encod_data"] = arrays[f"{split}_recon_data"] = data.astype("float32")
        arrays[f"{split}_cond_idx"] = condition
    return arrays


def write_sessions(folder, n_channels=(7, 10), changes=(), noise=0.3, **options):
    """Write a file for each session, with some arrays replaced or (None) left out."""
    paths = []
    psths = shared_psths(n_channels, noise)
    for i, (rates, change) in enumerate(zip_longest(psths, changes, fillvalue={})):
        arrays = {**session_arrays(rates, seed=i, **options), **change}
        arrays = {key: array for key, array in arrays.items() if array is not None}
        paths.append(write_file(folder / f"sess{i}.h5", arrays))
    return paths


def stamps(folder):
    """Return the bytes of every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
