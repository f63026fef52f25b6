"""Makes session files of the Neural Latents Benchmark, with the sizes of the tiny model."""

import h5py
import numpy as np

N_TRIALS = {"train": 24, "valid": 18}
T_ENC, T_REC, N_ENC, N = 8, 10, 4, 5


def benchmark_arrays(dataset="mc_maze", seed=0):
    """Make the arrays that a session file of one of the benchmark's data sets has."""
    rng = np.random.default_rng(seed)
    arrays = {}
    # Latents drive spikes and behaviour, so that the scores are not only noise.
    n_conditions = 3
    latents = rng.normal(size=(n_conditions, T_REC, 2)).cumsum(axis=1)
    mixing = rng.normal(size=(2, N)) * 0.5
    psth = np.exp(latents @ mixing)
    for split, n in N_TRIALS.items():
        condition = rng.permutation(np.arange(n) % n_conditions)
        counts = rng.poisson(psth[condition]).astype("float32")
        arrays[f"{split}_encod_data"] = counts[:, :T_ENC, :N_ENC]
        arrays[f"{split}_recon_data"] = counts
        arrays[f"{split}_inds"] = np.arange(n)
        if dataset == "dmfc_rsg":
            produced = rng.integers(3, T_ENC - 1, n)  # Bins between set and go.
            behavior = np.stack([np.arange(n) % 2, np.zeros(n), np.zeros(n), produced, produced])
            arrays[f"{split}_behavior"] = behavior.T.astype("float32")
            arrays[f"{split}_behavior"][0] = np.nan  # An outlier.
            jitter = rng.integers(0, 2, n)
            arrays[f"{split}_jitter"] = jitter
            go, bins = T_ENC - jitter[:, None], np.arange(T_ENC)
            between = (bins >= go - produced[:, None]) & (bins < go)
            arrays[f"{split}_score_mask"] = between.astype("uint8")
        else:
            velocity = latents[condition][:, :T_ENC] + rng.normal(size=(n, T_ENC, 2))
            arrays[f"{split}_behavior"] = velocity.astype("float32")
            arrays[f"{split}_behavior"][1, :3] = np.nan
            # Two decoders, as in Area2_Bump.
            passive = np.arange(n) % 4 == 0
            arrays[f"{split}_decode_mask"] = np.stack([~passive, passive], axis=1)
        groups = np.empty(n_conditions, dtype=object)
        for i in range(n_conditions):
            groups[i] = np.flatnonzero(condition == i).astype("int32")
        arrays[f"{split}_cond_idx"] = groups
    arrays["psth"] = psth[:, :T_ENC].astype("float32")
    if dataset == "dmfc_rsg":
        arrays["psth"][:, :3] = np.nan  # Padding before the longest interval.
    if dataset == "mc_rtt":
        for key in ("psth", "train_cond_idx", "valid_cond_idx"):
            del arrays[key]
    return arrays


def write(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            if array.dtype == object:
                dataset = file.create_dataset(key, len(array), dtype=h5py.vlen_dtype("int32"))
                for i, indices in enumerate(array):
                    dataset[i] = indices
            else:
                file[key] = array
    return path
