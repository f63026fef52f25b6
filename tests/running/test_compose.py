"""Configurations are found and composed from files, overrides and other configurations."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import ListConfig, OmegaConf

from lfads_torch.running import compose as config
from lfads_torch.running.compose import (
    compose,
    compose_unresolved,
    find_config,
    format_overrides,
    packaged_configs,
)
from tests.conftest import TINY_SIZES, tiny_arrays, write_file
from tests.running.configurations import (
    generic,
    write_texts,
)

ROOT = Path(__file__).parents[2]
CONFIGS = packaged_configs()

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*trains without regularisation"),
    pytest.mark.filterwarnings("ignore:.*fewer than its share of a batch"),
]


# ------------------------------------------------------------------ the published style


@pytest.mark.parametrize("absolute", [True, False])
def test_published_style(project, absolute):
    path = Path("configs/single.yaml")
    with pytest.warns(UserWarning, match=r"no trainer\.gpus"):
        resolved = compose(path.absolute() if absolute else path)
    model = instantiate(resolved.model, _convert_="all")
    datamodule = instantiate(resolved.datamodule, _convert_="all")
    trainer = instantiate(resolved.trainer, logger=False, _convert_="all")
    sampling = instantiate(resolved.posterior_sampling.fn, _convert_="all")
    datamodule.setup()
    assert resolved.datamodule.datafile_pattern == str(project / "mydata" / "*.h5")
    assert datamodule.psth.shape == (2, 3)
    assert model.hparams.gen_dim == 9
    assert model.readout[0].in_features == 3
    assert model.train_aug_stack.transforms[0].cd_rate == 0.4
    assert trainer.max_epochs == 7
    assert trainer.accelerator.__class__.__name__ == "CPUAccelerator"
    assert sampling.keywords["num_samples"] == 50
    model.log_dict = lambda values: None
    batch = next(iter(datamodule.train_dataloader()))[0]
    assert model.training_step(batch, 0).isfinite()


@pytest.mark.filterwarnings("ignore:.*no trainer.gpus")
def test_own_files_take_precedence_over_packaged_ones(project):
    resolved = compose("configs/single.yaml")
    assert list(resolved.callbacks) == ["checkpoint", "my_lr_monitor"]  # packaged, own
    other = compose("configs/single.yaml", ["model=generic", "logger=[csv,tensorboard]"])
    assert other.model.gen_dim == 100
    assert other.model.encod_data_dim == 4
    assert list(other.logger) == ["csv", "tensorboard"]


def test_own_file_may_build_on_a_packaged_one(project):
    write_texts(project, {"configs/model/mine.yaml": """
        defaults: [single_session, _self_]
        gen_dim: 17
    """})  # fmt: skip
    resolved = compose(project / "configs" / "single.yaml", ["model=mine", "~trainer.gpus"])
    assert (resolved.model.gen_dim, resolved.model.ic_dim) == (17, 100)


def test_a_second_primary_builds_on_the_first(project):
    write_texts(project, {"configs/quick.yaml": """
        defaults: [single, _self_]
        trainer:
          max_epochs: 3
    """})  # fmt: skip
    assert compose("configs/quick.yaml", ["~trainer.gpus"]).trainer.max_epochs == 3


def test_config_dir(project, tmp_path_factory):
    own = tmp_path_factory.mktemp("own")
    write_texts(own, {"model/generic.yaml": "defaults: [lorenz, _self_]\ngen_dim: 19\n"})
    overrides = ["model=generic", "datamodule=generic",
                 "datamodule.datafile_pattern=mydata/one.h5"]  # fmt: skip
    packaged = compose("single.yaml", overrides)
    mine = compose("single.yaml", overrides, config_dir=own)
    assert (packaged.model.gen_dim, mine.model.gen_dim) == (100, 19)
    assert mine.trainer == packaged.trainer
    before_all = compose("configs/single.yaml", [*overrides, "~trainer.gpus"], config_dir=own)
    assert (before_all.model.gen_dim, before_all.trainer.max_epochs) == (19, 7)
    write_texts(own, {"single.yaml": "defaults: [model: generic, datamodule: generic]\nmine: 1\n"})
    assert compose("single.yaml", overrides, config_dir=own).mine == 1
    assert compose("single.yaml", overrides, config_dir=os.path.relpath(own)).mine == 1
    with pytest.raises(FileNotFoundError, match=r"no folder of configurations nowhere"):
        compose("single.yaml", overrides, config_dir="nowhere")


@pytest.mark.parametrize("name", ["with space", "co,mma", "eq=al", "brace{x}", "dollar$x", "hash#",
                                  "back\\slash", "quo'te", "per%cent", "ümlaut"])  # fmt: skip
def test_folders_of_any_name(tmp_path, name):
    write_texts(tmp_path / name, {"mine.yaml": "defaults: [single]", "model/mine.yaml":
                                  "defaults: [generic, _self_]\ngen_dim: 17"})  # fmt: skip
    where = f"datamodule.datafile_pattern={write_file(tmp_path / 'a.h5', tiny_arrays())}"
    resolved = compose(tmp_path / name / "mine.yaml", ["model=mine", "datamodule=generic", where])
    assert resolved.model.gen_dim == 17


# ------------------------------------------------------------------ finding files, resolvers


def test_find_config(tmp_path, monkeypatch):
    """Files are found in the current folder, relative to the package, and by a packaged name."""
    package, packaged = tmp_path / "package", tmp_path / "packaged"
    monkeypatch.setattr(config, "PACKAGE", package)
    monkeypatch.setattr(config, "packaged_configs", lambda: packaged)
    here = tmp_path / "here"
    for folder in (here, package, packaged):
        folder.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(FileNotFoundError, match=r"'x\.yaml'.*here.*package.*packaged"):
        find_config("x.yaml")
    for folder in (packaged, package, here):
        write_texts(folder, {"x.yaml": "a: 1"})
        assert find_config("x.yaml") == folder / "x.yaml"
    assert find_config(package / "x.yaml") == package / "x.yaml"
    assert find_config(Path("../package/x.yaml")) == package / "x.yaml"
    assert find_config("elsewhere/x.yaml") == packaged / "x.yaml"
    (here / "x.yaml").unlink()
    (here / "x.yaml").mkdir()  # This is not a file.
    assert find_config("x.yaml") == package / "x.yaml"


def test_find_config_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("../configs/single.yaml", "single.yaml"):
        assert find_config(path) == CONFIGS / "single.yaml"


def test_relpath(tmp_path, monkeypatch):
    """Paths and patterns may be relative to the checkout, the package or the current folder."""
    folders = [tmp_path / name for name in ("checkout", "checkout/package", "here")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.setattr(config, "PACKAGE", folders[1])
    monkeypatch.chdir(folders[2])
    config.register_resolvers()

    def resolved(path):
        return Path(OmegaConf.create({"path": f"${{relpath:{path}}}"}).path)

    # A path that does not exist yet is in the current folder, or in the checkout if there is one.
    assert resolved("data/*.h5") == folders[2] / "data" / "*.h5"
    write_texts(folders[0], {"setup.py": "x"})
    assert resolved("data/*.h5") == folders[0] / "data" / "*.h5"
    for folder in reversed(folders):
        write_texts(folder, {"data/a.h5": "x"})
        assert resolved("data/*.h5") == folder / "data" / "*.h5"
    assert resolved("../here/data/a.h5") == folders[2] / "data" / "a.h5"
    assert resolved(folders[2] / "data/a.h5") == folders[2] / "data" / "a.h5"


def test_max_and_sum():
    config.register_resolvers()
    config.register_resolvers()  # A second call has no effect.
    node = OmegaConf.create({"a": 3, "b": "${max:${a},7,5}", "c": "${sum:${a},0.5,1}"})
    assert (node.b, node.c) == (7, 4.5)


def fresh(code, *options, cwd, path=ROOT):
    """Run Python in a new process, which finds the library in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, *options, "-c", code], cwd=cwd, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_registers_nothing(tmp_path):
    code = """
from omegaconf import OmegaConf
import lfads_torch.running.compose
print([OmegaConf.has_resolver(name) for name in ("relpath", "max", "sum")])
lfads_torch.running.compose.register_resolvers()
print([OmegaConf.has_resolver(name) for name in ("relpath", "max", "sum")])
"""
    before, after = fresh(code, cwd=tmp_path).splitlines()
    assert before == "[False, False, False]"
    assert after == "[True, True, True]"


# ------------------------------------------------------------------ overrides


@pytest.fixture(scope="module")
def hydra_value(tmp_path_factory):
    """Return a function that gives the value that Hydra reads from an override."""
    folder = tmp_path_factory.mktemp("configs")
    write_texts(folder, {"x.yaml": "a: {b: null}"})

    def get(value):
        with hydra.initialize_config_dir(str(folder), version_base="1.3"):
            composed = hydra.compose("x", format_overrides({"a": {"b": value}}))
        return OmegaConf.to_container(composed)["a"]["b"]

    return get


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
# Texts begin with the letter q, so that they are never numbers or words such as null.
CHARACTERS = ["q", "=", ",", "{", "}", "[", "'", '"', "\\", " ", "$", ":"]
TEXTS = st.lists(st.sampled_from(CHARACTERS), max_size=8).map(lambda parts: "".join(["q", *parts]))
KEYS = st.sampled_from(["a", "_b", "c9", "key_of_many_letters"])
VALUES = st.recursive(
    NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None)
@given(st.lists(VALUES, min_size=1), st.lists(TEXTS, min_size=3))
def test_overrides_are_read_as_they_were_meant(values, texts):
    parser = OverridesParser.create()
    for meant in (values, texts):
        [parsed] = parser.parse_overrides(format_overrides({"a": meant}))
        assert parsed.key_or_group == "a"
        assert repr(parsed.value()) == repr(meant)


@pytest.mark.parametrize("value", [
    "", " ", "a b ", "=", "a=b", "a,b", "{a:1}", "[1,2]", "(x)", "'", '"', "\\", "\\\\", 'a\\"b',
    "a\\", "a\nb", "~/data/lfads_*.h5", "C:\\data\\x.h5", "a: b", "-", "???x", "choice(1,2)",
    10**30, float("inf"), -0.0, 1e-300, [], [[]], [None, True, "a,b"], [{"a": "x=y"}],
    [{"b": {"c": [1]}}],
])  # fmt: skip
def test_overrides_with_special_characters(hydra_value, value):
    assert repr(hydra_value(value)) == repr(value)


@pytest.mark.parametrize(("value", "read"), [("null", None), ("true", True), ("1e-3", 1e-3)])
def test_text_that_looks_like_a_value_is_one(hydra_value, value, read):
    """This is as in the published code, which passed text to Hydra without changes."""
    assert hydra_value(value) == read


@pytest.mark.parametrize("value", [
    (1, "a"), Path("some/path.h5"), ListConfig([1, "a,b"]), np.int64(3), np.float32(0.5),
])  # fmt: skip
def test_overrides_of_other_types(hydra_value, value):
    plain = {tuple: list, ListConfig: list, np.int64: int, np.float32: float}.get(type(value), str)
    assert hydra_value(value) == plain(value)


def test_format_overrides():
    overrides = {"model": "lorenz", "model.lr_init": 1e-3, "trainer": {"max_epochs": 3},
                 "+new": None, "logger": ["csv"], "b": True, "n": "${model.gen_dim}"}  # fmt: skip
    assert format_overrides(overrides) == [
        "model=lorenz", "model.lr_init=0.001", "trainer.max_epochs=3", "+new=null", "logger=[csv]",
        "b=true", "n=${model.gen_dim}",
    ]  # fmt: skip
    ready = ["model=lorenz", "~logger", "+x='a b'"]
    assert format_overrides(ready) == ready


def test_overrides_by_numpy_floats(tiny):
    """Samplers and np.geomspace return such numbers."""
    assert generic(*format_overrides({"model.lr_init": np.float64(1e-3)})).model.lr_init == 1e-3


@pytest.mark.parametrize("value", ["josé/a.h5", "数据.h5"])
def test_overrides_beyond_ascii(hydra_value, value):
    assert hydra_value(value) == value


def test_override_that_ends_in_a_backslash_and_a_line_break(hydra_value):
    assert hydra_value("a\\\n") == "a\\\n"


def test_override_by_an_empty_dictionary():
    assert format_overrides({"callbacks": {}}) == ["callbacks={}"]


@pytest.mark.parametrize("as_dict", [True, False])
def test_paths_of_overrides(tiny, as_dict):
    values = {"model.train_aug_stack.transforms.0.cd_rate": 0.45,
              "model.readout.modules.0.out_features": 5}  # fmt: skip
    if as_dict:
        files = {"datamodule.datafile_pattern": "tiny.h5"}
        groups = {"model": "generic", "datamodule": "generic"}
        resolved = compose("single.yaml", {**groups, **files, **values})
    else:
        resolved = generic(*(f"{key}={value}" for key, value in values.items()))
    model = instantiate(resolved.model, _convert_="all")
    assert model.train_aug_stack.transforms[0].cd_rate == 0.45
    with pytest.raises(ValueError, match=r"model\.readout\.modules\.0\.out_features = 6"):
        generic("model.readout.modules.0.out_features=6")


# ------------------------------------------------------------------ configurations in memory


def test_a_configuration_in_memory_is_composed_like_its_file(tiny, tmp_path):
    resolved = generic("model.train_aug_stack.transforms.0.cd_rate=0.2")
    OmegaConf.save(resolved, tmp_path / "saved.yaml")
    before = OmegaConf.to_yaml(resolved)
    overrides = ["model.lr_init=0.5", "model.train_aug_stack.transforms.0.cd_rate=0.1",
                 "~callbacks.lr_monitor", "+trainer.min_epochs=2"]  # fmt: skip
    in_memory = compose(resolved, overrides)
    assert in_memory == compose(tmp_path / "saved.yaml", overrides)
    assert in_memory.model.lr_init == 0.5
    assert in_memory.model.train_aug_stack.transforms[0].cd_rate == 0.1
    assert in_memory.trainer.min_epochs == 2
    assert "lr_monitor" not in in_memory.callbacks
    assert OmegaConf.to_yaml(resolved) == before
    in_memory.trainer.max_epochs = 1
    assert resolved.trainer.max_epochs == 1000
    with_group = compose(resolved, ["+logger@more=wandb"])
    assert with_group.more.wandb.project == "lfads_torch"


def test_interpolations_of_a_configuration_in_memory_follow_overrides(tiny):
    data = ["model=generic", "datamodule=generic", "datamodule.datafile_pattern=tiny.h5"]
    unresolved = compose_unresolved("single.yaml", [*data, *TINY_SIZES])
    resolved = compose(unresolved, {"model.fac_dim": 5})
    assert resolved.model.readout.modules[0].in_features == 5
    assert OmegaConf.is_interpolation(unresolved.model.readout.modules[0], "in_features")


def test_faults_of_a_configuration_in_memory(tiny):
    resolved = generic()
    with pytest.raises(
        ValueError, match=r"(?s)in memory cannot be composed: .*mean model\.lr_init\?"
    ):
        compose(resolved, ["model.lr_intt=1"])
    with pytest.raises(ValueError, match=r"in memory cannot be resolved: .*nix"):
        compose(resolved, ["model.gen_dim=${nix:1}"])
    with pytest.raises(ValueError, match=r"encod_seq_len = 9, .*tiny\.h5 asks for 8"):
        compose(resolved, ["model.encod_seq_len=9"])


def test_the_default_is_the_packaged_configuration(project, monkeypatch):
    """Files in the folders around the current one have no influence."""
    (project / "here").mkdir()
    monkeypatch.chdir(project / "here")  # ../configs/single.yaml is the user's project's
    data = ["model=generic", "datamodule=generic", "datamodule.datafile_pattern=../mydata/one.h5"]
    assert compose(overrides=data).trainer.max_epochs == 1000
    with pytest.warns(UserWarning, match="gpus"):
        assert compose("../configs/single.yaml", data).trainer.max_epochs == 7


def test_composing_in_several_threads(tiny):
    """Hydra keeps its state in globals, which threads must not see while they change."""
    sizes = range(3, 11)
    with ThreadPoolExecutor(len(sizes)) as pool:
        made = list(pool.map(lambda size: generic(f"model.gen_dim={size}"), sizes))
    assert [config.model.gen_dim for config in made] == list(sizes)


# ------------------------------------------------------------------ mistakes


def test_a_primary_that_is_not_yaml(tmp_path):
    write_texts(tmp_path, {"x.yaml": "a: [1,\nb: }"})
    with pytest.raises(ValueError, match=r"x\.yaml"):
        compose(tmp_path / "x.yaml")


def test_files_that_are_not_there(tiny):
    with pytest.raises(FileNotFoundError, match=r"datamodule\.datafile_pattern = 'none\*\.h5'"):
        generic(file="none*.h5")
    with pytest.raises(FileNotFoundError, match=r"'nowhere\.yaml'"):
        compose("nowhere.yaml")


def test_the_error_suggests_a_key_for_a_misspelt_override(tiny):
    with pytest.raises(ValueError, match="lr_intt") as error:
        generic("model.lr_intt=1")
    assert "Did you mean" in str(error.value)


# ------------------------------------------------------------------ Hydra's state


def test_the_state_of_hydra_is_restored(tiny, tmp_path):
    assert not GlobalHydra.instance().is_initialized()
    generic()
    with pytest.raises(ValueError, match="nonsense"):
        generic("+model.nonsense=1")
    with pytest.raises(ValueError, match="genric"):
        generic("model=genric")
    assert not GlobalHydra.instance().is_initialized()
    write_texts(tmp_path / "users", {"users.yaml": "a: 1"})
    with hydra.initialize_config_dir(str(tmp_path / "users"), version_base="1.3"):
        users = GlobalHydra.instance().hydra
        assert generic().model.gen_dim == 9
        with pytest.raises(ValueError, match="genric"):
            generic("model=genric")
        assert GlobalHydra.instance().hydra is users
        assert hydra.compose("users") == {"a": 1}


# ------------------------------------------------------------------ the wheel


@pytest.mark.slow
def test_composing_from_a_wheel(tmp_path):
    """A wheel holds the configurations, and needs no checkout."""
    source, target, run = tmp_path / "source", tmp_path / "target", tmp_path / "run"
    source.mkdir()
    run.mkdir()
    for name in ("lfads_torch", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.iterdir():  # build/ is left out, because setuptools would find old files there
        if path.is_file():
            shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    quick = ["--no-deps", "--no-index"]
    for command in (["wheel", *quick, "--no-build-isolation", "-w", str(tmp_path), str(source)],
                    ["install", *quick, "--target", str(target)]):  # fmt: skip
        wheels = map(str, tmp_path.glob("*.whl")) if command[0] == "install" else []
        subprocess.run([*pip, *command, *wheels], check=True, cwd=run)
    shutil.rmtree(source)
    files = {path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml")}
    installed = target / "lfads_torch" / "configs"
    assert {path.relative_to(installed) for path in installed.rglob("*.yaml")} == files

    write_file(run / "tiny.h5", tiny_arrays())
    code = """
import lfads_torch
from lfads_torch.running.compose import compose, packaged_configs
from lfads_torch.running.training import run_model
from hydra.utils import instantiate
print(lfads_torch.__file__)
print(packaged_configs())
data = {"datamodule": "generic", "datamodule.datafile_pattern": "tiny.h5"}
for path in ("../configs/single.yaml", "single.yaml"):
    config = compose(path, {"model": "generic", **data})
    print(type(instantiate(config.model, _convert_="all")).__name__)
"""
    package, configs, *models = fresh(code, cwd=run, path=target).splitlines()
    assert Path(package).parent == target / "lfads_torch"
    assert Path(configs) == installed
    assert models == ["LFADS", "LFADS"]
