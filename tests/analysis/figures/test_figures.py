"""All figures draw small arrays, and none changes the state of matplotlib."""

import subprocess
import sys

import numpy as np
import pytest

from lfads_torch.analysis import figures as plots
from tests.analysis.figures.drawn import N, T, rendered


def test_import_does_not_import_matplotlib():
    code = "import sys, lfads_torch.analysis.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_global_state(tmp_path):
    code = (
        "import sys, matplotlib, numpy as np; from lfads_torch.analysis import figures as plots;"
        "before = matplotlib.rcParams.copy();"
        "x = np.ones((2, 3, 4));"
        "figures = [plots.raster(x, x), plots.psth(x, x, [0, 1]), plots.trajectories(x),"
        " plots.losses({'train/loss': (np.arange(2.), np.ones(2))})];"
        f"[plots.save_figure(f, {str(tmp_path / 'f.png')!r}) for f in figures];"
        "assert matplotlib.rcParams.copy() == before;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("fill", [0.0, 2.0, np.nan], ids=["zero", "constant", "nan"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, T, N), (2, 1, N), (2, T, 1)])
@pytest.mark.filterwarnings("error")
def test_little_or_constant_data(fill, shape, tmp_path):
    data = np.full(shape, fill)
    inputs = np.zeros((*shape[:2], 2))
    rendered(plots.raster(data, data, truth=data, inferred_inputs=inputs), tmp_path)
    rendered(plots.psth(data, data, np.zeros(shape[0]), truth=data), tmp_path)
    rendered(plots.trajectories(data, np.zeros(shape[0])), tmp_path)
    rendered(plots.trajectories(data), tmp_path)
