"""The code in the README is run without changes."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lfads_torch.errors import UserError
from lfads_torch.model import LFADS
from lfads_torch.running.compose import compose
from lfads_torch.running.training import build
from lfads_torch.tuples import SessionBatch
from tests.conftest import TINY_SIZES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FAST = [
    *(word for word in TINY_SIZES if "batch_size" not in word), "trainer.max_epochs=2",
    "posterior_sampling.fn.num_samples=2",
]  # fmt: skip


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def execute(command, cwd, *more):
    """Run a command of the README with this interpreter, for fewer epochs."""
    words = shlex.split(command.replace("\\\n", " "))
    environment = dict(os.environ)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment[name] = os.pathsep.join([value, environment.get(name, "")])
    assert words[:2] == [".venv/bin/python", "scripts/run_single.py"]
    words = [word for word in words[2:] if not word.startswith("trainer.max_epochs")]
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "run_single.py", *words, *more],
        cwd=cwd, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with recorded spikes."""
    home = tmp_path_factory.mktemp("home")
    np.save(home / "spikes.npy", np.random.default_rng(0).poisson(0.5, (30, 12, 7)))
    return home


@pytest.fixture(scope="module")
def trained(home):
    """The folder after steps 1 and 2 of "your own data"."""
    (write_file,) = [code for code in blocks("python") if "spikes.npy" in code]
    subprocess.run([sys.executable, "-c", write_file], cwd=home, check=True)
    (command,) = [code for code in blocks("sh") if "run_dir=runs/mine" in code]
    execute(command, home, *FAST)
    return home


def test_own_data(trained):
    (read,) = [code for code in blocks("python") if "valid_output_params" in code]
    check = "\nassert rates.shape == (6, 12, 7) and len(trials) == len(factors) == 6"
    subprocess.run([sys.executable, "-c", read + check], cwd=trained, check=True)


def test_trained_model(trained):
    (use,) = [code for code in blocks("python") if "load_from_checkpoint" in code]
    subprocess.run([sys.executable, "-c", use], cwd=trained, check=True)
    assert (trained / "again_sess0.h5").exists()


def test_parts_of_your_own(trained, monkeypatch):
    for name, code in re.findall(
        r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```", README, re.DOTALL | re.MULTILINE
    ):
        (trained / name).parent.mkdir(parents=True, exist_ok=True)
        (trained / name).write_text(code)
    (command,) = re.findall(r"<!-- run -->\n```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    execute(command, trained, "run_dir=own", *FAST)
    monkeypatch.syspath_prepend(str(trained))
    monkeypatch.delitem(sys.modules, "my_parts", raising=False)  # that of another test
    path = trained / "own" / "lightning_checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"my_parts\..*trusted=\['my_parts'\]"):
        LFADS.load_from_checkpoint(path)
    model = LFADS.load_from_checkpoint(path, trusted=["my_parts"])
    import my_parts

    assert isinstance(model.encoder, my_parts.ConvolutionalEncoder)
    assert model.encoder.features.kernel_size == (7,)
    assert isinstance(model.decoder.generator, my_parts.LinearGenerator)
    untrained = 0.95 * torch.eye(9)
    assert (model.decoder.generator.dynamics != untrained).any(dim=1).all()

    assert isinstance(model.recon[0], my_parts.NegativeBinomialCounts)
    assert isinstance(model.co_prior, my_parts.LaplacePrior)
    assert isinstance(model.train_aug_stack.transforms[1], my_parts.ChannelDropout)
    assert model.readout[0].out_features == 14
    config = compose(trained / "own" / "config.yaml")
    again = build(config).model
    again.load_state_dict(model.state_dict())
    trials = SessionBatch(*2 * [torch.tensor(np.load(trained / "spikes.npy")).float()])
    with torch.no_grad():
        outputs = [m.eval()(trials)[0] for m in (model, again)]
    for a, b in zip(*outputs, strict=True):
        assert torch.isfinite(a).all()
        assert torch.equal(a, b)


def test_links_lead_to_existing_files():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
