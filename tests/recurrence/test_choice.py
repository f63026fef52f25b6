"""The implementation is chosen in one place, and the choice applies to every operation."""

import threading

import pytest
import torch
from torch.autograd import forward_ad

from lfads_torch import recurrence
from lfads_torch.recurrence import BACKENDS, build, choice
from lfads_torch.recurrence.compiled import CompiledBackend
from lfads_torch.recurrence.pytorch import PyTorchBackend
from tests.recurrence.common import WHERE

X = torch.zeros(1, 2, 3)


def name_of(*tensors):
    backend = recurrence.choose(*tensors)
    return None if backend is None else backend.name


def test_all_implementations_are_tested():
    assert {name for name, _ in WHERE} == {backend.name for backend in BACKENDS}
    assert set(recurrence.CHOICES) == {"auto", "plain"} | {backend.name for backend in BACKENDS}


def test_the_choice_is_checked():
    with pytest.raises(ValueError, match=r"model\.recurrence must be one of auto, torch, compiled"):
        recurrence.check_choice("fast")
    with pytest.raises(ValueError, match="is 'fast'"), recurrence.using("fast"):
        pass


def test_the_choice_holds_within_a_context_and_nests():
    assert name_of(X) == "compiled"
    with recurrence.using("torch"):
        assert name_of(X) == "torch"
        with recurrence.using("plain"):
            assert name_of(X) is None
            with recurrence.using("auto"):
                assert name_of(X) == "compiled"
        assert name_of(X) == "torch"
    with pytest.raises(KeyError), recurrence.using("plain"):
        raise KeyError
    assert name_of(X) == "compiled"


def test_other_threads_have_their_own_choice():
    seen = []
    with recurrence.using("torch"):
        thread = threading.Thread(target=lambda: seen.append(name_of(X)))
        thread.start()
        thread.join()
    assert seen == ["compiled"]


@pytest.mark.parametrize("chosen", ["auto", "compiled"])
def test_tensors_that_an_implementation_does_not_support_use_the_next(chosen):
    with recurrence.using(chosen):
        assert name_of(X) == "compiled"
        assert name_of(X.bfloat16()) == "torch"
        if torch.cuda.is_available():
            assert name_of(X.cuda()) == "torch"


def test_an_implementation_that_this_machine_lacks(monkeypatch):
    class Missing(PyTorchBackend):
        name = "missing"

        def unavailable(self):
            return "there is no such processor"

    missing = Missing()
    monkeypatch.setattr(choice, "BACKENDS", (missing, *BACKENDS))
    monkeypatch.setattr(choice, "CHOICES", ("missing", *recurrence.CHOICES))
    assert not missing.supports(X)
    assert name_of(X) == "compiled"
    with recurrence.using("missing"), pytest.raises(RuntimeError, match="no such processor"):
        recurrence.choose(X)


def test_autocast_and_transforms_run_step_by_step():
    assert name_of(X) is not None
    with torch.autocast("cpu"):
        assert name_of(X) is None
    torch.func.vmap(lambda x: x if name_of(x) is None else 1 / 0)(X)
    with forward_ad.dual_level():
        assert name_of(X) is None
    assert name_of(X, torch.zeros(2, dtype=torch.float64)) is None
    assert name_of(X.to("meta")) is None
    assert name_of(X.int()) is None
    assert name_of(torch.zeros(1)) is not None


def test_elementwise_operations_use_pytorch_if_the_choice_is_plain():
    with recurrence.using("plain"):
        assert choice.choose_or_pytorch(X).name == "torch"


def test_a_backward_pass_is_run_by_the_implementation_of_its_forward_pass(monkeypatch):
    calls = []
    for function in ("linear_forward", "linear_backward", "poisson_losses", "poisson_gradient"):
        for cls in (CompiledBackend, PyTorchBackend):
            original = getattr(cls, function)

            def recording(self, *args, f=original, cls=cls, **options):
                calls.append((cls.__name__, f.__name__))
                return f(self, *args, **options)

            monkeypatch.setattr(cls, function, recording)
    weight, bias = torch.zeros(4, 3, requires_grad=True), torch.zeros(4)
    with recurrence.using("torch"):
        losses = recurrence.poisson_losses(
            recurrence.linear(torch.ones(1, 2, 3), weight, bias), torch.ones(1, 2, 4), True
        )
    losses.sum().backward()
    assert {name for name, _ in calls} == {"PyTorchBackend"}
    assert [name for _, name in calls] == [
        "linear_forward",
        "poisson_losses",
        "poisson_gradient",
        "linear_backward",
    ]
    calls.clear()
    losses = recurrence.poisson_losses(
        recurrence.linear(torch.ones(1, 2, 3), weight, bias), torch.ones(1, 2, 4), True
    )
    with recurrence.using("torch"):
        losses.sum().backward()
    assert {name for name, _ in calls} == {"CompiledBackend"}
    assert len(calls) == 4


def test_nothing_is_built_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(build, "load", lambda: 1 / 0)
    CompiledBackend()
