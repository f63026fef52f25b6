"""Products with masks equal PyTorch's, with gradients of any order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lfads_torch import recurrence
from tests.recurrence.common import SETTINGS, assert_close, devices, dtypes

shapes = st.tuples(st.integers(0, 40), st.integers(1, 5), st.sampled_from([0, 1, 7, 130]))


@devices
@SETTINGS
@given(
    dtype=dtypes,
    shape=shapes,
    layout=st.sampled_from(["dense", "by bin", "later bins", "every other", "one number"]),
    scale=st.sampled_from([1.0, 1.7]),
    seed=st.integers(0, 100),
)
def test_masked(device, dtype, shape, layout, scale, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(shape):
        return torch.randn(shape, generator=generator, dtype=dtype).to(device)

    x = {
        "dense": lambda: draw(shape),
        "by bin": lambda: draw((shape[1], shape[0], shape[2])).transpose(0, 1),
        "later bins": lambda: draw((shape[0], shape[1] + 2, shape[2]))[:, 2:],
        "every other": lambda: draw((*shape[:2], 2 * shape[2]))[:, :, ::2],
        "one number": lambda: draw(()).expand(shape),
    }[layout]()
    keep = (torch.rand(shape, generator=generator) < 0.5).to(device)
    x.requires_grad_()
    result = recurrence.masked(x, keep, scale)
    assert result.is_contiguous()
    assert_close(result, x * keep * scale, dtype)
    weights = draw(shape)
    (grad,) = torch.autograd.grad((result * weights).sum(), x)
    assert_close(grad, weights * keep * scale, dtype)


def test_masked_has_derivatives_of_any_order():
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 2, 4) < 0.5

    def run(x):
        return recurrence.masked(x, keep, 1.5).square()

    assert torch.autograd.gradcheck(run, x)
    assert torch.autograd.gradgradcheck(run, x)
    by_transform = torch.func.vmap(lambda x, keep: recurrence.masked(x[None], keep[None])[0])
    torch.testing.assert_close(by_transform(x, keep), x * keep)


@devices
def test_gradients_pass_where_they_should(device):
    x = torch.randn(3, 2, 4, dtype=torch.float64, device=device, requires_grad=True)
    keep = torch.rand(3, 2, 4, device=device) < 0.5
    weights = torch.randn(3, 2, 4, dtype=torch.float64, device=device)
    y = recurrence.pass_gradients(x, keep)
    assert torch.equal(y, x)
    for create_graph in (False, True):
        (grad,) = torch.autograd.grad((y * weights).sum(), x, create_graph=create_graph)
        torch.testing.assert_close(grad, weights * keep)
        y = recurrence.pass_gradients(x, keep)
    square = torch.func.grad(lambda x: recurrence.pass_gradients(x, keep).square().sum())(x)
    torch.testing.assert_close(square, 2 * x * keep)


def test_shapes_that_differ():
    x = torch.ones(2, 3, 4, requires_grad=True)
    for shape in [(2, 3, 5), (2, 4, 4), (2, 3)]:
        with pytest.raises(RuntimeError):
            recurrence.masked(x, torch.ones(shape) > 0)
    flat = recurrence.masked(x.flatten(), torch.ones(24) > 0, 2.0)
    assert torch.equal(flat, 2 * torch.ones(24))


def test_batched_gradients():
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    keep = torch.rand(3, 2, 4) < 0.5
    grads = torch.randn(5, 3, 2, 4, dtype=torch.float64)
    y = recurrence.pass_gradients(recurrence.masked(x, keep, 1.3).square(), keep)
    (batched,) = torch.autograd.grad(y, x, grads, True, is_grads_batched=True)
    for grad, one in zip(batched, grads, strict=True):
        torch.testing.assert_close(grad, torch.autograd.grad(y, x, one, True)[0])
