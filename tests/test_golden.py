"""The model computes what the published implementation printed (figures in ``golden/``)."""

from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lfads_torch import utils
from lfads_torch.model import LFADS
from lfads_torch.tuples import SessionBatch, SessionOutput

GOLDEN = Path(__file__).parent / "golden"
SINGLE = sorted({path.stem for path in GOLDEN.glob("*.yaml")} - {"variational", "two_sessions"})
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4}


@pytest.fixture(params=TOLERANCES, ids=["float64", "float32"])
def dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.fixture(params=["plain", "torch", "compiled", "elsewhere", "cuda"])
def recurrence(request, monkeypatch):
    """The implementation of the recurrences.

    "elsewhere" runs the code for other devices on a CPU, "cuda" runs on a GPU that is not hidden
    (``CUDA_VISIBLE_DEVICES=0 make test``).
    """
    if request.param == "elsewhere":
        monkeypatch.setattr(utils, "on_cpu", lambda x: False)
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU, or it is hidden")
        torch.set_default_device("cuda")
    yield "auto" if request.param in ("elsewhere", "cuda") else request.param
    torch.set_default_device(None)


def load_case(name, recurrence, monkeypatch):
    config = OmegaConf.load(GOLDEN / f"{name}.yaml")
    config.model.recurrence = recurrence
    figures = dict(np.load(GOLDEN / f"{name}.npz"))
    model = hydra.utils.instantiate(config.model, _convert_="all")
    state = {k.removeprefix("state/"): t(v) for k, v in figures.items() if k.startswith("state/")}
    model.load_state_dict(state, strict=True)
    monkeypatch.setattr(LFADS, "current_epoch", config.epoch if "epoch" in config else 0)
    logged = {}
    model.log = lambda name, value, **_: logged.update({name: value})
    model.log_dict = lambda values, **_: logged.update(values)
    return model, figures, logged


def t(array):
    return torch.tensor(array, dtype=torch.get_default_dtype())


def batch_of(figures, prefix="in/"):
    return SessionBatch(*(t(figures[prefix + field]) for field in SessionBatch._fields))


def assert_close(actual, expected, dtype, scale=1.0):
    """Compare with a tolerance relative to the largest value, since sums of terms may cancel."""
    actual = np.asarray(torch.as_tensor(actual).detach().double().cpu())
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(actual), np.isnan(expected))
    tolerance = TOLERANCES[dtype] * scale
    largest = np.nanmax(np.abs(expected), initial=1e-12)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("name", SINGLE)
def test_outputs(name, dtype, recurrence, monkeypatch):
    model, figures, _ = load_case(name, recurrence, monkeypatch)
    model.eval()
    batch = batch_of(figures)
    with torch.no_grad():
        output = model({0: batch}, sample_posteriors=False, output_means=False)[0]
        means = model(batch)[0].output_params
    for field in SessionOutput._fields:
        assert_close(getattr(output, field), figures[f"out/{field}"], dtype)
    assert_close(means, figures["out/output_means"], dtype)


@pytest.mark.parametrize("name", SINGLE)
def test_loss_logs_and_gradients(name, dtype, recurrence, monkeypatch):
    model, figures, logged = load_case(name, recurrence, monkeypatch)
    model.train()
    loss = model.training_step({0: (batch_of(figures), ())}, 0)
    loss.backward()
    assert_close(loss, figures["loss"], dtype)
    is_count = model.recon[0].spike_log_rates(torch.zeros(1, 1, 1, 1)) is not None
    for key in [key for key in figures if key.startswith("log/")]:
        metric = key.removeprefix("log/")
        if is_count or not metric.endswith("bps"):
            assert_close(logged[metric], figures[key], dtype)
    if not is_count:
        assert not any(metric.endswith("bps") for metric in logged)
    gradients = {k.removeprefix("grad/"): v for k, v in figures.items() if k.startswith("grad/")}
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert set(gradients) <= set(trained)
    for key, expected in gradients.items():
        if expected.size:
            assert_close(trained[key].grad, expected, dtype)


@pytest.mark.parametrize("name", [name for name in SINGLE if name != "zig"])
def test_trajectory(name, dtype, recurrence, monkeypatch):
    model, figures, _ = load_case(name, recurrence, monkeypatch)
    model.train()
    optimizer = model.configure_optimizers()
    batch = {0: (batch_of(figures), ())}
    losses = []
    for _ in figures["trajectory"]:
        optimizer.zero_grad()
        loss = model.training_step(batch, 0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 200)
        model.on_before_optimizer_step(optimizer)
        optimizer.step()
        losses.append(loss.item())
    assert_close(losses, figures["trajectory"], dtype)


def test_variational(dtype, recurrence, monkeypatch):
    model, figures, _ = load_case("variational", recurrence, monkeypatch)
    model.eval()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(figures["trainable"].tolist())
    with torch.no_grad():
        output = model(batch_of(figures), output_means=False)[0]
        for field in SessionOutput._fields:
            assert_close(getattr(output, field), figures[f"out/{field}"], dtype)
        assert_close(model.ic_prior(output.ic_mean, output.ic_std), figures["kl/ic"], dtype)
        log_prob = model.co_prior.log_prob(t(figures["ar/sample"]))
        assert_close(log_prob, figures["ar/log_prob"], dtype)
        kl = float(model.co_prior(output.co_means, output.co_stds))
    assert abs(kl - figures["kl/co_monte_carlo"]) < 4 * figures["kl/co_standard_error"]


def test_two_sessions(dtype, recurrence, monkeypatch):
    model, figures, _ = load_case("two_sessions", recurrence, monkeypatch)
    batches = {s: batch_of(figures, f"in/{s}/") for s in (0, 1)}
    with torch.no_grad():
        model.eval()
        output = model(batches, output_means=False)
    for s in (0, 1):
        for field in SessionOutput._fields:
            assert_close(getattr(output[s], field), figures[f"out/{s}/{field}"], dtype)
    model.train()
    loss = model.training_step({s: (b, ()) for s, b in batches.items()}, 0)
    loss.backward()
    assert_close(loss, figures["loss"], dtype)
    for key, parameter in model.named_parameters():
        if f"grad/{key}" in figures:
            assert_close(parameter.grad, figures[f"grad/{key}"], dtype)
