"""Models are rebuilt from checkpoints, and no code in these is executed."""

import functools
import os
import pickle
import sys
import types

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lfads_torch import checkpoints, recipes
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.errors import UserError
from lfads_torch.model import LFADS, PARTS
from lfads_torch.modules import augmentations, priors, recons
from lfads_torch.modules.decoder import Decoder
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.generators import LowRankGenerator, VanillaRNNGenerator
from lfads_torch.modules.mlp_readout import MultisessionMLPReadout
from lfads_torch.modules.readin_readout import FanInLinear, MultisessionReadin
from lfads_torch.modules.recurrent import ClippedGRUCell
from lfads_torch.modules.transformer import TransformerEncoder
from tests.conftest import tiny_arrays, tiny_model, write_file
from tests.test_model import bare, batch, quiet_trainer
from tests.test_parts import Plain, Shrinking, WithAGroup


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
        assert recipes.describe(a._part(name)) == recipes.describe(b._part(name))


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
    torch.load(path, weights_only=True)  # It holds only tensors and plain values.
    loaded = LFADS.load_from_checkpoint(path)
    assert_same_model(model, loaded)
    assert loaded.valid_recon_smth.smoothed == 2.5


class OwnRecon(recons.Reconstruction):
    """A reconstruction whose attribute has the name of its argument, so that it can be rebuilt."""

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
        recipes.build({"_target_": target, "_args_": ["touch x"]}, "co_prior")


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


def test_files_that_are_not_checkpoints(tmp_path):
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
    """Write a checkpoint of a published model as Lightning 1.6 wrote it."""
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


def test_published_checkpoint_can_be_used_for_inference(published, tiny_file):
    path, _ = published
    model = LFADS.load_from_checkpoint(path, reconstruction=[recons.Poisson()])
    datamodule = BasicDataModule(tiny_file)
    datamodule.setup()
    output = model.predict_step({0: datamodule.valid_data[0]}, 0)[0]
    assert output.output_params.shape == (6, 10, 5)


# ------------------------------------------------------------ parts other than the usual ones


def same_outputs(a, b):
    """Return whether two models infer the same, in evaluation and from posterior means."""
    with torch.no_grad():
        first, second = (model.eval()(batch(), output_means=False)[0] for model in (a, b))
    return all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def trained(model):
    """Take a step with a large learning rate, so that all weights change."""
    bare(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    model.training_step({0: (batch(), ())}, 0).backward()
    optimizer.step()
    return model


def cells_of(model):
    return {
        "decoder.rnn.cell.gen_cell": model.decoder.rnn.cell,
        "decoder.rnn.cell.con_cell": model.decoder.rnn.cell,
        "encoder.ic_enc.fwd_gru.cell": model.encoder.ic_enc.fwd_gru,
    }


def with_cell(path, make):
    """Make a trained model, one of whose cells was replaced by hand."""
    model = tiny_model()
    parent, name = cells_of(model)[path], path.rpartition(".")[2]
    old = getattr(parent, name)
    setattr(parent, name, make(old.input_size, old.hidden_size))
    return trained(model)


PATHS = ["decoder.rnn.cell.gen_cell", "decoder.rnn.cell.con_cell", "encoder.ic_enc.fwd_gru.cell"]


@pytest.mark.parametrize("make", [Shrinking, Plain])
@pytest.mark.parametrize("path", PATHS)
class TestCellPutInByHand:
    """The arguments of the constructor contain nothing about such a cell."""

    def test_is_refused_with_a_helpful_message(self, path, make, tmp_path):
        saved_path = saved(with_cell(path, make), tmp_path / "model.ckpt")
        with pytest.raises(UserError) as error:
            LFADS.load_from_checkpoint(saved_path)
        message = str(error.value)
        assert f" at {path}," in message
        assert f"tests.test_parts.{make.__name__}" in message
        assert "lfads_torch.modules.recurrent.ClippedGRUCell" in message
        assert "trusted=['tests']" in message
        assert f"modules={{'{path}': …}}" in message

    def test_is_rebuilt_if_trusted(self, path, make, tmp_path):
        model = with_cell(path, make)
        saved_path = saved(model, tmp_path / "model.ckpt")
        torch.load(saved_path, weights_only=True)  # It holds only tensors and plain values.
        loaded = LFADS.load_from_checkpoint(saved_path, trusted=["tests"])
        assert type(loaded.get_submodule(path)) is make
        assert same_outputs(model, loaded)
        again = LFADS.load_from_checkpoint(
            saved(loaded, tmp_path / "again.ckpt"), trusted=["tests"]
        )
        assert same_outputs(model, again)

    def test_is_used_if_it_is_given(self, path, make, tmp_path):
        model = with_cell(path, make)
        old = model.get_submodule(path)
        given = make(old.input_size, old.hidden_size)
        loaded = LFADS.load_from_checkpoint(
            saved(model, tmp_path / "model.ckpt"), modules={path: given}
        )
        assert loaded.get_submodule(path) is given
        assert same_outputs(model, loaded)


def test_the_usual_cell_would_infer_something_else():
    model = with_cell(PATHS[0], Shrinking)
    stock = tiny_model()
    stock.load_state_dict(model.state_dict())
    assert not same_outputs(model, stock)


def test_a_cell_that_hides_its_arguments_must_be_given(tmp_path):
    model = with_cell(PATHS[0], Forgetful)
    path = saved(model, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"gen_cell, whose constructor's arguments.*pass modules="):
        LFADS.load_from_checkpoint(path, trusted=["tests"])
    loaded = LFADS.load_from_checkpoint(path, modules={PATHS[0]: Forgetful(2, 9)})
    assert same_outputs(model, loaded)


@pytest.mark.parametrize(
    ("cls", "loads"),
    [("Scaled", True), ("Remembering", True), ("Optional", False), ("Listed", False)],
)
def test_arguments_that_a_constructor_does_not_name(cls, loads, tmp_path):
    """They are those of the base class; a cell that takes any others cannot be rebuilt."""
    cell = {
        "Scaled": lambda: Scaled(gain=0.5, input_size=2, hidden_size=9, clip_value=0.1),
        "Remembering": lambda: Remembering(2, 9, gain=0.5),
        "Optional": lambda: Optional(2, 9, gain=0.5),
        "Listed": lambda: Listed(2, 9),
    }[cls]
    model = tiny_model()
    model.decoder.rnn.cell.gen_cell = cell()
    path = saved(trained(model), tmp_path / "model.ckpt")
    if not loads:
        with pytest.raises(UserError, match=r"gen_cell, whose constructor's arguments.*pass mod"):
            LFADS.load_from_checkpoint(path, trusted=["tests"])
    modules = {} if loads else {PATHS[0]: cell()}
    loaded = LFADS.load_from_checkpoint(path, trusted=["tests"], modules=modules)
    assert same_outputs(model, loaded)


class Scaled(ClippedGRUCell):
    def __init__(self, gain, **kwargs):
        super().__init__(**kwargs)
        self.gain = gain

    def forward(self, input, hidden):
        return self.gain * super().forward(input, hidden)


class Optional(Plain):
    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size)
        self.gain = options.get("gain", 1.0)

    def forward(self, input, hidden):
        return self.gain * super().forward(input, hidden)


class Remembering(Optional):
    def __init__(self, input_size, hidden_size, **options):
        super().__init__(input_size, hidden_size, **options)
        self.options = options


class Listed(Plain):
    def __init__(self, *sizes):
        super().__init__(*sizes)


class Squashing(Plain):
    def __init__(self, input_size, hidden_size, function=torch.tanh):
        super().__init__(input_size, hidden_size)
        self.function = function


def test_an_argument_that_is_a_function_can_be_saved_but_must_be_given(tmp_path):
    model = with_cell(PATHS[0], lambda *sizes: Squashing(*sizes, torch.sigmoid))
    path = saved(model, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"gen_cell, whose constructor's arguments"):
        LFADS.load_from_checkpoint(path, trusted=["tests"])


def test_no_module_is_imported_because_a_file_names_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unheard_of.py").write_text("class Cell:\n    pass\n")
    path = saved(tiny_model(), tmp_path / "model.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["lfads_modules"][PATHS[0]]["class"] = "unheard_of.Cell"
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match=r"unheard_of\.Cell.*trusted=\['unheard_of'\]"):
        LFADS.load_from_checkpoint(path)
    assert "unheard_of" not in sys.modules


class Forgetful(Plain):
    def __init__(self, inputs, units):
        super().__init__(inputs, units)


def test_modules_inside_of_a_replaced_cell_are_restored_too(tmp_path):
    model = with_cell(PATHS[0], Plain)
    model.decoder.rnn.cell.gen_cell.map = Doubled(11, 9)
    path = saved(trained(model), tmp_path / "model.ckpt")
    loaded = LFADS.load_from_checkpoint(path, trusted=["tests"])
    assert type(loaded.decoder.rnn.cell.gen_cell.map) is Doubled
    assert same_outputs(model, loaded)


class Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def test_a_module_for_a_place_that_does_not_exist(tmp_path):
    path = saved(tiny_model(), tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"no place decoder\.rnn\.cel\.gen_cell"):
        LFADS.load_from_checkpoint(path, modules={"decoder.rnn.cel.gen_cell": Plain(2, 9)})


SIZES = {
    "ext_input_dim": 0, "ci_enc_dim": 5, "ic_dim": 6, "dropout_rate": 0.1, "cell_clip": 5.0,
    "use_con": True,
}  # fmt: skip
ENCODER_SIZES = {
    "encod_data_dim": 4, "encod_seq_len": 8, "recon_seq_len": 10, "ic_enc_seq_len": 0,
    "ic_post_var_min": 1e-4, **{name: SIZES[name] for name in ("ci_enc_dim", "ic_dim", "use_con")},
}  # fmt: skip


def usual_encoder(**more):
    options = {"ic_enc_dim": 6, "ci_lag": 1, "dropout_rate": 0.1, "cell_clip": 5.0}
    return Encoder(**ENCODER_SIZES, **options, **more)


def usual_decoder(**more):
    return Decoder(**SIZES, con_dim=4, co_dim=2, gen_dim=9, fac_dim=3, **more)


GIVEN = {
    "class": lambda: {"encoder": TransformerEncoder},
    "partial": lambda: {
        "encoder": functools.partial(TransformerEncoder, token_dim=8, n_heads=2, n_layers=1)
    },
    "module": lambda: {"encoder": TransformerEncoder(token_dim=8, **ENCODER_SIZES)},
    "mapping": lambda: {"encoder": {"cell": VanillaRNNGenerator, "dropout_rate": 0.4}},
    "usual encoder": lambda: {"encoder": usual_encoder()},
    "usual encoder with cells": lambda: {"encoder": usual_encoder(cell=VanillaRNNGenerator)},
    "decoder class": lambda: {"decoder": Decoder},
    "decoder partial": lambda: {
        "decoder": functools.partial(Decoder, controller=VanillaRNNGenerator)
    },
    "decoder module": lambda: {"decoder": usual_decoder()},
    "decoder module with parts": lambda: {
        "decoder": usual_decoder(
            generator=LowRankGenerator(2, 9, rank=2), controller=VanillaRNNGenerator
        )
    },
    "decoder mapping": lambda: {
        "decoder": {
            "generator": functools.partial(LowRankGenerator, rank=2, alpha=0.5),
            "controller": VanillaRNNGenerator,
        }
    },
    "generator module": lambda: {"decoder": {"generator": LowRankGenerator(2, 9, rank=1)}},
}


def classes(model):
    return {path: type(module) for path, module in model.named_modules()}


@pytest.mark.parametrize("how", GIVEN)
def test_parts_are_reloaded_however_they_were_given(how, tmp_path):
    model = trained(tiny_model(**GIVEN[how]()))
    path = saved(model, tmp_path / "model.ckpt")
    torch.load(path, weights_only=True)
    loaded = LFADS.load_from_checkpoint(path)
    assert classes(loaded) == classes(model)
    assert same_outputs(model, loaded)
    assert same_outputs(model, LFADS.load_from_checkpoint(saved(loaded, tmp_path / "again.ckpt")))
    assert loaded.encoder.dropout.p == model.encoder.dropout.p


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"encoder": WithAGroup}, "encoder"),
        ({"decoder": {"generator": Shrinking}}, "decoder"),
    ],
)
def test_users_parts_are_refused_unless_trusted_or_given(parts, name, tmp_path):
    model = trained(tiny_model(**parts))
    path = saved(model, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=rf"tests\..* for {name}.*trusted=\['tests'\]"):
        LFADS.load_from_checkpoint(path)
    loaded = LFADS.load_from_checkpoint(path, **parts)
    assert same_outputs(model, loaded)
    assert same_outputs(model, LFADS.load_from_checkpoint(path, trusted=["tests"]))


def encoder_of_a_function():
    return usual_encoder(cell=VanillaRNNGenerator)


def test_functions_are_not_called_from_a_file(tmp_path):
    model = trained(tiny_model(encoder=encoder_of_a_function))
    path = saved(model, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"encoder_of_a_function .*no such class: pass encoder=…"):
        LFADS.load_from_checkpoint(path, trusted=["tests"])
    assert same_outputs(model, LFADS.load_from_checkpoint(path, encoder=encoder_of_a_function))


def test_several_sessions_whose_read_outs_a_class_makes(tmp_path):
    for name, n_channels in (("a", 5), ("b", 7)):
        write_file(tmp_path / f"{name}.h5", tiny_arrays(n_channels=n_channels))
    pattern = str(tmp_path / "*.h5")
    model = tiny_model(
        readin=MultisessionReadin(pattern, 4, pcr_init=False),
        readout=MultisessionMLPReadout(pattern, 3, [4]),
        reconstruction=recons.MultisessionReconstruction(pattern, recons.Poisson()),
    )
    loaded = LFADS.load_from_checkpoint(saved(model, tmp_path / "model.ckpt"))
    assert_same_model(model, loaded)
    assert [type(r) for r in loaded.readout] == [type(r) for r in model.readout]
    assert same_outputs(model, loaded)


# ------------------------------------------------------------ models that derive from LFADS


class Derived(LFADS):
    def __init__(self, gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.gain = gain


class WithAModule(LFADS):
    def __init__(self, more, threshold, **kwargs):
        super().__init__(**kwargs)
        self.more = more
        self.threshold = threshold


def test_a_derived_model_may_take_modules(tmp_path):
    usual = tiny_model()
    parts = {name: usual._part(name) for name in PARTS}
    model = WithAModule(more=Doubled(2, 3), threshold=np.float32(0.5), **usual.hparams, **parts)
    model.train_aug_stack.transforms.append(augmentations.CoordinatedDropout(np.float64(0.3), 0, 0))
    path = saved(model, tmp_path / "model.ckpt")
    torch.load(path, weights_only=True)  # holds nothing but tensors and plain values
    with pytest.raises(UserError, match=r"Doubled for more.*trusted=\['tests'\]"):
        WithAModule.load_from_checkpoint(path)
    loaded = WithAModule.load_from_checkpoint(path, trusted=["tests"])
    assert torch.equal(loaded.more.weight, model.more.weight)
    assert loaded.hparams.threshold == 0.5
    given = WithAModule.load_from_checkpoint(path, more=Doubled(2, 3))
    assert torch.equal(given.more.weight, model.more.weight)


def derived_model():
    usual = tiny_model(lr_init=0.1)
    parts = {name: usual._part(name) for name in PARTS}
    return Derived(gain=2.0, **usual.hparams, **parts)


@pytest.mark.parametrize(("cls", "trusted"), [(Derived, []), (LFADS, ["tests"])])
def test_a_derived_model_is_rebuilt(cls, trusted, tmp_path):
    model = derived_model()
    path = saved(model, tmp_path / "model.ckpt")
    loaded = cls.load_from_checkpoint(path, trusted=trusted)
    assert type(loaded) is Derived
    assert (loaded.gain, loaded.hparams.lr_init) == (2.0, 0.1)
    assert_same_model(model, loaded)
    assert cls.load_from_checkpoint(path, trusted=trusted, gain=3.0).gain == 3.0


def test_a_derived_model_is_not_loaded_as_the_usual_one(tmp_path):
    path = saved(derived_model(), tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"test_checkpoints\.Derived, not .*LFADS.*trusted="):
        LFADS.load_from_checkpoint(path)


def test_a_usual_model_may_become_a_derived_one(tmp_path):
    path = saved(tiny_model(), tmp_path / "model.ckpt")
    assert type(Derived.load_from_checkpoint(path)) is Derived


# ------------------------------------------------------------ checkpoints in training, and of old


def test_training_does_not_continue_with_another_cell(tmp_path, tiny_file):
    path = saved(with_cell(PATHS[0], Shrinking), tmp_path / "model.ckpt")
    datamodule = BasicDataModule(tiny_file, batch_size=4)
    other = tiny_model()
    with pytest.raises(UserError, match=rf"Shrinking at {PATHS[0]}, but the model has a .*GRUCell"):
        quiet_trainer(max_epochs=1).fit(other, datamodule, ckpt_path=path)
    same = with_cell(PATHS[0], Shrinking)
    quiet_trainer(max_epochs=1).fit(same, datamodule, ckpt_path=path)


def test_weights_are_not_loaded_into_another_model(tmp_path):
    model = with_cell(PATHS[0], Shrinking)
    path = saved(model, tmp_path / "model.ckpt")
    other = tiny_model()
    with pytest.raises(UserError, match="Shrinking at decoder"):
        checkpoints.load_weights(other, path)
    same = with_cell(PATHS[0], Shrinking)
    checkpoints.load_weights(same, path)
    assert same_outputs(model, same)


def test_checkpoints_from_before_parts_were_described(tmp_path):
    model = trained(tiny_model())
    path = saved(model, tmp_path / "model.ckpt")
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["lfads_modules"]
    for name in ("encoder", "decoder"):
        del checkpoint["lfads_parts"][name]
    torch.save(checkpoint, path)
    assert same_outputs(model, LFADS.load_from_checkpoint(path))
