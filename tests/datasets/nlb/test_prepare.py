"""Data files hold the trials of the NWB files, compared with an independent cutting and binning."""

import runpy
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from nlb_tools import make_tensors, nwb_interface
from nlb_tools.evaluation import evaluate
from omegaconf import OmegaConf
from scipy.ndimage import gaussian_filter1d

from lfads_torch.analysis.nlb import rate_tensors, target_tensors
from lfads_torch.analysis.nlb_submission import make_nlb_submission, score_nlb_submission
from lfads_torch.data.sessions import load_session
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.datasets.nlb import compatibility
from lfads_torch.datasets.nlb.prepare import find_nwb, prepare_nlb
from lfads_torch.errors import FileAccessError
from lfads_torch.running.start import start_run
from tests.conftest import TINY_SIZES
from tests.datasets.nlb.nwb import N_HELDIN, N_HELDOUT, write_nwb

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")

SCRIPT = Path(__file__).parents[3] / "scripts" / "prepare_nlb.py"

# The time that trials are aligned to, the ends of the window around it in s, and the lag of
# behaviour in s.
WINDOWS = {
    "mc_maze": ("move_onset_time", -0.25, 0.45, 0.1),
    "mc_rtt": ("start_time", 0.0, 0.6, 0.14),
    "area2_bump": ("move_onset_time", -0.1, 0.5, -0.02),
    "dmfc_rsg": ("go_time", -1.5, 0.0, None),
}
N = N_HELDIN + N_HELDOUT


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a function that writes NWB files, prepares them, and returns both."""
    cache = {}

    def prepare(dataset, bin_width_ms):
        if dataset not in cache:
            folder = tmp_path_factory.mktemp(dataset)
            written = {part: write_nwb(folder / "nwb", dataset, part) for part in ("train", "test")}
            paths = prepare_nlb(dataset, folder / "nwb", folder, (5, 20), ("val", "test"))
            cache[dataset] = written, {path.name: path for path in paths}
        written, paths = cache[dataset]
        files = {
            phase: paths[f"{dataset}-{bin_width_ms:02d}ms-{phase}.h5"] for phase in ("val", "test")
        }
        return written, files

    return prepare


def first_bin(t, bin_width):
    """Return the start of the first bin that begins at a time or after it."""
    return np.ceil(round(t / bin_width, 6)) * bin_width


@pytest.mark.parametrize("bin_width_ms", [5, 20])
@pytest.mark.parametrize("dataset", WINDOWS)
def test_spikes_trial_by_trial(prepared, dataset, bin_width_ms):
    written, files = prepared(dataset, bin_width_ms)
    align, start, end, _ = WINDOWS[dataset]
    bin_width = bin_width_ms / 1000
    n_bins, n_later = round((end - start) / bin_width), round(0.2 / bin_width)
    for phase, path in files.items():
        arrays = load_session(path)
        for split, name in (("train", "train"), ("valid", "val")):
            trials = written["train"].trials[written["train"].trials.split == name]
            np.testing.assert_array_equal(arrays[f"{split}_inds"], trials.index)
            jitter = arrays.get(f"{split}_jitter", np.zeros(len(trials))) * bin_width
            recon = arrays[f"{split}_recon_data"]
            assert recon.shape == (len(trials), n_bins + n_later, N)
            assert recon.dtype == np.uint8
            for i, t in enumerate(trials[align] + jitter):
                begin = first_bin(t + start, bin_width)
                counts = written["train"].counts(begin, n_bins + n_later, bin_width)
                np.testing.assert_array_equal(recon[i], counts, err_msg=f"{split} trial {i}")
            np.testing.assert_array_equal(
                arrays[f"{split}_encod_data"], recon[:, :n_bins, :N_HELDIN]
            )
        assert ("test_encod_data" in arrays) == (phase == "test")
        if phase == "test":
            trials = written["test"].trials
            assert arrays["test_encod_data"].shape == (len(trials), n_bins, N_HELDIN)
            np.testing.assert_array_equal(arrays["test_inds"], trials.index)
            for i, t in enumerate(trials[align]):
                begin = first_bin(t + start, bin_width)
                counts = written["test"].counts(begin, n_bins, bin_width)
                np.testing.assert_array_equal(arrays["test_encod_data"][i], counts)


@pytest.mark.parametrize("bin_width_ms", [5, 20])
@pytest.mark.parametrize("dataset", ["mc_maze", "mc_rtt", "area2_bump"])
def test_behaviour_trial_by_trial(prepared, dataset, bin_width_ms):
    written, files = prepared(dataset, bin_width_ms)
    align, start, end, lag = WINDOWS[dataset]
    bin_width = bin_width_ms / 1000
    n_bins = round((end - start) / bin_width)
    name = "finger_vel" if dataset == "mc_rtt" else "hand_vel"
    arrays = load_session(files["val"])
    for split in ("train", "valid"):
        behavior = arrays[f"{split}_behavior"]
        assert behavior.shape[1:] == (n_bins, 2)
        for i, trial in enumerate(arrays[f"{split}_inds"]):
            t = written["train"].trials[align][trial]
            bins = first_bin(t + start + lag, bin_width) + np.arange(n_bins) * bin_width
            expected = written["train"].behavior[name](bins)
            # The filter before downsampling rings a little where behaviour begins.
            np.testing.assert_allclose(behavior[i], expected, atol=0.02 if trial > 0 else 0.2)
        masks = arrays[f"{split}_decode_mask"]
        if dataset == "area2_bump":
            passive = written["train"].trials.ctr_hold_bump[arrays[f"{split}_inds"]].to_numpy()
            np.testing.assert_array_equal(masks, np.stack([passive == 0, passive == 1], axis=1))
        else:
            np.testing.assert_array_equal(masks, np.ones((len(behavior), 1)))


CONDITIONS = {
    "mc_maze": (["trial_type", "trial_version"], 70),
    "area2_bump": (["cond_dir", "ctr_hold_bump"], 40),
    "dmfc_rsg": (["is_eye", "theta", "is_short", "ts"], 70),
}


@pytest.mark.parametrize("bin_width_ms", [5, 20])
@pytest.mark.parametrize("dataset", CONDITIONS)
def test_conditions_and_psths(prepared, dataset, bin_width_ms):
    written, files = prepared(dataset, bin_width_ms)
    columns, kernel = CONDITIONS[dataset]
    align, start, end, _ = WINDOWS[dataset]
    bin_width = bin_width_ms / 1000
    n_bins = round((end - start) / bin_width)
    arrays = load_session(files["val"])
    trials = written["train"].trials
    fit = trials[trials.is_outlier == 0] if dataset == "dmfc_rsg" else trials
    groups = sorted(fit.groupby(columns).groups.items())
    assert arrays["psth"].shape == (len(groups), n_bins, N)
    n_ms = round(written["train"].end * 1000)
    smooth = gaussian_filter1d(
        written["train"].counts(0.0, n_ms, 0.001).astype(float), kernel, axis=0, truncate=3.0
    )
    for i, (_, members) in enumerate(groups):
        for split in ("train", "valid"):
            expected = np.flatnonzero(np.isin(arrays[f"{split}_inds"], members))
            np.testing.assert_array_equal(arrays[f"{split}_cond_idx"][i], expected)
        # nlb_tools averages bins at the same distance from the bin of the event. If the window is
        # not a whole number of bins, this distance, and so the first bin, differs among trials.
        by_distance = {}
        for trial in members:
            t = trials[align][trial]
            begin = t + start if dataset != "dmfc_rsg" else trials.set_time[trial]
            first = first_bin(begin, bin_width)
            n = (
                n_bins
                if dataset != "dmfc_rsg"
                else round((first_bin(t, bin_width) - first) / bin_width)
            )
            ms = round(first * 1000)
            window = smooth[ms : ms + n * bin_width_ms].reshape(n, bin_width_ms, N).sum(axis=1)
            distance = round((first - first_bin(t, bin_width)) / bin_width)
            for k, rates in enumerate(window):
                by_distance.setdefault(distance + k, []).append(rates)
        expected = np.array([np.mean(by_distance[k], axis=0) for k in sorted(by_distance)])
        known = ~np.isnan(arrays["psth"][i, :, 0])
        if dataset == "dmfc_rsg":  # The PSTH starts as long before go as the shortest trial does.
            assert known.sum() == pytest.approx(trials.tp[members].min() / bin_width_ms, abs=1)
            assert not known[: n_bins - known.sum()].any()
            expected = expected[-known.sum() :]
        else:
            assert known.all()
            expected = expected[:n_bins]
        error = arrays["psth"][i, known] - expected
        assert np.abs(error).max() < 0.02 * np.abs(expected).max()


def test_psths_of_a_few_neurons_at_a_time(prepared, tmp_path, monkeypatch):
    written, files = prepared("mc_maze", 20)
    folder, n_ms = written["train"].path.parent, written["train"].end * 1000
    monkeypatch.setattr(compatibility, "SAMPLES_AT_ONCE", n_ms * N / 1.5)  # Two blocks.
    (path,) = prepare_nlb("mc_maze", folder, tmp_path, [20])
    whole, parts = (load_session(p) for p in (files["val"], path))
    assert whole.keys() == parts.keys()
    np.testing.assert_allclose(parts["psth"], whole["psth"], rtol=1e-6)
    for key in ("train_cond_idx", "valid_cond_idx"):
        for trials, expected in zip(parts[key], whole[key], strict=True):
            np.testing.assert_array_equal(trials, expected)


@pytest.mark.parametrize("bin_width_ms", [5, 20])
def test_intervals_of_dmfc_rsg(prepared, bin_width_ms):
    written, files = prepared("dmfc_rsg", bin_width_ms)
    bin_width = bin_width_ms / 1000
    arrays = load_session(files["val"])
    assert not {"train_decode_mask", "valid_decode_mask"} & arrays.keys()
    for split in ("train", "valid"):
        trials = written["train"].trials.loc[arrays[f"{split}_inds"]]
        expected = trials[["is_eye", "theta", "is_short", "ts", "tp"]].to_numpy(dtype=float)
        expected[trials.is_outlier == 1] = np.nan
        np.testing.assert_allclose(arrays[f"{split}_behavior"], expected, rtol=1e-6)
        jitter = arrays[f"{split}_jitter"]
        limit = np.clip(1500 - trials.tp.to_numpy(), 0, 300) / bin_width_ms
        assert ((jitter >= 0) & (jitter <= limit)).all()
    assert arrays["train_jitter"].any()
    for split in ("train", "valid"):
        trials = written["train"].trials.loc[arrays[f"{split}_inds"]].reset_index()
        for i, trial in trials.iterrows():
            go = trial.go_time + arrays[f"{split}_jitter"][i] * bin_width
            starts = first_bin(go - 1.5, bin_width) + np.arange(round(1.5 / bin_width)) * bin_width
            starts = starts.round(6)
            between = (starts >= trial.set_time) & (starts < trial.go_time)
            np.testing.assert_array_equal(arrays[f"{split}_score_mask"][i], between)


@pytest.mark.parametrize("dataset", WINDOWS)
def test_targets_are_those_of_nlb_tools(prepared, dataset):
    """The targets read from a data file are those that nlb_tools makes from the NWB file."""
    written, files = prepared(dataset, 20)
    with compatibility.patched_nlb_tools():
        recording = nwb_interface.NWBDataset(str(written["train"].path), skip_fields=["hand_pos"])
        recording.resample(20)
        by_hand = make_tensors.make_eval_target_tensors(
            recording, dataset, "train", "val", save_file=False, include_psth=dataset != "mc_rtt"
        )[f"{dataset}_20"]
    ours = target_tensors(load_session(files["val"]), "data")
    unneeded = {"train_cond_idx", "train_jitter"}
    assert by_hand.keys() - unneeded == ours.keys() - (
        {"train_decode_mask", "eval_decode_mask"} if dataset != "area2_bump" else set()
    )
    for key in by_hand.keys() - unneeded - {"eval_cond_idx"}:
        np.testing.assert_allclose(ours[key], by_hand[key].astype(float), rtol=1e-6, err_msg=key)
    rng = np.random.default_rng(0)
    shapes = (
        load_session(files["val"])[f"{split}_recon_data"].shape for split in ("train", "valid")
    )
    rates = rate_tensors(
        *(rng.random(s) for s in shapes), N_HELDIN, ours["eval_spikes_heldout"].shape[1]
    )
    ((scores,),) = (
        [*r.values()] for r in evaluate({f"{dataset}_20": by_hand}, {f"{dataset}_20": rates})
    )
    ((again,),) = (
        [*r.values()] for r in evaluate({f"{dataset}_20": ours}, {f"{dataset}_20": rates})
    )
    assert again == pytest.approx(scores, rel=1e-5)


def test_from_nwb_to_submission(prepared, tmp_path):
    """A run on a prepared file: scores while training, and a submission of test trials."""
    _, files = prepared("mc_maze", 20)
    run_dir = start_run(
        [
            "model=generic", "datamodule=mc_maze", f"datamodule.datafile_pattern={files['test']}",
            *TINY_SIZES, "trainer.max_epochs=2", "+callbacks=nlb", "logger=[csv]",
            "callbacks.nlb.log_every_n_epochs=1", "posterior_sampling.fn.num_samples=2",
            "trainer.accelerator=cpu", "~callbacks.raster_plot", "~callbacks.psth_plot",
            "~callbacks.trajectory_plot", "~callbacks.loss_plot",
        ],
        run_dir=tmp_path / "run",
    )  # fmt: skip
    header = (run_dir / "csv_logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    metrics = ("co_bps", "fp_bps", "behavior_r2", "psth_r2")
    assert {f"nlb/{name}{suffix}" for name in metrics for suffix in ("", "_smth")} <= {*header}
    submission = make_nlb_submission(run_dir)
    with h5py.File(submission) as file:
        assert file["mc_maze_20/eval_rates_heldout"].shape == (12, 35, N_HELDOUT)
        assert file["mc_maze_20/train_rates_heldin_forward"].shape == (12, 10, N_HELDIN)
    validation = make_nlb_submission(run_dir, phase="val")
    (scores,) = score_nlb_submission(validation, [run_dir / "lfads_output_sess0.h5"])
    assert {*scores["mc_maze_20_split"]} == {"co-bps", "fp-bps", "vel R2", "psth R2"}


@pytest.mark.parametrize("dataset", WINDOWS)
def test_shipped_data_modules_read_them(prepared, dataset):
    _, files = prepared(dataset, 5)
    config = OmegaConf.load(
        Path(__file__).parents[3] / "configs" / "datamodule" / f"{dataset}.yaml"
    )
    datamodule = BasicDataModule(
        str(files["test"]),
        batch_keys=list(config.batch_keys),
        attr_keys=list(config.attr_keys),
        batch_size=6,
    )
    datamodule.setup()
    assert all(hasattr(datamodule, key) for key in config.attr_keys)


def test_nlb_tools_is_restored_afterwards(prepared):
    prepared("mc_rtt", 5)
    assert nwb_interface.np is np
    for function in (nwb_interface.NWBDataset.load, make_tensors._make_psth):
        assert function.__module__.startswith("nlb_tools.")


def test_importing_does_not_import_nlb_tools():
    code = (
        "import sys, lfads_torch.analysis.nlb, lfads_torch.datasets.nlb.prepare, "
        "lfads_torch.datasets.nlb.download, lfads_torch.analysis.nlb_submission\n"
        "print({'nlb_tools', 'pynwb', 'dandi', 'ray'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_nothing_is_overwritten(tmp_path):
    write_nwb(tmp_path, "mc_rtt", n_trials=6)
    (path,) = prepare_nlb("mc_rtt", tmp_path, tmp_path / "out")
    path.write_bytes(b"earlier")
    with pytest.raises(FileExistsError, match=r"mc_rtt-05ms-val\.h5 exists.*--overwrite"):
        prepare_nlb("mc_rtt", tmp_path, tmp_path / "out")
    assert path.read_bytes() == b"earlier"
    prepare_nlb("mc_rtt", tmp_path, tmp_path / "out", overwrite=True)
    assert path.with_name("mc_rtt-05ms-val.1.h5").read_bytes() == b"earlier"
    assert h5py.is_hdf5(path)


def test_errors_name_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match=r"no data set 'mc_mase'; it has mc_maze, "):
        prepare_nlb("mc_mase", tmp_path)
    with pytest.raises(ValueError, match=r"bin width must be 5 or 20 ms.*but is 10"):
        prepare_nlb("mc_maze", tmp_path, bin_widths_ms=[10])
    with pytest.raises(ValueError, match="phase must be one of val, test, but is 'tset'"):
        prepare_nlb("mc_maze", tmp_path, phases=["tset"])
    with pytest.raises(FileNotFoundError, match=r"no \*train\*\.nwb in "):
        prepare_nlb("mc_maze", tmp_path)
    write_nwb(tmp_path / "a", "mc_rtt", n_trials=6)
    with pytest.raises(
        ValueError, match=r"train_behavior\+ecephys\.nwb has no time series 'hand_vel'"
    ):
        prepare_nlb("mc_maze", tmp_path / "a")
    with pytest.raises(FileNotFoundError, match=r"no \*test\*\.nwb in "):
        prepare_nlb("mc_rtt", tmp_path / "a", phases=["val", "test"])
    with pytest.raises(ValueError, match=r"nlb_tools cannot cut trials out of .*go_time"):
        prepare_nlb("dmfc_rsg", tmp_path / "a")
    write_nwb(tmp_path / "b", "mc_rtt", n_trials=6)
    with pytest.raises(ValueError, match=r"several \*train\*\.nwb"):
        find_nwb(tmp_path, "train")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "train.nwb").write_text("no HDF5 file")
    with pytest.raises(FileAccessError, match=r"train\.nwb cannot be read as an NWB file"):
        prepare_nlb("mc_rtt", tmp_path / "c")
    assert not list(tmp_path.rglob("*.h5*"))


def test_the_script(tmp_path, monkeypatch, capsys):
    def main(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare_nlb.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code, capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    write_nwb(tmp_path / "datasets/nwb/000129", "mc_rtt", n_trials=6)
    code, said = main("mc_rtt")
    assert code == 0, said.err
    assert said.out.splitlines() == [
        "mc_rtt: preparing mc_rtt-05ms-val.h5",
        "  datasets/mc_rtt-05ms-val.h5",
    ]
    assert h5py.is_hdf5("datasets/mc_rtt-05ms-val.h5")
    code, said = main("mc_rtt")
    assert code == 1
    assert "ExistingFileError" in said.err
    code, said = main("mc_rtt", "--nwb", "datasets/nwb/000129", "--output-dir", "b",
                      "--bin-width-ms", "5", "20")  # fmt: skip
    assert code == 0, said.err
    assert len(list(Path("b").iterdir())) == 2
    monkeypatch.setitem(sys.modules, "dandi.dandiapi", None)
    code, said = main("mc_maze")
    assert code == 1
    assert "pip install dandi" in said.err
    assert "000128 (mc_maze)" in said.err
    # Nothing is downloaded if the data file could not be written.
    Path("datasets/mc_maze-20ms-val.h5").write_bytes(b"earlier")
    code, said = main("mc_maze")
    assert "ExistingFileError: datasets/mc_maze-20ms-val.h5 exists" in said.err
    Path("datasets/mc_maze-20ms-val.h5").unlink()
    code, said = main("mc_maze", "--no-download")
    assert "MissingFileError: There is no *train*.nwb" in said.err
