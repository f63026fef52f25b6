"""The commands of scripts/run_pbt.py and scripts/run_multi.py, up to the search itself."""

import pytest

from lfads_torch.cli.run_sweep import main
from lfads_torch.errors import UserError
from lfads_torch.sweeps import search
from lfads_torch.sweeps.compose import compose_sweep
from lfads_torch.sweeps.space import HyperParam

COMMANDS = pytest.mark.parametrize("config", ["pbt.yaml", "multi.yaml"])


@pytest.fixture
def calls(monkeypatch):
    """Record the arguments of sweeps that would be started or resumed."""
    calls = []
    monkeypatch.setattr(search, "run_sweep", lambda *a, **options: calls.append((a, options)))
    monkeypatch.setattr(search, "resume_sweep", lambda *a: calls.append(a))
    return calls


@COMMANDS
def test_options_of_the_script_and_words_of_the_command_line(config, calls):
    space = {"model.lr_init": HyperParam(1e-4, 1e-2)}
    words = ["model.gen_dim=3", "run_dir=there"]
    status = main(config, "text", "s.py", None, {"model": "x"}, space, "here", words=words)
    ((overrides,), options), = calls  # fmt: skip
    assert status == 0
    assert overrides == ["model=x", "model.gen_dim=3"]
    assert options["space"] is space
    assert (options["run_dir"], options["script"]) == ("there", "s.py")


@pytest.mark.parametrize(("config", "num_trials"), [("pbt.yaml", 20), ("multi.yaml", 60)])
def test_the_packaged_configuration_is_the_default(
    config, num_trials, calls, tmp_path, monkeypatch
):
    """A configuration that happens to lie beside the current folder is not used."""
    (tmp_path / "configs").mkdir()
    for name in ("pbt.yaml", "multi.yaml"):
        (tmp_path / "configs" / name).write_text("sweep: {num_trials: 1}\n")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(config, "text", "s.py", words=[]) == 0
    ((overrides,), options), = calls  # fmt: skip
    composed = compose_sweep(options["config_path"], overrides)
    assert composed.sweep.num_trials == num_trials
    assert main(config, "text", "s.py", words=["--config-path", "mine.yaml"]) == 0
    assert calls[-1][1]["config_path"] == "mine.yaml"


@COMMANDS
def test_resuming(config, calls):
    words = ["--resume", "there", "sweep.ray_address=auto"]
    assert main(config, "text", "s.py", overrides={"model": "x"}, words=words) == 0
    assert calls == [("there", ["sweep.ray_address=auto"])]


@COMMANDS
def test_errors_of_the_user_are_printed_in_one_line(config, monkeypatch, capsys):
    def fail(*args, **options):
        raise UserError("Every trial failed.")

    monkeypatch.setattr(search, "run_sweep", fail)
    assert main(config, "text", "s.py", words=[]) == 1
    assert capsys.readouterr().err == "\nUserError: Every trial failed.\n"
    monkeypatch.setattr(search, "run_sweep", lambda *args, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(config, "text", "s.py", words=[])
