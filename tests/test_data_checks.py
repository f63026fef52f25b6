"""The model checks its data before training: missing samples, infinite values, support."""

import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from lfads_torch.datamodules import BasicDataModule, to_tensor
from lfads_torch.modules import recons
from lfads_torch.modules.augmentations import AugmentationStack, SelectiveBackpropThruTime
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.tuples import SessionBatch
from tests.conftest import tiny_arrays, tiny_model, write_file
from tests.data.session_files import write_sessions

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch")


def stack(*transforms):
    order = list(range(len(transforms)))
    return AugmentationStack(list(transforms), order, order)


def batch_of(**changes):
    arrays = tiny_arrays()
    return SessionBatch(**{
        name: to_tensor(changes.get(name, arrays[f"train_{name}"]))
        for name in ("encod_data", "recon_data")
    })  # fmt: skip


def spoiled(name, value):
    array = tiny_arrays()[f"train_{name}"].copy()
    array[3, 2, 1] = value
    return batch_of(**{name: array})


def trainer(**options):
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip


@pytest.mark.parametrize("field", ["encod_data", "recon_data"])
@pytest.mark.parametrize("lacking", ["train_aug_stack", "infer_aug_stack"])
def test_missing_samples_need_a_transform(field, lacking):
    handled = {"train_aug_stack": stack(SelectiveBackpropThruTime()),
               "infer_aug_stack": stack(SelectiveBackpropThruTime())}  # fmt: skip
    batch = spoiled(field, np.nan)
    tiny_model(**handled).check_data(batch, "data")
    model = tiny_model(**{**handled, lacking: AugmentationStack()})
    with pytest.raises(ValueError, match=f"{field} are NaN in the data.*{lacking}") as error:
        model.check_data(batch, "data")
    assert "SelectiveBackpropThruTime" in str(error.value)
    model.check_data(batch_of(), "data")


@pytest.mark.parametrize("field", ["encod_data", "recon_data"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinite_values_are_refused(field, value):
    with pytest.raises(ValueError, match="The data hold infinite values"):
        tiny_model(reconstruction=[recons.MSE()]).check_data(spoiled(field, value), "data")


ZIG = recons.ZeroInflatedGamma(5, 0.5, 1.0, 1.0, 0.1)


@pytest.mark.parametrize(("recon", "value", "message"), [
    (recons.Poisson(), -1, "lowest value is -1"),
    (recons.PoissonBPS(), -1, "lowest value is -1"),
    (recons.Gamma(), 0, "lowest is 0"),
    (recons.Gamma(), -2, "lowest is -2"),
    (ZIG, -1, "there is -1"),
    (ZIG, 0.5, "there is 0.5"),
])  # fmt: skip
def test_data_outside_the_support_are_refused(recon, value, message):
    model = tiny_model(reconstruction=[recon], readout=[FanInLinear(3, 5 * recon.n_params)])
    inside = batch_of(recon_data=tiny_arrays()["train_recon_data"] + 1)
    model.check_data(inside, "data")
    inside.recon_data[0, 0, 0] = value
    with pytest.raises(ValueError, match=f"recon_data in the data: .*{message}"):
        model.check_data(inside, "data")


@pytest.mark.parametrize("recon", [recons.MSE(), recons.Gaussian()])
def test_any_real_value_will_do(recon):
    tiny_model(reconstruction=[recon], readout=[FanInLinear(3, 5 * recon.n_params)]).check_data(
        spoiled("recon_data", -1.5), "data"
    )


def test_counts_that_are_not_whole():
    with pytest.warns(UserWarning, match=r"not whole \(the first is 0\.5\)"):
        tiny_model().check_data(spoiled("recon_data", 0.5), "data")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_model().check_data(batch_of(), "data")


@pytest.mark.parametrize("split", ["train", "valid"])
def test_data_are_checked_before_training(tmp_path, split):
    arrays = tiny_arrays()
    arrays[f"{split}_recon_data"][0, 0, 0] = -1
    path = write_file(tmp_path / "a.h5", arrays)
    model = tiny_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"{split} data of session 0.*-1"):
        trainer(max_epochs=1).fit(model, BasicDataModule(str(path)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_for_fewer_sessions(tmp_path):
    pattern = write_sessions(tmp_path, tiny_arrays(), tiny_arrays(7, 4, n_channels=7, seed=1))
    with pytest.raises(ValueError, match=r"data of session 1, but .* for 1 session"):
        trainer(max_epochs=1).fit(tiny_model(), BasicDataModule(pattern))
