"""Makes a tiny data set, and models for it."""

import os

import h5py
import numpy as np
import pytest
import torch

from lfads_torch.model import LFADS
from lfads_torch.modules.augmentations import AugmentationStack, CoordinatedDropout
from lfads_torch.modules.priors import AutoregressiveMultivariateNormal, MultivariateNormal
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recons import Poisson

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


def tiny_arrays(n_train=12, n_valid=6, n_bins=8, n_channels=5, n_forward=2, n_heldout=1, seed=0):
    """Make a session file's arrays: Poisson counts with known rates, which differ by condition."""
    rng = np.random.default_rng(seed)
    arrays = {"conversion_factor": np.array(20.0), "psth": rng.random((2, 3))}
    t = np.arange(n_bins + n_forward)[None, :, None]
    phase = rng.uniform(0, 6, n_channels)
    first = 0
    for split, n in (("train", n_train), ("valid", n_valid)):
        condition = np.arange(n) % 2
        rates = np.exp(np.sin(0.7 * t + phase + condition[:, None, None]) - 0.5)
        counts = rng.poisson(rates).astype("float32")
        arrays[f"{split}_encod_data"] = counts[:, :n_bins, : n_channels - n_heldout]
        arrays[f"{split}_recon_data"] = counts
        arrays[f"{split}_truth"] = (rates * 20).astype("float32")
        arrays[f"{split}_cond_idx"] = condition
        arrays[f"{split}_inds"] = np.arange(first, first + n)
        arrays[f"{split}_behavior"] = rng.normal(size=(n, n_bins, 2)).astype("float32")
        first += n
    return arrays


def write_file(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


@pytest.fixture
def tiny_file(tmp_path):
    """Write a session of 12 + 6 trials, 8 + 2 bins and 4 + 1 channels."""
    return write_file(tmp_path / "tiny.h5", tiny_arrays())


def tiny_model(**overrides):
    """Make a variational model with a controller for the tiny file."""
    arguments = {
        "encod_data_dim": 4, "encod_seq_len": 8, "recon_seq_len": 10, "ext_input_dim": 0,
        "ic_enc_seq_len": 0, "ic_enc_dim": 6, "ci_enc_dim": 5, "ci_lag": 1, "con_dim": 4,
        "co_dim": 2, "ic_dim": 6, "gen_dim": 9, "fac_dim": 3, "dropout_rate": 0.1,
        "reconstruction": [Poisson()], "variational": True,
        "co_prior": AutoregressiveMultivariateNormal(10.0, 0.1, 2),
        "ic_prior": MultivariateNormal(0.0, 0.1, 6),
        "ic_post_var_min": 1e-4, "cell_clip": 5.0,
        "train_aug_stack": AugmentationStack([CoordinatedDropout(0.3, 0.0, 0)], [0], [0]),
        "infer_aug_stack": AugmentationStack(),
        "readin": [torch.nn.Identity()], "readout": [FanInLinear(3, 5)],
        "loss_scale": 1e4, "recon_reduce_mean": True, "lr_scheduler": False, "lr_init": 4e-3,
        "lr_stop": 1e-5, "lr_decay": 0.95, "lr_patience": 6, "lr_adam_beta1": 0.9,
        "lr_adam_beta2": 0.999, "lr_adam_epsilon": 1e-8, "weight_decay": 0.0,
        "l2_start_epoch": 0, "l2_increase_epoch": 5, "l2_ic_enc_scale": 0.0,
        "l2_ci_enc_scale": 0.0, "l2_gen_scale": 0.1, "l2_con_scale": 0.1,
        "kl_start_epoch": 0, "kl_increase_epoch": 5, "kl_ic_scale": 1e-4, "kl_co_scale": 1e-4,
    }  # fmt: skip
    return LFADS(**{**arguments, **overrides})


TINY_SIZES = [
    "model.ic_enc_dim=6", "model.ci_enc_dim=5", "model.con_dim=4", "model.co_dim=2",
    "model.ic_dim=6", "model.gen_dim=9", "model.fac_dim=3", "datamodule.batch_size=4",
]  # fmt: skip
"""Overrides that make a packaged model tiny."""
