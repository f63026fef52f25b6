"""Flat configurations, complete in themselves, as projects with the published package have them.

They inherit nothing from the packaged files: each model states every key. The ten models of the
published package are written here in that form, and must compose to what they say.
"""

import textwrap
from ast import literal_eval

import numpy as np
import pytest
from hydra.utils import instantiate

from lfads_torch.datamodules import BasicDataModule
from lfads_torch.model import LFADS
from tests.conftest import tiny_arrays, write_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*trains without regularisation"),
    pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch"),
]


def compose(config_path, overrides=()):
    """Compose as the library does; the only place in this module that names where it does so."""
    from lfads_torch.running.compose import compose

    return compose(config_path, overrides)


# There is a column for each model, with its sizes and the options of training. T_enc and T_rec are
# numbers of time bins.
TABLE = """
.                   area2_bump dmfc_rsg mc_maze mc_maze_large mc_maze_medium mc_maze_small mc_rtt
encod_data_dim      49         40       137     122           114            107           98
encod_seq_len       120        300      35      140           140            140           120
recon_seq_len       160        340      45      180           180            180           160
ic_enc_dim          100        100      64      100           100            100           100
ci_enc_dim          80         64       64      80            80             80            80
con_dim             80         64       64      80            80             80            80
co_dim              4          4        4       4             4              4             4
ic_dim              100        100      64      100           100            100           100
gen_dim             100        100      200     100           100            100           100
fac_dim             40         40       100     40            40             40            40
n_channels          65         54       182     162           152            142           130
dropout_rate        0.02       0.15     0.3     0.02          0.02           0.02          0.02
lr_init             4.0e-3     5.0e-3   4.0e-3  4.0e-3        4.0e-3         4.0e-3        1.0e-2
lr_adam_epsilon     1.0e-7     3.16e-7  1.0e-8  1.0e-8        1.0e-8         1.0e-8        1.0e-7
lr_scheduler        True       False    False   False         False          False         True
l2_gen_scale        0.0        3.0e-3   0.0     0.0           0.0            0.0           0.0
l2_con_scale        0.0        1.0e-4   0.0     0.0           0.0            0.0           0.0
kl_ic_scale         0.0        3.0e-7   1.0e-7  0.0           0.0            0.0           0.0
kl_co_scale         0.0        3.0e-7   1.0e-7  0.0           0.0            0.0           0.0
increase_epoch      80         80       80      80            80             80            80
batch_size          256        256      256     256           128            64            256
"""
MULTISESSION_TABLE = """
.                   multisession_mc_maze rouse_multisession_PCR rouse_multisession_random
encod_seq_len       140                  30                     30
recon_seq_len       180                  30                     30
ic_enc_dim          100                  100                    100
ci_enc_dim          80                   100                    100
con_dim             80                   100                    100
co_dim              4                    6                      6
ic_dim              100                  100                    100
gen_dim             100                  100                    100
fac_dim             40                   50                     30
dropout_rate        0.02                 0.02                   0.02
lr_init             4.0e-3               4.0e-3                 4.0e-3
lr_adam_epsilon     1.0e-8               3.1623e-5              3.1623e-5
lr_scheduler        False                False                  False
l2_gen_scale        0.0                  0.0                    0.0
l2_con_scale        0.0                  0.0                    0.0
kl_ic_scale         0.0                  0.0                    0.0
kl_co_scale         0.0                  0.0                    0.0
increase_epoch      80                   50                     50
batch_size          192                  1000                   1000
"""
MODEL = """
_target_: lfads_torch.model.LFADS
encod_data_dim: {encod_data_dim}
encod_seq_len: {encod_seq_len}
recon_seq_len: {recon_seq_len}
ext_input_dim: 0
ic_enc_seq_len: 0
ic_enc_dim: {ic_enc_dim}
ci_enc_dim: {ci_enc_dim}
ci_lag: 1
con_dim: {con_dim}
co_dim: {co_dim}
ic_dim: {ic_dim}
gen_dim: {gen_dim}
fac_dim: {fac_dim}
{sessions}
train_aug_stack:
  _target_: lfads_torch.modules.augmentations.AugmentationStack
  transforms:
    - _target_: lfads_torch.modules.augmentations.CoordinatedDropout
      cd_rate: 0.3
      cd_pass_rate: 0.0
      ic_enc_seq_len: ${{model.ic_enc_seq_len}}
  batch_order: [0]
  loss_order: [0]
infer_aug_stack:
  _target_: lfads_torch.modules.augmentations.AugmentationStack
variational: true
co_prior:
  _target_: lfads_torch.modules.priors.AutoregressiveMultivariateNormal
  tau: 10.0
  nvar: 0.1
  shape: ${{model.co_dim}}
ic_prior:
  _target_: lfads_torch.modules.priors.MultivariateNormal
  mean: 0
  variance: 0.1
  shape: ${{model.ic_dim}}
ic_post_var_min: 1.0e-4
dropout_rate: {dropout_rate}
cell_clip: 5.0
loss_scale: 1.0e+4
recon_reduce_mean: true
lr_scheduler: {lr_scheduler}
lr_init: {lr_init}
lr_stop: 1.0e-5
lr_decay: 0.95
lr_patience: 6
lr_adam_beta1: 0.9
lr_adam_beta2: 0.999
lr_adam_epsilon: {lr_adam_epsilon}
weight_decay: 0.0
l2_start_epoch: 0
l2_increase_epoch: {increase_epoch}
l2_ic_enc_scale: 0.0
l2_ci_enc_scale: 0.0
l2_gen_scale: {l2_gen_scale}
l2_con_scale: {l2_con_scale}
kl_start_epoch: 0
kl_increase_epoch: {increase_epoch}
kl_ic_scale: {kl_ic_scale}
kl_co_scale: {kl_co_scale}
"""
ONE_SESSION = """
readin:
  - _target_: torch.nn.Identity
readout:
  _target_: torch.nn.ModuleList
  modules:
    - _target_: lfads_torch.modules.readin_readout.FanInLinear
      in_features: ${{model.fac_dim}}
      out_features: {n_channels}
reconstruction:
  - _target_: lfads_torch.modules.recons.Poisson
"""
ALIGNED_SESSIONS = """
readin:
  _target_: lfads_torch.modules.readin_readout.MultisessionReadin
  datafile_pattern: ${datamodule.datafile_pattern}
readout:
  _target_: lfads_torch.modules.readin_readout.MultisessionReadout
  datafile_pattern: ${datamodule.datafile_pattern}
reconstruction:
  _target_: lfads_torch.modules.recons.MultisessionReconstruction
  datafile_pattern: ${datamodule.datafile_pattern}
  recon:
    _target_: lfads_torch.modules.recons.Poisson
"""
RANDOM_SESSIONS = """
readin:
  _target_: lfads_torch.modules.readin_readout.MultisessionReadin
  datafile_pattern: ${datamodule.datafile_pattern}
  out_features: ${model.fac_dim}
  pcr_init: false
readout:
  _target_: lfads_torch.modules.readin_readout.MultisessionReadout
  datafile_pattern: ${datamodule.datafile_pattern}
  in_features: ${model.fac_dim}
  pcr_init: false
reconstruction:
  _target_: lfads_torch.modules.recons.MultisessionReconstruction
  datafile_pattern: ${datamodule.datafile_pattern}
  recon:
    _target_: lfads_torch.modules.recons.Poisson
"""
DATAMODULE = """
_target_: lfads_torch.datamodules.BasicDataModule
datafile_pattern: {pattern}
batch_keys: {batch_keys}
attr_keys: {attr_keys}
batch_size: {batch_size}
reshuffle_tv_seed: null
reshuffle_tv_ratio: null
sv_rate: 0.0
sv_seed: 0
dm_ic_enc_seq_len: ${{model.ic_enc_seq_len}}
"""
PRIMARIES = {
    "single": """
        defaults:
          - _self_
          - datamodule: mine
          - model: mine
          - callbacks: [checkpoint, early_stopping, lr_monitor, raster_plot, trajectory_plot]
          - logger: [csv, tensorboard]
        seed: 0
        trainer:
          _target_: pytorch_lightning.Trainer
          gradient_clip_val: 200
          max_epochs: 1000
          log_every_n_steps: 5
          enable_progress_bar: false
        posterior_sampling:
          use_best_ckpt: true
          fn:
            _target_: lfads_torch.post_run.analysis.run_posterior_sampling
            _partial_: true
            filename: lfads_output.h5
            num_samples: 50
    """,
    "multi": """
        defaults:
          - _self_
          - datamodule: mine
          - model: mine
          - callbacks: [checkpoint, early_stopping, lr_monitor]
          - logger: [csv]
        seed: 0
        trainer:
          _target_: pytorch_lightning.Trainer
          gradient_clip_val: 200
          max_epochs: 1000
          log_every_n_steps: 5
          enable_progress_bar: false
        posterior_sampling:
          use_best_ckpt: true
          fn:
            _target_: lfads_torch.post_run.analysis.run_posterior_sampling
            _partial_: true
            filename: lfads_output.h5
            num_samples: 50
    """,
    "pbt": """
        defaults:
          - _self_
          - datamodule: mine
          - model: mine
          - logger: [csv]
        seed: 0
        trainer:
          _target_: pytorch_lightning.Trainer
          gradient_clip_val: 200
          max_epochs: 1000
          log_every_n_steps: 5
          enable_progress_bar: false
        posterior_sampling:
          use_best_ckpt: false
          fn:
            _target_: lfads_torch.post_run.analysis.run_posterior_sampling
            _partial_: true
            filename: lfads_output.h5
            num_samples: 50
    """,
}
END_OF_RAMPS = (
    "${max:${sum:${model.l2_start_epoch},${model.l2_increase_epoch}},"
    "${sum:${model.kl_start_epoch},${model.kl_increase_epoch}}}"
)
CALLBACKS = {
    "checkpoint": """
        checkpoint:
          _target_: pytorch_lightning.callbacks.ModelCheckpoint
          dirpath: lightning_checkpoints
          monitor: valid/recon_smth
          mode: min
          save_top_k: 1
          save_last: true
          every_n_epochs: 1
    """,
    "early_stopping": """
        early_stopping:
          _target_: lfads_torch.extensions.tune.EarlyStoppingWithBurnInPeriod
          monitor: valid/recon_smth
          mode: min
          patience: 200
          burn_in_period: END_OF_RAMPS
    """,
    "lr_monitor": """
        lr_monitor:
          _target_: pytorch_lightning.callbacks.LearningRateMonitor
          logging_interval: epoch
    """,
    "raster_plot": """
        raster_plot:
          _target_: lfads_torch.callbacks.RasterPlot
          split: valid
          n_samples: 3
          log_every_n_epochs: 100
    """,
    "trajectory_plot": """
        trajectory_plot:
          _target_: lfads_torch.callbacks.TrajectoryPlot
          log_every_n_epochs: 100
    """,
}
SESSIONS = {  # channels and components of the alignment of each file
    "multisession_mc_maze": ((162, 152, 142), 40),
    "rouse_multisession_PCR": ((60, 61), 50),
    "rouse_multisession_random": ((60, 61), None),
}


def columns(table):
    """Return {model: {key: value}}."""
    (_, *headers), *rows = (line.split() for line in table.strip().splitlines())
    return {
        header: {row[0]: literal_eval(row[i + 1]) for row in rows}
        for i, header in enumerate(headers)
    }


ONE = columns(TABLE)
SEVERAL = columns(MULTISESSION_TABLE)


def write_data(folder, name, sizes):
    """Write small files with the sizes of a model; return their pattern."""
    folder.mkdir()
    n_forward = sizes["recon_seq_len"] - sizes["encod_seq_len"]
    rng = np.random.default_rng(0)
    channels, components = SESSIONS.get(name, ((sizes.get("n_channels"),), None))
    for i, n_channels in enumerate(channels):
        heldout = n_channels - sizes["encod_data_dim"] if name in ONE else 0
        arrays = tiny_arrays(3, 2, sizes["encod_seq_len"], n_channels, n_forward, heldout)
        if components:
            arrays["readin_weight"] = rng.normal(size=(n_channels, components))
            arrays["readout_bias"] = rng.normal(size=n_channels)
        write_file(folder / f"session_{i}.h5", arrays)
    return str(folder / "*.h5")


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip())


def write_project(folder, name):
    """Write the project of a user with one of the models; return its sizes."""
    sizes = {**(ONE | SEVERAL)[name]}
    pattern = write_data(folder / "data", name, sizes)
    if name in ONE:
        sessions = ONE_SESSION.format(**sizes)
        batch_keys, attr_keys = "[behavior]", "[psth, train_cond_idx, valid_cond_idx]"
    else:
        # With random maps, the published file states 50 channels, although 30 are needed.
        sizes["encod_data_dim"] = sizes["fac_dim"]
        sessions = RANDOM_SESSIONS if name.endswith("random") else ALIGNED_SESSIONS
        batch_keys = attr_keys = "[]"
    configs = folder / "configs"
    write_text(configs / "model" / "mine.yaml", MODEL.format(sessions=sessions, **sizes))
    data = DATAMODULE.format(
        pattern=pattern, batch_keys=batch_keys, attr_keys=attr_keys, batch_size=sizes["batch_size"]
    )
    write_text(configs / "datamodule" / "mine.yaml", data)
    for primary, text in PRIMARIES.items():
        write_text(configs / f"{primary}.yaml", text)
    for callback, text in CALLBACKS.items():
        write_text(
            configs / "callbacks" / f"{callback}.yaml", text.replace("END_OF_RAMPS", END_OF_RAMPS)
        )
    return sizes


@pytest.mark.parametrize("name", ONE | SEVERAL)
def test_every_published_model_in_its_flat_form(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = write_project(tmp_path, name)
    resolved = compose("configs/single.yaml")
    keys = sizes.keys() - {"n_channels", "batch_size", "increase_epoch"}
    assert {key: resolved.model[key] for key in keys} == {key: sizes[key] for key in keys}
    assert resolved.datamodule.batch_size == sizes["batch_size"]
    assert resolved.callbacks.early_stopping.burn_in_period == sizes["increase_epoch"]
    model = instantiate(resolved.model, _convert_="all")
    assert type(model) is LFADS
    datamodule = instantiate(resolved.datamodule, _convert_="all")
    assert type(datamodule) is BasicDataModule
    n_sessions = len(SESSIONS.get(name, ((0,), 0))[0])
    assert len(model.readin) == len(model.readout) == len(model.recon) == n_sessions
    if name in ONE:
        assert model.readout[0].out_features == sizes["n_channels"]
    parameters = dict(model.named_parameters())
    assert parameters["decoder.rnn.cell.gen_cell.weight_hh"].shape == (
        3 * sizes["gen_dim"], sizes["gen_dim"],
    )  # fmt: skip
    assert parameters["encoder.ic_enc.fwd_gru.cell.weight_ih"].shape == (
        3 * sizes["ic_enc_dim"], sizes["encod_data_dim"],
    )  # fmt: skip


@pytest.mark.parametrize("primary", PRIMARIES)
def test_every_primary_file(primary, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, "mc_maze")
    resolved = compose(f"configs/{primary}.yaml")
    assert resolved.trainer.max_epochs == 1000
    sampling = instantiate(resolved.posterior_sampling.fn, _convert_="all")
    assert sampling.keywords == {"filename": "lfads_output.h5", "num_samples": 50}
    instantiate(resolved.trainer, logger=False, _convert_="all")
    for node in (resolved.get("callbacks") or {}).values():
        instantiate(node, _convert_="all")


def test_overrides_by_published_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, "mc_maze")
    changes = {
        "model.train_aug_stack.transforms.0.cd_rate": 0.5,
        "model": {"lr_init": 1e-3},
        "trainer.max_epochs": 3,
    }
    resolved = compose("configs/single.yaml", changes)
    assert resolved.model.train_aug_stack.transforms[0].cd_rate == 0.5
    assert (resolved.model.lr_init, resolved.trainer.max_epochs) == (1e-3, 3)
    with pytest.raises(ValueError, match=r"readout\.modules\.0\.out_features = 181"):
        compose("configs/single.yaml", {"model.readout.modules.0.out_features": 181})
