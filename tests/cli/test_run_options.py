"""The command lines of scripts are divided into options and overrides, and errors are reported."""

import pytest

from lfads_torch.cli.run_options import parse_run, split_run_dir, start_or_resume
from lfads_torch.errors import ExistingFileError, UserError


def parse(*words):
    return parse_run("What it does.", "single.yaml", None, False, words)


def test_run_dir_is_not_an_override():
    assert split_run_dir(["a=1", "run_dir=x", "b=2", "run_dir=y=z"]) == (["a=1", "b=2"], "y=z")
    assert split_run_dir(["a=1"], "own") == (["a=1"], "own")
    assert split_run_dir([]) == ([], None)


def test_the_command_line_takes_precedence_over_the_script():
    calls = []
    status = start_or_resume(
        parse("model.gen_dim=3", "--config-dir", "mine", "run_dir=there", "--overwrite"),
        lambda overrides, **options: calls.append((overrides, options)),
        None,
        {"model": {"gen_dim": 2}},
        "here",
        script="s.py",
    )
    assert status == 0
    assert calls == [
        (
            ["model.gen_dim=2", "model.gen_dim=3"],
            {"run_dir": "there", "config_path": "single.yaml", "config_dir": "mine",
             "overwrite": True, "script": "s.py"},
        )
    ]  # fmt: skip


def test_settings_of_the_script_do_not_apply_to_a_resumed_run():
    calls = []
    args = parse("--resume", "there", "trainer.max_epochs=9")
    assert start_or_resume(args, None, lambda *a: calls.append(a), {"model": "x"}, "here") == 0
    assert calls == [("there", ["trainer.max_epochs=9"])]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("sweep.mode"), 1, "\nUserError: sweep.mode\n"),
        (ExistingFileError("there"), 1, "\nExistingFileError: there\n"),
        (KeyboardInterrupt("Go on with --resume"), 130, "\nGo on with --resume\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
    ],
)
def test_mistakes_are_reported_in_one_line(capsys, error, status, said):
    def fail(*args, **options):
        raise error

    assert start_or_resume(parse(), fail, fail, {}, None) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [RuntimeError, ValueError, OSError, ImportError])
def test_other_errors_keep_their_traceback(error):
    def fail(*args, **options):
        raise error("The size of tensor a must match the size of tensor b")

    with pytest.raises(error, match="must match"):
        start_or_resume(parse(), fail, fail, {}, None)


def test_without_a_configuration_the_function_takes_its_own():
    calls = []
    args = parse_run("What it does.", None, None, False, [])
    assert start_or_resume(args, lambda *a, **options: calls.append(options), None, {}, None) == 0
    assert calls == [{"run_dir": None, "config_dir": None, "overwrite": False}]
