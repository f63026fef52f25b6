"""Session files that are missing or wrong are refused by errors that name file and remedy."""

import shlex

import numpy as np
import pytest

from lfads_torch.cli.simulate import make_parser
from lfads_torch.data.schema import MANDATORY_KEYS
from lfads_torch.modules import recons
from lfads_torch.modules.readin_readout import MultisessionReadin, MultisessionReadout
from lfads_torch.modules.recons import MultisessionReconstruction
from tests.conftest import tiny_arrays, write_file
from tests.data.session_files import changed, set_up, with_test, write_sessions, zeros

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch")


# ------------------------------------------------------------------ files that are missing


NLB = {
    "mc_maze-20ms-val": "000128", "mc_maze_large-05ms-val": "000138",
    "mc_maze_medium-05ms-val": "000139", "mc_maze_small-05ms-val": "000140",
    "mc_rtt-05ms-val": "000129", "area2_bump-05ms-val": "000127", "dmfc_rsg-05ms-val": "000130",
}  # fmt: skip


@pytest.mark.parametrize(("name", "dandi"), NLB.items(), ids=NLB)
def test_hint_for_data_sets_of_the_benchmark(tmp_path, name, dandi):
    path = tmp_path / f"{name}.h5"
    with pytest.raises(FileNotFoundError) as error:
        set_up(path)
    assert str(path) in str(error.value)
    assert f"DANDI {dandi} " in str(error.value)


def test_hint_for_several_data_sets_of_the_benchmark(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        set_up(tmp_path / "mc_maze_*-05ms-val.h5")
    assert "DANDI" in str(error.value)


@pytest.mark.parametrize("name", ["lorenz.h5", "chaotic_rnn-g1.5.h5", "chaotic_rnn with space.h5"])
def test_hint_for_synthetic_data_is_a_command_that_works(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="Generate it: python -m ") as error:
        set_up(tmp_path / name)
    command = shlex.split(str(error.value).partition("Generate it: ")[2])
    assert command[:3] == ["python", "-m", "lfads_torch.synthetic"]
    options = make_parser().parse_args(command[3:])
    assert options.output == tmp_path / name


def test_hint_for_synthetic_sessions(tmp_path):
    """The synthetic sessions are in a folder."""
    with pytest.raises(FileNotFoundError, match="Generate it: python -m ") as error:
        set_up(tmp_path / "multisession" / "sess*.h5")
    command = shlex.split(str(error.value).partition("Generate it: ")[2])
    options = make_parser().parse_args(command[3:])
    assert (options.generator, options.output) == ("multisession", tmp_path / "multisession")


@pytest.mark.parametrize("make", [
    set_up, MultisessionReadin, MultisessionReadout,
    lambda pattern: MultisessionReconstruction(pattern, recons.Poisson()),
])  # fmt: skip
def test_a_pattern_without_files(tmp_path, monkeypatch, make):
    """The published code built a model without sessions."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'nothing/\*\.h5'") as error:
        make("nothing/*.h5")
    assert str(tmp_path) in str(error.value)  # The folder that was searched.


def test_a_path_with_brackets(tmp_path):
    (tmp_path / "[2020]").mkdir()
    set_up(write_file(tmp_path / "[2020]" / "a.h5", tiny_arrays()))


# ------------------------------------------------------------------ files that are wrong


BAD = {
    "no train_encod_data": ("train_encod_data", {"train_encod_data": None}),
    "no valid_recon_data": ("valid_recon_data", {"valid_recon_data": None}),
    "nothing": ("train_encod_data", dict.fromkeys(tiny_arrays())),
    "flat": ("train_encod_data", {"train_encod_data": zeros(12, 8)}),
    "scalar": ("valid_recon_data", {"valid_recon_data": np.array(1.0)}),
    "four axes": ("train_truth", {"train_truth": zeros(12, 10, 5, 1)}),
    "flat input": ("valid_ext_input", {"valid_ext_input": zeros(6, 8)}),
    "flat test": ("test_encod_data", {"test_encod_data": zeros(6, 8)}),
    "trials of target": ("train_recon_data", {"train_recon_data": zeros(11, 10, 5)}),
    "trials of truth": ("valid_truth", {"valid_truth": zeros(7, 10, 5)}),
    "trials of input": ("train_ext_input", {"train_ext_input": zeros(1, 8, 2)}),
    "T_enc > T_rec": ("train_encod_data", {"train_encod_data": zeros(12, 11, 4)}),
    "T_enc > T_rec in test": (
        "test_encod_data", {"test_encod_data": zeros(3, 8, 4), "test_recon_data": zeros(3, 7, 5)},
    ),
    "bins of input": ("train_ext_input", {"train_ext_input": zeros(12, 10, 2)}),
    "bins of truth": ("valid_truth", {"valid_truth": zeros(6, 8, 5)}),
    "encoded channels disagree": ("valid_encod_data", {"valid_encod_data": zeros(6, 8, 3)}),
    "channels disagree": ("valid_recon_data", {"valid_recon_data": zeros(6, 10, 6)}),
    "bins disagree": ("valid_encod_data", {"valid_encod_data": zeros(6, 7, 4)}),
    "no trials": ("valid_encod_data", {
        "valid_encod_data": zeros(0, 8, 4), "valid_recon_data": zeros(0, 10, 5),
        "valid_truth": None}),
    "no bins": ("train_encod_data", {"train_encod_data": zeros(12, 0, 4)}),
    "no channels": ("train_recon_data", {"train_recon_data": zeros(12, 10, 0)}),
    "empty test": ("test_encod_data", {"test_encod_data": zeros(0, 8, 4)}),
}  # fmt: skip


@pytest.mark.parametrize("session", [0, 1])
@pytest.mark.parametrize(("key", "changes"), BAD.values(), ids=BAD)
def test_bad_arrays(tmp_path, key, changes, session):
    sessions = [tiny_arrays(), tiny_arrays()]
    sessions[session] = changed(sessions[session], **changes)
    named = rf"^{key} in |^\S* has no {key}\. |and {key} in "
    with pytest.raises(ValueError, match=named) as error:
        set_up(write_sessions(tmp_path, *sessions))
    assert f"session{session}.h5" in str(error.value)


@pytest.mark.parametrize(("key", "changes"), [
    ("test_encod_data", {"test_encod_data": zeros(3, 8, 5)}),
    ("test_encod_data", {"test_encod_data": zeros(3, 7, 4)}),
    ("truth", {"train_truth": zeros(12, 10, 1), "valid_truth": zeros(6, 10, 1)}),
    ("valid_ext_input", {"train_ext_input": zeros(12, 8, 2)}),
    ("valid_ext_input", {"train_ext_input": zeros(12, 8, 2), "valid_ext_input": zeros(6, 8, 3)}),
])  # fmt: skip
def test_arrays_that_disagree(tmp_path, key, changes):
    path = write_file(tmp_path / "a.h5", changed(tiny_arrays(), **changes))
    with pytest.raises(ValueError, match=rf"{key}.*a\.h5"):
        set_up(path)


def test_a_file_that_is_not_hdf5(tmp_path):
    (tmp_path / "a.h5").write_text("spikes")
    with pytest.raises(ValueError, match=r"a\.h5"):
        set_up(tmp_path / "a.h5")


def test_trials_are_numbered_if_the_file_does_not(tmp_path):
    arrays = changed(with_test(tiny_arrays()), train_inds=None, valid_inds=None)
    path = write_file(tmp_path / "a.h5", arrays)
    datamodule = set_up(path, batch_keys=["inds"])
    found = [getattr(datamodule, f"{split}_data")[0][1][0].tolist() for split in MANDATORY_KEYS]
    assert [number for split in found for number in split] == list(range(12 + 6 + 3))
