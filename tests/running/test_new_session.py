"""A session is added to a trained model, of which no other weight changes."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lfads_torch import recipes
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.metrics import regional_bits_per_spike
from lfads_torch.model import LFADS, PARTS
from lfads_torch.modules.augmentations import AugmentationStack, CoordinatedDropout
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recons import Poisson, Reconstruction, ZeroInflatedGamma
from lfads_torch.running.inference import infer
from lfads_torch.running.new_session import (
    add_session,
    append_session,
    one_session_model,
    save_model,
)
from lfads_torch.running.new_session_run import run_new_session
from lfads_torch.running.resume import resume_run
from lfads_torch.running.run_folder import checkpoint_of_run
from lfads_torch.running.sampling import run_posterior_sampling
from lfads_torch.running.start import start_run
from tests.conftest import tiny_arrays, tiny_model, write_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "add_session.py"
OWN = ("readin.", "readout.", "recon.")

# ------------------------------------------------------------ three days of the same dynamics


def day(seed, n_channels, n_train=60, n_valid=30, n_bins=16):
    """Make a session of rotations, from a random initial state in each trial, with Poisson spikes.

    The neurons, and how they depend on the two latent variables, differ between days.
    """
    rng = np.random.default_rng(seed)
    angle = 0.5 * np.arange(n_bins) + rng.uniform(0, 2 * np.pi, (n_train + n_valid, 1))
    latents = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    tuning = rng.uniform(0, 2 * np.pi, n_channels)
    weights = 1.2 * np.stack([np.cos(tuning), np.sin(tuning)])
    counts = rng.poisson(np.exp(latents @ weights)).astype("float32")
    arrays = {}
    for split, trials in (("train", counts[:n_train]), ("valid", counts[n_train:])):
        arrays[f"{split}_encod_data"] = arrays[f"{split}_recon_data"] = trials
    return arrays


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a run on two days, and write the file of a third day beside it."""
    home = tmp_path_factory.mktemp("days")
    for name, n_channels in (("day0", 14), ("day1", 18), ("new", 16)):
        write_file(home / f"{name}.h5", day(n_channels, n_channels))
    sizes = {"ic_enc_dim": 12, "ci_enc_dim": 0, "con_dim": 0, "co_dim": 0, "ic_dim": 8,
             "gen_dim": 16, "fac_dim": 3}  # fmt: skip
    run_dir = start_run(
        ["model=multisession", "datamodule=generic",
         f"datamodule.datafile_pattern={home}/day?.h5", "datamodule.batch_size=40",
         *(f"model.{name}={size}" for name, size in sizes.items()),
         "model.readin.pcr_init=false", "model.readin.requires_grad=true",
         "model.readout.pcr_init=false", "model.lr_init=1e-2", "model.dropout_rate=0.05",
         "model.kl_ic_scale=1e-4", "model.l2_gen_scale=1e-3", "model.weight_decay=1e-3",
         "model.kl_increase_epoch=5", "trainer.max_epochs=60",
         "callbacks=[checkpoint,early_stopping]",
         "logger=[csv]", "+trainer.enable_progress_bar=false",
         "posterior_sampling.fn.num_samples=2"],
        run_dir=home / "run",
    )  # fmt: skip
    return home, run_dir


@pytest.fixture(scope="module")
def model(trained):
    return LFADS.load_from_checkpoint(checkpoint_of_run(trained[1]))


@pytest.fixture(scope="module")
def extended(trained, model):
    """Add the third day to the model, and return the weights of the model before."""
    before = copied(model)
    torch.manual_seed(0)
    data = BasicDataModule(str(trained[0] / "new.h5"), batch_size=20)
    return add_session(model, data, max_epochs=40), before


def copied(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_weights(state, expected):
    """Check that every expected weight exists and has exactly the expected value."""
    for key, value in expected.items():
        assert torch.equal(state[key], value), key


def outputs(model, folder, session, sample):
    (data, *_), _ = load(folder / f"day{session}.h5").valid_data[0], None
    torch.manual_seed(0)
    with torch.no_grad():
        return model.eval()({session: data}, sample_posteriors=sample)[session]


def load(path):
    datamodule = BasicDataModule(str(path), batch_size=20)
    datamodule.setup()
    return datamodule


def bits_per_spike(model, path, session):
    """Return the bits per spike of the rates for posterior means of validation trials."""
    data = load(path).valid_data[0][0]
    with torch.no_grad():
        rates = model.eval()({session: data})[session].output_params
    return float(regional_bits_per_spike(rates.log(), data.recon_data, *rates.shape[:0:-1])[0])


# ------------------------------------------------------------ what is added


def test_all_other_weights_are_exactly_as_before(trained, model, extended):
    larger, before = extended
    assert_same_weights(model.state_dict(), before)
    assert_same_weights(larger.state_dict(), before)
    added = set(larger.state_dict()) - set(before)
    names = {f"{part}.2.{name}" for part in ("readin", "readout") for name in ("weight", "bias")}
    assert added == names
    assert len(larger.readin) == len(larger.readout) == len(larger.recon) == 3
    assert dict(larger.hparams) == dict(model.hparams)
    flags = dict(larger.named_parameters())
    for name, parameter in model.named_parameters():
        assert flags[name].requires_grad == parameter.requires_grad, name
    for session in (0, 1):
        for sample in (False, True):
            old = outputs(model, trained[0], session, sample)
            new = outputs(larger, trained[0], session, sample)
            assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))


def test_the_new_session_is_learned(trained, model, extended):
    """With trained maps, the frozen dynamics describe the third day as well."""
    larger, path = extended[0], trained[0] / "new.h5"
    learned = bits_per_spike(larger, path, 2)
    assert learned > 0.9 * bits_per_spike(model, trained[0] / "day0.h5", 0) > 0.3
    # With an untrained read-in, the same read-out explains nothing.
    other = append_session(model, one_session_model(model, path))
    other.load_state_dict(larger.state_dict())
    scores = []
    for _ in range(10):
        other.readin[2] = one_session_model(model, path).readin[0]
        scores.append(bits_per_spike(other, path, 2))
    assert sum(scores) / len(scores) < learned - 0.2


def test_training_touches_nothing_that_is_shared(trained, model, tmp_path):
    one = one_session_model(model, trained[0] / "new.h5", weight_decay=0.5, lr_init=0.1)
    before = copied(one)
    (group,) = one.configure_optimizers().param_groups
    assert {id(p) for p in group["params"]} == {
        id(p) for name, p in one.named_parameters() if name.startswith(OWN)
    }
    assert all(module.training for module in one.modules())
    torch.manual_seed(0)
    datamodule = load(trained[0] / "new.h5")
    larger = add_session(model, datamodule, max_epochs=1, weight_decay=0.5, lr_init=0.1)
    after = {key.replace(".2.", ".0."): v for key, v in larger.state_dict().items() if ".2." in key}
    shared = {key: value for key, value in before.items() if not key.startswith(OWN)}
    assert_same_weights(larger.state_dict(), shared)
    for key, value in after.items():
        assert not torch.equal(value, before[key]), key


def test_the_best_epoch_is_kept(trained, model, monkeypatch):
    """Weights are those of the epoch with the lowest valid/recon_smth, not those of the last."""
    epochs = []
    log = LFADS.on_validation_epoch_end

    def log_and_note(self):
        log(self)
        epochs.append((self.valid_recon_smth.smoothed, self.readout[0].weight.clone()))

    monkeypatch.setattr(LFADS, "on_validation_epoch_end", log_and_note)
    larger = add_session(model, trained[0] / "new.h5", max_epochs=30, patience=2, lr_init=0.5)
    best = min(range(len(epochs)), key=lambda epoch: epochs[epoch][0])
    assert best == len(epochs) - 3 < 27  # so it has stopped 2 epochs after the best one
    assert torch.equal(larger.readout[2].weight, epochs[best][1])


def test_the_options_of_training_are_kept_except_for_the_ramps(model, trained):
    path = trained[0] / "new.h5"
    one = one_session_model(model, path)
    ramps = {f"{part}_{when}_epoch" for part in ("l2", "kl") for when in ("start", "increase")}
    for name, value in model.hparams.items():
        assert one.hparams[name] == (0 if name in ramps else value), name
    for part in set(PARTS) - {"readin", "readout", "reconstruction", "ic_prior", "co_prior"}:
        assert recipes.describe(one._part(part)) == recipes.describe(model._part(part))
    stack = AugmentationStack([CoordinatedDropout(0.7)], [0], [0])
    one = one_session_model(
        model, path, dropout_rate=0.6, lr_init=0.5, kl_increase_epoch=7, train_aug_stack=stack
    )
    assert (one.hparams.lr_init, one.hparams.kl_increase_epoch) == (0.5, 7)
    assert {m.p for m in one.modules() if isinstance(m, nn.Dropout)} == {0.6}
    assert one.train_aug_stack.transforms[0].cd_rate == 0.7
    assert append_session(model, one).hparams.lr_init == model.hparams.lr_init
    assert append_session(model, one).train_aug_stack.transforms[0].cd_rate == 0.3


def test_the_dropout_rate_of_modules_that_were_put_in_by_hand_stays(tiny_file):
    class OwnDropout(nn.Dropout):
        pass

    model = linear_model()
    model.encoder.dropout = OwnDropout(0.3)
    one = one_session_model(model, tiny_file)
    assert type(one.encoder.dropout) is OwnDropout
    assert one.encoder.dropout.p == 0.3
    with pytest.raises(ValueError, match=r"dropout_rate cannot be changed: .*encoder"):
        one_session_model(model, tiny_file, dropout_rate=0.5)


# ------------------------------------------------------------ how the new parts start


def linear_model(**overrides):
    """Make a model of one session of the tiny file whose read-in is linear and frozen."""
    readin = FanInLinear(4, 3).requires_grad_(False)
    return tiny_model(encod_data_dim=3, readin=[readin], **overrides)


def aligned(n_channels=4, n_components=3):
    rng = np.random.default_rng(0)
    arrays = tiny_arrays(n_channels=4, n_heldout=0)
    arrays["readin_weight"] = rng.normal(size=(n_channels, n_components))
    arrays["readout_bias"] = rng.normal(size=n_channels)
    return arrays


def test_random_start(tmp_path):
    file = write_file(tmp_path / "new.h5", tiny_arrays(n_channels=400, n_heldout=100))
    one = one_session_model(linear_model(), file)
    readin, readout = one.readin[0], one.readout[0]
    assert (readin.in_features, readin.out_features) == (300, 3)
    assert (readout.in_features, readout.out_features) == (3, 400)
    assert float(readin.weight.detach().std() * 300**0.5) == pytest.approx(1, rel=0.15)
    assert float(readout.weight.detach().std() * 3**0.5) == pytest.approx(1, rel=0.15)
    assert all(p.requires_grad for p in (*readin.parameters(), *readout.parameters()))


def test_aligned_start(tmp_path):
    arrays = aligned()
    weight, bias = arrays["readin_weight"], arrays["readout_bias"]
    model = linear_model()
    one = one_session_model(model, write_file(tmp_path / "new.h5", arrays))
    expected = {
        "readin.0.weight": weight.T, "readin.0.bias": -bias @ weight,
        "readout.0.weight": np.linalg.pinv(weight).T, "readout.0.bias": bias,
    }  # fmt: skip
    for key, value in expected.items():
        np.testing.assert_allclose(one.state_dict()[key], value, rtol=1e-5, atol=1e-6)
        assert one.get_parameter(key).requires_grad
    one = one_session_model(model, tmp_path / "new.h5", pcr_init=False)
    assert not np.allclose(one.readin[0].weight.detach(), weight.T)

    wrong = write_file(tmp_path / "components.h5", aligned(n_components=2))
    with pytest.raises(ValueError, match="2 components"):
        one_session_model(model, wrong)
    one_session_model(model, wrong, pcr_init=False)
    wrong = write_file(tmp_path / "channels.h5", aligned(n_channels=5))
    with pytest.raises(ValueError, match=r"readin_weight in .*channels\.h5 has 5 .* has 4"):
        one_session_model(model, wrong)
    one_session_model(model, wrong, pcr_init=False)


def test_models_without_read_ins(tmp_path):
    """A session that is added to a model of one session must have the same number of channels."""
    model = tiny_model()
    arrays = tiny_arrays(seed=1)
    arrays |= {
        "readin_weight": np.ones((4, 2)),
        "readout_bias": np.ones(4),
    }  # These do not apply to it.
    larger = add_session(model, write_file(tmp_path / "new.h5", arrays), max_epochs=1)
    assert type(larger.readin[1]) is nn.Identity
    assert larger.readout[1].out_features == 5
    other = write_file(tmp_path / "other.h5", tiny_arrays(n_channels=6))
    with pytest.raises(ValueError, match=r"other\.h5 has 5 channels.* sees the 4 .*linear read-in"):
        one_session_model(model, other)


class Scaled(Poisson):
    """A reconstruction whose rates have a gain for each session."""

    n_params = 2

    def __init__(self):
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(()))

    def compute_loss(self, data, output_params):
        return super().compute_loss(data, output_params + self.log_gain)


def test_reconstructions(tmp_path):
    file = write_file(tmp_path / "new.h5", tiny_arrays(n_channels=6))
    own = Scaled()
    own.log_gain.data += 2
    model = linear_model(reconstruction=[own], readout=[FanInLinear(3, 10)])
    larger = add_session(model, file, max_epochs=1)
    assert larger.readout[1].out_features == 12
    assert larger.recon[0].log_gain == own.log_gain == 2
    assert larger.recon[1].log_gain not in (0, 2)
    assert float(larger.recon[1].log_gain.detach()) == pytest.approx(2, abs=0.1)

    arrays = {key: array + 0.5 * (array > 0) for key, array in tiny_arrays(n_channels=6).items()}
    file = write_file(tmp_path / "calcium.h5", arrays)
    zig = ZeroInflatedGamma(5, 0.1, 4.0, 3.0, 0.2)
    zig.scale.data += 1
    model = linear_model(reconstruction=[zig], readout=[FanInLinear(3, 15)])
    (recon,) = one_session_model(model, file).recon
    assert recipes.describe(recon) == {**recipes.describe(zig), "recon_dim": 6}
    assert torch.equal(recon.scale.detach(), torch.full((2, 6), 4.0))
    larger = add_session(model, file, max_epochs=1)
    assert larger.readout[1].out_features == 18
    assert larger.recon[1].scale.shape == (2, 6)
    assert (larger.recon[1].scale != 4).all()
    assert (larger.recon[0].scale == 5).all()


def test_bins_of_the_initial_condition(tmp_path):
    arrays = tiny_arrays()
    rng = np.random.default_rng(0)
    for split, n_trials in (("train", 12), ("valid", 6)):
        arrays[f"{split}_ext_input"] = rng.normal(size=(n_trials, 8, 2)).astype("float32")
    file = write_file(tmp_path / "new.h5", arrays)
    larger = add_session(linear_model(ext_input_dim=2, ic_enc_seq_len=3), file, max_epochs=1)
    assert larger.readin[1].in_features == 4


def test_models_share_no_memory(tiny_file):
    model = linear_model(reconstruction=[Scaled()], readout=[FanInLinear(3, 10)])
    one = one_session_model(model, tiny_file)
    models = [model, one, append_session(model, one)]
    addresses = [p.data_ptr() for m in models for p in m.parameters() if p.numel()]
    assert len(set(addresses)) == len(addresses)
    assert len({id(m.train_aug_stack) for m in models}) == 3


# ------------------------------------------------------------ mistakes


def test_sessions_of_other_sizes_are_refused(tmp_path):
    model = linear_model()
    for name, options, found in [("long", {"n_bins": 9}, "9 encoded and 11"),
                                 ("far", {"n_forward": 3}, "8 encoded and 11")]:  # fmt: skip
        file = write_file(tmp_path / f"{name}.h5", tiny_arrays(**options))
        with pytest.raises(ValueError, match=rf"{name}\.h5 has {found} .* 8 and 10"):
            one_session_model(model, file)
    file = write_file(tmp_path / "new.h5", tiny_arrays())
    with pytest.raises(ValueError, match=r"train_ext_input .* 0 inputs.* takes 2"):
        one_session_model(linear_model(ext_input_dim=2), file)
    for add in (one_session_model, add_session):
        with pytest.raises(FileNotFoundError, match=r"no data file .*nothing\.h5"):
            add(model, tmp_path / "nothing.h5")
    file = write_file(tmp_path / "test.h5", {"test_encod_data": np.ones((3, 8, 4))})
    with pytest.raises(ValueError, match="has no train_encod_data"):
        one_session_model(model, file)
    with pytest.raises(ValueError, match="matches 4 files, but one session"):
        add_session(model, BasicDataModule(several(tmp_path)))


def several(folder):
    for i in range(4):
        write_file(folder / f"several{i}.h5", tiny_arrays())
    return str(folder / "several?.h5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gen_dim": 12}, r"model\.gen_dim = 12 .* trained with 9"),
        ({"variational": False}, r"model\.variational = False"),
        ({"lr": 0.1}, r"model\.lr is not a hyperparameter"),
        ({"infer_aug_stack": AugmentationStack()}, r"model\.infer_aug_stack is not"),
    ],
)
def test_only_how_to_train_can_be_changed(changes, message, tiny_file):
    with pytest.raises(ValueError, match=message):
        one_session_model(linear_model(), tiny_file, **changes)


@pytest.mark.parametrize("part", ["encoder.ic_enc_h0", "decoder.ic_to_g0.bias", "ic_prior.mean",
                                  "co_prior.logtaus"])  # fmt: skip
def test_a_session_of_another_model_is_not_appended(part, tiny_file):
    model = linear_model()
    one = one_session_model(model, tiny_file)
    append_session(model, one)
    with torch.no_grad():
        one.get_parameter(part).view(-1)[0] += 1e-6
    with pytest.raises(ValueError, match=f"{part.split('.')[0]} of the new session's model"):
        append_session(model, one)


# ------------------------------------------------------------ checkpoints and runs


def test_save_and_load(extended, tmp_path):
    larger = extended[0]
    path = save_model(larger, tmp_path / "new" / "model.ckpt")
    torch.load(path, weights_only=True)
    loaded = LFADS.load_from_checkpoint(path)
    assert loaded.state_dict().keys() == larger.state_dict().keys()
    assert_same_weights(loaded.state_dict(), larger.state_dict())
    assert dict(loaded.hparams) == dict(larger.hparams)
    for name in PARTS:
        assert recipes.describe(loaded._part(name)) == recipes.describe(larger._part(name))


def test_model_by_the_path_of_its_checkpoint(tiny_file, tmp_path):
    model = linear_model(reconstruction=[OwnPoisson()])
    path = save_model(model, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="trusted"):
        one_session_model(path, tiny_file)
    one = one_session_model(path, tiny_file, trusted=["tests"])
    assert torch.equal(one.decoder.rnn.cell.fac_linear.weight,
                       model.decoder.rnn.cell.fac_linear.weight)  # fmt: skip
    assert isinstance(one.recon[0], OwnPoisson)
    assert isinstance(one.recon[0], Reconstruction)


class OwnPoisson(Poisson):
    pass


@pytest.fixture(scope="module")
def new_run(trained):
    """The folder of a run of the script that added the third day."""
    home, run_dir = trained
    done = subprocess.run(
        [sys.executable, SCRIPT, run_dir, "--data", "new.h5", "run_dir=new_run",
         "trainer.max_epochs=8", "datamodule.batch_size=20", "model.lr_init=2e-2",
         "model.train_aug_stack.transforms.0.cd_rate=0.2"],
        cwd=home, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return home / "new_run", done.stdout


def test_a_run_leaves_its_files_and_prints_their_paths(new_run, trained):
    folder, said = new_run
    names = ["config.yaml", "summary.json", "model.ckpt", "csv_logs/metrics.csv",
             "lightning_checkpoints/last.ckpt", "lfads_output_sess2.h5", "plots/losses.png",
             "plots/raster_valid_sess2.png"]  # fmt: skip
    for name in names:
        assert (folder / name).stat().st_size > 0, name
        assert f"new_run/{name}" in said
    assert "Validation scores of session 2" in said
    assert (folder / "add_session.py").exists()
    assert not list(folder.glob("lfads_output_sess[01].h5"))
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["epochs"] == 8
    assert summary["session"] == 2
    assert summary["best_checkpoint"] == "model.ckpt"
    assert summary["scores"][0]["bps"] > 0
    config = OmegaConf.load(folder / "config.yaml")
    assert config.model.lr_init == 0.02
    assert config.model.train_aug_stack.transforms[0].cd_rate == 0.2
    assert config.datamodule.batch_size == 20
    assert config.callbacks.early_stopping.burn_in_period == 0  # there are no ramps to wait for


def test_run_changes_nothing_else(new_run, trained, model):
    larger = LFADS.load_from_checkpoint(new_run[0] / "model.ckpt")
    assert_same_weights(larger.state_dict(), model.state_dict())
    assert len(larger.readin) == 3
    assert dict(larger.hparams) == dict(model.hparams)
    for session in (0, 1):
        old, new = (outputs(m, trained[0], session, sample=True) for m in (model, larger))
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    (best,) = (new_run[0] / "lightning_checkpoints").glob("best-*.ckpt")
    own = torch.load(best, weights_only=True)["state_dict"]
    for part in ("readin", "readout"):
        assert torch.equal(larger.state_dict()[f"{part}.2.weight"], own[f"{part}.0.weight"])


def test_run_and_inference_agree(new_run, trained):
    """The output is that of the model with all sessions, which `infer` finds."""
    home, _ = trained
    output = new_run[0] / "lfads_output_sess2.h5"
    with h5py.File(output) as known:
        again = infer(new_run[0], home / "new.h5", session=2, num_samples=2)
        with h5py.File(again) as file:
            for key in ("valid_output_params", "train_factors", "valid_encod_data"):
                np.testing.assert_array_equal(known[key][()], file[key][()])
    old = infer(trained[1], home / "day1.h5", session=1, num_samples=2)
    new = infer(new_run[0], home / "day1.h5", session=1, num_samples=2)
    with h5py.File(old) as a, h5py.File(new) as b:
        np.testing.assert_array_equal(a["valid_factors"][()], b["valid_factors"][()])


def test_run_is_not_overwritten_or_resumed(new_run, trained, monkeypatch, capsys):
    home, run_dir = trained
    before = sorted(home.rglob("*"))
    main = runpy.run_path(str(SCRIPT))["main"]
    for words, message in [
        (["run_dir=new_run"], "new_run exists"),
        (["run_dir=other", "model.gen_dim=17"], "model.gen_dim = 17"),
        (["run_dir=other", "model.lr_initt=1"], "lr_initt"),
        (["run_dir=other", "--checkpoint", "none.ckpt"], "none.ckpt"),
    ]:
        command = ["add_session.py", run_dir, "--data", home / "new.h5", *words]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        monkeypatch.chdir(home)
        assert main() == 1
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"add_session\.py"):
        resume_run(new_run[0])
    assert sorted(home.rglob("*")) == before


def test_a_session_after_the_session(new_run, trained, tmp_path):
    """A further session can be added to the folder of such a run."""
    file = write_file(tmp_path / "next[1].h5", day(5, 5, n_train=20, n_valid=10))
    overrides = {"trainer.max_epochs": 1, "callbacks": {"checkpoint": {"save_last": False}}}
    folder = run_new_session(new_run[0], file, overrides, tmp_path / "run")
    larger = LFADS.load_from_checkpoint(checkpoint_of_run(folder))
    before = LFADS.load_from_checkpoint(new_run[0] / "model.ckpt")
    assert_same_weights(larger.state_dict(), before.state_dict())
    assert larger.readin[3].in_features == 5
    with h5py.File(folder / "lfads_output_sess3.h5") as output:
        assert output["valid_output_params"].shape == (10, 16, 5)
    (path,) = run_posterior_sampling(
        before, BasicDataModule(str(trained[0] / "new.h5")), tmp_path / "o.h5", 2, sessions=[2]
    )
    assert path.name == "o_sess2.h5"
