"""The published names of population-based training, which are imported without Ray."""

import importlib
import subprocess
import sys

import pytest

from lfads_torch.sweeps.space import HyperParam


def test_names_and_arguments_that_users_know():
    tune = importlib.import_module("lfads_torch.extensions.tune")
    for name in ("HyperParam", "BinaryTournamentPBT", "ImprovementRatioStopper",
                 "EarlyStoppingWithBurnInPeriod", "read_pbt_fitlog"):  # fmt: skip
        assert getattr(tune, name).__name__ == name
        assert name in tune.__all__
    pbt = importlib.import_module("lfads_torch.post_run.pbt")
    assert callable(pbt.read_pbt_hps)
    assert callable(pbt.plot_pbt_hps)
    with pytest.raises(AttributeError, match="has no attribute 'BinaryTournament'"):
        _ = tune.BinaryTournament
    published = HyperParam(1e-5, 5e-3, 4e-3, "loguniform", 0.3, True)
    assert published == HyperParam(
        min_samp=1e-5, max_samp=5e-3, init=4e-3, sample_fn="loguniform", explore_wt=0.3,
        enforce_limits=True,
    )  # fmt: skip
    defaults = HyperParam(1.0, 2.0)
    assert (defaults.init, defaults.sample_fn) == (None, "loguniform")
    assert (defaults.explore_wt, defaults.enforce_limits) == (0.2, False)


def test_import_imports_neither_ray_nor_pandas():
    code = (
        "import sys\n"
        "import lfads_torch.extensions.tune as tune, lfads_torch.post_run.pbt\n"
        "import lfads_torch.sweeps.search\n"
        "tune.HyperParam(1, 2).sample(__import__('numpy').random.default_rng(0))\n"
        "print({'ray', 'pandas', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stdout + done.stderr


def test_without_ray_the_error_names_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in [name for name in sys.modules if name.startswith("lfads_torch.sweeps.ray_tune")]:
        monkeypatch.delitem(sys.modules, name)
    tune = importlib.import_module("lfads_torch.extensions.tune")
    with pytest.raises(ImportError, match=r"pip install .*\[tune\]"):
        _ = tune.BinaryTournamentPBT
