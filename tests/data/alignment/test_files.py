"""Alignments are written into session files, and no file changes if anything fails."""

import math
import os
import stat
import subprocess
import sys

import h5py
import numpy as np
import pytest

from lfads_torch.data.alignment import files
from lfads_torch.data.alignment.files import align_files
from lfads_torch.data.alignment.regression import align
from lfads_torch.data.alignment.responses import condition_psths
from lfads_torch.errors import FileAccessError
from lfads_torch.modules.readin_readout import MultisessionReadout
from lfads_torch.running.training import run_model
from tests.conftest import TINY_SIZES, tiny_arrays, write_file
from tests.data.alignment.sessions import session_arrays, shared_psths, stamps, write_sessions


def contents(path):
    """Return the content of a file without its alignment, as comparable values."""
    found = {}

    def attributes(item):
        return {
            key: (str(np.asarray(v).dtype), np.asarray(v).tolist()) for key, v in item.attrs.items()
        }

    def visit(name, item):
        found[name] = [attributes(item)]
        if isinstance(item, h5py.Dataset) and name not in ("readin_weight", "readout_bias"):
            layout = (item.chunks, item.compression, item.compression_opts, item.shuffle,
                      item.fletcher32, item.maxshape, item.fillvalue)  # fmt: skip
            data = item[()]
            data = data.tobytes() if data.dtype.kind != "O" else data.tolist()
            found[name] += [str(item.dtype), item.shape, repr(layout), data]

    with h5py.File(path) as file:
        found["/"] = [attributes(file)]
        file.visititems(visit)
    return {
        key: value for key, value in found.items() if key not in ("readin_weight", "readout_bias")
    }


def rich_file(path):
    """Turn a session file into one with everything that HDF5 offers."""
    with h5py.File(path, "a") as file:
        file.attrs["bin_width"] = 0.02
        file.attrs["subject"] = "R"
        file["train_encod_data"].attrs["unit"] = "spikes per bin"
        group = file.create_group("notes", track_order=True)
        group.attrs["by"] = ["A", "B"]
        group["words"] = np.array(["some", "words"], dtype=object)
        group["deeper/scalar"] = 3.5
        rng = np.random.default_rng(0)
        file.create_dataset("packed", data=rng.poisson(1, (40, 9)), chunks=(7, 9), shuffle=True,
                            compression="gzip", compression_opts=7, maxshape=(None, 9),
                            fletcher32=True)  # fmt: skip
        file.create_dataset("holes", (5,), "f4", fillvalue=-1.0)
        file["link"] = h5py.SoftLink("/notes/words")


@pytest.mark.parametrize("copied", [False, True])
def test_nothing_else_changes(tmp_path, copied):
    (home := tmp_path / "data").mkdir()
    paths = write_sessions(home)
    rich_file(paths[0])
    paths[0].chmod(0o640)
    before, bytes_before = [contents(path) for path in paths], stamps(home)
    assert before[0]["train_encod_data"][0] == {"unit": ("<U14", "spikes per bin")}
    assert "gzip" in before[0]["packed"][3]
    output_dir = tmp_path / "new" / "out" if copied else None
    sessions = align_files(home / "*.h5", 3, output_dir=output_dir)
    assert [session.source for session in sessions] == paths
    folder = output_dir or home
    assert [session.path for session in sessions] == [folder / path.name for path in paths]
    assert sorted(path.name for path in folder.iterdir()) == ["sess0.h5", "sess1.h5"]
    for session, old in zip(sessions, before, strict=True):
        assert contents(session.path) == old
        with h5py.File(session.path) as file:
            assert file["readin_weight"].shape == (session.n_channels, 3)
            assert file["readout_bias"].shape == (session.n_channels,)
    if copied:
        assert stamps(home) == bytes_before
    else:
        assert stat.S_IMODE(paths[0].stat().st_mode) == 0o640


def test_returned_values(tmp_path):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    first, second = write_sessions(tmp_path, n_trials=16)
    files = [first.rename(tmp_path / "x" / "s.h5"), second.rename(tmp_path / "y" / "s.h5")]
    sessions = align_files(files[::-1], 3, smoothing_width=1.5, ridge_alpha=0.7)
    assert [session.path for session in sessions] == files
    expected = align([condition_psths(path, 1.5).rates for path in files], 3, 0.7)
    for session, right, n in zip(sessions, expected, (7, 10), strict=True):
        assert (session.n_channels, session.n_trials, session.n_conditions) == (n, 16, 4)
        assert session.score == right.score
        assert session.explained_variance == right.explained_variance
        with h5py.File(session.path) as file:
            np.testing.assert_allclose(file["readin_weight"], right.readin_weight, rtol=1e-6)
            np.testing.assert_allclose(file["readout_bias"], right.readout_bias, rtol=1e-6)
            for key in ("readin_weight", "readout_bias"):
                assert file[key].dtype == np.float32
                attributes = dict(file[key].attrs)
                assert attributes.pop("sessions").tolist() == ["x/s.h5", "y/s.h5"]
                assert attributes == {"n_components": 3, "smoothing_width": 1.5, "ridge_alpha": 0.7}


def test_an_alignment_is_replaced_only_on_request(tmp_path):
    paths = write_sessions(tmp_path)
    align_files(tmp_path / "*.h5", 3)
    before, others = stamps(tmp_path), [contents(path) for path in paths]
    message = r"sess0\.h5 has readin_weight and readout_bias already: pass overwrite=True"
    with pytest.raises(ValueError, match=message):
        align_files(tmp_path / "*.h5", 2)
    with h5py.File(paths[0], "a") as file:
        del file["readin_weight"]
    with pytest.raises(ValueError, match=r"sess0\.h5 has readout_bias already"):
        align_files(paths[:1], 2)
    paths[0].write_bytes(before["sess0.h5"])
    assert stamps(tmp_path) == before
    copies = align_files(tmp_path / "*.h5", 2, output_dir=tmp_path / "out")
    align_files(tmp_path / "*.h5", 2, overwrite=True)
    for session in copies:
        for path in (session.path, session.source):
            with h5py.File(path) as file:
                assert file["readin_weight"].shape[1] == 2
                assert file["readout_bias"].attrs["n_components"] == 2
    assert [contents(path) for path in paths] == others

    (tmp_path / "out" / "sess1.h5").write_bytes(b"mine")
    kept = stamps(tmp_path / "out")
    (tmp_path / "out" / "sess0.h5").unlink()
    with pytest.raises(FileExistsError, match=r"out/sess1\.h5 exists already: choose another"):
        align_files(tmp_path / "*.h5", 2, output_dir=tmp_path / "out")
    assert stamps(tmp_path / "out") == {"sess1.h5": kept["sess1.h5"]}
    align_files(tmp_path / "*.h5", 2, output_dir=tmp_path / "out", overwrite=True)
    assert contents(tmp_path / "out" / "sess1.h5") == others[1]


def test_a_symbolic_link_stays_a_link(tmp_path):
    (tmp_path / "links").mkdir()
    paths = write_sessions(tmp_path)
    for path in paths:
        (tmp_path / "links" / path.name).symlink_to(path)
    align_files(tmp_path / "links" / "*.h5", 3)
    for path in paths:
        assert (tmp_path / "links" / path.name).is_symlink()
        with h5py.File(path) as file:
            assert "readin_weight" in file


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("step", ["_write_alignment", "fsync"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_no_file_changes_after_a_failure(tmp_path, monkeypatch, copied, step, error):
    write_sessions(tmp_path)
    before, calls = stamps(tmp_path), []
    (out := tmp_path.parent / f"{tmp_path.name}-out").mkdir()
    place = os if step == "fsync" else files
    works = getattr(place, step)

    def fails(*args):
        works(*args)
        calls.append(args)
        if len(calls) == 2:  # The first file is ready, and the second is not.
            raise error

    monkeypatch.setattr(place, step, fails)
    with pytest.raises(type(error)):
        align_files(tmp_path / "*.h5", 3, output_dir=out if copied else None)
    assert len(calls) == 2
    assert stamps(tmp_path) == before
    assert stamps(out) == {}


def test_no_file_changes_after_a_kill(tmp_path):
    write_sessions(tmp_path)
    before = stamps(tmp_path)
    code = (
        "import os, signal, sys\n"
        "from lfads_torch.data.alignment.files import align_files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "align_files(sys.argv[1], 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "*")], capture_output=True)
    assert done.returncode < 0, done.stderr
    after = stamps(tmp_path)
    left = after.keys() - before.keys()
    assert {name: after[name] for name in before} == before
    assert all(name.startswith(".") for name in left)  # Patterns of sessions do not match them.
    assert len(align_files(tmp_path / "*", 3)) == 2
    assert stamps(tmp_path).keys() == after.keys()


def test_held_out_channels_do_not_influence_the_alignment(tmp_path):
    """These channels are reconstructed, but the encoder does not see them."""
    for name, seed in (("a", 0), ("b", 1)):
        write_file(tmp_path / f"{name}.h5", tiny_arrays(n_channels=7, n_heldout=2, seed=seed))
    align_files(str(tmp_path / "?.h5"), n_components=2)
    for path in sorted(tmp_path.glob("?.h5")):
        with h5py.File(path) as file:
            assert file["readin_weight"].shape == (5, 2)
            assert file["readout_bias"].shape == (5,)
    (readout, _) = MultisessionReadout(str(tmp_path / "?.h5"))
    assert readout.out_features == 7


def test_a_model_starts_from_aligned_files(tmp_path, monkeypatch):
    paths = write_sessions(tmp_path)
    align_files(paths, 3)
    monkeypatch.chdir(tmp_path)
    trained = run_model([
        "model=multisession", "datamodule=generic",
        f'datamodule.datafile_pattern="{tmp_path}/*.h5"', *TINY_SIZES,
        "trainer.max_epochs=1", "callbacks=[checkpoint]", "logger=[csv]",
        "posterior_sampling.fn.num_samples=2", "model.kl_ic_scale=1e-5",
        "+trainer.enable_progress_bar=false",
    ])  # fmt: skip
    assert [path.name for path in trained.output_files] == [
        "lfads_output_sess0.h5", "lfads_output_sess1.h5",
    ]  # fmt: skip
    for i, path in enumerate(paths):
        with h5py.File(path) as file:
            weight, bias = file["readin_weight"][()], file["readout_bias"][()]
        readin, readout = trained.model.readin[i], trained.model.readout[i]
        np.testing.assert_allclose(readin.weight, weight.T)
        np.testing.assert_allclose(readin.bias, -bias @ weight, atol=1e-5)
        assert not readin.weight.requires_grad
        # One epoch of training moves the read-outs a little.
        np.testing.assert_allclose(readout.bias.detach(), bias, atol=0.1)
        assert not np.array_equal(readout.bias.detach(), bias)


# ------------------------------------------------------------------ what is refused


def with_samples(value, n_channels=7):
    """Make the data of session 0 with a channel that has this value in all trials and bins."""
    arrays = session_arrays(shared_psths((7,), 0.3)[0])
    data = arrays["train_encod_data"]
    data[arrays["train_cond_idx"] == 2, :, 5] = value
    return {"train_encod_data": data, "train_cond_idx": arrays["train_cond_idx"]}


REFUSED = [
    ([{"train_cond_idx": None}], {}, r"sess0\.h5 has no train_cond_idx\. .* an array of 20 labels"),
    ([{"train_cond_idx": np.arange(7)}], {}, r"sess0\.h5: train_cond_idx must have .* 20 trials"),
    ([{"train_cond_idx": np.full(20, np.nan)}], {}, r"sess0\.h5 gives none of the 20 training"),
    ([{}, {"train_cond_idx": np.arange(20) % 3 + 1}], {},
     r"of the 4 in train_cond_idx \S*sess1\.h5 lacks \[0\]\. Give a condition the same label"),
    ([{"train_cond_idx": np.arange(20) % 3}, {"train_cond_idx": np.arange(20) % 2 + 1}], {},
     r"of the 3 in train_cond_idx \S*sess1\.h5 lacks \[0\]\."),
    ([{"train_cond_idx": np.arange(20) % 2}, {"train_cond_idx": np.arange(20) % 2 + 1}], {},
     r"of the 3 in train_cond_idx \S*sess0\.h5 lacks \[2\]; \S*sess1\.h5 lacks \[0\]\."),
    ([{f"{split}_{name}": np.ones((n, 11, 7)) for split, n in (("train", 20), ("valid", 4))
       for name in ("encod_data", "recon_data")}], {},
     r"sess1\.h5 have 4 conditions of 12 bins, but those of \S*sess0\.h5 have 4 .* of 11 bins"),
    ([{"train_recon_data": None}], {}, r"sess0\.h5 has no train_recon_data"),
    ([with_samples(np.nan)], {}, r"sess0\.h5: channel 5 was never observed at bin 0 of condition 2 "
     r"\(NaN in all of its 5 training trials.* smooth more \(smoothing_width = 2\.0\)"),
    ([with_samples(np.inf)], {}, r"sess0\.h5 holds infinite values: mark missing samples by NaN"),
    ([{"train_encod_data": np.ones((20, 12, 7))}], {}, r"PSTHs of \S*sess0\.h5 do not vary"),
    ([], {"smoothing_width": -1}, r"^smoothing_width = -1, but .* 12 bins of a trial in \S*sess0"),
    ([], {"smoothing_width": 12}, r"^smoothing_width = 12, but .* not milliseconds"),
    ([], {"smoothing_width": math.nan}, r"^smoothing_width = nan, but"),
    ([], {"n_components": 18}, r"^n_components = 18, but .*all sessions: 17\) have 17 dimensions"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "options", "message"), REFUSED)
def test_files_that_are_refused(tmp_path, changes, options, message):
    write_sessions(tmp_path, changes=changes)
    before = stamps(tmp_path)
    with pytest.raises(ValueError, match=message):
        align_files(tmp_path / "*.h5", **{"n_components": 3, **options})
    assert stamps(tmp_path) == before


def test_paths_that_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="matches no file"):
        align_files(tmp_path / "*.h5", 3)
    paths = write_sessions(tmp_path)
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(ValueError, match=r"notes\.txt cannot be read as an HDF5 file"):
        align_files(tmp_path / "*", 3)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "sess0.h5").write_bytes(paths[0].read_bytes())
    message = r"b/sess0\.h5 and \S*/sess0\.h5 would both be written to \S*out/sess0\.h5"
    with pytest.raises(ValueError, match=message):
        align_files([tmp_path / "b" / "*.h5", paths[0]], 3, output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "b" / "link.h5").symlink_to(paths[0])
    with pytest.raises(ValueError, match=r"would both be written to \S*/sess0\.h5"):
        align_files([tmp_path / "b" / "link.h5", paths[0]], 3)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: path != paths[1])
        with pytest.raises(FileAccessError, match=r"sess1\.h5 is write-protected: .* output_dir"):
            align_files(paths, 3)
        align_files(paths, 3, output_dir=tmp_path / "out")
    # The same file twice is one session.
    assert len(align_files([tmp_path / "sess*.h5", paths[0]], 3)) == 2
