"""Every packaged and published configuration composes, and mistakes in one are named."""

import os
import shutil
import subprocess
import sys
import warnings
from ast import literal_eval
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, ListConfig, OmegaConf

from lfads_torch.datamodules import BasicDataModule
from lfads_torch.model import LFADS
from lfads_torch.modules import recons
from lfads_torch.running import compose as config
from lfads_torch.running.compose import (
    compose,
    compose_unresolved,
    find_config,
    format_overrides,
    packaged_configs,
)
from tests.conftest import TINY_SIZES, tiny_arrays, write_file

ROOT = Path(__file__).parents[2]
CONFIGS = packaged_configs()
MODULES = "lfads_torch.modules"

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*trains without regularisation"),
    pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch"),
]


def names(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def leaves(node, key=""):
    """Flatten nested configurations, lists included, to dotted keys."""
    if isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.to_container(node)
    if isinstance(node, dict | list):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        flat = {}
        for name, value in items:
            flat.update(leaves(value, f"{key}.{name}".lstrip(".")))
        return flat
    return {key: node}


def raw(name):
    """Compose a packaged file by Hydra alone, interpolations unresolved."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        group, _, _ = name.partition("/")
        return OmegaConf.to_container(hydra.compose(name)[group], resolve=False)


def generic(*overrides, file="tiny.h5"):
    """Compose the model for data of one's own, with the tiny file of the current folder."""
    data = ["model=generic", "datamodule=generic", f"datamodule.datafile_pattern={file}"]
    return compose("single.yaml", [*data, *TINY_SIZES, *overrides])


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Work in a folder that holds the tiny file."""
    monkeypatch.chdir(tmp_path)
    return write_file(tmp_path / "tiny.h5", tiny_arrays())


# ------------------------------------------------------------------ data of the right shapes

# Channels (encoded, reconstructed) and bins of each session, components of the alignment.
MAZES = {"large": (162, 162), "medium": (152, 152), "small": (142, 142)}
SHAPES = {
    "area2_bump": ({"area2_bump-05ms-val": (49, 65)}, (120, 160), None),
    "dmfc_rsg": ({"dmfc_rsg-05ms-val": (40, 54)}, (300, 340), None),
    "mc_maze": ({"mc_maze-20ms-val": (137, 182)}, (35, 45), None),
    "mc_maze_large": ({"mc_maze_large-05ms-val": (122, 162)}, (140, 180), None),
    "mc_maze_medium": ({"mc_maze_medium-05ms-val": (114, 152)}, (140, 180), None),
    "mc_maze_small": ({"mc_maze_small-05ms-val": (107, 142)}, (140, 180), None),
    "mc_rtt": ({"mc_rtt-05ms-val": (98, 130)}, (120, 160), None),
    "multisession": ({"a": (41, 41), "b": (43, 43)}, (6, 8), 40),
    "multisession_mc_maze": (
        {f"mc_maze_{size}-05ms-val": n for size, n in MAZES.items()}, (140, 180), 40,
    ),
    "multisession_example": ({"sess0": (12, 12), "sess1": (11, 11)}, (6, 8), 10),
    "rouse_multisession": ({f"rouse/lfads_{i}": (60 + i, 60 + i) for i in range(3)}, (30, 30), 50),
}  # fmt: skip


def write_data(folder, name):
    """Write small files as a configuration expects them; return their pattern."""
    sessions, (t_enc, t_rec), components = SHAPES.get(name, ({"any": (4, 5)}, (6, 8), None))
    rng = np.random.default_rng(0)
    for stem, (n_enc, n_rec) in sessions.items():
        arrays = tiny_arrays(3, 2, t_enc, n_rec, t_rec - t_enc, n_rec - n_enc)
        for split, n in [("train", 3), ("valid", 2)]:
            arrays[f"{split}_decode_mask"] = np.ones((n, 1), dtype=bool)
            arrays[f"{split}_jitter"] = np.zeros(n)
        if components:
            arrays["readin_weight"] = rng.normal(size=(n_rec, components))
            arrays["readout_bias"] = rng.normal(size=n_rec)
        path = folder / f"{stem}.h5"
        path.parent.mkdir(exist_ok=True)
        write_file(path, arrays)
    stem = next(iter(sessions))
    return str((folder / stem).parent / "*.h5")


def data_of(model):
    """Return the data that a model's configuration is for."""
    return model.removeprefix("nlb_").removesuffix("_random").removesuffix("_PCR")


def model_of(data):
    """Return a model that fits the data of a configuration."""
    if "multisession" not in data:
        return "generic"
    return "rouse_multisession_PCR" if data.startswith("rouse") else data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return the pattern of the files for a configuration, written when first asked for."""
    patterns = {}

    def get(name):
        if name not in patterns:
            patterns[name] = write_data(tmp_path_factory.mktemp(name), name)
        return patterns[name]

    return get


# ------------------------------------------------------------------ the packaged files

MODELS = [name for name in names("model") if name != "base"]


UNREGULARISED = {"area2_bump", "mc_maze_large", "mc_maze_medium", "mc_maze_small", "mc_rtt",
                 "multisession", "multisession_mc_maze", "rouse_multisession_PCR",
                 "rouse_multisession_random", "single_session"}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_model(name, data):
    pattern = data(data_of(name))
    where = f"datamodule.datafile_pattern={pattern}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resolved = compose("single.yaml", [f"model={name}", "datamodule=generic", where])
    warned = any("without regularisation" in str(warning.message) for warning in caught)
    assert warned == (name.removeprefix("nlb_") in UNREGULARISED)
    model = instantiate(resolved.model, _convert_="all")
    datamodule = instantiate(resolved.datamodule, _convert_="all")
    datamodule.setup()
    assert type(model) is LFADS
    assert len(model.readin) == len(datamodule.session_files)
    batch = next(iter(datamodule.val_dataloader()))[0]
    with torch.no_grad():
        output = model.predict_step(batch, 0)
    for session, (trials, _) in batch.items():
        assert output[session].output_params.shape == trials.recon_data.shape
        assert output[session].output_params.isfinite().all()


def test_the_base_of_all_models_says_what_it_lacks(tiny):
    with pytest.raises(ValueError, match="leaves out reconstruction, readin, readout"):
        generic("model=base", "model.encod_data_dim=4")


@pytest.mark.parametrize("name", names("datamodule"))
def test_every_datamodule(name, data):
    where = f"datamodule.datafile_pattern={data(name.removeprefix('nlb_'))}"
    resolved = compose("single.yaml", [f"datamodule={name}", f"model={model_of(name)}", where])
    datamodule = instantiate(resolved.datamodule, _convert_="all")
    assert type(datamodule) is BasicDataModule
    datamodule.setup()
    assert len(datamodule.train_data[0][1]) == len(resolved.datamodule.batch_keys)
    for key in resolved.datamodule.attr_keys:
        assert getattr(datamodule, key) is not None


@pytest.mark.parametrize("name", names("callbacks"))
def test_every_callback(name, tiny):
    resolved = generic(f"callbacks=[{name}]")
    assert list(resolved.callbacks) == [name]
    assert isinstance(instantiate(resolved.callbacks[name], _convert_="all"), pl.Callback)


@pytest.mark.parametrize("name", names("logger"))
def test_every_logger(name, tiny):
    resolved = generic(f"logger=[{name}]")
    assert list(resolved.logger) == [name]
    if name == "wandb":
        pytest.importorskip("wandb")
    logger = instantiate(resolved.logger[name], _convert_="all")
    assert isinstance(logger, pl.loggers.Logger)
    assert Path(logger.save_dir).resolve() == tiny.parent


def test_the_primary_configuration(tiny):
    resolved = generic()
    trainer = instantiate(resolved.trainer, logger=False, _convert_="all")
    assert trainer.max_epochs == 1000
    assert trainer.gradient_clip_val == 200
    assert trainer.log_every_n_steps == 5
    assert set(resolved.callbacks) == {*names("callbacks")} - {"nlb"}  # that only if asked for
    assert set(resolved.logger) == {"csv", "tensorboard"}  # W&B only if asked for
    checkpoint = resolved.callbacks.checkpoint
    assert (checkpoint.monitor, checkpoint.save_last) == ("valid/recon_smth", True)
    assert resolved.callbacks.early_stopping.monitor == "valid/recon_smth"
    assert resolved.callbacks.early_stopping.patience == 200
    sampling = instantiate(resolved.posterior_sampling.fn, _partial_=True)
    assert sampling.keywords == {"filename": "lfads_output.h5", "num_samples": 50}


@pytest.mark.parametrize(("ramps", "end"), [((0, 5, 0, 7), 7), ((3, 5, 1, 4), 8)])
def test_early_stopping_waits_for_both_ramps(tiny, ramps, end):
    keys = ("l2_start_epoch", "l2_increase_epoch", "kl_start_epoch", "kl_increase_epoch")
    chosen = [f"model.{key}={epochs}" for key, epochs in zip(keys, ramps, strict=True)]
    assert generic(*chosen).callbacks.early_stopping.burn_in_period == end


# ------------------------------------------------------------------ the published hyperparameters

TABLE = """
.                          area2_bump dmfc_rsg mc_maze mc_maze_large mc_maze_medium mc_maze_small mc_rtt multisession_mc_maze rouse_multisession_PCR rouse_multisession_random
encod_data_dim             49         40       137     122           114            107           98     40                   50                     30
encod_seq_len              120        300      35      140           140            140           120    140                  30                     30
recon_seq_len              160        340      45      180           180            180           160    180                  30                     30
ic_enc_dim                 100        100      64      100           100            100           100    100                  100                    100
ci_enc_dim                 80         64       64      80            80             80            80     80                   100                    100
con_dim                    80         64       64      80            80             80            80     80                   100                    100
co_dim                     4          4        4       4             4              4             4      4                    6                      6
ic_dim                     100        100      64      100           100            100           100    100                  100                    100
gen_dim                    100        100      200     100           100            100           100    100                  100                    100
fac_dim                    40         40       100     40            40             40            40     40                   50                     30
out_features               65         54       182     162           152            142           130    None                 None                   None
dropout_rate               0.02       0.15     0.3     0.02          0.02           0.02          0.02   0.02                 0.02                   0.02
lr_init                    4e-3       5e-3     4e-3    4e-3          4e-3           4e-3          1e-2   4e-3                 4e-3                   4e-3
lr_adam_epsilon            1e-7       3.16e-7  1e-8    1e-8          1e-8           1e-8          1e-7   1e-8                 3.1623e-5              3.1623e-5
lr_scheduler               True       False    False   False         False          False         True   False                False                  False
l2_gen_scale               0          3e-3     0       0             0              0             0      0                    0                      0
l2_con_scale               0          1e-4     0       0             0              0             0      0                    0                      0
kl_ic_scale                0          3e-7     1e-7    0             0              0             0      0                    0                      0
kl_co_scale                0          3e-7     1e-7    0             0              0             0      0                    0                      0
l2_increase_epoch          80         80       80      80            80             80            80     80                   50                     50
kl_increase_epoch          80         80       80      80            80             80            80     80                   50                     50
batch_size                 256        256      256     256           128            64            256    192                  1000                   1000
"""  # noqa: E501
SHARED = {
    "_target_": "lfads_torch.model.LFADS",
    "ext_input_dim": 0, "ic_enc_seq_len": 0, "ci_lag": 1,
    "train_aug_stack._target_": f"{MODULES}.augmentations.AugmentationStack",
    "train_aug_stack.transforms.0._target_": f"{MODULES}.augmentations.CoordinatedDropout",
    "train_aug_stack.transforms.0.cd_rate": 0.3,
    "train_aug_stack.transforms.0.cd_pass_rate": 0,
    "train_aug_stack.transforms.0.ic_enc_seq_len": 0,
    "train_aug_stack.batch_order.0": 0, "train_aug_stack.loss_order.0": 0,
    "infer_aug_stack._target_": f"{MODULES}.augmentations.AugmentationStack",
    "co_prior._target_": f"{MODULES}.priors.AutoregressiveMultivariateNormal",
    "co_prior.tau": 10, "co_prior.nvar": 0.1,
    "ic_prior._target_": f"{MODULES}.priors.MultivariateNormal",
    "ic_prior.mean": 0, "ic_prior.variance": 0.1, "ic_post_var_min": 1e-4,
    "cell_clip": 5, "loss_scale": 1e4, "recon_reduce_mean": True, "variational": True,
    "lr_stop": 1e-5, "lr_decay": 0.95, "lr_patience": 6, "lr_adam_beta1": 0.9,
    "lr_adam_beta2": 0.999, "weight_decay": 0, "l2_start_epoch": 0, "kl_start_epoch": 0,
    "l2_ic_enc_scale": 0, "l2_ci_enc_scale": 0, "recurrence": "auto",
}  # fmt: skip
MASKS = ["train_decode_mask", "valid_decode_mask"]
CONDITIONS = ["psth", "train_cond_idx", "valid_cond_idx"]
DATA_FILES = {
    "area2_bump": ("area2_bump-05ms-val.h5", [*CONDITIONS, *MASKS]),
    "dmfc_rsg": ("dmfc_rsg-05ms-val.h5", [*CONDITIONS, "train_jitter", "valid_jitter"]),
    "mc_maze": ("mc_maze-20ms-val.h5", [*CONDITIONS, *MASKS]),
    "mc_maze_large": ("mc_maze_large-05ms-val.h5", [*CONDITIONS, *MASKS]),
    "mc_maze_medium": ("mc_maze_medium-05ms-val.h5", [*CONDITIONS, *MASKS]),
    "mc_maze_small": ("mc_maze_small-05ms-val.h5", [*CONDITIONS, *MASKS]),
    "mc_rtt": ("mc_rtt-05ms-val.h5", MASKS),
    "multisession_mc_maze": ("mc_maze_*-05ms-val.h5", []),
    "rouse_multisession": ("rouse_multisession/lfads_*.h5", []),
}


def columns():
    """Return the table by configuration."""
    (_, *headers), *rows = (line.split() for line in TABLE.strip().splitlines())
    return {
        header: {row[0]: literal_eval(row[i + 1]) for row in rows}
        for i, header in enumerate(headers)
    }


def expected_model(name, pattern):
    """Return every leaf that a model must have."""
    own = columns()[name]
    del own["batch_size"]
    channels = own.pop("out_features")
    sizes = {"co_prior.shape": own["co_dim"], "ic_prior.shape": own["ic_dim"]}
    expected = {**SHARED, **own, **sizes}
    if channels:
        return expected | {
            "readin.0._target_": "torch.nn.Identity",
            "readout._target_": "torch.nn.ModuleList",
            "readout.modules.0._target_": f"{MODULES}.readin_readout.FanInLinear",
            "readout.modules.0.in_features": own["fac_dim"],
            "readout.modules.0.out_features": channels,
            "reconstruction.0._target_": f"{MODULES}.recons.Poisson",
        }
    for part, made in [("readin", "readin_readout.MultisessionReadin"),
                       ("readout", "readin_readout.MultisessionReadout"),
                       ("reconstruction", "recons.MultisessionReconstruction")]:  # fmt: skip
        expected |= {f"{part}._target_": f"{MODULES}.{made}", f"{part}.datafile_pattern": pattern}
    expected |= {
        "readout.recon_params": 1,
        "reconstruction.recon._target_": f"{MODULES}.recons.Poisson",
    }
    pcr_init = not name.endswith("random")
    expected |= {"readin.out_features": own["fac_dim"], "readin.pcr_init": pcr_init}
    expected |= {"readout.in_features": own["fac_dim"], "readout.pcr_init": pcr_init}
    return expected | {"readin.requires_grad": False, "readout.requires_grad": True}


@pytest.mark.parametrize("name", columns())
def test_published_hyperparameters(name, data):
    datamodule = data_of(name)
    pattern = data(datamodule)
    where = [f"datamodule.datafile_pattern={pattern}"]
    plain = [f"model={name}", f"datamodule={datamodule}"]
    resolved = compose("single.yaml", plain + where)
    assert leaves(resolved.model) == expected_model(name, pattern)
    assert resolved.datamodule.batch_size == columns()[name]["batch_size"]
    if name in names_in_published_package():
        published = [f"model=nlb_{name}", f"datamodule=nlb_{datamodule}"]
        assert compose("single.yaml", published + where) == resolved


def names_in_published_package():
    return [name for name in columns() if "multisession" not in name]


@pytest.mark.parametrize("name", DATA_FILES)
def test_published_data(name):
    file, attr_keys = DATA_FILES[name]
    datamodule = raw(f"datamodule/{name}")
    assert datamodule["datafile_pattern"] == f"${{relpath:datasets/{file}}}"
    assert datamodule["batch_keys"] == ([] if "multisession" in name else ["behavior"])
    assert datamodule["attr_keys"] == attr_keys
    if "multisession" not in name:
        assert raw(f"datamodule/nlb_{name}") == datamodule


def test_published_names_are_there():
    published = {f"nlb_{name}" for name in names_in_published_package()}
    assert published | {"multisession_mc_maze", "rouse_multisession_PCR"} <= set(MODELS)
    assert published | {"multisession_mc_maze", "rouse_multisession"} <= set(names("datamodule"))


def test_warning_of_a_model_without_regularisation(tiny):
    off = [f"model.{name}=0" for name in
           ("kl_ic_scale", "kl_co_scale", "l2_gen_scale", "l2_con_scale")]  # fmt: skip
    with pytest.warns(UserWarning, match=r"without regularisation.* model\.kl_ic_scale=1e-5"):
        generic(*off)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for on in ("model.l2_ic_enc_scale=1", "model.kl_co_scale=1", "model.variational=false"):
            generic(*off, on)


# ------------------------------------------------------------------ the published style

PUBLISHED = {
    "configs/single.yaml": """
        defaults:
          - _self_
          - datamodule: mydata
          - model: mymodel
          - callbacks: [checkpoint, lr_monitor]
          - logger: [csv]
        seed: 0
        trainer:
          _target_: pytorch_lightning.Trainer
          gradient_clip_val: 200
          max_epochs: 7
          log_every_n_steps: 5
          gpus: 0
          enable_progress_bar: false
        posterior_sampling:
          use_best_ckpt: true
          fn:
            _target_: lfads_torch.running.sampling.run_posterior_sampling
            _partial_: true
            filename: lfads_output.h5
            num_samples: 50
    """,
    "configs/datamodule/mydata.yaml": """
        _target_: lfads_torch.datamodules.BasicDataModule
        datafile_pattern: ${relpath:mydata/*.h5}
        batch_keys: [behavior]
        attr_keys: [psth, train_cond_idx]
        batch_size: 4
        reshuffle_tv_seed: null
        reshuffle_tv_ratio: null
        sv_rate: 0.0
        sv_seed: 0
        dm_ic_enc_seq_len: ${model.ic_enc_seq_len}
    """,
    "configs/model/mymodel.yaml": """
        _target_: lfads_torch.model.LFADS
        encod_data_dim: 4
        encod_seq_len: 8
        recon_seq_len: 10
        ext_input_dim: 0
        ic_enc_seq_len: 0
        ic_enc_dim: 6
        ci_enc_dim: 5
        ci_lag: 1
        con_dim: 4
        co_dim: 2
        ic_dim: 6
        gen_dim: 9
        fac_dim: 3
        readin:
          - _target_: torch.nn.Identity
        readout:
          _target_: torch.nn.ModuleList
          modules:
            - _target_: lfads_torch.modules.readin_readout.FanInLinear
              in_features: ${model.fac_dim}
              out_features: 5
        train_aug_stack:
          _target_: lfads_torch.modules.augmentations.AugmentationStack
          transforms:
            - _target_: lfads_torch.modules.augmentations.CoordinatedDropout
              cd_rate: 0.4
              cd_pass_rate: 0.0
              ic_enc_seq_len: ${model.ic_enc_seq_len}
          batch_order: [0]
          loss_order: [0]
        infer_aug_stack:
          _target_: lfads_torch.modules.augmentations.AugmentationStack
        reconstruction:
          - _target_: lfads_torch.modules.recons.Poisson
        variational: true
        co_prior:
          _target_: lfads_torch.modules.priors.AutoregressiveMultivariateNormal
          tau: 10.0
          nvar: 0.1
          shape: ${model.co_dim}
        ic_prior:
          _target_: lfads_torch.modules.priors.MultivariateNormal
          mean: 0
          variance: 0.1
          shape: ${model.ic_dim}
        ic_post_var_min: 1.0e-4
        dropout_rate: 0.02
        cell_clip: 5.0
        loss_scale: 1.0e+4
        recon_reduce_mean: true
        lr_scheduler: false
        lr_init: 4.0e-3
        lr_stop: 1.0e-5
        lr_decay: 0.95
        lr_patience: 6
        lr_adam_beta1: 0.9
        lr_adam_beta2: 0.999
        lr_adam_epsilon: 1.0e-8
        weight_decay: 0.0
        l2_start_epoch: 0
        l2_increase_epoch: 80
        l2_ic_enc_scale: 0.0
        l2_ci_enc_scale: 0.0
        l2_gen_scale: 0.1
        l2_con_scale: 0.1
        kl_start_epoch: 0
        kl_increase_epoch: 80
        kl_ic_scale: 1.0e-6
        kl_co_scale: 1.0e-6
    """,
    "configs/callbacks/lr_monitor.yaml": """
        my_lr_monitor:
          _target_: pytorch_lightning.callbacks.LearningRateMonitor
          logging_interval: step
    """,
}


def write_texts(folder, texts):
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        path.write_text("\n".join(line[indent:] for line in lines) + "\n")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a user's project with data and a folder of configurations, and work in it."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path, PUBLISHED)
    (tmp_path / "mydata").mkdir()
    write_file(tmp_path / "mydata" / "one.h5", tiny_arrays())
    return tmp_path


@pytest.mark.parametrize("absolute", [True, False])
def test_published_style(project, absolute):
    path = Path("configs/single.yaml")
    with pytest.warns(UserWarning, match=r"no trainer\.gpus"):
        resolved = compose(path.absolute() if absolute else path)
    model = instantiate(resolved.model, _convert_="all")
    datamodule = instantiate(resolved.datamodule, _convert_="all")
    trainer = instantiate(resolved.trainer, logger=False, _convert_="all")
    sampling = instantiate(resolved.posterior_sampling.fn, _convert_="all")
    datamodule.setup()
    assert resolved.datamodule.datafile_pattern == str(project / "mydata" / "*.h5")
    assert datamodule.psth.shape == (2, 3)
    assert model.hparams.gen_dim == 9
    assert model.readout[0].in_features == 3
    assert model.train_aug_stack.transforms[0].cd_rate == 0.4
    assert trainer.max_epochs == 7
    assert trainer.accelerator.__class__.__name__ == "CPUAccelerator"
    assert sampling.keywords["num_samples"] == 50
    model.log_dict = lambda values: None
    batch = next(iter(datamodule.train_dataloader()))[0]
    assert model.training_step(batch, 0).isfinite()


def test_own_parts_do_not_inherit_arguments_that_they_do_not_take(project):
    """A part is merged into that of base.yaml, whose class may be another."""
    text = """
        defaults: [generic, _self_]
        ic_prior:
          _target_: lfads_torch.modules.priors.MultivariateStudentT
          loc: 0
          scale: 0.1
          df: 5
        co_prior:
          _target_: lfads_torch.modules.priors.Null
    """
    write_texts(project, {"configs/model/mine.yaml": text})
    resolved = compose("configs/single.yaml", ["model=mine", "~trainer.gpus"])
    assert set(resolved.model.ic_prior) == {"_target_", "loc", "scale", "df", "shape"}
    assert resolved.model.ic_prior.shape == 64
    assert set(resolved.model.co_prior) == {"_target_"}
    instantiate(resolved.model, _convert_="all")
    with pytest.raises(ValueError, match=r"model\.ic_prior\.dff is no argument"):
        compose("configs/single.yaml", ["model=mine", "~trainer.gpus", "+model.ic_prior.dff=1"])


@pytest.mark.filterwarnings("ignore:.*no trainer.gpus")
def test_own_files_go_before_packaged_ones(project):
    resolved = compose("configs/single.yaml")
    assert list(resolved.callbacks) == ["checkpoint", "my_lr_monitor"]  # packaged, own
    other = compose("configs/single.yaml", ["model=generic", "logger=[csv,tensorboard]"])
    assert other.model.gen_dim == 100
    assert other.model.encod_data_dim == 4
    assert list(other.logger) == ["csv", "tensorboard"]


def test_own_file_may_build_on_a_packaged_one(project):
    write_texts(project, {"configs/model/mine.yaml": """
        defaults: [single_session, _self_]
        gen_dim: 17
    """})  # fmt: skip
    resolved = compose(project / "configs" / "single.yaml", ["model=mine", "~trainer.gpus"])
    assert (resolved.model.gen_dim, resolved.model.ic_dim) == (17, 100)


def test_a_second_primary_builds_on_the_first(project):
    write_texts(project, {"configs/quick.yaml": """
        defaults: [single, _self_]
        trainer:
          max_epochs: 3
    """})  # fmt: skip
    assert compose("configs/quick.yaml", ["~trainer.gpus"]).trainer.max_epochs == 3


def test_config_dir(project, tmp_path_factory):
    own = tmp_path_factory.mktemp("own")
    write_texts(own, {"model/generic.yaml": "defaults: [lorenz, _self_]\ngen_dim: 19\n"})
    overrides = ["model=generic", "datamodule=generic",
                 "datamodule.datafile_pattern=mydata/one.h5"]  # fmt: skip
    packaged = compose("single.yaml", overrides)
    mine = compose("single.yaml", overrides, config_dir=own)
    assert (packaged.model.gen_dim, mine.model.gen_dim) == (100, 19)
    assert mine.trainer == packaged.trainer
    before_all = compose("configs/single.yaml", [*overrides, "~trainer.gpus"], config_dir=own)
    assert (before_all.model.gen_dim, before_all.trainer.max_epochs) == (19, 7)
    write_texts(own, {"single.yaml": "defaults: [model: generic, datamodule: generic]\nmine: 1\n"})
    assert compose("single.yaml", overrides, config_dir=own).mine == 1
    assert compose("single.yaml", overrides, config_dir=os.path.relpath(own)).mine == 1
    with pytest.raises(FileNotFoundError, match=r"no folder of configurations nowhere"):
        compose("single.yaml", overrides, config_dir="nowhere")


@pytest.mark.parametrize("name", ["with space", "co,mma", "eq=al", "brace{x}", "dollar$x", "hash#",
                                  "back\\slash", "quo'te", "per%cent", "ümlaut"])  # fmt: skip
def test_folders_of_any_name(tmp_path, name):
    write_texts(tmp_path / name, {"mine.yaml": "defaults: [single]", "model/mine.yaml":
                                  "defaults: [generic, _self_]\ngen_dim: 17"})  # fmt: skip
    where = f"datamodule.datafile_pattern={write_file(tmp_path / 'a.h5', tiny_arrays())}"
    resolved = compose(tmp_path / name / "mine.yaml", ["model=mine", "datamodule=generic", where])
    assert resolved.model.gen_dim == 17


def test_trainer_arguments_of_the_old_lightning(project):
    old = ["trainer.gpus=1", "+trainer.track_grad_norm=2", "+trainer.weights_summary=top"]
    with pytest.warns(UserWarning, match=r"trainer\.gpus, trainer\.track_grad_norm, trainer\.weig"):
        trainer = compose("configs/single.yaml", old).trainer
    assert (trainer.accelerator, trainer.devices) == ("gpu", 1)
    assert not {"gpus", "track_grad_norm", "weights_summary"} & set(trainer)
    kept = ["+trainer.accelerator=cpu", "+trainer.devices=3"]
    with pytest.warns(UserWarning, match="gpus"):
        trainer = compose("configs/single.yaml", kept).trainer
    assert (trainer.accelerator, trainer.devices) == ("cpu", 3)


# ------------------------------------------------------------------ finding files, resolvers


def test_find_config(tmp_path, monkeypatch):
    """In the current folder, relative to the package, by the name of a packaged file."""
    package, packaged = tmp_path / "package", tmp_path / "packaged"
    monkeypatch.setattr(config, "PACKAGE", package)
    monkeypatch.setattr(config, "packaged_configs", lambda: packaged)
    here = tmp_path / "here"
    for folder in (here, package, packaged):
        folder.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(FileNotFoundError, match=r"'x\.yaml'.*here.*package.*packaged"):
        find_config("x.yaml")
    for folder in (packaged, package, here):
        write_texts(folder, {"x.yaml": "a: 1"})
        assert find_config("x.yaml") == folder / "x.yaml"
    assert find_config(package / "x.yaml") == package / "x.yaml"
    assert find_config(Path("../package/x.yaml")) == package / "x.yaml"
    assert find_config("elsewhere/x.yaml") == packaged / "x.yaml"
    (here / "x.yaml").unlink()
    (here / "x.yaml").mkdir()  # no file
    assert find_config("x.yaml") == package / "x.yaml"


def test_find_config_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("../configs/single.yaml", "single.yaml"):
        assert find_config(path) == CONFIGS / "single.yaml"


def test_relpath(tmp_path, monkeypatch):
    """Relative to the checkout, to the package, to the current folder; patterns too."""
    folders = [tmp_path / name for name in ("checkout", "checkout/package", "here")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(config, "PACKAGE", folders[1])
    monkeypatch.chdir(folders[2])
    config.register_resolvers()

    def resolved(path):
        return Path(OmegaConf.create({"path": f"${{relpath:{path}}}"}).path)

    # Where there is nothing yet: in the current folder, or in the checkout, if it is one.
    assert resolved("data/*.h5") == folders[2] / "data" / "*.h5"
    write_texts(folders[0], {"setup.py": "x"})
    assert resolved("data/*.h5") == folders[0] / "data" / "*.h5"
    for folder in reversed(folders):
        write_texts(folder, {"data/a.h5": "x"})
        assert resolved("data/*.h5") == folder / "data" / "*.h5"
    assert resolved("../here/data/a.h5") == folders[2] / "data" / "a.h5"
    assert resolved(folders[2] / "data/a.h5") == folders[2] / "data" / "a.h5"


def test_max_and_sum():
    config.register_resolvers()
    config.register_resolvers()  # again does no harm
    node = OmegaConf.create({"a": 3, "b": "${max:${a},7,5}", "c": "${sum:${a},0.5,1}"})
    assert (node.b, node.c) == (7, 4.5)


def fresh(code, *options, cwd, path=ROOT):
    """Run Python in a process of its own, which finds the library in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=cwd, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_registers_nothing(tmp_path):
    code = """
from omegaconf import OmegaConf
import lfads_torch.running.compose
print([OmegaConf.has_resolver(name) for name in ("relpath", "max", "sum")])
lfads_torch.running.compose.register_resolvers()
print([OmegaConf.has_resolver(name) for name in ("relpath", "max", "sum")])
"""
    before, after = fresh(code, cwd=tmp_path).splitlines()
    assert before == "[False, False, False]"
    assert after == "[True, True, True]"


# ------------------------------------------------------------------ overrides


@pytest.fixture(scope="module")
def hydra_value(tmp_path_factory):
    """Return what Hydra makes of an override."""
    folder = tmp_path_factory.mktemp("configs")
    write_texts(folder, {"x.yaml": "a: {b: null}"})

    def get(value):
        with hydra.initialize_config_dir(str(folder), version_base="1.3"):
            composed = hydra.compose("x", format_overrides({"a": {"b": value}}))
        return OmegaConf.to_container(composed)["a"]["b"]

    return get


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
# The q keeps numbers, and words such as null, from being made by chance.
PIECES = ["q", "=", ",", "{", "}", "[", "'", '"', "\\", " ", "$", ":"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map(lambda parts: "".join(["q", *parts]))
KEYS = st.sampled_from(["a", "_b", "c9", "key_of_many_letters"])
VALUES = st.recursive(
    NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1), st.lists(TEXTS, min_size=3))
def test_overrides_are_read_as_they_were_meant(values, texts):
    parser = OverridesParser.create()
    for meant in (values, texts):
        [parsed] = parser.parse_overrides(format_overrides({"a": meant}))
        assert parsed.key_or_group == "a"
        assert repr(parsed.value()) == repr(meant)


@pytest.mark.parametrize("value", [
    "", " ", "a b ", "=", "a=b", "a,b", "{a:1}", "[1,2]", "(x)", "'", '"', "\\", "\\\\", 'a\\"b',
    "a\\", "a\nb", "~/data/lfads_*.h5", "C:\\data\\x.h5", "a: b", "-", "???x", "choice(1,2)",
    10**30, float("inf"), -0.0, 1e-300, [], [[]], [None, True, "a,b"], [{"a": "x=y"}],
    [{"b": {"c": [1]}}],
])  # fmt: skip
def test_overrides_with_special_characters(hydra_value, value):
    assert repr(hydra_value(value)) == repr(value)


@pytest.mark.parametrize(("value", "read"), [("null", None), ("true", True), ("1e-3", 1e-3)])
def test_text_that_looks_like_a_value_is_one(hydra_value, value, read):
    """As in the published code, which handed text to Hydra as it was."""
    assert hydra_value(value) == read


@pytest.mark.parametrize("value", [
    (1, "a"), Path("some/path.h5"), ListConfig([1, "a,b"]), np.int64(3), np.float32(0.5),
])  # fmt: skip
def test_overrides_of_other_types(hydra_value, value):
    plain = {tuple: list, ListConfig: list, np.int64: int, np.float32: float}.get(type(value), str)
    assert hydra_value(value) == plain(value)


def test_format_overrides():
    overrides = {"model": "lorenz", "model.lr_init": 1e-3, "trainer": {"max_epochs": 3},
                 "+new": None, "logger": ["csv"], "b": True, "n": "${model.gen_dim}"}  # fmt: skip
    assert format_overrides(overrides) == [
        "model=lorenz", "model.lr_init=0.001", "trainer.max_epochs=3", "+new=null", "logger=[csv]",
        "b=true", "n=${model.gen_dim}",
    ]  # fmt: skip
    ready = ["model=lorenz", "~logger", "+x='a b'"]
    assert format_overrides(ready) == ready


def test_overrides_by_numpy_floats(tiny):
    """As samplers and np.geomspace give them."""
    assert generic(*format_overrides({"model.lr_init": np.float64(1e-3)})).model.lr_init == 1e-3


@pytest.mark.parametrize("value", ["josé/a.h5", "数据.h5"])
def test_overrides_beyond_ascii(hydra_value, value):
    assert hydra_value(value) == value


def test_override_that_ends_in_a_backslash_and_a_line_break(hydra_value):
    assert hydra_value("a\\\n") == "a\\\n"


def test_override_by_an_empty_dictionary():
    assert format_overrides({"callbacks": {}}) == ["callbacks={}"]


@pytest.mark.parametrize("as_dict", [True, False])
def test_paths_of_overrides(tiny, as_dict):
    values = {"model.train_aug_stack.transforms.0.cd_rate": 0.45,
              "model.readout.modules.0.out_features": 5}  # fmt: skip
    if as_dict:
        files = {"datamodule.datafile_pattern": "tiny.h5"}
        groups = {"model": "generic", "datamodule": "generic"}
        resolved = compose("single.yaml", {**groups, **files, **values})
    else:
        resolved = generic(*(f"{key}={value}" for key, value in values.items()))
    model = instantiate(resolved.model, _convert_="all")
    assert model.train_aug_stack.transforms[0].cd_rate == 0.45
    with pytest.raises(ValueError, match=r"model\.readout\.modules\.0\.out_features = 6"):
        generic("model.readout.modules.0.out_features=6")


# ------------------------------------------------------------------ what the data impose


def test_sizes_are_read_from_the_file(tiny):
    model = generic().model
    found = [model[key] for key in ("encod_data_dim", "encod_seq_len", "recon_seq_len")]
    assert found == [4, 8, 10]
    assert model.ext_input_dim == 0
    assert model.readout.modules[0].out_features == 5
    assert OmegaConf.is_config(model)
    assert not OmegaConf.missing_keys(model)


RECONS = {
    "Poisson": {}, "PoissonBPS": {}, "MSE": {}, "Gaussian": {}, "Gamma": {},
    "ZeroInflatedGamma": {"gamma_loc": 0.1, "scale_init": 1.0, "scale_prior": 1.0,
                          "scale_penalty": 0.1},
}  # fmt: skip


def recon_override(name, **arguments):
    recon = {"_target_": f"{MODULES}.recons.{name}", **RECONS[name], **arguments}
    return format_overrides({"model.reconstruction": [recon]})[0]


@pytest.mark.parametrize("name", RECONS)
def test_the_width_counts_the_parameters_of_the_reconstruction(tiny, name):
    resolved = generic(recon_override(name))
    n_params = getattr(recons, name).n_params
    assert resolved.model.readout.modules[0].out_features == 5 * n_params
    if name == "ZeroInflatedGamma":
        assert resolved.model.reconstruction[0].recon_dim == 5
    model = instantiate(resolved.model, _convert_="all")
    datamodule = instantiate(resolved.datamodule, _convert_="all")
    datamodule.setup()
    output = model(datamodule.valid_data[0][0], output_means=False)
    assert output[0].output_params.shape == (6, 10, 5, n_params)


def sessions(folder, *channels, components=3):
    """Write aligned sessions and return overrides for them."""
    for i, n in enumerate(channels):
        arrays = tiny_arrays(n_channels=n, n_heldout=0, seed=i)
        arrays["readin_weight"] = np.random.default_rng(i).normal(size=(n, components))
        write_file(folder / f"s{i}.h5", {**arrays, "readout_bias": np.zeros(n)})
    pattern = f"datamodule.datafile_pattern={folder / 's*.h5'}"
    return ["model=multisession", "datamodule=generic", pattern, *TINY_SIZES]


def training_loss(resolved):
    model = instantiate(resolved.model, _convert_="all")
    datamodule = instantiate(resolved.datamodule, _convert_="all")
    datamodule.setup()
    model.log_dict = lambda values: None
    return model, model.training_step(next(iter(datamodule.train_dataloader()))[0], 0)


@pytest.mark.parametrize("name", ["Poisson", "Gaussian"])
def test_several_sessions(tmp_path, name):
    target = f"model.reconstruction.recon._target_={MODULES}.recons.{name}"
    resolved = compose("single.yaml", [*sessions(tmp_path, 5, 7), target])
    model, loss = training_loss(resolved)
    assert loss.isfinite()
    n_params = getattr(recons, name).n_params
    assert [layer.out_features for layer in model.readout] == [5 * n_params, 7 * n_params]
    with pytest.raises(ValueError, match=rf"recon_params = 3, but .*s0\.h5 asks for {n_params}"):
        compose("single.yaml", [*sessions(tmp_path, 5, 7), target, "+model.readout.recon_params=3"])


def test_lists_of_maps_for_several_sessions(tmp_path):
    groups = sessions(tmp_path, 5, 7)[1:]
    linear = {"_target_": f"{MODULES}.readin_readout.FanInLinear"}
    write_texts(tmp_path, {"model/lists.yaml": f"""
        defaults: [base, _self_]
        encod_data_dim: 6
        readin:
          - {{_target_: torch.nn.Linear, out_features: 6}}
          - {{_target_: torch.nn.Linear, in_features: 7, out_features: 6}}
        readout: [{linear!s}, {linear!s}]
        reconstruction:
          - _target_: {MODULES}.recons.Poisson
          - _target_: {MODULES}.recons.Gaussian
    """})  # fmt: skip
    resolved = compose("single.yaml", ["model=lists", *groups], config_dir=tmp_path)
    model, loss = training_loss(resolved)
    assert loss.isfinite()
    assert [layer.in_features for layer in model.readin] == [5, 7]
    assert [(layer.in_features, layer.out_features) for layer in model.readout] == [(3, 5), (3, 14)]
    wrong = ["model=lists", *groups, "model.readin.1.in_features=6"]
    with pytest.raises(ValueError, match=r"readin\.1\.in_features = 6, .*s1\.h5 asks for 7"):
        compose("single.yaml", wrong, config_dir=tmp_path)
    sessions(tmp_path, 5, 7, 5)
    with pytest.raises(ValueError, match=r"model\.readin has 2 entries, .* 3 file"):
        compose("single.yaml", ["model=lists", *groups], config_dir=tmp_path)


@pytest.mark.parametrize(("override", "stated", "found"), [
    ("model.encod_data_dim=7", 7, 4),
    ("model.encod_seq_len=9", 9, 8),
    ("model.recon_seq_len=11", 11, 10),
    ("model.readout.modules.0.out_features=4", 4, 5),
    ("model.ext_input_dim=3", 3, 2),
])  # fmt: skip
def test_sizes_that_are_not_those_of_the_data(tiny, override, stated, found):
    inputs = {f"{s}_ext_input": np.zeros((n, 8, 2)) for s, n in [("train", 12), ("valid", 6)]}
    write_file(tiny, {**tiny_arrays(), **inputs})
    key = override.partition("=")[0].replace(".", r"\.")
    with pytest.raises(ValueError, match=rf"{key} = {stated}, .*tiny\.h5 asks for {found}\D"):
        generic(override)


def test_widths_that_are_not_those_of_the_reconstruction(tiny):
    with pytest.raises(ValueError, match=r"out_features = 5, .*tiny\.h5.* 10 .*x 2 parameters"):
        generic(recon_override("Gaussian"), "model.readout.modules.0.out_features=5")
    with pytest.raises(
        ValueError, match=r"reconstruction\.0\.recon_dim = 4, .*tiny\.h5 asks for 5"
    ):
        generic(recon_override("ZeroInflatedGamma", recon_dim=4))


def test_external_inputs(tiny):
    """Ignored where 0, read from the file where null, and needed in the file where given."""
    for stated in ("0", "null"):
        assert generic(f"model.ext_input_dim={stated}").model.ext_input_dim == 0
    with pytest.raises(ValueError, match=r"ext_input_dim = 2, but .*tiny\.h5 has no train_ext_inp"):
        generic("model.ext_input_dim=2")
    inputs = {f"{s}_ext_input": np.ones((n, 8, 2)) for s, n in [("train", 12), ("valid", 6)]}
    write_file(tiny, {**tiny_arrays(), **inputs})
    for stated, found in [("0", 0), ("null", 2), ("2", 2)]:
        resolved = generic(f"model.ext_input_dim={stated}")
        assert resolved.model.ext_input_dim == found
        assert training_loss(resolved)[1].isfinite()


def test_leading_bins(tiny):
    assert generic("model.ic_enc_seq_len=3").datamodule.dm_ic_enc_seq_len == 3
    with pytest.raises(ValueError, match=r"dm_ic_enc_seq_len = 2, but\s+model\.ic_enc_seq_len = 3"):
        generic("model.ic_enc_seq_len=3", "datamodule.dm_ic_enc_seq_len=2")


class OwnData(pl.LightningDataModule):
    """A data module that knows of no file."""

    def __init__(self, n):
        super().__init__()


def test_data_modules_without_files_are_left_alone(tmp_path):
    write_texts(tmp_path, {"datamodule/own.yaml": f"_target_: {__name__}.OwnData\nn: 3\n"})
    overrides = ["model=area2_bump", "datamodule=own"]
    resolved = compose("single.yaml", overrides, config_dir=tmp_path)
    assert resolved.model.encod_data_dim == 49
    with pytest.raises(ValueError, match="leaves out encod_data_dim, encod_seq_len, recon_seq_len"):
        compose("single.yaml", ["model=generic", "datamodule=own"], config_dir=tmp_path)


@pytest.mark.parametrize("overrides", [
    ["model.encod_data_dim=5"], ["model.fac_dim=4"], ["model.fac_dim=4", "model.encod_data_dim=3"],
])  # fmt: skip
def test_alignment_of_another_size(tmp_path, overrides):
    """Aligned maps need as many components as there are encoder inputs and factors."""
    with pytest.raises(ValueError, match=r"(encod_data|fac)_dim = [45], but .*s0\.h5 asks for 3"):
        compose("single.yaml", [*sessions(tmp_path, 5, 7), *overrides])


def test_read_out_of_other_factors(tiny):
    with pytest.raises(ValueError, match="in_features = 7"):
        training_loss(generic("model.readout.modules.0.in_features=7"))


# ------------------------------------------------------------------ configurations in memory


def test_a_configuration_in_memory_is_composed_like_its_file(tiny, tmp_path):
    resolved = generic("model.train_aug_stack.transforms.0.cd_rate=0.2")
    OmegaConf.save(resolved, tmp_path / "saved.yaml")
    before = OmegaConf.to_yaml(resolved)
    overrides = ["model.lr_init=0.5", "model.train_aug_stack.transforms.0.cd_rate=0.1",
                 "~callbacks.lr_monitor", "+trainer.min_epochs=2"]  # fmt: skip
    in_memory = compose(resolved, overrides)
    assert in_memory == compose(tmp_path / "saved.yaml", overrides)
    assert in_memory.model.lr_init == 0.5
    assert in_memory.model.train_aug_stack.transforms[0].cd_rate == 0.1
    assert in_memory.trainer.min_epochs == 2
    assert "lr_monitor" not in in_memory.callbacks
    assert OmegaConf.to_yaml(resolved) == before
    in_memory.trainer.max_epochs = 1
    assert resolved.trainer.max_epochs == 1000
    with_group = compose(resolved, ["+logger@more=wandb"])
    assert with_group.more.wandb.project == "lfads_torch"


def test_interpolations_of_a_configuration_in_memory_follow_overrides(tiny):
    data = ["model=generic", "datamodule=generic", "datamodule.datafile_pattern=tiny.h5"]
    unresolved = compose_unresolved("single.yaml", [*data, *TINY_SIZES])
    resolved = compose(unresolved, {"model.fac_dim": 5})
    assert resolved.model.readout.modules[0].in_features == 5
    assert OmegaConf.is_interpolation(unresolved.model.readout.modules[0], "in_features")


def test_faults_of_a_configuration_in_memory(tiny):
    resolved = generic()
    with pytest.raises(
        ValueError, match=r"(?s)in memory cannot be composed: .*mean model\.lr_init\?"
    ):
        compose(resolved, ["model.lr_intt=1"])
    with pytest.raises(ValueError, match=r"in memory cannot be resolved: .*nix"):
        compose(resolved, ["model.gen_dim=${nix:1}"])
    with pytest.raises(ValueError, match=r"encod_seq_len = 9, .*tiny\.h5 asks for 8"):
        compose(resolved, ["model.encod_seq_len=9"])


def test_the_default_is_the_packaged_configuration(project, monkeypatch):
    """Whatever lies in the folders around the current one."""
    (project / "here").mkdir()
    monkeypatch.chdir(project / "here")  # ../configs/single.yaml is the user's project's
    data = ["model=generic", "datamodule=generic", "datamodule.datafile_pattern=../mydata/one.h5"]
    assert compose(overrides=data).trainer.max_epochs == 1000
    with pytest.warns(UserWarning, match="gpus"):
        assert compose("../configs/single.yaml", data).trainer.max_epochs == 7


def test_composing_in_several_threads(tiny):
    """Hydra keeps its state in globals, which threads must not meet half-changed."""
    sizes = range(3, 11)
    with ThreadPoolExecutor(len(sizes)) as pool:
        made = list(pool.map(lambda size: generic(f"model.gen_dim={size}"), sizes))
    assert [config.model.gen_dim for config in made] == list(sizes)


# ------------------------------------------------------------------ faults of the user


@pytest.mark.parametrize(("override", "message"), [
    ("+model.lr_intt=1", r"model\.lr_intt is no argument .*Did you mean lr_init\?"),
    ("+datamodule.batchsize=1", r"datamodule\.batchsize .*Did you mean batch_size\?"),
    ("+trainer.maxepochs=1", r"trainer\.maxepochs .*Did you mean max_epochs\?"),
    ("+model.ic_prior.varience=1", r"model\.ic_prior\.varience .*Did you mean variance\?"),
    ("+model.train_aug_stack.transforms.0.cdrate=1", r"transforms\.0\.cdrate .*mean cd_rate\?"),
    ("+callbacks.checkpoint.moniter=x", r"callbacks\.checkpoint\.moniter .*mean monitor\?"),
    ("+model.readout.modules.0.zzz=1", r"readout\.modules\.0\.zzz is no argument .*FanInLinear\. "),
    ("model.lr_intt=1", r"model\.lr_intt"),
    ("modle=generic", "modle"),
    ("model=genric", r"(?s)model/genric.*\bgeneric\b.*\blorenz\b"),
    ("callbacks=[checkpont]", r"cannot be composed: .*callbacks/checkpont"),
    ("model.gen_dim=???", r"leaves out model\.gen_dim:"),
    ("trainer.max_epochs=???", r"leaves out trainer\.max_epochs:"),
    ("model.gen_dim=null", r"leaves out gen_dim\. .*base\.yaml"),
    ("~model.gen_dim", r"leaves out gen_dim\. .*base\.yaml"),
    ("datamodule.datafile_pattern=null", r"datamodule\.datafile_pattern is missing"),
    ("datamodule.datafile_pattern=???", r"leaves out datamodule\.datafile_pattern"),
    ("datamodule.datafile_pattern=''", r"datamodule\.datafile_pattern is missing"),
    ("model._target_=no.such.Model", r"model\._target_ = 'no\.such\.Model' cannot be imported"),
    ("callbacks.checkpoint._target_=pytorch_lightning.Nix", r"callbacks\.checkpoint\._target_ = "),
    ("model.readin.0._target_=torch.nn.Identiti", r"'torch\.nn\.Identiti' cannot be imported"),
    ("model.gen_dim=${model.nix}", r"single\.yaml cannot be resolved: .*'model\.nix'"),
    ("model.gen_dim=${nix:1}", r"single\.yaml cannot be resolved: .*nix"),
    ("model.gen_dim", r"(?s)cannot be composed: .*model\.gen_dim"),
    ("model.gen_dim=[1,", r"cannot be composed: "),
])  # fmt: skip
def test_faults(tiny, override, message):
    with pytest.raises(ValueError, match=message):
        generic(override)


@pytest.mark.parametrize("text", ["defaults: [model: generic]", "defaults: [logger: csv]", "a: 1"])
def test_a_primary_without_its_parts(tmp_path, text):
    write_texts(tmp_path, {"x.yaml": text})
    with pytest.raises(ValueError, match="needs a model and a datamodule"):
        compose(tmp_path / "x.yaml")


def test_a_primary_that_is_not_yaml(tmp_path):
    write_texts(tmp_path, {"x.yaml": "a: [1,\nb: }"})
    with pytest.raises(ValueError, match=r"x\.yaml"):
        compose(tmp_path / "x.yaml")


def test_files_that_are_not_there(tiny):
    with pytest.raises(FileNotFoundError, match=r"datamodule\.datafile_pattern = 'none\*\.h5'"):
        generic(file="none*.h5")
    with pytest.raises(FileNotFoundError, match=r"'nowhere\.yaml'"):
        compose("nowhere.yaml")


def test_a_logger_that_cannot_be_made_is_no_fault(tiny):
    """So that it does not end a sweep; the run warns of it."""
    generic("logger.csv._target_=no.such.Logger", "+logger.tensorboard.nonsense=1")


def test_a_misspelt_override_is_told_the_right_key(tiny):
    with pytest.raises(ValueError, match="lr_intt") as error:
        generic("model.lr_intt=1")
    assert "Did you mean" in str(error.value)


@pytest.mark.parametrize(("recon", "message"), [
    ({"_target_": f"{MODULES}.recons.Poisson", "foo": 1}, r"reconstruction\.0\.foo is no argument"),
    ({"_target_": f"{MODULES}.recons.ZeroInflatedGamma", "gamma_loc": "???", "scale_init": 1,
      "scale_prior": 1, "scale_penalty": 1}, r"leaves out model\.reconstruction.*gamma_loc"),
    ({"_target_": f"{MODULES}.recons.ZeroInflatedGamma", "gamma_loc": 0.1}, "scale_init"),
    ({"_target_": "torch.nn.Identity"}, r"model\.reconstruction\.0"),
    ({"gamma_loc": 0.1}, r"model\.reconstruction\.0"),
    ({"_target_": f"{MODULES}.recons.Poison"}, r"reconstruction\.0\._target_ = "),
])  # fmt: skip
def test_faults_of_reconstructions(tiny, recon, message):
    with pytest.raises(ValueError, match=message):
        generic(*format_overrides({"model.reconstruction": [recon]}))


# ------------------------------------------------------------------ Hydra's state


def test_hydra_is_left_as_it_was(tiny, tmp_path):
    assert not GlobalHydra.instance().is_initialized()
    generic()
    with pytest.raises(ValueError, match="nonsense"):
        generic("+model.nonsense=1")
    with pytest.raises(ValueError, match="genric"):
        generic("model=genric")
    assert not GlobalHydra.instance().is_initialized()
    write_texts(tmp_path / "outer", {"outer.yaml": "a: 1"})
    with hydra.initialize_config_dir(str(tmp_path / "outer"), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        assert generic().model.gen_dim == 9
        with pytest.raises(ValueError, match="genric"):
            generic("model=genric")
        assert GlobalHydra.instance().hydra is outer
        assert hydra.compose("outer") == {"a": 1}


# ------------------------------------------------------------------ the wheel


@pytest.mark.slow
def test_composing_from_a_wheel(tmp_path):
    """A wheel holds the configurations, and needs no checkout."""
    source, target, run = tmp_path / "source", tmp_path / "target", tmp_path / "run"
    source.mkdir()
    run.mkdir()
    for name in ("lfads_torch", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():  # not build/, in which setuptools would find old files
        if path.is_file():
            shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    quick = ["--no-deps", "--no-index"]
    for command in (["wheel", *quick, "--no-build-isolation", "-w", str(tmp_path), str(source)],
                    ["install", *quick, "--target", str(target)]):  # fmt: skip
        wheels = map(str, tmp_path.glob("*.whl")) if command[0] == "install" else []
        subprocess.run([*pip, *command, *wheels], check=True, cwd=run)
    shutil.rmtree(source)
    files = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    installed = target / "lfads_torch" / "configs"
    assert {path.relative_to(installed) for path in installed.rglob("*.yaml")} == files

    write_file(run / "tiny.h5", tiny_arrays())
    code = """
import lfads_torch
from lfads_torch.running.compose import compose, packaged_configs
from lfads_torch.running.training import run_model
from hydra.utils import instantiate
print(lfads_torch.__file__)
print(packaged_configs())
data = {"datamodule": "generic", "datamodule.datafile_pattern": "tiny.h5"}
for path in ("../configs/single.yaml", "single.yaml"):
    config = compose(path, {"model": "generic", **data})
    print(type(instantiate(config.model, _convert_="all")).__name__)
"""
    package, configs, *models = fresh(code, cwd=run, path=target).splitlines()
    assert Path(package).parent == target / "lfads_torch"
    assert Path(configs) == installed
    assert models == ["LFADS", "LFADS"]
