"""Parts that are chosen by name are composed, trained, sampled, reloaded, resumed and applied."""

import csv
import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lfads_torch.errors import UserError
from lfads_torch.model import LFADS
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.generators import LowRankGenerator, VanillaRNNGenerator
from lfads_torch.modules.mlp_readout import MLPReadout
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recurrent import ClippedGRUCell
from lfads_torch.modules.transformer import TransformerEncoder
from lfads_torch.running.compose import compose, packaged_configs
from lfads_torch.running.inference import infer
from lfads_torch.running.new_session import append_session, one_session_model, save_model
from lfads_torch.running.parts import defer_parts
from lfads_torch.running.resume import resume_run
from lfads_torch.running.run_folder import read_summary
from lfads_torch.running.start import start_run
from lfads_torch.running.training import build
from lfads_torch.tuples import SessionBatch
from tests.conftest import TINY_SIZES, tiny_arrays, tiny_model, write_file

pytestmark = pytest.mark.timeout(600)  # the slow ones start up to three processes each

ROOT = Path(__file__).parents[2]
FILES = sorted(
    f"{path.parent.name}={path.stem}"
    for group in ("generator", "controller", "encoder", "readout")
    for path in (packaged_configs() / "model" / group).glob("*.yaml")
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Make a folder with the data of one session, and of two that are not aligned."""
    home = tmp_path_factory.mktemp("parts")
    write_file(home / "tiny.h5", tiny_arrays())
    (home / "sessions").mkdir()
    write_file(home / "sessions" / "a.h5", tiny_arrays())
    write_file(home / "sessions" / "b.h5", tiny_arrays(n_channels=6, seed=1))
    return home


def single(home, *more):
    data = f"datamodule.datafile_pattern={home / 'tiny.h5'}"
    return ["model=generic", "datamodule=generic", data, *TINY_SIZES, *more]


def several(home, *more):
    data = f"datamodule.datafile_pattern={home / 'sessions' / '*.h5'}"
    random = ["model.readin.pcr_init=false", "model.readin.requires_grad=true"]
    scales = ["model.kl_ic_scale=1e-5", "model.kl_co_scale=1e-5"]
    return ["model=multisession", "datamodule=generic", data, *TINY_SIZES, *random, *scales, *more]


def composed(words):
    return build(compose(overrides=words)).model


# ------------------------------------------------------------------ configurations


@pytest.mark.parametrize("file", FILES)
def test_every_file_composes_and_makes_its_class(file, home):
    words = several if file == "readout=mlp_multisession" else single
    model = composed(words(home, f"model/{file}"))
    group, _, name = file.partition("=")
    node = OmegaConf.load(packaged_configs() / "model" / group / f"{name}.yaml")
    target = node._target_ if "modules" not in node else node.modules[0]._target_
    decoder = model.decoder
    part = {"generator": decoder.generator, "controller": decoder.controller,
            "encoder": model.encoder, "readout": model.readout}[group]  # fmt: skip
    made = {f"{type(m).__module__}.{type(m).__qualname__}" for m in part.modules()}
    assert target in made
    assert torch.isfinite(next(model.parameters())).all()


def test_all_groups_are_tested():
    assert {file.partition("=")[0] for file in FILES} == {
        "generator", "controller", "encoder", "readout"}  # fmt: skip


def test_without_a_choice_the_usual_parts_are_made(home):
    config = compose(overrides=single(home))
    assert not {"encoder", "decoder"} & set(config.model)
    (home / "model").mkdir()
    chosen = (
        "defaults: [generic, _self_, override encoder: transformer, override generator: low_rank]"
    )
    (home / "model" / "chosen.yaml").write_text(chosen)
    words = single(home)
    assert type(composed(words).encoder) is Encoder
    words[0] = "model=chosen"
    config = compose(overrides=words, config_dir=home)
    assert config.model.encoder._target_.endswith("TransformerEncoder")
    for nothing in (
        ["model/encoder=null", "model/generator=null"],
        ["model.encoder=null", "model.decoder.generator=null"],
    ):
        model = build(compose(overrides=[*words, *nothing], config_dir=home)).model
        assert type(model.encoder) is Encoder
        assert type(model.decoder.generator) is type(model.decoder.controller) is ClippedGRUCell


def test_initial_weights_do_not_depend_on_how_the_usual_parts_are_chosen(home):
    usual = composed(single(home)).state_dict()
    named = composed(
        single(home, "model.encoder._target_=lfads_torch.modules.encoder.Encoder",
               "model.decoder.generator._target_=lfads_torch.modules.recurrent.ClippedGRUCell")
    ).state_dict()  # fmt: skip
    assert usual.keys() == named.keys()
    assert all(torch.equal(value, named[key]) for key, value in usual.items())


def test_arguments_of_parts_are_overridden(home):
    model = composed(
        single(home, "model/generator=low_rank", "model.decoder.generator.rank=2",
               "model/encoder=transformer", "model.encoder.n_layers=1", "model/readout=mlp",
               "model.readout.modules.0.hidden_features=[7,8]", "model.dropout_rate=0.15")
    )  # fmt: skip
    assert model.decoder.generator.rank == 2
    assert len(model.encoder.layers) == 1
    assert model.encoder.dropout_rate == 0.15
    assert model.readout[0].hidden_features == [7, 8]


def test_a_class_and_its_arguments_may_be_given_as_overrides(home):
    generators = "lfads_torch.modules.generators"
    model = composed(
        single(home, f"model.decoder.generator._target_={generators}.LowRankGenerator",
               "model.decoder.generator.rank=2",
               f"model.encoder={{cell: {{_target_: {generators}.VanillaRNNGenerator}}}}")
    )  # fmt: skip
    assert model.decoder.generator.rank == 2
    assert type(model.encoder) is Encoder
    assert type(model.encoder.ic_enc.fwd_gru.cell) is VanillaRNNGenerator


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model/generator=low_rank", "model.decoder.generator.rang=2"],
         r"model\.decoder\.generator\.rang is not an argument .*Did you mean rank\?"),
        (["model/encoder=transformer", "model.encoder.n_layer=1"],
         r"model\.encoder\.n_layer is not an argument .*Did you mean n_layers\?"),
        (["model.encoder={cel: 1}"], r"encoder\.cel is not an argument .*Did you mean cell\?"),
        (["model.decoder={genrator: {}}"],
         r"model\.decoder\.genrator is not an argument .*Did you mean generator\?"),
        (["model/generator=low_rank", "model.decoder.generator.rank=99"], r"rank must be between"),
        (["model/generator=low_rnk"], r"low_rnk.*Available options.*low_rank"),
        (["model.encoder._target_=lfads_torch.modules.encoder.Encodr"],
         r"model\.encoder\._target_ .*cannot be imported"),
    ],
)  # fmt: skip
def test_mistakes_are_named(home, words, message):
    with pytest.raises(UserError, match=f"(?s){message}"):
        composed(single(home, *words))


def test_a_missing_argument_that_the_model_does_not_know_is_named(home, monkeypatch):
    own_parts(home, monkeypatch)
    words = single(home, "model.decoder.generator._target_=own_parts.Needy")
    with pytest.raises(UserError, match=r"model\.decoder\.generator lacks the arguments n_modes"):
        composed(words)
    assert composed([*words, "model.decoder.generator.n_modes=4"]).decoder.generator.n_modes == 4


COMMANDS = re.findall(
    r"^\.venv/bin/python scripts/run_single\.py (.*)$", (ROOT / "docs/parts.md").read_text(), re.M
)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_documentation(home, command):
    words = shlex.split(command)
    data = (several if "model=multisession" in words else single)(home)
    assert words[0] == data[0]
    assert composed([*data, *words[1:]]).hparams.gen_dim == 9


def test_every_shipped_part_is_in_the_documentation():
    assert {word for command in COMMANDS for word in command.split() if "/" in word} == {
        f"model/{file}" for file in FILES
    }


OWN_PARTS = """
from lfads_torch.modules.encoder import Encoder
from lfads_torch.modules.generators import VanillaRNNGenerator


class OwnEncoder(Encoder):
    def __init__(self, gain=1.0, **kwargs):
        super().__init__(**kwargs)
        self.gain = gain

    def forward(self, data):
        return super().forward(self.gain * data)


class Needy(VanillaRNNGenerator):
    def __init__(self, n_modes, **kwargs):
        super().__init__(**kwargs)
        self.n_modes = n_modes
"""


def own_parts(home, monkeypatch):
    (home / "own_parts.py").write_text(OWN_PARTS)
    monkeypatch.syspath_prepend(str(home))


def test_a_users_encoder_gets_the_sizes(home, monkeypatch):
    own_parts(home, monkeypatch)
    model = composed(single(home, "model.encoder={_target_: own_parts.OwnEncoder, gain: 2.0}"))
    assert type(model.encoder).__name__ == "OwnEncoder"
    assert (model.encoder.gain, model.encoder.ic_dim, model.encoder.encod_data_dim) == (2.0, 6, 4)


@pytest.mark.parametrize("model", ["multisession", "generic"])
def test_another_read_out_inherits_no_arguments(home, model):
    words = several(home, "model/readout=mlp_multisession")
    if model == "generic":
        words = single(home, "model/readout=mlp_multisession")
    node = compose(overrides=words).model.readout
    assert set(node) == {
        "_target_", "datafile_pattern", "in_features", "hidden_features", "activation",
        "requires_grad", "recon_params"}  # fmt: skip


def test_another_read_out_of_sessions_that_start_at_random(home):
    """rouse_multisession_random.yaml sets an argument of the usual read-out in the same way."""
    words = several(home, "model/readout=mlp_multisession", "model.readout.pcr_init=false")
    model = composed(words)
    assert [type(readout) for readout in model.readout] == [MLPReadout, MLPReadout]


def test_read_outs_that_are_not_aligned_may_have_any_number_of_factors(tmp_path):
    """Only if read-ins and read-outs start from the alignment, its components fix the factors."""
    for name in "ab":
        aligned = {"readin_weight": np.ones((4, 2)), "readout_bias": np.zeros(4)}
        write_file(tmp_path / f"{name}.h5", tiny_arrays() | aligned)
    data = f"datamodule.datafile_pattern={tmp_path / '*.h5'}"
    words = ["model=multisession", "datamodule=generic", data, *TINY_SIZES, "model.kl_ic_scale=1"]
    with pytest.raises(UserError, match=r"fac_dim = 3"):
        compose(overrides=words)
    words += ["model/readout=mlp_multisession", "model.encod_data_dim=2"]
    model = composed([*words, "model.readin.out_features=2"])
    assert [readout.in_features for readout in model.readout] == [3, 3]


def test_a_new_session_shares_the_parts(tiny_file, tmp_path):
    generator = functools.partial(LowRankGenerator, rank=2)
    encoder = functools.partial(TransformerEncoder, token_dim=8)
    model = tiny_model(encoder=encoder, decoder={"generator": generator}).eval()
    model.decoder.rnn.cell.con_cell = VanillaRNNGenerator(13, 4)
    one = one_session_model(model, tiny_file)
    both = append_session(model, one)
    path = save_model(both, tmp_path / "both.ckpt")
    for other in (one, both, LFADS.load_from_checkpoint(path)):
        for name in ("encoder", "decoder"):
            mine, theirs = (getattr(m, name).modules() for m in (model, other))
            assert [type(module) for module in mine] == [type(module) for module in theirs]
        for a, b in zip(model.decoder.parameters(), other.decoder.parameters(), strict=True):
            assert torch.equal(a, b)
            assert a is not b


# ------------------------------------------------------------------ runs


CASES = {
    "low_rank": (single, ["model/generator=low_rank", "model.decoder.generator.rank=2"],
                 {"decoder.rnn.cell.gen_cell": LowRankGenerator}),
    "vanilla_rnn": (single, ["model/generator=vanilla_rnn"],
                    {"decoder.rnn.cell.gen_cell": VanillaRNNGenerator}),
    "vanilla_rnn_both": (single, ["model/generator=vanilla_rnn", "model/controller=vanilla_rnn"],
                         {"decoder.rnn.cell.gen_cell": VanillaRNNGenerator,
                          "decoder.rnn.cell.con_cell": VanillaRNNGenerator}),
    "transformer": (single, ["model/encoder=transformer", "model.encoder.token_dim=8"],
                    {"encoder": TransformerEncoder}),
    "mlp": (single, ["model/readout=mlp"], {"readout.0": MLPReadout}),
    "mlp_deep": (single, ["model/readout=mlp_deep"], {"readout.0": MLPReadout}),
    "mlp_multisession": (several, ["model/readout=mlp_multisession"],
                         {"readin.1": FanInLinear, "readout.0": MLPReadout,
                          "readout.1": MLPReadout}),
    "all": (single, ["model/generator=low_rank", "model/controller=vanilla_rnn",
                     "model/encoder=transformer", "model.encoder.token_dim=8", "model/readout=mlp"],
            {"decoder.rnn.cell.gen_cell": LowRankGenerator,
             "decoder.rnn.cell.con_cell": VanillaRNNGenerator,
             "encoder": TransformerEncoder, "readout.0": MLPReadout}),
}  # fmt: skip


BY_SCRIPTS = ("low_rank", "mlp_multisession")
"""The cases that are run by the real scripts, of which each process takes seconds to start."""

SHORT = ["callbacks=[checkpoint]", "logger=[csv]", "posterior_sampling.fn.num_samples=2"]


class Scripts:
    """The scripts that users run."""

    @staticmethod
    def _run(script, *words, cwd):
        path = os.pathsep.join([str(cwd), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, str(ROOT / "scripts" / script), *map(str, words)],
            cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    def train(self, words, run_dir):
        self._run("run_single.py", *words, f"run_dir={run_dir.name}", cwd=run_dir.parent)

    def resume(self, run_dir, words):
        self._run("run_single.py", "--resume", run_dir.name, *words, cwd=run_dir.parent)

    def infer(self, run_dir, data, session, *words):
        options = ["--data", data, "--num-samples", "2", "--session", session, *words]
        self._run("infer.py", run_dir, *options, cwd=run_dir.parent)


class Functions:
    """The functions that the scripts call. They run in this process, which takes less time."""

    def train(self, words, run_dir):
        start_run(words, run_dir)

    def resume(self, run_dir, words):
        resume_run(run_dir, words)

    def infer(self, run_dir, data, session):
        infer(run_dir, data, session, num_samples=2)


def last(run_dir):
    return run_dir / "lightning_checkpoints" / "last.ckpt"


def batches(home, words):
    """Return the validation trials of every session."""
    (pattern,) = [word.partition("=")[2] for word in words if "datafile_pattern" in word]
    folder, _, name = pattern.rpartition("/")
    arrays = []
    for path in sorted(Path(folder).glob(name)):
        with h5py.File(path) as file:
            fields = (file[f"valid_{kind}_data"][()] for kind in ("encod", "recon"))
            arrays.append(SessionBatch(*map(torch.tensor, fields)))
    return dict(enumerate(arrays))


def logged(run_dir):
    with open(run_dir / "csv_logs" / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(
    scope="module",
    params=[
        case if case == "all" else pytest.param(case, marks=[pytest.mark.slow]) for case in CASES
    ],
)
def run(request, home):
    """Train a run of two epochs; return it with its overrides and the classes of its parts."""
    words_of, more, classes = CASES[request.param]
    commands = Scripts() if request.param in BY_SCRIPTS else Functions()
    words = words_of(home, *more, *SHORT)
    run_dir = home / request.param
    commands.train([*words, "trainer.max_epochs=2"], run_dir)
    return run_dir, words, classes, commands


def test_trained_sampled_and_reloaded(run, home):
    run_dir, words, classes, _ = run
    trials = batches(home, words)
    for session in trials:
        with h5py.File(run_dir / f"lfads_output_sess{session}.h5") as output:
            for name in ("output_params", "factors", "gen_states", "co_means", "ic_std"):
                values = output[f"valid_{name}"][()]
                assert values.size
                assert np.isfinite(values).all()
    model = LFADS.load_from_checkpoint(last(run_dir)).eval()
    for path, cls in classes.items():
        assert type(model.get_submodule(path)) is cls
    made = composed(words).eval()
    assert [type(m) for m in made.decoder.modules()] == [type(m) for m in model.decoder.modules()]
    made.load_state_dict(torch.load(last(run_dir), weights_only=True)["state_dict"])
    with torch.no_grad():
        first, second = made(trials), model(trials)
    for session in trials:
        for a, b in zip(first[session], second[session], strict=True):
            assert torch.equal(a, b)
    started = composed(words).state_dict()
    moved = {key for key, value in model.state_dict().items() if (value != started[key]).any()}
    for path in classes:
        assert any(key.startswith(path) for key in moved), f"{path} was not trained"


def test_inferred_from_new_trials(run, home):
    run_dir, words, _, commands = run
    for session, trials in batches(home, words).items():
        with h5py.File(home / "new.h5", "w") as file:
            file["test_encod_data"] = trials.encod_data
        commands.infer(run_dir, home / "new.h5", session)
        with h5py.File(run_dir / "inferred" / f"new_sess{session}.h5") as new:
            assert new["test_output_params"].shape == trials.recon_data.shape
            assert np.isfinite(new["test_output_params"][()]).all()


def test_resumed_to_the_numbers_of_a_run_that_was_not_interrupted(run, home):
    """This test comes last, since it trains the run further."""
    run_dir, words, _, commands = run
    whole = home / f"{run_dir.name}_whole"
    commands.train([*words, "trainer.max_epochs=4"], whole)
    commands.resume(run_dir, ["trainer.max_epochs=4"])
    assert read_summary(run_dir)["epochs"] == read_summary(whole)["epochs"] == 4
    resumed, never = (torch.load(last(folder), weights_only=True) for folder in (run_dir, whole))
    assert resumed["state_dict"].keys() == never["state_dict"].keys()
    for key, value in resumed["state_dict"].items():
        assert torch.equal(value, never["state_dict"][key]), key
    assert logged(run_dir) == logged(whole)


@pytest.mark.slow
def test_inference_uses_a_users_part_if_it_is_trusted(home, monkeypatch):
    own_parts(home, monkeypatch)
    run_dir = home / "own"
    words = ["model.encoder={_target_: own_parts.OwnEncoder, gain: 2.0}", "trainer.max_epochs=1"]
    Scripts().train(single(home, *words, *SHORT), run_dir)
    with pytest.raises(UserError, match=r"own_parts\.OwnEncoder for encoder.*trusted="):
        LFADS.load_from_checkpoint(last(run_dir))
    assert LFADS.load_from_checkpoint(last(run_dir), trusted=["own_parts"]).encoder.gain == 2.0
    with h5py.File(home / "new.h5", "w") as file:
        file["test_encod_data"] = tiny_arrays()["valid_encod_data"]
    Scripts().infer(run_dir, home / "new.h5", 0, "--trusted", "own_parts")
    assert (run_dir / "inferred" / "new_sess0.h5").exists()


def test_a_part_is_made_by_the_model_even_if_it_is_not_to_be_partial():
    generator = {"_target_": "my.Generator", "_partial_": False}
    model = OmegaConf.create({"decoder": {"generator": generator}})
    defer_parts(model)
    assert model.decoder.generator._partial_
