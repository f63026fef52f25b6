"""Divides a session's trials at random into new training and validation trials."""

from collections.abc import Mapping

import numpy as np

from lfads_torch.errors import UserError


def reshuffle_train_valid(
    data_dict: Mapping[str, np.ndarray], seed: int, ratio: float | None = None
) -> dict[str, np.ndarray]:
    """Divide the training and validation trials at random into new training and validation sets.

    Parameters
    ----------
    data_dict
        Arrays of a session by name. Each pair ``train_X``, ``valid_X`` with one entry for each
        trial takes part, and all pairs are divided in the same way.
    seed
        Seed of the random permutation of the trials.
    ratio
        Fraction of the trials that become training trials; None keeps their number.

    Returns
    -------
    dict
        All arrays, with those pairs replaced; ``data_dict`` is unchanged.

    Raises
    ------
    UserError
        If the ratio leaves either set empty, or the true rates or external inputs of one of the
        sets are missing.
    """
    n_train, n_valid = (len(data_dict[f"{split}_encod_data"]) for split in ("train", "valid"))
    n_new = n_train if ratio is None else round(ratio * (n_train + n_valid))
    if not 0 < n_new < n_train + n_valid:
        raise UserError(
            f"datamodule.reshuffle_tv_ratio = {ratio} makes {n_new} of {n_train + n_valid} trials "
            f"training trials: choose a fraction between 0 and 1 that leaves trials in both sets."
        )
    order = np.random.default_rng(seed).permutation(n_train + n_valid)
    reshuffled = dict(data_dict)
    for train_key in [key for key in data_dict if key.startswith("train_")]:
        valid_key = "valid_" + train_key.removeprefix("train_")
        train, valid = data_dict[train_key], data_dict.get(valid_key)
        if valid is None and train_key in ("train_truth", "train_ext_input"):
            raise UserError(
                f"datamodule.reshuffle_tv_seed mixes training and validation trials, but there is "
                f"a {train_key} and no {valid_key}."
            )
        if valid is None or (np.shape(train)[:1], np.shape(valid)[:1]) != ((n_train,), (n_valid,)):
            continue
        trials = np.concatenate([train, valid])[order]
        reshuffled[train_key], reshuffled[valid_key] = trials[:n_new], trials[n_new:]
    return reshuffled
