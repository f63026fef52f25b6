"""Figures show what they are given, also where there is little to show."""

import logging
import subprocess
import sys

import h5py
import numpy as np
import pytest

from lfads_torch.analysis import figures as plots

RNG = np.random.default_rng(0)
B, T, N, T_ENC, N_ENC = 6, 12, 5, 9, 4
DATA = RNG.poisson(0.5, (B, T, N)).astype(float)
RATES = RNG.uniform(0.1, 1, (B, T, N))
TRUTH = RNG.uniform(0.1, 1, (B, T, N))


def labelled(figure, text):
    """Return the axes whose vertical label begins with a text."""
    return [axis for axis in figure.axes if axis.get_ylabel().startswith(text)]


def row_of(figure, text, n_columns):
    """Return the axes of a row, whose first one is labelled."""
    grid = [axis for axis in figure.axes if axis.get_subplotspec() and axis.get_label() == ""]
    first = labelled(figure, text)[0]
    start = grid.index(first)
    return grid[start : start + n_columns]


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def rendered(figure, tmp_path):
    """Draw for good: constrained layout warns here if it fails."""
    plots.save_figure(figure, tmp_path / "figure.png", dpi=40)
    return figure


def test_import_does_not_import_matplotlib():
    code = "import sys, lfads_torch.analysis.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_global_state(tmp_path):
    code = (
        "import sys, matplotlib, numpy as np; from lfads_torch.analysis import figures as plots;"
        "before = matplotlib.rcParams.copy();"
        "x = np.ones((2, 3, 4));"
        "figures = [plots.raster(x, x), plots.psth(x, x, [0, 1]), plots.trajectories(x),"
        " plots.losses({'train/loss': (np.arange(2.), np.ones(2))})];"
        f"[plots.save_figure(f, {str(tmp_path / 'f.png')!r}) for f in figures];"
        "assert matplotlib.rcParams.copy() == before;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------ raster


def test_raster_shows_data(tmp_path):
    inputs, ext = RNG.normal(size=(3, T, 2)), RNG.normal(size=(3, T_ENC - 2, 1))
    figure = plots.raster(
        DATA[:3],
        RATES[:3],
        truth=TRUTH[:3, 2:],
        inferred_inputs=inputs,
        ext_input=ext,
        n_encod_bins=T_ENC,
        n_encod_channels=N_ENC,
        trials=[3, 5, 8],
    )
    rendered(figure, tmp_path)
    data, rates, truth = (
        row_of(figure, name, 3) for name in ("data", "inferred rates", "true rates")
    )
    for i in range(3):
        assert data[i].get_title() == f"trial {[3, 5, 8][i]}"
        np.testing.assert_array_equal(data[i].images[0].get_array(), DATA[i].T)
        np.testing.assert_array_equal(rates[i].images[0].get_array(), RATES[i].T)
        np.testing.assert_array_equal(truth[i].images[0].get_array(), TRUTH[i, 2:].T)
        assert truth[i].images[0].get_extent() == [2, T, N, 0]
        assert rates[i].images[0].get_clim() == truth[i].images[0].get_clim()
    assert len({axis.images[0].get_clim() for axis in data}) == 1
    for axis, trial in zip(row_of(figure, "inferred\ninputs", 3), inputs, strict=True):
        for line, values in zip(axis.lines, trial.T, strict=False):
            np.testing.assert_array_equal(line.get_ydata(), values)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(T) + 0.5)
    for axis, trial in zip(row_of(figure, "external\ninputs", 3), ext, strict=True):
        np.testing.assert_array_equal(axis.lines[0].get_ydata(), trial[:, 0])
        np.testing.assert_array_equal(axis.lines[0].get_xdata(), np.arange(2, T_ENC) + 0.5)
    assert {axis.get_xlabel() for axis in row_of(figure, "external", 3)} == {"time (bins)"}
    assert legend_texts(figure) == ["end of encoded bins", "held-out channels (below)"]
    marks = [list(line.get_xdata()) for line in data[0].lines]
    assert [T_ENC, T_ENC] in marks
    assert [N_ENC, N_ENC] in [list(line.get_ydata()) for line in data[0].lines]
    assert len(labelled(figure, "spikes per bin")) == 2  # one bar for data, one for rates


def test_raster_of_what_there_is(tmp_path):
    """Neither a controller, nor truth, external inputs or held-out samples; time in seconds."""
    figure = plots.raster(
        DATA[:2],
        RATES[:2],
        inferred_inputs=np.zeros((2, T, 0)),
        truth=np.zeros((2, 0, 0)),
        ext_input=np.zeros((2, T, 0)),
        bin_width=0.02,
    )
    rendered(figure, tmp_path)
    assert len(figure.axes) == 2 * 2 + 2
    assert not labelled(figure, "inferred\ninputs")
    assert not labelled(figure, "external")
    assert not figure.legends
    bottom = row_of(figure, "inferred rates", 2)
    assert [axis.get_xlabel() for axis in bottom] == ["time (s)"] * 2
    np.testing.assert_allclose(bottom[0].get_xlim(), (0, 0.24))


def test_raster_marks_missing_samples(tmp_path):
    data = DATA[:1].copy()
    data[0, 2:4, 1] = np.nan
    figure = rendered(plots.raster(data, RATES[:1]), tmp_path)
    shown = row_of(figure, "data", 1)[0].images[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(shown), np.isnan(data[0].T))
    assert legend_texts(figure) == ["missing samples"]


def test_raster_of_continuous_data(tmp_path):
    figure = rendered(plots.raster(DATA[:1] - 0.5, RATES[:1]), tmp_path)
    assert labelled(figure, "data units")
    assert row_of(figure, "data", 1)[0].images[0].get_clim()[0] == -0.5


@pytest.mark.parametrize("fill", [0.0, 2.0, np.nan], ids=["zero", "constant", "nan"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, T, N), (2, 1, N), (2, T, 1)])
@pytest.mark.filterwarnings("error")
def test_little_or_constant_data(fill, shape, tmp_path):
    data = np.full(shape, fill)
    inputs = np.zeros((*shape[:2], 2))
    rendered(plots.raster(data, data, truth=data, inferred_inputs=inputs), tmp_path)
    rendered(plots.psth(data, data, np.zeros(shape[0]), truth=data), tmp_path)
    rendered(plots.trajectories(data, np.zeros(shape[0])), tmp_path)
    rendered(plots.trajectories(data), tmp_path)


@pytest.mark.parametrize("shape", [(3, 4), (0, 3, 4), (2, 3, 4, 1)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(trials, time, channels\)"):
        plots.raster(np.zeros(shape), RATES[:3])


# ------------------------------------------------------------------ PSTHs


def test_psth_averages_conditions(tmp_path):
    labels = np.array([2.5, 1, 2.5, 1, 2.5, np.nan])
    figure = plots.psth(
        DATA,
        RATES,
        labels,
        truth=TRUTH[:, 3:],
        channels=[4, 1],
        smooth_bins=0,
        n_encod_channels=N_ENC,
    )
    rendered(figure, tmp_path)
    groups = [[1, 3], [0, 2, 4]]
    sources = {"data": (DATA, 0), "inferred rates": (RATES, 0), "true rates": (TRUTH[:, 3:], 3)}
    for name, (values, offset) in sources.items():
        axes = row_of(figure, name, 2)
        assert axes[0].get_ylabel() == f"{name}\nspikes per bin"
        for axis, channel in zip(axes, [4, 1], strict=True):
            for line, group in zip(axis.lines, groups, strict=True):
                np.testing.assert_allclose(
                    line.get_ydata(), values[group][..., channel].mean(axis=0)
                )
                np.testing.assert_allclose(line.get_xdata(), np.arange(offset, T) + 0.5)
    assert [axis.get_title() for axis in row_of(figure, "data", 2)] == [
        "channel 4 (held out)",
        "channel 1",
    ]
    assert legend_texts(figure) == ["condition 1 (n = 2)", "condition 2.5 (n = 3)"]


def test_psth_smooths_data_only_and_says_so():
    constant = np.full((4, T, 1), 3.0)
    figure = plots.psth(constant, RATES[:4, :, :1], [0, 0, 0, 0], smooth_bins=2)
    data, rates = labelled(figure, "data, smoothed")[0], labelled(figure, "inferred rates")[0]
    assert "Gaussian, s.d. 2 bins" in data.get_ylabel()
    np.testing.assert_allclose(data.lines[0].get_ydata(), 3)  # no loss at the ends
    np.testing.assert_allclose(rates.lines[0].get_ydata(), RATES[:4, :, 0].mean(axis=0))


def test_psth_leaves_missing_samples_out():
    data = DATA[:3, :, :1].copy()
    data[0, 3] = np.nan
    data[:, 7] = np.nan
    figure = plots.psth(data, RATES[:3, :, :1], [0, 0, 0], smooth_bins=0)
    shown = labelled(figure, "data")[0].lines[0].get_ydata()
    assert shown[3] == data[1:, 3, 0].mean()
    assert np.isnan(shown[7])
    assert np.isfinite(np.delete(shown, 7)).all()


def test_psth_chooses_active_channels_and_frequent_conditions():
    data = np.zeros((20, T, 6))
    data[:, :, [1, 4]] = 2.0
    data[:, :, 3] = np.nan
    labels = np.repeat([9, 5, 7, 3], [2, 9, 8, 1])
    figure = plots.psth(data, data, labels, n_channels=2, max_conditions=2)
    assert [axis.get_title() for axis in row_of(figure, "data", 2)] == ["channel 1", "channel 4"]
    assert legend_texts(figure) == ["condition 5 (n = 9)", "condition 7 (n = 8)"]


def test_psth_without_conditions_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        plots.psth(DATA, RATES, np.full(B, np.nan))
    with pytest.raises(ValueError, match="one label for each of the 6 trials"):
        plots.psth(DATA, RATES, [0, 1])


# ------------------------------------------------------------------ trajectories


def test_trajectories_are_principal_components(tmp_path):
    """A plane in five dimensions, turned about: both components hold all there is to see."""
    plane = RNG.normal(size=(B, T, 2)) * [3.0, 1.0]
    plane -= plane.mean(axis=(0, 1))
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0][:2]
    figure = rendered(plots.trajectories(plane @ turn + 7), tmp_path)
    axis = figure.axes[0]
    assert axis.name == "3d"
    lines = np.array([np.array(line.get_data_3d()).T for line in axis.lines[::2]])
    starts = np.array([np.array(line.get_data_3d()).T for line in axis.lines[1::2]])
    assert lines.shape == (B, T, 3)
    np.testing.assert_array_equal(starts[:, 0], lines[:, 0])
    np.testing.assert_allclose(lines[..., 2], 0, atol=1e-9)
    flat, shown = plane.reshape(-1, 2), lines.reshape(-1, 3)
    np.testing.assert_allclose(flat @ flat.T, shown @ shown.T, atol=1e-9)
    variances = np.linalg.eigvalsh(flat.T @ flat)[::-1]
    share = variances[0] / variances.sum()
    assert axis.get_xlabel() == f"PC 1 ({share:.0%})"
    assert axis.get_zlabel() == "PC 3 (0%)"
    assert "start" in legend_texts(figure)


def test_trajectories_by_condition(tmp_path):
    labels = np.array([0, 1, 1, 0, 0, np.nan])
    figure = rendered(plots.trajectories(RATES[..., :2], labels), tmp_path)
    axis = figure.axes[0]
    assert axis.name == "rectilinear"
    colours = {line.get_color() for line in axis.lines}
    assert colours == {*plots.COLOURS[:2], "#999999"}
    assert legend_texts(figure) == ["condition 0", "condition 1", "start", "condition average"]
    thick = [line for line in axis.lines if line.get_linewidth() == 2 and len(line.get_xdata()) > 1]
    assert len(thick) == 2
    trials = [line for line in axis.lines if line.get_linewidth() == 0.6]
    first = np.mean([line.get_xydata() for line in trials[:3]], axis=0)
    np.testing.assert_allclose(thick[0].get_xydata(), first)


def test_single_factor_against_time(tmp_path):
    figure = rendered(plots.trajectories(RATES[:2, :, :1], bin_width=0.5), tmp_path)
    axis = figure.axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("time (s)", "factor")
    np.testing.assert_allclose(axis.lines[0].get_ydata(), RATES[0, :, 0])
    np.testing.assert_allclose(axis.lines[0].get_xdata(), (np.arange(T) + 0.5) * 0.5)


def test_many_conditions_get_a_bar(tmp_path):
    figure = rendered(plots.trajectories(RATES.repeat(4, 0), np.arange(24) % 12), tmp_path)
    assert [axis.get_ylabel() for axis in figure.axes[1:]] == ["condition"]
    assert legend_texts(figure) == ["start", "condition average"]


# ------------------------------------------------------------------ losses


def test_losses(tmp_path):
    epochs = np.arange(4.0)
    metrics = {
        "train/loss": (epochs, np.array([4.0, 3, 2, 1])),
        "valid/loss": (epochs, np.array([5.0, 4, np.nan, 2])),
        "valid/recon_smth": (epochs, np.array([5.0, 3, 2, 4])),
        "valid/bps": (epochs, np.full(4, np.nan)),
        "lr-AdamW": (epochs, np.full(4, 4e-3)),
        "lr-AdamW-momentum": (epochs, np.ones(4)),
        "hp/cd_rate": (epochs, np.ones(4)),
    }
    figure = rendered(plots.losses(metrics), tmp_path)
    panels = {axis.get_ylabel(): axis for axis in figure.axes}
    assert set(panels) == {"loss", "reconstruction loss", "learning rate"}
    for line, name in zip(panels["loss"].lines, ["train/loss", "valid/loss"], strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack(metrics[name], 1))
        assert line.get_label() == name.split("/")[0]
    texts = [text.get_text() for text in panels["reconstruction loss"].get_legend().get_texts()]
    assert texts == ["valid, smoothed (best: 2)"]
    assert len(panels["learning rate"].lines) == 1
    assert {axis.get_xlabel() for axis in figure.axes} == {"epoch"}


@pytest.mark.parametrize("n_epochs", [0, 1])
def test_losses_of_few_epochs(n_epochs, tmp_path):
    epochs = np.arange(float(n_epochs))
    figure = plots.losses({"train/loss": (epochs, epochs)} if n_epochs else {})
    rendered(figure, tmp_path)
    assert len(figure.axes) == n_epochs
    assert [text.get_text() for text in figure.texts if text.get_text()] == (
        [] if n_epochs else ["no metrics yet"]
    )


def test_first_epochs_do_not_flatten_the_rest():
    values = np.r_[1e6, 1e5, np.linspace(2, 1, 200)]
    figure = plots.losses({"train/loss": (np.arange(202.0), values)})
    low, high = figure.axes[0].get_ylim()
    assert low < 1
    assert 2 < high < 4


def write(path, text):
    path.write_text(text)
    return path


def test_read_metrics(tmp_path):
    text = (
        "epoch,lr-AdamW,step,train/loss,valid/loss\n"
        ",0.1,0,,\n"
        "0,,1,,5.0\n0,,1,4.0,\n"
        ",0.2,2,,\n"
        "1,,3,,nan\n1,,3,3.0,\n"
        ",0.3,4,,\n"
        "1,,3,3.5,\n"  # a resumed run repeats epoch 1
        "2,,5,oops,6.0\n"
        ",0.4,6,,\n"
        "3,,7,1.2"  # still being written
    )
    metrics = plots.read_metrics(write(tmp_path / "metrics.csv", text))
    assert set(metrics) == {"lr-AdamW", "train/loss", "valid/loss"}
    np.testing.assert_array_equal(metrics["train/loss"], [[0, 1], [4, 3.5]])
    np.testing.assert_array_equal(metrics["valid/loss"], [[0, 1, 2], [5, np.nan, 6]])
    np.testing.assert_array_equal(metrics["lr-AdamW"], [[0, 1, 2, 3], [0.1, 0.2, 0.3, 0.4]])


@pytest.mark.parametrize("text", ["", "epoch,st", "epoch,step,a\n", "step,a\n", "epoch,step,a\n0"])
def test_read_metrics_before_there_are_any(text, tmp_path):
    assert plots.read_metrics(write(tmp_path / "metrics.csv", text)) == {}


def test_read_metrics_of_rows_with_too_few_or_many_cells(tmp_path):
    path = write(tmp_path / "metrics.csv", "epoch,step,a,b\n0,1,2\n1,2,3,4,5,6\n\n")
    metrics = plots.read_metrics(path)
    np.testing.assert_array_equal(metrics["a"], [[0, 1], [2, 3]])
    np.testing.assert_array_equal(metrics["b"], [[1], [4]])


# ------------------------------------------------------------------ conditions and files


def test_trial_conditions():
    assert plots.trial_conditions(None, 3) is None
    np.testing.assert_array_equal(plots.trial_conditions(np.array([[3], [1]]), 2), [3, 1])
    assert plots.trial_conditions([b"left", b"right"], 2).tolist() == ["left", "right"]
    by_condition = np.array([np.array([0, 3]), np.array([2]), np.array([], int)], dtype=object)
    labels = plots.trial_conditions(by_condition, 5)
    np.testing.assert_array_equal(labels, [0, np.nan, 1, 0, np.nan])
    with pytest.raises(ValueError, match=r"each of the 3 trials.*it has 2 labels"):
        plots.trial_conditions([0, 1], 3)
    with pytest.raises(ValueError, match="condition 0 has trial 7"):
        plots.trial_conditions([[0, 7]], 3)


def test_named_conditions(tmp_path):
    labels = np.array(["left", "right"] * 3)
    figure = rendered(plots.psth(DATA, RATES, labels), tmp_path)
    assert legend_texts(figure)[0] == "condition left (n = 3)"
    rendered(plots.trajectories(RATES, labels), tmp_path)


def test_spread():
    assert plots.spread(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert plots.spread(9, 3).tolist() == [0, 4, 8]
    assert plots.spread(3, None).tolist() == [0, 1, 2]


def test_save_figure_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "new" / "figure.png"
    figure = plots.trajectories(RATES[:1])
    plots.save_figure(figure, path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")

    def fail(unfinished, **_):
        unfinished.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save_figure(figure, path)
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


def write_output(path, **extra):
    arrays = {
        "valid_encod_data": DATA[:, :T_ENC, :N_ENC],
        "valid_recon_data": DATA,
        "valid_output_params": RATES,
        "valid_factors": RATES[..., :3],
        "valid_co_means": np.zeros((B, T, 0)),
        **extra,
    }
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


def test_plot_run(tmp_path, monkeypatch):
    shown = {}
    for name in ("raster", "psth", "trajectories"):
        original = getattr(plots, name)
        monkeypatch.setattr(
            plots, name, lambda *a, n=name, f=original, **k: shown.update({n: (a, k)}) or f(*a, **k)
        )
    (tmp_path / "csv_logs").mkdir()
    write(tmp_path / "csv_logs" / "metrics.csv", "epoch,step,train/loss\n0,0,1.0\n")
    labels = np.array([0, 0, 1, 1, 2, 2])
    write_output(
        tmp_path / "lfads_output_sess0.h5",
        valid_truth=TRUTH * 4,
        conversion_factor=4.0,
        valid_cond_idx=labels,
    )
    write_output(tmp_path / "lfads_output_sess10.h5")
    written = plots.plot_run(tmp_path)
    names = ["losses"] + [f"{kind}_valid_sess0" for kind in ("raster", "psth", "trajectories")]
    names += ["raster_valid_sess10", "trajectories_valid_sess10"]
    assert written == [tmp_path / "plots" / f"{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    (data, rates, conditions), options = shown["psth"]
    np.testing.assert_array_equal(data, DATA)
    np.testing.assert_array_equal(rates, RATES)
    np.testing.assert_array_equal(conditions, labels)
    np.testing.assert_allclose(options["truth"], TRUTH)
    assert (options["n_encod_bins"], options["n_encod_channels"]) == (T_ENC, N_ENC)
    (data, rates), options = shown["raster"]
    assert (len(data), len(rates), options["truth"]) == (3, 3, None)  # of session 10


def test_plot_run_goes_on_after_a_failure(tmp_path, caplog):
    write_output(tmp_path / "lfads_output_sess0.h5", valid_cond_idx=np.zeros(99))
    with caplog.at_level(logging.WARNING):
        written = plots.plot_run(tmp_path)
    assert written == []
    assert "99 labels" in caplog.text
    (tmp_path / "lfads_output_sess0.h5").write_bytes(b"no HDF5")
    write_output(tmp_path / "lfads_output_sess1.h5")
    assert len(plots.plot_run(tmp_path)) == 2


def test_plot_run_of_nothing(tmp_path):
    assert plots.plot_run(tmp_path) == []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plots.plot_run(tmp_path / "nowhere")
