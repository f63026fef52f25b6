"""Make the files in tests/legacy/data with another version of the library.

    python tests/legacy/make.py CHECKOUT

runs the scripts of CHECKOUT, a checkout of the version that makes the files, with the interpreter
(and therefore the packages) that runs this script, and writes to the folder data beside it. Paths
of the machine are replaced by the word FOLDER in configurations. The last digits of trained weights
depend on the processor, so that a second call may write other files than the first.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

HERE = Path(__file__).resolve().parent
SIZES = [
    "model.ic_enc_dim=5", "model.ci_enc_dim=4", "model.con_dim=4", "model.co_dim=2",
    "model.ic_dim=4", "model.gen_dim=7", "model.fac_dim=3", "datamodule.batch_size=4",
    "model.l2_increase_epoch=2", "model.kl_increase_epoch=2",
]  # fmt: skip
CPU = "trainer.accelerator=cpu"
SAMPLES = "posterior_sampling.fn.num_samples=3"
NO_CONTROLLER = ["model.ci_enc_dim=0", "model.con_dim=0", "model.co_dim=0"]
NOT_KEPT = ["events.out.*", "*.py", "plots", "hparams.yaml", "state_backup"]
RUN_SCRIPT = """
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
KILL_IN_EPOCH_4 = f"""
import os, runpy, signal, sys
from lfads_torch.model import LFADS

def kill(model, batch, batch_idx):
    if model.current_epoch == 4:
        os.kill(os.getpid(), signal.SIGKILL)

LFADS.on_train_batch_start = kill
{RUN_SCRIPT}"""
EXPECT_WEIGHTS = """
import sys
import numpy as np, torch

checkpoint = torch.load(sys.argv[1], weights_only=True)
weights = {key: value.numpy() for key, value in checkpoint["state_dict"].items()}
smoothed = checkpoint["valid_recon_smth"]["smoothed"]
np.savez_compressed(sys.argv[2], **weights, smoothed=smoothed)
"""
EXPECT_OUTPUTS = """
import sys
from pathlib import Path
import numpy as np, torch
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.model import LFADS

checkpoint, pattern, t_ic, trusted, path = sys.argv[1:]
model = LFADS.load_from_checkpoint(checkpoint, trusted=trusted.split()).eval()
datamodule = BasicDataModule(pattern, dm_ic_enc_seq_len=int(t_ic))
datamodule.setup()
batches = {s: batch for s, (batch, _) in enumerate(datamodule.valid_data)}
expected = {}
with torch.no_grad():
    outputs = model(batches, output_means=False)
    means = model(batches)
    for s, output in outputs.items():
        for field, value in output._asdict().items():
            expected[f"{s}/{field}"] = value.numpy()
        expected[f"{s}/means"] = means[s].output_params.numpy()
        losses = model.recon[s].compute_loss(batches[s].recon_data, output.output_params)
        expected[f"{s}/losses"] = losses.numpy()
    expected["kl/ic"] = model.ic_prior(outputs[0].ic_mean, outputs[0].ic_std).numpy()
    # In a model without controller there are no inferred inputs to have a divergence.
    if model.use_con:
        expected["kl/co"] = model.co_prior(outputs[0].co_means, outputs[0].co_stds).numpy()
np.savez_compressed(path, **expected)
"""


# ------------------------------------------------------------------ data


def trials(seed, n_channels=5, n_bins=8, n_forward=2, n_heldout=1, n_train=12, n_valid=6):
    """Return the arrays of a session of Poisson counts whose rates are known."""
    rng = np.random.default_rng(seed)
    arrays = {"conversion_factor": np.array(20.0), "psth": rng.random((2, 3))}
    bins = np.arange(n_bins + n_forward)[None, :, None]
    phase = rng.uniform(0, 6, n_channels)
    first = 0
    for split, n in (("train", n_train), ("valid", n_valid)):
        condition = np.arange(n) % 2
        rates = np.exp(np.sin(0.7 * bins + phase + condition[:, None, None]) - 0.5)
        counts = rng.poisson(rates).astype("float32")
        arrays[f"{split}_encod_data"] = counts[:, :n_bins, : n_channels - n_heldout]
        arrays[f"{split}_recon_data"] = counts
        arrays[f"{split}_truth"] = (rates * 20).astype("float32")
        arrays[f"{split}_cond_idx"] = condition
        arrays[f"{split}_inds"] = np.arange(first, first + n)
        first += n
    return arrays


def write_data(folder):
    """Write the data files of all models."""
    folder.mkdir()
    one = trials(0)
    write(folder / "one.h5", one)
    # Trials of that session that no model has seen; the file holds only encoded data.
    write(folder / "new_trials.h5", {"test_encod_data": trials(7)["valid_encod_data"]})
    rng = np.random.default_rng(1)
    inputs = {
        f"{split}_ext_input": rng.normal(size=(len(one[f"{split}_inds"]), 8, 2)).astype("float32")
        for split in ("train", "valid")
    }
    write(folder / "inputs.h5", {**one, **inputs})
    for i, n_channels in enumerate((5, 6, 4)):
        arrays = trials(10 + i, n_channels, n_forward=0, n_heldout=0)
        arrays["readin_weight"] = rng.normal(size=(n_channels, 3)).astype("float32")
        arrays["readout_bias"] = rng.normal(size=n_channels).astype("float32")
        write(folder / (f"session_{i}.h5" if i < 2 else "new_session.h5"), arrays)
    rates = np.exp(np.sin(0.2 * np.arange(240)[:, None] + rng.uniform(0, 6, 4)) - 0.5)
    np.savez_compressed(folder / "recording.npz", spikes=rng.poisson(rates).astype("uint8"))


def write(path, arrays):
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            compression = "gzip" if np.ndim(array) else None
            file.create_dataset(key, data=array, compression=compression)


# ------------------------------------------------------------------ the other version


class Version:
    """A version of the library, whose scripts run in a folder."""

    def __init__(self, checkout, folder):
        self.checkout, self.folder = checkout, folder

    def run(self, words, status=0):
        path = os.pathsep.join([str(self.checkout), str(self.folder / "data" / "own_parts")])
        environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}
        print(">", *(words if "-c" not in words else ["python -c …"]), flush=True)
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=self.folder, env=environment,
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode != status:
            sys.exit(done.stdout + done.stderr)

    def script(self, name, *words):
        self.run([self.checkout / "scripts" / f"{name}.py", *words])

    def killed(self, code, name, *words):
        """Run a script with code that kills it (kill -9) at some point."""
        self.run(["-c", code, self.checkout / "scripts" / f"{name}.py", *words], status=-9)

    def expect_weights(self, checkpoint, path):
        """Write the weights of a checkpoint, and its smoothed validation loss."""
        self.run(["-c", EXPECT_WEIGHTS, checkpoint, path])

    def expect_outputs(self, checkpoint, pattern, path, t_ic=0, trusted=""):
        """Write the output of a model for the validation trials."""
        self.run(["-c", EXPECT_OUTPUTS, checkpoint, pattern, t_ic, trusted, path])


def make(version, folder):
    """Run everything; return the folders and files that are kept, by their names in data."""
    data, runs = folder / "data", folder / "runs"
    write_data(data)
    own = data / "own_parts"
    readme = (version.checkout / "README.md").read_text()
    pattern = r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```"
    for name, code in re.findall(pattern, readme, re.DOTALL | re.MULTILINE):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(code)

    def single(name, file, *words, model="generic"):
        return [f"model={model}", "datamodule=generic", f"datamodule.datafile_pattern={file}",
                *SIZES, SAMPLES, CPU, f"run_dir=runs/{name}", *words]  # fmt: skip

    def checkpoint(name):
        return runs / name / "lightning_checkpoints" / "last.ckpt"

    # Whole runs, one of them interrupted, and trials that are inferred by the first.
    version.script("run_single", *single("finished", "data/one.h5", "trainer.max_epochs=4"))
    version.script("infer", "runs/finished", "--data", "data/new_trials.h5",
                   "--num-samples", "4", "--save-std")  # fmt: skip
    schedule = ["trainer.max_epochs=7", "model.lr_scheduler=true", "model.lr_patience=1"]
    words = single("interrupted", "data/one.h5", *schedule)
    version.killed(KILL_IN_EPOCH_4, "run_single", *words)
    # Copies of the present state are kept. The runs continue in place, since their checkpoints hold
    # their paths.
    before = folder / "before"
    for name, expected, more in [("interrupted", "resumed", []),
                                 ("finished", "continued", ["trainer.max_epochs=6"])]:  # fmt: skip
        shutil.copytree(runs / name, before / name)
        version.script("run_single", "--resume", f"runs/{name}", *more)
        version.expect_weights(checkpoint(name), f"{expected}.npz")
    version.script("chop", "data/recording.npz", "--window", "20", "--overlap", "5", "--block",
                   "60", "--output", "data/windows.h5")  # fmt: skip
    version.script("run_single", *single("chopped", "data/windows.h5", "trainer.max_epochs=2"))

    # Models, whose checkpoints and outputs are kept.
    models = {
        "no_controller": ("data/one.h5", NO_CONTROLLER, "generic", 0, ""),
        "ic_segment": ("data/inputs.h5", ["model.ic_enc_seq_len=3", "model.ext_input_dim=2"],
                       "generic", 3, ""),
        "two_sessions": ("data/session_*.h5", [], "multisession", 0, ""),
    }  # fmt: skip
    for name, (file, more, kind, t_ic, trusted) in models.items():
        words = single(name, file, "trainer.max_epochs=3", *more, model=kind)
        version.script("run_single", *words)
        version.expect_outputs(checkpoint(name), file, f"{name}.npz", t_ic, trusted)
    words = single("own_parts", "data/one.h5", "trainer.max_epochs=3", model="mine")
    version.script("run_single", "--config-dir", own / "my_configs", *words)
    version.expect_outputs(checkpoint("own_parts"), "data/one.h5", "own_parts.npz", 0, "my_parts")

    version.script("add_session", "runs/two_sessions", "--data", "data/new_session.h5",
                   "run_dir=runs/added", "trainer.max_epochs=3")  # fmt: skip

    # Sweeps.
    sweep = [*NO_CONTROLLER, "sweep.num_samples=2", "sweep.cpus_per_trial=1"]
    generations = ["sweep.scheduler.perturbation_interval=2", "sweep.scheduler.burn_in_period=2"]
    words = single("random", "data/one.h5", *sweep, "trainer.max_epochs=4", "sweep.report_every=2")
    version.script("run_multi", *words)
    words = single("pbt", "data/one.h5", *sweep, *generations, "trainer.max_epochs=6")
    version.script("run_pbt", *words)
    # What the tests have no use for.
    for name in ("random/trials", "pbt/trials", "chopped/lightning_checkpoints",
                 "added/lightning_checkpoints"):  # fmt: skip
        shutil.rmtree(runs / name)
    (runs / "pbt" / "best_model" / "lfads_output_sess0.h5").unlink()

    kept = {
        **{f"runs/{name}": before / name for name in ("finished", "interrupted")},
        **{f"runs/{name}": runs / name for name in ("chopped", "added", "random", "pbt")},
        "data": data,
        "expected/resumed.npz": "resumed.npz",
        "expected/resumed.csv": runs / "interrupted" / "csv_logs" / "metrics.csv",
        "expected/resumed.h5": runs / "interrupted" / "lfads_output_sess0.h5",
        "expected/continued.npz": "continued.npz",
        "expected/continued.csv": runs / "finished" / "csv_logs" / "metrics.csv",
    }  # fmt: skip
    for name in (*models, "own_parts"):
        kept |= {f"models/{name}.ckpt": checkpoint(name), f"models/{name}.npz": f"{name}.npz"}
    return {name: folder / path for name, path in kept.items()}


def compress(path):
    """Compress the arrays of an HDF5 file."""
    partial = path.with_suffix(".tmp")
    with h5py.File(path) as file, h5py.File(partial, "w", libver="latest") as small:
        small.attrs.update(file.attrs)
        for key, array in file.items():
            large = array.ndim and array.nbytes > 1000
            new = small.create_dataset(key, data=array[()], compression="gzip" if large else None)
            new.attrs.update(array.attrs)
    partial.replace(path)


def without_paths(path, folder):
    path.write_text(path.read_text().replace(str(folder), "FOLDER"))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    args = parser.parse_args()
    target = HERE / "data"
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="lfads_legacy_") as name:
        folder = Path(name).resolve()
        kept = make(Version(args.checkout.resolve(), folder), folder)
        for name, path in kept.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                ignored = shutil.ignore_patterns(*NOT_KEPT if name != "data" else ["__pycache__"])
                shutil.copytree(path, target / name, ignore=ignored)
            else:
                shutil.copy(path, target / name)
        for path in target.rglob("*.h5"):
            compress(path)
        for pattern in ("*.yaml", "*.json", "*.jsonl"):
            for path in target.rglob(pattern):
                if "trials" not in path.parts:  # Files of the search are pickled in part.
                    without_paths(path, folder)
    for path in sorted(path for path in target.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:8}  {path.relative_to(target)}")
    total = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{total:8}  all together")


if __name__ == "__main__":
    main()
