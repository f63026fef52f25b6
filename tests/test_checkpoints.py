"""Models are rebuilt from checkpoints, and nothing in these is executed."""

import os
import pickle
import sys
import types

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lfads_torch import checkpoints
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.model import LFADS, PARTS
from lfads_torch.modules import augmentations, priors, recons
from lfads_torch.modules.readin_readout import FanInLinear
from tests.conftest import tiny_model


def saved(model, path):
    """Save as the trainer does."""
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", max_epochs=0)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


def assert_same_model(a, b):
    assert dict(a.hparams) == dict(b.hparams)
    for (key, x), (other, y) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(x, y)
    assert [p.requires_grad for p in a.parameters()] == [p.requires_grad for p in b.parameters()]
    for name in PARTS:
        assert checkpoints.describe(a._part(name)) == checkpoints.describe(b._part(name))


VARIANTS = {
    "poisson": {},
    "zig": {"reconstruction": [recons.ZeroInflatedGamma(5, 0.1, 8.0, 8.0, 0.1)],
            "readout": [FanInLinear(3, 15)]},
    "student": {"co_prior": priors.MultivariateStudentT(0.0, 0.3, 5.0, 2),
                "ic_prior": priors.Null(), "variational": False},
    "frozen_readin": {"readin": [nn.Linear(4, 4).requires_grad_(False)]},
    "deep_readout": {
        "readout": [nn.Sequential(nn.Linear(3, 4, bias=False), nn.ELU(), nn.Linear(4, 5))]
    },
    "augmented": {"train_aug_stack": augmentations.AugmentationStack(
        [augmentations.SpikeJitter(3), augmentations.TemporalShift(2.0, 4),
         augmentations.SelectiveBackpropThruTime(), augmentations.SampleValidation(0.1, 0, False),
         augmentations.CoordinatedDropout(0.2, 0.1, 0)], [0, 1, 2, 3, 4], [2, 4, 3])},
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_rebuilds_the_model(name, tmp_path):
    model = tiny_model(**VARIANTS[name])
    model.valid_recon_smth.update(2.5)
    model.valid_recon_smth.compute()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    path = saved(model, tmp_path / "model.ckpt")
    torch.load(path, weights_only=True)  # holds nothing but tensors and plain values
    loaded = LFADS.load_from_checkpoint(path)
    assert_same_model(model, loaded)
    assert loaded.valid_recon_smth.smoothed == 2.5


class OwnRecon(recons.Reconstruction):
    """Keeps its argument under its own name, so it can be rebuilt."""

    n_params = 1

    def __init__(self, power):
        super().__init__()
        self.power = power

    def compute_loss(self, data, output_params):
        return (data - output_params[..., 0]).abs() ** self.power

    def compute_means(self, output_params):
        return output_params[..., 0]


class ForgetfulRecon(OwnRecon):
    def __init__(self, exponent):
        super().__init__(exponent)


def test_own_classes_are_rebuilt_only_if_trusted(tmp_path):
    path = saved(tiny_model(reconstruction=[OwnRecon(1.5)]), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"reconstruction.*trusted=\['tests'\]"):
        LFADS.load_from_checkpoint(path)
    assert LFADS.load_from_checkpoint(path, trusted=["tests"]).recon[0].power == 1.5
    assert LFADS.load_from_checkpoint(path, reconstruction=[OwnRecon(3.0)]).recon[0].power == 3.0


def test_a_class_that_hides_its_arguments_must_be_passed(tmp_path):
    path = saved(tiny_model(reconstruction=[ForgetfulRecon(1.5)]), tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"exponent.*pass reconstruction="):
        LFADS.load_from_checkpoint(path, trusted=["tests"])


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "lfads_torch.model.pl.Trainer",
        "lfads_torch.datamodules.Path",
        "torch.nn.functional.relu",
    ],
)
def test_descriptions_build_nothing_else(target):
    with pytest.raises(ValueError, match="co_prior"):
        checkpoints.build({"_target_": target, "_args_": ["touch x"]}, "co_prior")


class Malicious:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_malicious_pickles_are_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "hyper_parameters": {"x": Malicious()}}, "bad.ckpt")
    with pytest.raises(ValueError, match="cannot be read"):
        checkpoints.load_checkpoint("bad.ckpt")
    torch.save({"state_dict": {}, "x": Sneaky()}, "sneaky.ckpt")
    checkpoints.load_checkpoint("sneaky.ckpt")
    assert not (tmp_path / "executed").exists()


class Sneaky:
    def __reduce__(self):
        return (exec, ("open('executed', 'w')",))


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        LFADS.load_from_checkpoint(tmp_path / "nowhere.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(ValueError, match="cannot be read"):
        LFADS.load_from_checkpoint(tmp_path / "text.ckpt")
    torch.save({"weights": 1}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="state_dict"):
        LFADS.load_from_checkpoint(tmp_path / "other.ckpt")


# ------------------------------------------------------------ the published implementation


def published_class(module, name, base=object):
    """Make a class that pickles under a published name, with the attributes it is given."""

    def __init__(self, **attributes):
        super(cls, self).__init__()
        for key, value in attributes.items():
            setattr(self, key, value)

    cls = type(name, (base,), {"__init__": __init__, "__module__": module})
    return cls


@pytest.fixture(params=["all_attributes", "other_attributes"])
def published(request, tmp_path, monkeypatch):
    """Write a checkpoint as Lightning 1.6 did of a published model."""
    aug, pri = "lfads_torch.modules.augmentations", "lfads_torch.modules.priors"
    classes = {
        (aug, "AugmentationStack"): object,
        (aug, "CoordinatedDropout"): object,
        (pri, "AutoregressiveMultivariateNormal"): nn.Module,
    }
    made = {}
    with monkeypatch.context() as patch:
        for (module, name), base in classes.items():
            made[name] = published_class(module, name, base)
            patch.setattr(sys.modules[module], name, made[name])
        if request.param == "all_attributes":
            cd = made["CoordinatedDropout"](cd_rate=0.4, cd_pass_rate=0.1, ic_enc_seq_len=0,
                                            grad_masks=[])  # fmt: skip
            stack = made["AugmentationStack"](transforms=[cd], batch_order=[0], loss_order=[0])
        else:
            cd = made["CoordinatedDropout"](
                cd_rate=0.4, ic_enc_seq_len=0, grad_masks=[],
                cd_pass_dist=torch.distributions.Bernoulli(0.1),
            )  # fmt: skip
            stack = made["AugmentationStack"](batch_transforms=[cd], loss_transforms=[cd])
        prior = made["AutoregressiveMultivariateNormal"](
            logtaus=nn.Parameter(torch.full((2,), 7.0).log()),
            lognvars=nn.Parameter(torch.full((2,), 0.2).log()),
        )
        model = tiny_model(lr_init=0.123)
        hyper = dict(model.hparams) | {
            "train_aug_stack": stack,
            "infer_aug_stack": made["AugmentationStack"](batch_transforms=[], loss_transforms=[]),
            "co_prior": prior,
        }
        checkpoint = {
            "epoch": 3, "global_step": 30, "pytorch-lightning_version": "1.6.0",
            "state_dict": model.state_dict(), "hyper_parameters": hyper,
            "callbacks": {"x": types.SimpleNamespace(best=np.float64(3.0))},
        }  # fmt: skip
        torch.save(checkpoint, tmp_path / "published.ckpt")
    return tmp_path / "published.ckpt", model


def test_published_checkpoint(published):
    path, model = published
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    with pytest.warns(UserWarning, match="reconstruction"):
        loaded = LFADS.load_from_checkpoint(path)
    assert dict(loaded.hparams) == dict(model.hparams)
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    (dropout,) = loaded.train_aug_stack.transforms
    assert type(dropout) is augmentations.CoordinatedDropout
    assert (dropout.cd_rate, dropout.ic_enc_seq_len) == (0.4, 0)
    assert dropout.cd_pass_rate == pytest.approx(0.1)
    assert loaded.train_aug_stack.batch_order == loaded.train_aug_stack.loss_order == [0]
    assert type(loaded.co_prior) is priors.AutoregressiveMultivariateNormal
    assert type(loaded.ic_prior) is priors.MultivariateNormal


def test_published_checkpoint_goes_on_to_infer(published, tiny_file):
    path, _ = published
    model = LFADS.load_from_checkpoint(path, reconstruction=[recons.Poisson()])
    datamodule = BasicDataModule(tiny_file)
    datamodule.setup()
    output = model.predict_step({0: datamodule.valid_data[0]}, 0)[0]
    assert output.output_params.shape == (6, 10, 5)
