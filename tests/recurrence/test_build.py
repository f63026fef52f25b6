"""The compiled library is built once and checked; without it, PyTorch runs."""

import platform
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch

from lfads_torch.modules.recurrent import ClippedGRU
from lfads_torch.recurrence import build, choice
from lfads_torch.recurrence.compiled import CompiledBackend
from lfads_torch.recurrence.library import Library
from tests.recurrence import common, test_decoder, test_gru, test_linear, test_poisson
from tests.recurrence.common import Case


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """Set an empty cache folder, and return its parent."""
    monkeypatch.setenv(build.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path


def use_compiler(path, script, monkeypatch):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))


def test_without_a_compiler(fresh, monkeypatch):
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    with pytest.raises(build.Unavailable, match=r"no C\+\+ compiler"):
        build.load()


def test_a_compiler_that_fails(fresh, monkeypatch):
    use_compiler(fresh / "cxx", "echo 'something is wrong' >&2; exit 1", monkeypatch)
    with pytest.raises(build.Unavailable, match="cxx failed: something is wrong"):
        build.load()
    assert not list((fresh / "cache").glob("*.so"))


def test_a_compiler_that_does_not_end(fresh, monkeypatch):
    use_compiler(fresh / "cxx", "exec sleep 60", monkeypatch)
    monkeypatch.setattr(build, "TIMEOUT", 0.3)
    start = time.monotonic()
    with pytest.raises(build.Unavailable, match=r"took more than 0\.3 s"):
        build.load()
    assert time.monotonic() - start < 10


def test_a_compiler_that_knows_fewer_options(fresh, monkeypatch):
    """Without OpenMP and options for this processor there is still a library."""
    refuse = 'case "$*" in *-fopenmp*|*native*) echo no >&2; exit 1;; esac'
    use_compiler(fresh / "cxx", f'{refuse}\nexec c++ "$@" -O0', monkeypatch)
    assert not Library().threaded


def test_it_is_built_by_one_of_many_and_kept(fresh, monkeypatch):
    calls = []

    def slow(path):
        calls.append(path)
        time.sleep(0.3)
        path.write_bytes(b"")

    monkeypatch.setattr(build, "_compile", slow)
    monkeypatch.setattr(build, "_open", lambda path: path)
    threads = [threading.Thread(target=build.load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    monkeypatch.setattr(build.shutil, "which", lambda name: None)
    assert build.load() == build.library_path()
    assert len(calls) == 1


def test_a_cache_folder_that_cannot_be_written_to(fresh, monkeypatch):
    (fresh / "cache").write_text("a file, not a folder")
    calls = []
    monkeypatch.setattr(build, "_compile", lambda path: calls.append(path.parent))
    monkeypatch.setattr(build, "_open", lambda path: path)
    build.load()
    assert calls != [fresh / "cache"]
    assert not calls[0].exists()


def test_another_source_processor_or_pytorch_is_another_library(fresh, monkeypatch):
    names = {build.library_path()}
    monkeypatch.setattr(build, "_processor", lambda: "other")
    names.add(build.library_path())
    monkeypatch.setattr(build.torch, "__version__", "1.0")
    names.add(build.library_path())
    source = fresh / "kernels"
    shutil.copytree(build.SOURCE, source)
    monkeypatch.setattr(build, "SOURCE", source)
    assert build.library_path() in names
    header = source / "unit.h"
    header.write_text(header.read_text() + "\n")
    names.add(build.library_path())
    assert len(names) == 4


def test_nothing_is_built_by_importing_or_making_a_model(fresh, monkeypatch):
    monkeypatch.setattr(choice, "BACKENDS", (CompiledBackend(), choice.PYTORCH))
    gru = ClippedGRU(2, 3)
    assert not (fresh / "cache").exists()
    gru(torch.zeros(1, 2, 2), torch.zeros(1, 3))
    assert list((fresh / "cache").glob("*.so"))


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are options for x86-64")
@pytest.mark.parametrize("options", [[], ["-mavx2", "-mfma"], ["-mavx512f"]])
def test_processors_of_other_kinds(options, fresh, monkeypatch):
    """Each uses other registers or the BLAS library's products, and computes the same."""
    features = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").is_file() else []
    if not {option[2:] for option in options} <= set(features):
        pytest.skip("this processor could not run it")
    flags = ["-O2", "-std=gnu++17", "-fPIC", "-shared", "-fopenmp"]
    monkeypatch.setattr(build, "_flags", lambda: [[*flags, *options]])
    looked_for = []
    blas = build._blas
    monkeypatch.setattr(build, "_blas", lambda: looked_for.append(True) or blas())
    monkeypatch.setattr(choice, "BACKENDS", (CompiledBackend(), choice.PYTORCH))
    monkeypatch.setattr(common, "BACKENDS", choice.BACKENDS)
    case = Case("compiled")
    assert case.backend.unavailable() is None
    assert bool(looked_for) == (not options)
    test_gru.test_recurrent_unit(case=case)
    test_decoder.test_decoder(case=case)
    test_linear.test_linear(case=case)
    test_poisson.test_poisson_losses(case=case, kind="spikes", stirling=True)
    test_gru.test_many_trials_and_threads(2, dense=False)
    test_gru.test_many_trials_and_threads(1, dense=True)
    test_decoder.test_many_trials_and_threads(2)
