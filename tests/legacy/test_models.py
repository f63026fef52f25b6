"""Models from checkpoints of an older version compute the same as in that version."""

import sys

import numpy as np
import pytest
import torch

from lfads_torch.datamodules import BasicDataModule
from lfads_torch.model import LFADS
from tests.legacy.legacy import DATA, FLOAT32, copy_of, script_here

FILES = {
    "no_controller": ("one.h5", 0),
    "ic_segment": ("inputs.h5", 3),
    "two_sessions": ("session_*.h5", 0),
}


def check_outputs(model, name, pattern, t_ic):
    """Compare the output of a model for the validation trials with that of the older version."""
    model.eval()
    datamodule = BasicDataModule(str(DATA / "data" / pattern), batch_size=4, dm_ic_enc_seq_len=t_ic)
    datamodule.setup()
    batches = {s: batch for s, (batch, _) in enumerate(datamodule.valid_data)}
    with torch.no_grad():
        outputs = model(batches, output_means=False)
        means = model(batches)
    with np.load(DATA / "models" / f"{name}.npz") as expected:
        sessions = {int(key[0]) for key in expected if key[0].isdigit()}
        assert outputs.keys() == sessions
        for s, output in outputs.items():
            losses = model.recon[s].compute_loss(batches[s].recon_data, output.output_params)
            found = {**output._asdict(), "means": means[s].output_params, "losses": losses}
            for field, value in found.items():
                wanted = expected[f"{s}/{field}"]
                np.testing.assert_allclose(value.detach(), wanted, **FLOAT32, err_msg=field)
        kl = {"kl/ic": model.ic_prior(outputs[0].ic_mean, outputs[0].ic_std)}
        if model.use_con:
            kl["kl/co"] = model.co_prior(outputs[0].co_means, outputs[0].co_stds)
        assert {key for key in expected if key.startswith("kl/")} == kl.keys()
        for key, value in kl.items():
            np.testing.assert_allclose(value.detach(), expected[key], **FLOAT32, err_msg=key)


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_gives_the_same_model(name):
    model = LFADS.load_from_checkpoint(DATA / "models" / f"{name}.ckpt")
    assert model.use_con == (name != "no_controller")
    check_outputs(model, name, *FILES[name])


def test_users_parts_are_rebuilt_if_they_are_trusted(monkeypatch):
    monkeypatch.syspath_prepend(str(DATA / "data" / "own_parts"))
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)
    model = LFADS.load_from_checkpoint(DATA / "models" / "own_parts.ckpt", trusted=["my_parts"])
    import my_parts

    assert type(model.recon[0]) is my_parts.NegativeBinomialCounts
    assert type(model.co_prior) is my_parts.LaplacePrior
    assert model.co_prior.scale == 0.1
    dropout, silence = model.train_aug_stack.transforms
    assert dropout.cd_rate == 0.3
    assert type(silence) is my_parts.ChannelDropout
    assert silence.rate == 0.1
    assert model.train_aug_stack.batch_order == [1, 0]
    check_outputs(model, "own_parts", "one.h5", 0)
    monkeypatch.delitem(sys.modules, "my_parts")


def test_users_parts_are_not_rebuilt_otherwise():
    with pytest.raises(ValueError, match=r"my_parts.*trusted=\['my_parts'\]"):
        LFADS.load_from_checkpoint(DATA / "models" / "own_parts.ckpt")


@pytest.mark.filterwarnings("ignore:.*trains without regularisation")
def test_a_session_is_added_to_a_model(tmp_path):
    """The folder of the trained model's run is assembled from the files that were kept."""
    copy_of("models/two_sessions.ckpt", "runs/chopped/config.yaml", "data", to=tmp_path)
    words = ["--data", "data/new_session.h5", "run_dir=added", "trainer.max_epochs=1"]
    checkpoint = ["--checkpoint", "models/two_sessions.ckpt"]
    script_here("add_session", "runs/chopped", *words, *checkpoint, cwd=tmp_path)
    model = LFADS.load_from_checkpoint(tmp_path / "added" / "model.ckpt")
    before = LFADS.load_from_checkpoint(DATA / "models" / "two_sessions.ckpt").state_dict()
    after = model.state_dict()
    assert len(model.readin) == 3
    assert all(torch.equal(after[key], value) for key, value in before.items())
