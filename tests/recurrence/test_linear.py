"""Linear maps of sequences equal PyTorch's, with gradients of any order."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import forward_ad

from lfads_torch import recurrence
from tests.recurrence.common import SETTINGS, assert_close, cases, dtypes, gradients, normal


def parameters(n_inputs, n_outputs, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (n_outputs, n_inputs), (n_outputs,)
    return [normal(generator, shape, dtype, n_inputs**-0.5) for shape in shapes]


@cases
@SETTINGS
@given(
    dtype=dtypes,
    trials=st.integers(0, 40),
    bins=st.integers(1, 20),
    inputs=st.sampled_from([1, 5, 33, 100]),
    outputs=st.sampled_from([1, 16, 37, 182]),
    by_bin=st.booleans(),
    seed=st.integers(0, 100),
)
def test_linear(case, dtype, trials, bins, inputs, outputs, by_bin, seed):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = parameters(inputs, outputs, dtype, seed)
    shape = (bins, trials, inputs) if by_bin else (trials, bins, inputs)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    x = (x.transpose(0, 1) if by_bin else x).requires_grad_()
    by = [torch.randn(trials, bins, outputs, generator=generator, dtype=dtype)]
    y = F.linear(x, weight, bias)
    expected = (y, *gradients([y], by, [x, weight, bias]))
    x, weight, bias = case.to(x, weight, bias)
    with recurrence.using(case.name):
        y = recurrence.linear(x, weight, bias)
    actual = (y, *gradients([y], by, [x, weight, bias]))
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b, dtype)


@cases
def test_linear_has_second_derivatives(case):
    weight, bias, x = case.to(*parameters(3, 4), normal(torch.Generator(), (2, 3, 3)))

    def run(*tensors):
        with recurrence.using(case.name):
            return recurrence.linear(*tensors).square()

    assert torch.autograd.gradcheck(run, (x, weight, bias))
    assert torch.autograd.gradgradcheck(run, (x, weight, bias))


@cases
@pytest.mark.parametrize("frozen", [("x",), ("weight", "bias"), ("bias",)])
def test_frozen_parts_of_a_linear_map(case, frozen):
    weight, bias, x = case.to(*parameters(3, 4), normal(torch.Generator(), (2, 5, 3)))
    tensors = {"x": x, "weight": weight, "bias": bias}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name not in frozen)
    with recurrence.using(case.name):
        recurrence.linear(x, weight, bias).square().sum().backward()
    for name, tensor in tensors.items():
        assert (tensor.grad is None) == (name in frozen)
    trained = [tensor for name, tensor in tensors.items() if name not in frozen]
    expected = torch.autograd.grad(F.linear(x, weight, bias).square().sum(), trained)
    torch.testing.assert_close([tensor.grad for tensor in trained], list(expected))


@cases
def test_batched_and_forward_derivatives_of_a_linear_map(case):
    weight, bias, x = case.to(*parameters(3, 4), normal(torch.Generator(), (2, 5, 3)))
    grads = torch.randn(6, 2, 5, 4, dtype=torch.float64, device=case.device)
    with recurrence.using(case.name):
        y, expected = recurrence.linear(x, weight, bias), F.linear(x, weight, bias)
        results = [
            torch.autograd.grad(out, [x, weight, bias], grads, is_grads_batched=True)
            for out in (y, expected)
        ]
        torch.testing.assert_close(*results)
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x.detach(), torch.ones_like(x))
            tangents = [
                forward_ad.unpack_dual(out).tangent
                for out in (recurrence.linear(dual, weight, bias), F.linear(dual, weight, bias))
            ]
    torch.testing.assert_close(*tangents)


@cases
def test_wrong_sizes_are_refused(case):
    weight, bias = case.to(*parameters(4, 5, torch.float32))
    with recurrence.using(case.name):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            recurrence.linear(torch.zeros(2, 3, 6, device=case.device), weight, bias)
        rows = recurrence.linear(torch.zeros(3, 4, device=case.device), weight, bias)
        torch.testing.assert_close(rows, bias.expand(3, 5))
        mixed = torch.zeros(2, 3, 4, device=case.device).bfloat16()
        with pytest.raises(RuntimeError, match="same dtype"):
            recurrence.linear(mixed, weight, bias)


@cases
@pytest.mark.parametrize("n_samples", [1, 3, 37])
def test_mean_rates(case, n_samples):
    for dtype in (torch.float64, torch.float32):
        for n_channels in (1, 5, 50):
            weight, bias = case.to(*parameters(6, n_channels, dtype))
            factors = torch.randn(7, 4 * n_samples, 6, dtype=dtype, device=case.device)
            for arranged in (factors.transpose(0, 1), factors.transpose(0, 1).contiguous()):
                rates = F.linear(arranged, weight, bias).exp()
                expected = rates.unflatten(0, (4, n_samples)).mean(1)
                with recurrence.using(case.name):
                    may_need_gradients = recurrence.mean_rates(arranged, weight, bias, n_samples)
                    with torch.no_grad():
                        actual = recurrence.mean_rates(arranged, weight, bias, n_samples)
                assert may_need_gradients is None
                assert_close(actual, expected, dtype)
                with torch.no_grad(), recurrence.using("plain"):
                    assert recurrence.mean_rates(arranged, weight, bias, n_samples) is None


@cases
def test_rates_that_are_too_large_are_infinite(case):
    one, zero = torch.ones(1, 1, device=case.device), torch.zeros(1, device=case.device)
    with torch.no_grad(), recurrence.using(case.name):
        for log_rate, expected in ((80.0, 5.540622e34), (90.0, float("inf")), (-200.0, 0.0)):
            rate = recurrence.mean_rates(log_rate * one[None], one, zero, 1)
            assert rate.item() == pytest.approx(expected, rel=1e-5, abs=1e-30)
