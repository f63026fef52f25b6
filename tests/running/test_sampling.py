"""Posterior sampling encodes once, averages correctly, and never loses a file."""

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch.distributions import Normal

from lfads_torch.datamodules import BasicDataModule
from lfads_torch.modules.priors import Null
from lfads_torch.modules.readin_readout import FanInLinear
from lfads_torch.modules.recons import Poisson
from lfads_torch.recurrence import using
from lfads_torch.running import sampling as analysis
from lfads_torch.running.sampling import run_posterior_sampling
from lfads_torch.tuples import SessionBatch, SessionOutput
from tests.conftest import tiny_arrays, tiny_model, write_file


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny_model()


@pytest.fixture
def datamodule(tiny_file):
    return BasicDataModule(str(tiny_file), batch_size=5)


def read(path):
    with h5py.File(path) as file:
        return {key: file[key][()] for key in file}


def test_saves_every_field_of_every_split_beside_the_data(model, datamodule, tmp_path):
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "out" / "lfads_output.h5", 4)
    assert path == tmp_path / "out" / "lfads_output_sess0.h5"
    output = read(path)
    for split, n_trials in (("train", 12), ("valid", 6)):
        for field in SessionOutput._fields:
            values = output[f"{split}_{field}"]
            assert len(values) == n_trials
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
    for key, array in tiny_arrays().items():
        np.testing.assert_array_equal(output[key], array)
    assert not list(tmp_path.rglob("*.partial"))


def test_mean_and_deviation_equal_those_of_the_samples(model, datamodule, tmp_path):
    (path,) = run_posterior_sampling(
        model, datamodule, tmp_path / "o.h5", 7, save_std=True, save_samples=True
    )
    output = read(path)
    for field in SessionOutput._fields:
        samples = output[f"valid_{field}_samples"].astype(float)
        assert samples.shape[:2] == (6, 7)
        np.testing.assert_allclose(output[f"valid_{field}"], samples.mean(1), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            output[f"valid_{field}_std"], samples.std(1, ddof=1), rtol=1e-3, atol=1e-5
        )
    assert (output["valid_output_params_std"] > 0).all()
    assert np.abs(output["valid_ic_std_std"]).max() < 1e-6


def test_little_memory_gives_the_same_distribution(model, datamodule, tmp_path):
    few, many = [], []
    for seed in range(2):
        torch.manual_seed(seed)
        (path,) = run_posterior_sampling(model, datamodule, tmp_path / "a.h5", 400, save_std=True)
        many.append(read(path))
        (path,) = run_posterior_sampling(
            model, datamodule, tmp_path / "b.h5", 400, save_std=True, max_memory_gb=1e-5
        )
        few.append(read(path))
    for a, b in zip(few, many, strict=True):
        error = b["valid_factors_std"] / np.sqrt(200)
        assert (np.abs(a["valid_factors"] - b["valid_factors"]) < 6 * error).all()
        ratio = a["valid_factors_std"] / b["valid_factors_std"]
        assert 0.7 < ratio.min() < ratio.max() < 1.4


@pytest.mark.parametrize("recurrence", ["plain", "torch", "compiled"])
def test_equals_running_the_whole_model_once_a_sample(
    recurrence, datamodule, tmp_path, monkeypatch
):
    """With the same noise, the mean is that of separate forward passes."""
    torch.manual_seed(0)
    model = tiny_model(recurrence=recurrence)
    monkeypatch.setattr(analysis._Sampling, "_rows_at_once", lambda *args: 1)
    datamodule.setup()
    torch.manual_seed(3)
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 5)
    model.eval()
    torch.manual_seed(3)
    output = read(path)
    for split in ("train", "valid"):
        i = 0
        for batch, _ in datamodule.predict_dataloader()[0][split]:
            for row in range(len(batch.encod_data)):
                trial = SessionBatch(*(field[row : row + 1] for field in batch))
                with torch.no_grad():
                    samples = [model.predict_step({0: trial}, 0)[0] for _ in range(5)]
                for field in SessionOutput._fields:
                    expected = torch.cat([getattr(sample, field) for sample in samples]).mean(0)
                    np.testing.assert_allclose(
                        output[f"{split}_{field}"][i], expected, rtol=1e-5, atol=1e-6
                    )
                i += 1


@pytest.mark.parametrize("recurrence", ["plain", "torch", "compiled"])
def test_has_the_distribution_of_whole_forward_passes(recurrence, datamodule, tmp_path):
    torch.manual_seed(0)
    model = tiny_model(recurrence=recurrence)
    n_samples = 300
    (path,) = run_posterior_sampling(
        model, datamodule, tmp_path / "o.h5", n_samples, save_samples=True
    )
    output = read(path)
    batch = SessionBatch(*(field for field in datamodule.valid_data[0][0]))
    model.eval()
    with torch.no_grad():
        whole = [model.predict_step({0: batch}, 0)[0] for _ in range(n_samples)]
    for field in ("gen_init", "gen_inputs", "factors", "output_params"):
        expected = torch.stack([getattr(sample, field) for sample in whole], dim=1).numpy()
        samples = output[f"valid_{field}_samples"]
        assert samples.shape == expected.shape
        expected, samples = (x.reshape(len(x), n_samples, -1) for x in (expected, samples))
        # Compare a number in the last bin of each trial, and the correlation between two bins.
        for a, b in zip(samples, expected, strict=True):
            assert ks_2samp(a[:, -1], b[:, -1]).pvalue > 1e-5
            assert ks_2samp(a[:, 0] * a[:, -1], b[:, 0] * b[:, -1]).pvalue > 1e-5


class OwnReadout(FanInLinear):
    def forward(self, input):
        return torch.tanh(super().forward(input))


class OwnPoisson(Poisson):
    def compute_means(self, output_params):
        return 1 + super().compute_means(output_params)


@pytest.mark.parametrize(
    "own", [{"readout": [OwnReadout(3, 5)]}, {"reconstruction": [OwnPoisson()]}]
)
def test_own_parts_are_asked_for_their_means(own, datamodule, tmp_path):
    model = tiny_model(variational=False, **own)
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "o.h5")
    batch = datamodule.valid_data[0][0]
    with torch.no_grad():
        expected = model.eval().predict_step({0: batch}, 0)[0].output_params
    np.testing.assert_allclose(read(path)["valid_output_params"], expected, rtol=1e-5)


class GivenNoise(Null):
    """A prior whose posterior samples are made from given noise (T, B, D)."""

    location_scale = True

    def __init__(self, noise):
        super().__init__()
        self.noise, self.steps = noise, iter(noise)

    def make_posterior(self, mean, std):
        value = self.noise if mean.dim() == 3 else next(self.steps)
        made = Normal(mean, std)
        made.rsample = lambda: mean + std * value
        return made


def test_decoding_samples_together_equals_decoding_them_separately(model):
    """The samples of a trial share its controller inputs, even if noise is drawn."""
    encoding = model.encode({0: SessionBatch(torch.ones(3, 8, 4), torch.ones(3, 10, 5))})
    noise = torch.randn(10, 12, 2)
    for recurrence in ("plain", "torch", "compiled"):
        for together in (True, False):
            ci = encoding.ci if together else encoding.ci.repeat_interleave(4, dim=0)
            prior = GivenNoise(noise)
            ic_samp = encoding.ic_mean.repeat_interleave(4, dim=0)
            with torch.no_grad(), using(recurrence):
                output = model.eval().decoder(ic_samp, ci, torch.zeros(12, 10, 0), prior)
            if recurrence == "plain" and together:
                expected = output
            for a, b in zip(output, expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    # If gradients are needed, each sample contributes its own.
    encoding = encoding._replace(ci=encoding.ci.detach().requires_grad_())
    model.decoder(ic_samp.detach(), encoding.ci, torch.zeros(12, 10, 0)).factors.sum().backward()
    assert encoding.ci.grad.any()


def test_each_trial_is_encoded_once(model, datamodule, tmp_path, monkeypatch):
    encoded = []
    forward = model.encoder.forward
    monkeypatch.setattr(model.encoder, "forward", lambda x: encoded.append(len(x)) or forward(x))
    run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 50, max_memory_gb=1e-5)
    assert sum(encoded) == 12 + 6


def test_a_deterministic_model_is_run_once(datamodule, tmp_path):
    model = tiny_model(variational=False)
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 50, save_samples=True)
    output = read(path)
    assert output["valid_factors_samples"].shape[1] == 1
    datamodule.setup()
    with torch.no_grad():
        expected = model.eval()(datamodule.valid_data[0][0])[0]
    np.testing.assert_allclose(output["valid_output_params"], expected.output_params, rtol=1e-5)


def test_training_mode_and_weights_do_not_change(model, datamodule, tmp_path):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    assert model.training
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_an_earlier_file_is_kept(model, datamodule, tmp_path):
    run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    first = (tmp_path / "o_sess0.h5").read_bytes()
    run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    assert (tmp_path / "o_sess0.1.h5").read_bytes() == first


def test_a_failure_leaves_the_earlier_file(model, datamodule, tmp_path, monkeypatch):
    run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    first = (tmp_path / "o_sess0.h5").read_bytes()
    monkeypatch.setattr(model, "unroll", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    assert (tmp_path / "o_sess0.h5").read_bytes() == first


def test_reshuffled_trials_keep_their_numbers(model, tiny_file, tmp_path):
    datamodule = BasicDataModule(
        str(tiny_file), batch_size=5, reshuffle_tv_seed=1, reshuffle_tv_ratio=0.5
    )
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    output, original = read(path), tiny_arrays()
    everything = np.concatenate([original["train_recon_data"], original["valid_recon_data"]])
    for split in ("train", "valid"):
        assert len(output[f"{split}_output_params"]) == 9
        np.testing.assert_array_equal(
            output[f"{split}_recon_data"], everything[output[f"{split}_inds"]]
        )


def test_trials_are_numbered_if_the_file_does_not_number_them(model, tmp_path):
    arrays = tiny_arrays()
    del arrays["train_inds"], arrays["valid_inds"]
    arrays["test_encod_data"] = arrays["valid_encod_data"][:3]
    file = write_file(tmp_path / "data.h5", arrays)
    (path,) = run_posterior_sampling(model, BasicDataModule(str(file)), tmp_path / "o.h5", 2)
    output = read(path)
    np.testing.assert_array_equal(output["train_inds"], np.arange(12))
    np.testing.assert_array_equal(output["valid_inds"], np.arange(12, 18))
    np.testing.assert_array_equal(output["test_inds"], np.arange(18, 21))
    assert len(output["test_output_params"]) == 3


def test_sessions_have_a_file_each(tmp_path):
    for name, n_valid in (("a", 6), ("b", 3)):
        write_file(tmp_path / f"{name}.h5", tiny_arrays(n_valid=n_valid))
    model = tiny_model(
        readin=[torch.nn.Identity(), torch.nn.Identity()],
        readout=[FanInLinear(3, 5), FanInLinear(3, 5)],
        reconstruction=[*tiny_model().recon, *tiny_model().recon],
    )
    datamodule = BasicDataModule(str(tmp_path / "?.h5"))
    paths = run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 2)
    assert [path.name for path in paths] == ["o_sess0.h5", "o_sess1.h5"]
    assert [len(read(path)["valid_factors"]) for path in paths] == [6, 3]


def test_at_least_one_sample_is_needed(model, datamodule, tmp_path):
    with pytest.raises(ValueError, match="num_samples"):
        run_posterior_sampling(model, datamodule, tmp_path / "o.h5", 0)


def test_sampling_that_fails_leaves_the_output_as_it_was(tiny_file, tmp_path, monkeypatch):
    model, datamodule = tiny_model(), BasicDataModule(tiny_file, batch_size=4)
    (path,) = run_posterior_sampling(model, datamodule, tmp_path / "out.h5", num_samples=2)
    before = path.read_bytes(), sorted(tmp_path.iterdir())
    monkeypatch.setattr(model, "unroll", None)
    with pytest.raises(TypeError):
        run_posterior_sampling(model, datamodule, tmp_path / "out.h5", num_samples=2)
    assert (path.read_bytes(), sorted(tmp_path.iterdir())) == before
