"""The command lines of scripts: which words go where, and what errors become."""

import pytest

from lfads_torch.cli.run_options import parse_run, split_run_dir, start_or_resume


def parse(*words):
    return parse_run("What it does.", "single.yaml", None, False, words)


def test_run_dir_is_no_override():
    assert split_run_dir(["a=1", "run_dir=x", "b=2", "run_dir=y=z"]) == (["a=1", "b=2"], "y=z")
    assert split_run_dir(["a=1"], "own") == (["a=1"], "own")
    assert split_run_dir([]) == ([], None)


def test_words_come_after_what_the_script_says():
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


def test_what_the_script_says_is_not_applied_to_what_is_resumed():
    calls = []
    args = parse("--resume", "there", "trainer.max_epochs=9")
    assert start_or_resume(args, None, lambda *a: calls.append(a), {"model": "x"}, "here") == 0
    assert calls == [("there", ["trainer.max_epochs=9"])]


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("sweep.mode"), 1, "\nValueError: sweep.mode\n"),
        (FileExistsError("there"), 1, "\nFileExistsError: there\n"),
        (KeyboardInterrupt("Go on with --resume"), 130, "\nGo on with --resume\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
    ],
)
def test_mistakes_are_said_in_one_line(capsys, error, status, said):
    def fail(*args, **options):
        raise error

    assert start_or_resume(parse(), fail, fail, {}, None) == status
    assert capsys.readouterr().err == said


def test_other_errors_keep_their_traceback():
    def fail(*args, **options):
        raise RuntimeError("The size of tensor a must match the size of tensor b")

    with pytest.raises(RuntimeError, match="must match"):
        start_or_resume(parse(), fail, fail, {}, None)
    assert start_or_resume(parse(), fail, fail, {}, None, mistakes=(RuntimeError,)) == 1
