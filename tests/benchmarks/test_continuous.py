"""The benchmark of continuous recordings measures correctly on data with a known answer."""

import numpy as np
import pytest
from scipy.io import savemat
from scipy.ndimage import gaussian_filter1d

from benchmarks import continuous
from lfads_torch.data.hdf5 import write_h5
from lfads_torch.data.windows.chop import chop_recording
from tests.conftest import TINY_SIZES


@pytest.fixture
def recording():
    """Rates from which the force follows 4 bins later, and spikes that show little of them."""
    rng = np.random.default_rng(0)
    latent = gaussian_filter1d(rng.normal(size=(1200, 2)), 3.0, axis=0)
    latent /= latent.std(axis=0)
    log_rates = latent @ rng.normal(size=(2, 12)) / 2 - 1
    return continuous.Recording(
        counts=rng.poisson(np.exp(log_rates)),
        force=np.roll(latent, 4, axis=0),
        rates=np.exp(log_rates),
        train=np.arange(1200) < 900,
        valid=np.arange(1200) >= 900,
    )


def test_decoders_find_lag_and_width(recording, monkeypatch):
    monkeypatch.setattr(continuous, "WIDTHS", (1.0, 2.0, 4.0, 10.0))
    monkeypatch.setattr(continuous, "LAGS", (0, 2, 4, 6))
    rates = continuous.decode("merged LFADS rates", recording)
    assert rates.choice["lag"] == 4
    assert rates.r2 > 0.999
    assert rates.force.shape == (300, 2)
    spikes = continuous.decode("smoothed spikes", recording)
    assert spikes.choice["lag"] == 4
    assert spikes.choice["width"] in (2.0, 4.0)
    assert 0.3 < spikes.r2 < 0.95
    # A decoder of all lags at once includes the right lag.
    assert continuous.decode("merged LFADS rates, 11 lags at once", recording).r2 > 0.999
    assert continuous.decode("smoothed spikes, 11 lags at once", recording).r2 > 0.3


def test_force_that_is_independent_of_spikes(recording, monkeypatch):
    """The decoder does not learn from the force in the validation blocks."""
    monkeypatch.setattr(continuous, "WIDTHS", (1.0, 4.0))
    force = np.random.default_rng(1).normal(size=(1200, 2))
    unrelated = continuous.Recording(
        recording.counts, force, recording.rates, recording.train, recording.valid
    )
    for kind in ("smoothed spikes", "merged LFADS rates"):
        assert abs(continuous.decode(kind, unrelated).r2) < 0.05


def test_the_whole_benchmark(recording, tmp_path, monkeypatch, capsys):
    file = tmp_path / "Day0.mat"
    contents = {"spikeratedata": 20 * recording.counts, "forcedatabin": recording.force}
    savemat(file, {"binnedData": contents})
    for name, values in {"WIDTHS": (2.0,), "LAGS": (4,), "TAPS": (0, 4), "ALPHAS": (1.0,)}.items():
        monkeypatch.setattr(continuous, name, values)
    words = [str(file), "--output", str(tmp_path / "out"), "--epochs", "2",
             *TINY_SIZES, "posterior_sampling.fn.num_samples=2"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["continuous.py", *words])
    continuous.main()
    out = capsys.readouterr().out
    table = (tmp_path / "out" / "tables.md").read_text()
    assert table in out
    assert [line.count("|") for line in table.split("\n\n")[0].splitlines()] == [5] * 6
    assert (tmp_path / "out" / "continuous.png").stat().st_size > 10_000
    # Existing runs are used; other options are refused.
    trained = (tmp_path / "out" / "seed0" / "summary.json").stat().st_mtime_ns
    continuous.main()
    assert (tmp_path / "out" / "seed0" / "summary.json").stat().st_mtime_ns == trained
    monkeypatch.setattr("sys.argv", ["continuous.py", *words, "--window", "30"])
    with pytest.raises(SystemExit, match="made with other options"):
        continuous.main()


def test_seams_of_windows_that_differ(tmp_path, recording):
    """Rates of windows with different offsets jump if laid end to end, and fade if merged."""
    arrays, chop = chop_recording(recording.counts, 40, 10)
    rng = np.random.default_rng(0)
    for split, starts in chop.starts.items():
        windows = np.stack([recording.rates[start : start + 40] for start in starts])
        arrays[f"{split}_output_params"] = windows * np.exp(rng.normal(size=(len(windows), 1, 1)))
    write_h5(tmp_path / "lfads_output_sess0.h5", arrays)
    merged, end_to_end = continuous.seams(tmp_path)
    assert end_to_end > 3
    assert merged < end_to_end / 2
