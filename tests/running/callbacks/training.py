"""Short trainings of a tiny model, with which callbacks are tested."""

import warnings
from pathlib import Path

import h5py
import hydra
import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf

from lfads_torch.datamodules import BasicDataModule
from lfads_torch.running.callbacks import LossPlot, PSTHPlot, RasterPlot, TrajectoryPlot

CONFIG = Path(__file__).parents[2] / "golden" / "controller_forward_heldout_l2.yaml"
N_TRIALS = {"train": 6, "valid": 4}
T_ENC, T_REC, N_ENC, N = 11, 14, 7, 10


def write_data(path, conditions=False, truth=False, seed=0, **extra):
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for split, n_trials in N_TRIALS.items():
            counts = rng.poisson(0.5, (n_trials, T_REC, N)).astype(float)
            file[f"{split}_recon_data"] = counts
            file[f"{split}_encod_data"] = counts[:, :T_ENC, :N_ENC]
            if conditions:
                file[f"{split}_cond_idx"] = np.arange(n_trials) % 2
            if truth:
                file[f"{split}_truth"] = np.full_like(counts, 0.5)
        for name, values in extra.items():
            file[name] = values


def make_model(n_sessions=1, **overrides):
    """Build a tiny model with dropout and posterior samples, which are random in training."""
    torch.manual_seed(1)
    config = OmegaConf.load(CONFIG)
    model = config.model
    model.variational, model.dropout_rate = True, 0.2
    for name, dim in (("ic_prior", model.ic_dim), ("co_prior", model.co_dim)):
        model[name] = {
            "_target_": "lfads_torch.modules.priors.MultivariateNormal",
            "mean": 0.0,
            "variance": 0.1,
            "shape": dim,
        }
    model.readin = list(model.readin) * n_sessions
    model.readout.modules = list(model.readout.modules) * n_sessions
    model.reconstruction = list(model.reconstruction) * n_sessions
    for name, value in overrides.items():
        model[name] = value
    return hydra.utils.instantiate(config.model, _convert_="all")


def make_data(tmp_path, n_sessions=1, attr_keys=(), batch_keys=(), **content):
    for session in range(n_sessions):
        write_data(tmp_path / f"data{session}.h5", seed=session, **content)
    torch.manual_seed(2)  # determines the order of the trials
    pattern = str(tmp_path / "data*.h5")
    return BasicDataModule(pattern, batch_keys, attr_keys, batch_size=3 * n_sessions)


def fit(tmp_path, callbacks, datamodule, model=None, max_epochs=2, ckpt_path=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            default_root_dir=tmp_path,
            max_epochs=max_epochs,
            callbacks=callbacks,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            **{
                "logger": False,
                "enable_checkpointing": False,
                "num_sanity_val_steps": 1,
                "log_every_n_steps": 1,
                **options,
            },
        )
        torch.manual_seed(3)
        trainer.fit(model or make_model(), datamodule, ckpt_path=ckpt_path)
    return trainer


def drawn(tmp_path):
    return sorted(path.name for path in (tmp_path / "plots").glob("*"))


class Losses(pl.Callback):
    """Records the training loss of every step, and a random number drawn after it."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        state = torch.get_rng_state()
        self.values.append((outputs["loss"].item(), torch.rand(()).item()))
        torch.set_rng_state(state)


def all_figures(every_n_epochs):
    """Make one or two of each of the callbacks that draw figures."""
    return [
        RasterPlot("train", n_samples=2, log_every_n_epochs=every_n_epochs),
        RasterPlot(log_every_n_epochs=every_n_epochs),
        PSTHPlot(n_channels=2, log_every_n_epochs=every_n_epochs),
        TrajectoryPlot(log_every_n_epochs=every_n_epochs),
        LossPlot(log_every_n_epochs=every_n_epochs),
    ]
