"""Masks and Poisson losses equal PyTorch's, compiled or not, with gradients of any order."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lfads_torch import recurrence
from lfads_torch.recurrence import compiled, memory, pointwise
from tests.recurrence.test_interface import TOLERANCES, assert_close

SETTINGS = settings(max_examples=40, deadline=None, derandomize=True)
implementations = pytest.mark.parametrize("name", ["torch", "compiled"])
dtypes = st.sampled_from(list(TOLERANCES))
shapes = st.tuples(st.integers(0, 40), st.integers(1, 5), st.sampled_from([0, 1, 7, 130]))


@pytest.fixture(autouse=True, params=[1 << 16, 5], ids=["whole", "in pieces"])
def pieces(request, monkeypatch):
    monkeypatch.setattr(memory, "_PIECE", request.param)


# ------------------------------------------------------------------ masks


@implementations
@SETTINGS
@given(
    dtype=dtypes,
    shape=shapes,
    layout=st.sampled_from(["dense", "by bin", "later bins", "every other", "one number"]),
    scale=st.sampled_from([1.0, 1.7]),
    seed=st.integers(0, 100),
)
def test_masked(name, dtype, shape, layout, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    x = {
        "dense": lambda: torch.randn(shape, generator=generator, dtype=dtype),
        "by bin": lambda: torch.randn(
            (shape[1], shape[0], shape[2]), generator=generator, dtype=dtype
        ).transpose(0, 1),
        "later bins": lambda: torch.randn(
            (shape[0], shape[1] + 2, shape[2]), generator=generator, dtype=dtype
        )[:, 2:],
        "every other": lambda: torch.randn(
            (*shape[:2], 2 * shape[2]), generator=generator, dtype=dtype
        )[:, :, ::2],
        "one number": lambda: torch.randn((), generator=generator, dtype=dtype).expand(shape),
    }[layout]()
    keep = torch.rand(shape, generator=generator) < 0.5
    x.requires_grad_()
    with recurrence.running(name):
        result = recurrence.masked(x, keep, scale)
    assert result.is_contiguous()
    assert_close(result, x * keep * scale, dtype)
    weights = torch.randn(shape, generator=generator, dtype=dtype)
    (grad,) = torch.autograd.grad((result * weights).sum(), x)
    assert_close(grad, (weights * keep * scale), dtype)


@implementations
def test_masked_has_derivatives_of_any_order(name):
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 2, 4) < 0.5

    def run(x):
        with recurrence.running(name):
            return recurrence.masked(x, keep, 1.5).square()

    assert torch.autograd.gradcheck(run, x)
    assert torch.autograd.gradgradcheck(run, x)
    by_transform = torch.func.vmap(lambda x, keep: recurrence.masked(x[None], keep[None])[0])
    torch.testing.assert_close(by_transform(x, keep), x * keep)


@implementations
def test_gradients_pass_where_they_should(name):
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 2, 4) < 0.5
    weights = torch.randn(3, 2, 4, dtype=torch.float64)
    with recurrence.running(name):
        y = recurrence.pass_gradients(x, keep)
    assert torch.equal(y, x)
    (grad,) = torch.autograd.grad((y * weights).sum(), x, create_graph=True)
    torch.testing.assert_close(grad, weights * keep)
    square = torch.func.grad(lambda x: recurrence.pass_gradients(x, keep).square().sum())(x)
    torch.testing.assert_close(square, 2 * x * keep)


@implementations
def test_shapes_that_differ(name):
    """Nothing is read from where nothing is."""
    x = torch.ones(2, 3, 4, requires_grad=True)
    with recurrence.running(name):
        for shape in [(2, 3, 5), (2, 4, 4), (2, 3)]:
            with pytest.raises(RuntimeError):
                recurrence.masked(x, torch.ones(shape) > 0)
            with pytest.raises(ValueError, match=r"shape \(2, 3, 4\) for counts of shape \(2,"):
                recurrence.poisson_losses(x, torch.ones(shape), True)
            with pytest.raises(ValueError, match="for counts of shape"):
                recurrence.poisson_sums(x.detach(), torch.ones(shape))
        flat = recurrence.masked(x.flatten(), torch.ones(24) > 0, 2.0)
    assert torch.equal(flat, 2 * torch.ones(24))


@implementations
def test_batched_gradients(name):
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 2, 4) < 0.5
    outer = torch.randn(5, 3, 2, 4, dtype=torch.float64)
    with recurrence.running(name):
        losses = recurrence.poisson_losses(recurrence.masked(x, keep), x.detach().abs(), True)
        losses = recurrence.pass_gradients(losses, keep)
    (batched,) = torch.autograd.grad(losses, x, outer, True, is_grads_batched=True)
    for grad, one in zip(batched, outer, strict=True):
        torch.testing.assert_close(grad, torch.autograd.grad(losses, x, one, True)[0])


# ------------------------------------------------------------------ Poisson


def counts_of(kind, shape, generator, dtype):
    rates = {"spikes": 0.1, "many": 30.0, "very many": 300.0, "fractions": 2.0}[kind]
    counts = torch.poisson(torch.full(shape, rates, dtype=dtype), generator=generator)
    return counts * 0.77 if kind == "fractions" else counts


@implementations
@pytest.mark.parametrize("kind", ["spikes", "many", "very many", "fractions"])
@pytest.mark.parametrize("stirling", [False, True])
@SETTINGS
@given(dtype=dtypes, shape=shapes, seed=st.integers(0, 100))
def test_poisson_losses(name, kind, stirling, dtype, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    counts = counts_of(kind, shape, generator, dtype)
    log_rates = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    expected = F.poisson_nll_loss(log_rates, counts, full=stirling, reduction="none")
    outer = torch.randn(shape, generator=generator, dtype=dtype)
    with recurrence.running(name):
        losses = recurrence.poisson_losses(log_rates, counts, stirling)
        sums = recurrence.poisson_sums(log_rates.detach(), counts)
    assert_close(losses, expected, dtype)
    for grad_outer in (outer, outer[:1, :1, :1].expand(shape) if outer.numel() else outer):
        grads = [torch.autograd.grad(x, log_rates, grad_outer, True) for x in (losses, expected)]
        assert_close(grads[0][0], grads[1][0], dtype)
    without = F.poisson_nll_loss(log_rates, counts, reduction="none").detach()
    assert_close(sums[0], counts.sum(dim=0), dtype)
    assert_close(sums[1], without.sum(dim=0), dtype)


@implementations
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_poisson_losses_of_extreme_and_missing_values(name, dtype):
    log_rates = torch.tensor([-200.0, -87.5, -30.0, 0.0, 20.0, 87.0, torch.nan, 1.0], dtype=dtype)
    counts = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0, 2.0, 1.0, torch.nan], dtype=dtype)
    log_rates, counts = log_rates[:, None, None], counts[:, None, None]
    with recurrence.running(name):
        losses = recurrence.poisson_losses(log_rates, counts, True)
        missing = recurrence.poisson_sums(log_rates, counts)
    expected = F.poisson_nll_loss(log_rates, counts, full=True, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-30, equal_nan=True)
    assert all(x.isnan().all() for x in missing)
    with recurrence.running(name):
        too_large = recurrence.poisson_losses(
            log_rates.new_full((1, 1, 1), 800.0), counts[:1], True
        )
    assert too_large.item() == torch.inf


@implementations
def test_poisson_losses_have_second_derivatives(name):
    log_rates = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    counts = torch.poisson(torch.ones(3, 2, 4, dtype=torch.float64))

    def run(x):
        with recurrence.running(name):
            return recurrence.poisson_losses(x, counts, True)

    assert torch.autograd.gradcheck(run, log_rates)
    assert torch.autograd.gradgradcheck(run, log_rates)
    with recurrence.running(name):
        total = recurrence.poisson_sums(log_rates, counts)[1].sum()
    (grad,) = torch.autograd.grad(total, log_rates)
    torch.testing.assert_close(grad, log_rates.exp() - counts)


# ------------------------------------------------------------------ the choice


def test_pytorch_runs_outside_of_a_model():
    x = torch.zeros(1)
    assert not pointwise._is_compiled(x)
    with recurrence.running("compiled"):
        assert pointwise._is_compiled(x)
        with recurrence.running("plain"):
            assert not pointwise._is_compiled(x)
        assert pointwise._is_compiled(x)
        assert not pointwise._is_compiled(x.to(torch.bfloat16))
    with pytest.raises(KeyError), recurrence.running("compiled"):
        raise KeyError
    assert not pointwise._is_compiled(x)


def test_a_step_backwards_is_compiled_where_the_step_was(monkeypatch):
    calls = []
    for function in ("masked", "poisson_gradient"):
        original = getattr(compiled, function)
        monkeypatch.setattr(
            compiled, function, lambda *args, f=original: calls.append(f.__name__) or f(*args)
        )
    log_rates = torch.zeros(2, 3, 4, requires_grad=True)
    keep = torch.ones(2, 3, 4, dtype=torch.bool)
    with recurrence.running("compiled"):
        losses = recurrence.poisson_losses(recurrence.masked(log_rates, keep), log_rates + 1, True)
    assert calls == ["masked"]
    losses.sum().backward()
    assert calls == ["masked", "poisson_gradient", "masked"]
