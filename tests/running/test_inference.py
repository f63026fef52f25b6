"""A trained model infers from new trials, and refuses trials of other sizes."""

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

from lfads_torch.datamodules import BasicDataModule
from lfads_torch.model import LFADS
from lfads_torch.modules import augmentations as aug
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recons import Gaussian, Poisson
from lfads_torch.running.inference import infer
from lfads_torch.running.new_session import save_model
from lfads_torch.running.run_folder import checkpoint_of_run
from lfads_torch.running.sampling import run_posterior_sampling
from lfads_torch.running.start import start_run
from tests.conftest import TINY_SIZES, tiny_arrays, tiny_model, write_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "infer.py"


def read(path):
    with h5py.File(path) as file:
        return {key: file[key][()] for key in file}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key, values in a.items():
        np.testing.assert_array_equal(values, b[key], err_msg=key)


def run_of(folder, model, **datamodule):
    """Make the folder of a finished run with this model."""
    save_model(model, folder / "lightning_checkpoints" / "last.ckpt")
    config = {"seed": 0, "datamodule": {"batch_size": 4, **datamodule}, "posterior_sampling": {}}
    OmegaConf.save(config, folder / "config.yaml")
    return folder


def two_sessions(**overrides):
    return tiny_model(
        readin=[FanInLinear(4, 4), FanInLinear(2, 4)],
        readout=[FanInLinear(3, 5), FanInLinear(3, 3)],
        reconstruction=[Poisson(), Poisson()],
        **overrides,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a run by its script, and return its folder and its data."""
    home = tmp_path_factory.mktemp("infer")
    data = write_file(home / "tiny.h5", tiny_arrays())
    run_dir = start_run(
        ["model=generic", "datamodule=generic", f"datamodule.datafile_pattern={data}", *TINY_SIZES,
         "posterior_sampling.fn.num_samples=3", "trainer.max_epochs=2", "callbacks=[checkpoint]",
         "logger=[csv]", "+trainer.enable_progress_bar=false"],
        run_dir=home / "run",
    )  # fmt: skip
    return run_dir, data


@pytest.fixture
def trials(tmp_path):
    """Write a file that only has the training trials of the tiny file, as test trials."""
    arrays = {"test_encod_data": tiny_arrays()["train_encod_data"]}
    return write_file(tmp_path / "new_trials.h5", arrays)


def test_trials_of_the_run_give_what_the_run_gave(trained):
    run_dir, data = trained
    path = infer(run_dir, data, num_samples=3)
    assert path == run_dir / "inferred" / "tiny_sess0.h5"
    assert_same(read(path), read(run_dir / "lfads_output_sess0.h5"))


def test_a_file_with_encod_data_alone(trained, trials):
    run_dir, _ = trained
    output = read(infer(run_dir, trials, num_samples=3))
    known = read(run_dir / "lfads_output_sess0.h5")
    for key in ("output_params", "factors", "ic_mean", "co_means", "gen_states", "con_states"):
        np.testing.assert_array_equal(output[f"test_{key}"], known[f"train_{key}"])
    np.testing.assert_array_equal(output["test_encod_data"], known["train_encod_data"])
    np.testing.assert_array_equal(output["test_inds"], np.arange(12))
    assert not any(key.startswith(("train_", "valid_")) for key in output)


def test_script(trained, trials, tmp_path):
    run_dir, _ = trained
    done = subprocess.run(
        [sys.executable, SCRIPT, run_dir, "--data", trials, "--num-samples", "4", "--save-std",
         "--save-samples", "--output", "out/mine.h5", "--session", "0",
         "--checkpoint", run_dir / "lightning_checkpoints" / "last.ckpt"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "out/mine_sess0.h5"
    output = read(tmp_path / "out" / "mine_sess0.h5")
    assert output["test_factors_samples"].shape == (12, 4, 10, 3)
    np.testing.assert_allclose(
        output["test_factors_std"], output["test_factors_samples"].std(1, ddof=1), atol=1e-5
    )


def test_script_reports_mistakes(trained, trials, monkeypatch, capsys):
    main = runpy.run_path(str(SCRIPT))["main"]
    words = [trained[0], "--data", trials, "--session", "1"]
    monkeypatch.setattr(sys, "argv", ["infer.py", *map(str, words)])
    assert main() == 1
    assert "UserError: There is no session 1" in capsys.readouterr().err


def test_choice_of_the_checkpoint(trained, tmp_path, trials):
    run_dir, _ = trained
    best = json.loads((run_dir / "summary.json").read_text())["best_checkpoint"]
    assert checkpoint_of_run(run_dir) == run_dir / best

    run_dir = run_of(tmp_path / "run", tiny_model())
    assert checkpoint_of_run(run_dir) == run_dir / "lightning_checkpoints" / "last.ckpt"
    named = save_model(tiny_model(), tmp_path / "named.ckpt")
    for checkpoint, weights in ((None, checkpoint_of_run(run_dir)), (named, named)):
        output = read(infer(run_dir, trials, checkpoint=checkpoint, num_samples=1))
        with torch.no_grad():
            encoder = LFADS.load_from_checkpoint(weights).eval().encoder
            ic_mean = encoder(torch.tensor(output["test_encod_data"]))[0]
        np.testing.assert_allclose(output["test_ic_mean"], ic_mean, rtol=1e-4, atol=1e-6)

    (run_dir / "summary.json").write_text('{"best_checkpoint": "gone.ckpt"}')
    with pytest.raises(FileNotFoundError, match=r"gone\.ckpt"):
        checkpoint_of_run(run_dir)
    with pytest.raises(FileNotFoundError, match=r"config\.yaml"):
        infer(tmp_path, trials)
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5"):
        infer(run_dir, tmp_path / "nothing.h5")


def test_an_earlier_output_is_kept(trials, tmp_path):
    run_dir = run_of(tmp_path / "run", tiny_model())
    first = infer(run_dir, trials, num_samples=2)
    before = read(first)
    again = infer(run_dir, trials, num_samples=3)
    assert again == first
    assert_same(read(first.with_name("new_trials_sess0.1.h5")), before)


@pytest.mark.parametrize("named", ["[1]", "a*"])
def test_a_path_is_not_a_pattern(named, tmp_path):
    arrays = {"test_encod_data": tiny_arrays()["valid_encod_data"]}
    write_file(tmp_path / "a1.h5", arrays)
    file = write_file(tmp_path / f"{named}.h5", arrays)
    path = infer(run_of(tmp_path / "run", tiny_model()), file, num_samples=1)
    assert path.name == f"{named}_sess0.h5"


def test_a_session_of_several(tmp_path):
    """Session 1 of the model is the only file, and therefore session 0 of the data module."""
    arrays = tiny_arrays(n_channels=3, seed=1)
    write_file(tmp_path / "a.h5", tiny_arrays())
    data = write_file(tmp_path / "b.h5", arrays)
    model = two_sessions(variational=False)
    run_dir = run_of(tmp_path / "run", model)
    path = infer(run_dir, data, session=1)
    assert path.name == "b_sess1.h5"
    datamodule = BasicDataModule(str(tmp_path / "?.h5"), batch_size=8)
    both = run_posterior_sampling(model, datamodule, tmp_path / "o.h5")
    output, expected = read(path), read(both[1])
    assert output.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(output[key], values, rtol=1e-5, atol=1e-6, err_msg=key)
    assert output["valid_output_params"].shape == (6, 10, 3)

    with pytest.raises(ValueError, match="2 sessions: say which of them, 0 to 1"):
        infer(run_dir, data)
    for session in (2, -1):
        with pytest.raises(ValueError, match=f"no session {session} .*has 2"):
            infer(run_dir, data, session=session)
    with pytest.raises(ValueError, match=r"b\.h5 .* 2 channels, but session 0 .* 4 channels"):
        infer(run_dir, data, session=0)


def test_sessions_of_posterior_sampling(tmp_path):
    write_file(tmp_path / "a.h5", tiny_arrays(n_channels=3, seed=1))
    write_file(tmp_path / "b.h5", tiny_arrays())
    model = two_sessions(variational=False)
    datamodule = BasicDataModule(str(tmp_path / "?.h5"))
    paths = run_posterior_sampling(model, datamodule, tmp_path / "o.h5", sessions=[1, 0])
    assert [path.name for path in paths] == ["o_sess1.h5", "o_sess0.h5"]
    assert [read(path)["valid_output_params"].shape[2] for path in paths] == [3, 5]
    with h5py.File(paths[0]) as file:
        assert file.attrs["session_file"] == "a.h5"
    for wrong in ([1], [0, 2], [-1, 0]):
        with pytest.raises(ValueError, match=r"in 2 file\(s\), but the model has sessions \[0, 1]"):
            run_posterior_sampling(model, datamodule, tmp_path / "o.h5", sessions=wrong)


def changed(**changes):
    """Return trials for inference, of which some arrays are replaced."""
    arrays = tiny_arrays()
    arrays = {f"test_{name}": arrays[f"valid_{name}"] for name in ("encod_data", "recon_data")}
    arrays |= {f"test_{name}": array for name, array in changes.items()}
    return {key: array for key, array in arrays.items() if array is not None}


def holes(value):
    data = tiny_arrays()["valid_encod_data"]
    data[0, 2, 1] = value
    return data


BAD = {
    "channels": ({"encod_data": np.ones((6, 8, 3))}, r"test_encod_data .* 8 .* 3 .* 8 .* 4 "),
    "bins": ({"encod_data": np.ones((6, 7, 4))}, r"test_encod_data .* 7 .* 4 .* 8 .* 4 "),
    "recon channels": ({"recon_data": np.ones((6, 10, 6))}, r"test_recon_data .* 6 .* 10 .* 5 "),
    "recon bins": ({"recon_data": np.ones((6, 9, 5))}, r"test_recon_data .* 9 .* 10 .* 5 "),
    "missing": ({"encod_data": holes(np.nan)}, r"0\.52% of test_encod_data.*SelectiveBackprop"),
    "infinite": ({"encod_data": holes(np.inf)}, r"test_encod_data .* infinite"),
    "nothing": ({"encod_data": None}, r"no train_encod_data.* test_encod_data alone"),
    "no trials": ({"encod_data": np.ones((0, 8, 4)), "recon_data": None}, "test_encod_data .*empt"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD)
def test_trials_of_other_sizes_are_refused(changes, message, tmp_path):
    data = write_file(tmp_path / "bad.h5", changed(**changes))
    run_dir = run_of(tmp_path / "run", tiny_model())
    with pytest.raises(ValueError, match=message) as error:
        infer(run_dir, data)
    assert "bad.h5" in str(error.value)
    assert not (run_dir / "inferred").exists()


def test_a_distribution_of_several_parameters(tmp_path):
    model = tiny_model(reconstruction=[Gaussian()], readout=[FanInLinear(3, 10)])
    run_dir = run_of(tmp_path / "run", model)
    output = read(infer(run_dir, write_file(tmp_path / "data.h5", changed()), num_samples=2))
    assert output["test_output_params"].shape == (6, 10, 5)
    wrong = write_file(tmp_path / "wrong.h5", changed(recon_data=np.ones((6, 10, 10))))
    with pytest.raises(ValueError, match=r"10 channels, but .* 5 channels"):
        infer(run_dir, wrong)


def test_samples_are_needed(tmp_path, trials):
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        infer(run_of(tmp_path / "run", tiny_model()), trials, num_samples=0)


def test_read_ins_and_read_outs_of_any_kind(tmp_path):
    """If the size of a module is not known, the trials are not checked against it."""
    model = tiny_model(
        readin=[nn.Sequential(nn.Linear(4, 4), nn.ReLU())],
        readout=[nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 5))],
    )
    data = write_file(tmp_path / "data.h5", changed())
    output = read(infer(run_of(tmp_path / "run", model), data, num_samples=2))
    assert output["test_output_params"].shape == (6, 10, 5)


def test_missing_samples_of_a_model_that_handles_them(tmp_path):
    sbtt = aug.AugmentationStack([aug.SelectiveBackpropThruTime()], [0], [0])
    model = tiny_model(train_aug_stack=sbtt, infer_aug_stack=sbtt, variational=False)
    data = write_file(tmp_path / "data.h5", changed(encod_data=holes(np.nan)))
    zeros = write_file(tmp_path / "zeros.h5", changed(encod_data=holes(0)))
    run_dir = run_of(tmp_path / "run", model)
    output, expected = read(infer(run_dir, data)), read(infer(run_dir, zeros))
    np.testing.assert_array_equal(output["test_output_params"], expected["test_output_params"])
    assert np.isnan(output["test_encod_data"][0, 2, 1])


def test_samples_that_the_run_held_out_are_held_out_here(tmp_path):
    stack = aug.AugmentationStack([aug.SampleValidation(0.5)], [0], [0])
    model = tiny_model(train_aug_stack=stack, infer_aug_stack=stack, variational=False)
    data = write_file(tmp_path / "data.h5", tiny_arrays())
    run_dir = run_of(tmp_path / "run", model, sv_rate=0.5, sv_seed=3)
    output = read(infer(run_dir, data))
    datamodule = BasicDataModule(str(data), batch_size=4, sv_rate=0.5, sv_seed=3)
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "o.h5")
    assert_same(output, read(path))


def test_external_inputs_and_bins_of_the_initial_condition(tmp_path):
    model = tiny_model(ext_input_dim=2, ic_enc_seq_len=3)
    run_dir = run_of(tmp_path / "run", model)
    inputs = np.random.default_rng(0).normal(size=(6, 8, 2)).astype("float32")
    data = write_file(tmp_path / "data.h5", changed(ext_input=inputs))
    used = read(infer(run_dir, data, num_samples=2))["test_gen_inputs"][..., 2:]
    np.testing.assert_allclose(used[:, 3:8], inputs[:, 3:], rtol=1e-6)
    for wrong, found in ((inputs[..., :1], 1), (None, 0)):
        data = write_file(tmp_path / f"wrong{found}.h5", changed(ext_input=wrong))
        with pytest.raises(ValueError, match=rf"ext_input in .* has {found} inputs.* takes 2"):
            infer(run_dir, data)


def test_parts_of_packages_that_are_not_trusted(tmp_path, trials):
    run_dir = run_of(tmp_path / "run", tiny_model(reconstruction=[OwnPoisson()]))
    with pytest.raises(ValueError, match=r"trusted=\['tests'\]"):
        infer(run_dir, trials)
    infer(run_dir, trials, num_samples=1, trusted=["tests"])


class OwnPoisson(Poisson):
    pass


# ------------------------------------------------------------ the data module


def test_trials_to_infer_only_are_not_trained_on(trials):
    datamodule = BasicDataModule(str(trials), reshuffle_tv_seed=1)
    with pytest.raises(ValueError, match=r"has no train_encod_data\. .* and holds"):
        datamodule.setup()
    datamodule.setup("predict")
    assert not datamodule.train_ds
    assert len(datamodule.test_ds[0]) == 12
    with pytest.raises(ValueError, match="has no train_encod_data"):
        datamodule.setup("fit")


def test_every_file_with_trials_to_infer_holds_the_same_splits(trials):
    with_training = write_file(trials.with_name("new_trials2.h5"), tiny_arrays())
    pattern = str(trials.with_name("new_trials*.h5"))
    with pytest.raises(ValueError, match=r"train_encod_data is in 1 of 2 .*new_trials2\.h5"):
        BasicDataModule(pattern).setup("predict")
    write_file(with_training, changed(encod_data=np.ones((6, 7, 4))))
    with pytest.raises(ValueError, match=r"test_encod_data has 7 .*new_trials2\.h5, but 8 in"):
        BasicDataModule(pattern).setup("predict")


def test_one_split_of_two_is_enough_to_infer(tmp_path):
    arrays = {key: array for key, array in tiny_arrays().items() if not key.startswith("train")}
    data = write_file(tmp_path / "data.h5", arrays)
    path = infer(run_of(tmp_path / "run", tiny_model()), data, num_samples=1)
    assert read(path)["valid_factors"].shape == (6, 10, 3)
