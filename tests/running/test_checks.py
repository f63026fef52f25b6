"""Errors name mistakes in a configuration, with the key and the remedy."""

import warnings

import pytest
from hydra.utils import instantiate

from lfads_torch.running.compose import (
    compose,
    format_overrides,
)
from tests.running.configurations import MODULES, generic, write_texts

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*trains without regularisation"),
    pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch"),
]


@pytest.mark.parametrize(("override", "message"), [
    ("+model.lr_intt=1", r"model\.lr_intt is not an argument .*Did you mean lr_init\?"),
    ("+datamodule.batchsize=1", r"datamodule\.batchsize .*Did you mean batch_size\?"),
    ("+trainer.maxepochs=1", r"trainer\.maxepochs .*Did you mean max_epochs\?"),
    ("+model.ic_prior.varience=1", r"model\.ic_prior\.varience .*Did you mean variance\?"),
    ("+model.train_aug_stack.transforms.0.cdrate=1", r"transforms\.0\.cdrate .*mean cd_rate\?"),
    ("+callbacks.checkpoint.moniter=x", r"callbacks\.checkpoint\.moniter .*mean monitor\?"),
    ("+model.readout.modules.0.zzz=1", r"modules\.0\.zzz is not an argument .*FanInLinear\. "),
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


def test_a_logger_that_cannot_be_made_is_not_an_error(tiny):
    """It must not end a sweep; the run warns of it."""
    generic("logger.csv._target_=no.such.Logger", "+logger.tensorboard.nonsense=1")


@pytest.mark.parametrize(("recon", "message"), [
    ({"_target_": f"{MODULES}.recons.Poisson", "foo": 1}, r"reconstruction\.0\.foo is not an arg"),
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


def test_the_error_names_what_the_base_of_all_models_lacks(tiny):
    with pytest.raises(ValueError, match="leaves out reconstruction, readin, readout"):
        generic("model=base", "model.encod_data_dim=4")


def test_warning_of_a_model_without_regularisation(tiny):
    off = [f"model.{name}=0" for name in
           ("kl_ic_scale", "kl_co_scale", "l2_gen_scale", "l2_con_scale")]  # fmt: skip
    with pytest.warns(UserWarning, match=r"without regularisation.* model\.kl_ic_scale=1e-5"):
        generic(*off)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for on in ("model.l2_ic_enc_scale=1", "model.kl_co_scale=1", "model.variational=false"):
            generic(*off, on)


# ------------------------------------------------ arguments that are dropped or translated


def test_own_parts_do_not_inherit_arguments_that_they_do_not_take(project):
    """A part is merged with that of base.yaml, which may have another class."""
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
    with pytest.raises(ValueError, match=r"model\.ic_prior\.dff is not an argument"):
        compose("configs/single.yaml", ["model=mine", "~trainer.gpus", "+model.ic_prior.dff=1"])


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
