"""Submissions contain the right rates under the names that the benchmark expects."""

import h5py
import numpy as np
import pytest
from nlb_tools.evaluation import evaluate

from lfads_torch.analysis.nlb import target_tensors
from lfads_torch.analysis.nlb_submission import identify, make_nlb_submission, score_nlb_submission
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recons import Poisson
from lfads_torch.running.sampling import run_posterior_sampling
from tests.analysis.submissions import run_dir
from tests.conftest import tiny_model
from tests.datasets.nlb.benchmark import N_ENC, N_TRIALS, T_ENC, benchmark_arrays, write


def read(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


@pytest.fixture
def validation(tmp_path):
    return run_dir(tmp_path, "mc_maze-20ms-val.h5", benchmark_arrays())


def with_test_trials(arrays, n=7):
    """Add test trials, and number the trials as in a recording that mixes the splits."""
    rng = np.random.default_rng(4)
    inds = rng.permutation(sum(N_TRIALS.values()))
    test = rng.poisson(1.0, (n, T_ENC, N_ENC)).astype("float32")
    first = N_TRIALS["train"]
    return {
        **arrays, "test_encod_data": test, "test_inds": np.arange(n),
        "train_inds": np.sort(inds[:first]), "valid_inds": np.sort(inds[first:]),
    }  # fmt: skip


def test_a_submission_round_trips_through_evaluate(validation):
    path = make_nlb_submission(validation)
    assert path == validation / "nlb_submission_val.h5"
    output = read(validation / "lfads_output_sess0.h5")
    submitted = read(path)
    regions = {
        "heldin": np.s_[:, :T_ENC, :N_ENC], "heldout": np.s_[:, :T_ENC, N_ENC:],
        "heldin_forward": np.s_[:, T_ENC:, :N_ENC], "heldout_forward": np.s_[:, T_ENC:, N_ENC:],
    }  # fmt: skip
    expected = {
        f"mc_maze_20/{name}_rates_{region}": output[f"{split}_output_params"][where]
        for name, split in (("train", "train"), ("eval", "valid"))
        for region, where in regions.items()
    }
    assert submitted.keys() == expected.keys()
    for key, rates in expected.items():
        np.testing.assert_array_equal(submitted[key], rates, err_msg=key)
    arrays = benchmark_arrays()
    by_hand = evaluate(
        {"mc_maze_20": target_tensors(arrays, "data")},
        {"mc_maze_20": {key.split("/")[1]: rates.astype(float) for key, rates in expected.items()}},
    )
    scores = score_nlb_submission(path, [validation / "lfads_output_sess0.h5"])
    assert scores == [{"mc_maze_20_split": pytest.approx(by_hand[0]["mc_maze_20_split"])}]
    assert set(scores[0]["mc_maze_20_split"]) == {"co-bps", "fp-bps", "vel R2", "psth R2"}


@pytest.mark.parametrize(
    ("dataset", "split", "metrics"),
    [
        ("mc_rtt", "mc_rtt_split", {"co-bps", "fp-bps", "vel R2"}),
        ("dmfc_rsg", "dmfc_rsg_split", {"co-bps", "fp-bps", "tp corr", "psth R2"}),
    ],
)
def test_other_recordings(tmp_path, dataset, split, metrics):
    folder = run_dir(tmp_path, f"{dataset}-05ms-val.h5", benchmark_arrays(dataset))
    path = make_nlb_submission(folder)
    assert {key.split("/")[0] for key in read(path)} == {dataset}
    ((name, scores),) = (
        item for r in score_nlb_submission(path, [folder / "lfads_output_sess0.h5"])
        for item in r.items()
    )  # fmt: skip
    assert (name, set(scores)) == (split, metrics)
    assert np.isfinite([*scores.values()]).all()


def test_test_phase_merges_training_and_validation_trials_in_order(tmp_path):
    arrays = with_test_trials(benchmark_arrays())
    folder = run_dir(tmp_path, "mc_maze-05ms-test.h5", arrays)
    path = make_nlb_submission(folder)
    assert path.name == "nlb_submission_test.h5"
    submitted = read(path)
    output = read(folder / "lfads_output_sess0.h5")
    for split in ("train", "valid"):
        for trial, rates in zip(arrays[f"{split}_inds"], output[f"{split}_output_params"],
                                strict=True):  # fmt: skip
            np.testing.assert_array_equal(
                submitted["mc_maze/train_rates_heldin"][trial], rates[:T_ENC, :N_ENC]
            )
    np.testing.assert_array_equal(
        submitted["mc_maze/eval_rates_heldout_forward"],
        output["test_output_params"][:, T_ENC:, N_ENC:],
    )


def test_shuffled_trials(tmp_path):
    """Their order is restored in the test phase, and they are refused in the validation phase."""
    arrays = with_test_trials(benchmark_arrays())
    keys = {"reshuffle_tv_seed": 3, "reshuffle_tv_ratio": 0.9}
    folder = run_dir(tmp_path, "mc_maze-05ms-test.h5", arrays, **keys)
    (tmp_path / "b").mkdir()
    plain = run_dir(tmp_path / "b", "mc_maze-05ms-test.h5", arrays)
    shuffled, whole = (read(make_nlb_submission(f)) for f in (folder, plain))
    for key in whole:
        assert shuffled[key].shape == whole[key].shape
    spikes = np.concatenate([arrays["train_encod_data"], arrays["valid_encod_data"]])
    order = np.argsort(np.concatenate([arrays["train_inds"], arrays["valid_inds"]]))
    output = read(folder / "lfads_output_sess0.h5")
    for i, trial in enumerate(spikes[order]):
        for split in ("train", "valid"):
            for j in np.flatnonzero((output[f"{split}_encod_data"] == trial).all((1, 2))):
                np.testing.assert_array_equal(
                    shuffled["mc_maze/train_rates_heldin"][i],
                    output[f"{split}_output_params"][j, :T_ENC, :N_ENC],
                )
    with pytest.raises(ValueError, match=r"train_inds is not ascending.*reshuffle_tv_seed"):
        make_nlb_submission(folder, phase="val")


def test_several_sessions_make_one_submission(tmp_path):
    for i, name in enumerate(("large", "medium")):
        write(tmp_path / f"mc_maze_{name}-05ms-val.h5", benchmark_arrays(seed=i))
    model = tiny_model(
        readin=[FanInLinear(4, 4), FanInLinear(4, 4)],
        readout=[FanInLinear(3, 5), FanInLinear(3, 5)],
        reconstruction=[Poisson(), Poisson()],
    )
    datamodule = BasicDataModule(str(tmp_path / "mc_maze_*-05ms-val.h5"), batch_size=16)
    files = run_posterior_sampling(model, datamodule, tmp_path / "lfads_output.h5", num_samples=1)
    submitted = read(path := make_nlb_submission(tmp_path))
    assert {key.split("/")[0] for key in submitted} == {"mc_maze_large", "mc_maze_medium"}
    (scaling,) = score_nlb_submission(path, files)
    assert {"[500] co-bps", "[250] psth R2"} < set(scaling["mc_maze_scaling_split"])


def test_several_runs_make_one_submission(tmp_path, validation):
    (tmp_path / "rtt").mkdir()
    other = run_dir(tmp_path / "rtt", "mc_rtt-05ms-val.h5", benchmark_arrays("mc_rtt"))
    path = make_nlb_submission([validation, other], tmp_path / "new" / "both.h5")
    assert {key.split("/")[0] for key in read(path)} == {"mc_maze_20", "mc_rtt"}
    with pytest.raises(ValueError, match="holds rates of mc_maze_20, of which there are some"):
        make_nlb_submission([validation, validation])
    (tmp_path / "c").mkdir()
    test = run_dir(tmp_path / "c", "mc_rtt-05ms-test.h5", with_test_trials(benchmark_arrays()))
    with pytest.raises(ValueError, match=r"one phase.*\(val\).*\(test\)"):
        make_nlb_submission([validation, test])


def test_an_earlier_submission_is_kept(validation):
    path = make_nlb_submission(validation)
    path.write_bytes(b"earlier")
    make_nlb_submission(validation)
    assert path.with_name("nlb_submission_val.1.h5").read_bytes() == b"earlier"
    assert h5py.is_hdf5(path)
    assert not list(path.parent.glob("*.partial"))


def test_the_best_model_of_a_sweep(tmp_path, validation):
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    validation.rename(sweep / "best_model")
    assert make_nlb_submission(sweep) == sweep / "nlb_submission_val.h5"


def test_rates_that_are_not_in_the_folder(tmp_path, validation):
    (validation / "lfads_output_sess0.1.h5").touch()  # a renamed file of an earlier sampling
    inferred = tmp_path / "inferred.h5"
    (validation / "lfads_output_sess0.h5").rename(inferred)
    with pytest.raises(FileNotFoundError, match=r"has no lfads_output_sess\*\.h5"):
        make_nlb_submission(validation)
    path = make_nlb_submission(validation, rate_files=[inferred])
    assert path.parent == validation


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mc_maze-20ms-val.h5", ("mc_maze", 20, "val", "mc_maze_20")),
        ("mc_maze_small-05ms-test.h5", ("mc_maze_small", 5, "test", "mc_maze_small")),
        ("dmfc_rsg-5ms-val.h5", ("dmfc_rsg", 5, "val", "dmfc_rsg")),
        ("mine.h5", r"'mine\.h5', which is not called .*--dataset"),
        ("mc_maze-10ms-val.h5", "bin_width_ms must be one of 5, 20, but is 10"),
    ],
)
def test_the_recording_is_found_from_the_name(tmp_path, name, expected):
    path = tmp_path / "out.h5"
    with h5py.File(path, "w") as file:
        file.attrs["session_file"] = name
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            identify(path)
    else:
        found = identify(path)
        assert (found.dataset, found.bin_width_ms, found.phase, found.group) == expected
    assert identify(path, "mc_rtt", 20, "val").group == "mc_rtt_20"
    with pytest.raises(ValueError, match=r"dataset must be one of mc_maze, .*but is mc_mase"):
        identify(path, "mc_mase", 5, "val")


def test_rates_that_cannot_be_submitted(tmp_path, validation):
    with pytest.raises(ValueError, match=r"has no test_output_params: a submission for the test"):
        make_nlb_submission(validation, phase="test")
    with h5py.File(validation / "lfads_output_sess0.h5", "a") as file:
        file["valid_output_params"][0, 0, 0] = -1
    with pytest.raises(
        ValueError, match=r"valid_output_params in .* hold values that cannot be rates"
    ):
        make_nlb_submission(validation)
    assert not list(validation.glob("nlb_submission*"))
