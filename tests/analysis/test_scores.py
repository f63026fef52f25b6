"""Scores of the rates in an output file, and of smoothed counts for comparison."""

import h5py
import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from lfads_torch.analysis.scores import best_smoothing, validation_scores
from lfads_torch.datamodules import BasicDataModule
from lfads_torch.metrics import r2_score
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recons import Gaussian
from lfads_torch.running.sampling import run_posterior_sampling
from tests.conftest import tiny_arrays, tiny_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny_model()


@pytest.fixture
def datamodule(tiny_file):
    return BasicDataModule(str(tiny_file), batch_size=5)


def test_scores(model, datamodule, tmp_path):
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    arrays = tiny_arrays()
    with h5py.File(path, "r+") as file:  # the true rates
        file["valid_output_params"][...] = arrays["valid_truth"] / 20
    scores = validation_scores(model, path)
    assert scores["r2"] == pytest.approx(1, abs=1e-5)
    assert scores["bps"] > 0
    assert scores["co_bps"] > 0
    assert scores["smoothing_r2"] < 1
    with h5py.File(path, "r+") as file:
        file["valid_output_params"][...] = arrays["valid_recon_data"].mean((0, 1))
    assert validation_scores(model, path)["r2"] < 0.2


def test_scores_of_other_data_have_no_bits(datamodule, tmp_path):
    model = tiny_model(reconstruction=[Gaussian()], readout=[FanInLinear(3, 10)])
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    assert set(validation_scores(model, path)) == {"r2", "smoothing_r2", "smoothing_width"}


def test_best_smoothing_is_the_best_of_many_widths():
    """The score is that of SciPy's filter with this width, and other widths are worse."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(60.0)[None, :, None]
    truth = (2 + torch.sin(time / 8 + torch.arange(3.0))).expand(20, 60, 3)
    counts = torch.poisson(truth, generator=generator)
    score, width = best_smoothing(counts, truth)
    assert 2 < width < 8
    smoothed = torch.tensor(gaussian_filter1d(counts.numpy(), width, axis=1))
    assert score == pytest.approx(float(r2_score(smoothed, truth)), abs=1e-12)
    for other in (0.5, 1.0, 15.0, 30.0):
        smoothed = torch.tensor(gaussian_filter1d(counts.numpy(), other, axis=1))
        assert score > float(r2_score(smoothed, truth))
