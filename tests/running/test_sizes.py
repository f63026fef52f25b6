"""Sizes of the model are read from the data, and contradictions are named."""

import numpy as np
import pytest
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lfads_torch.modules import recons
from lfads_torch.running.compose import (
    compose,
)
from tests.conftest import TINY_SIZES, tiny_arrays, write_file
from tests.running.configurations import MODULES, RECONS, generic, recon_override, write_texts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*trains without regularisation"),
    pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch"),
]


def test_sizes_are_read_from_the_file(tiny):
    model = generic().model
    found = [model[key] for key in ("encod_data_dim", "encod_seq_len", "recon_seq_len")]
    assert found == [4, 8, 10]
    assert model.ext_input_dim == 0
    assert model.readout.modules[0].out_features == 5
    assert OmegaConf.is_config(model)
    assert not OmegaConf.missing_keys(model)


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
    """The number is ignored if it is 0, read from the file if null, and otherwise checked."""
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
    """A data module without files."""

    def __init__(self, n):
        super().__init__()


def test_data_modules_without_files_are_not_checked(tmp_path):
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
