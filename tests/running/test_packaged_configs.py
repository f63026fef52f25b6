"""Every packaged configuration composes, with the hyperparameters of the published package."""

import warnings
from ast import literal_eval
from pathlib import Path

import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from lfads_torch.datamodules import BasicDataModule
from lfads_torch.model import LFADS
from lfads_torch.running.compose import (
    compose,
    packaged_configs,
)
from tests.conftest import tiny_arrays, write_file
from tests.running.configurations import MODULES, generic

CONFIGS = packaged_configs()


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
    """Compose a packaged file only by Hydra, with unresolved interpolations."""
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        group, _, _ = name.partition("/")
        return OmegaConf.to_container(hydra.compose(name)[group], resolve=False)


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
    """Write small files that fit a configuration; return their pattern."""
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
    """Return the name of the data configuration that belongs to a model."""
    return model.removeprefix("nlb_").removesuffix("_random").removesuffix("_PCR")


def model_of(data):
    """Return a model that fits the data of a configuration."""
    if "multisession" not in data:
        return "generic"
    return "rouse_multisession_PCR" if data.startswith("rouse") else data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return a function that gives the pattern of a configuration's files, and writes them once."""
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
    # The scores of the Neural Latents Benchmark and W&B are optional.
    assert set(resolved.callbacks) == {*names("callbacks")} - {"nlb"}
    assert set(resolved.logger) == {"csv", "tensorboard"}
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
