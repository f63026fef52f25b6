"""The compiled implementation is opened once, checked, and safe to use from several threads."""

import ctypes
import logging
import sys
import threading

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lfads_torch import recurrence
from lfads_torch.recurrence import build, choice, library
from lfads_torch.recurrence.compiled import CompiledBackend
from tests.recurrence.common import gradients, gru_weights, leaves

X = torch.zeros(1, 2, 3)


@pytest.fixture
def fresh(monkeypatch):
    """Replace the compiled implementation by one that has not looked for its library yet."""
    backend = CompiledBackend()
    monkeypatch.setattr(choice, "BACKENDS", (backend, *choice.BACKENDS[1:]))
    return backend


def test_without_a_library_pytorch_runs_with_one_line_in_the_log(fresh, monkeypatch, caplog):
    def load():
        raise build.Unavailable("there is no C++ compiler")

    monkeypatch.setattr(build, "load", load)
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            assert recurrence.choose(X).name == "torch"
        with recurrence.using("torch"):
            assert recurrence.choose(X).name == "torch"
    (record,) = caplog.records
    assert "no C++ compiler" in record.message
    with recurrence.using("compiled"):
        with pytest.raises(RuntimeError, match=r"model\.recurrence is 'compiled'.*no C\+\+ comp"):
            recurrence.choose(X)
        assert recurrence.choose(X.bfloat16()).name == "torch"
    with pytest.raises(build.Unavailable):
        fresh.linear_forward(X, torch.zeros(4, 3), torch.zeros(4))


@pytest.mark.parametrize(
    "function",
    [
        "gru_forward",
        "gru_backward",
        "decoder_forward",
        "decoder_backward",
        "linear_forward",
        "linear_backward",
        "poisson_losses",
        "poisson_gradient",
        "poisson_sums",
        "mean_rates",
    ],
)
def test_a_library_that_computes_wrong_numbers_is_not_used(function, fresh, monkeypatch, caplog):
    """Every result is compared, so an error in any of them is found."""
    right = getattr(CompiledBackend, function)

    def wrong(self, *args, **options):
        result = right(self, *args, **options)
        if isinstance(result, torch.Tensor):
            return result * 1.001
        last = max(i for i, x in enumerate(result) if x is not None and x.is_floating_point())
        values = [x * 1.001 if i == last else x for i, x in enumerate(result)]
        return type(result)(*values) if hasattr(result, "_fields") else tuple(values)

    monkeypatch.setattr(CompiledBackend, function, wrong)
    assert recurrence.choose(X).name == "torch"
    assert "wrong numbers" in caplog.text


def test_structures_of_other_sizes_than_the_librarys_are_refused(fresh, monkeypatch, caplog):
    class GRUSizes(ctypes.Structure):
        _fields_ = (*library.GRUSizes._fields_, ("more", ctypes.c_int64))

    monkeypatch.setattr(library, "STRUCTURES", (GRUSizes,))
    assert recurrence.choose(X).name == "torch"
    assert "GRUSizes has 96 bytes in the library, but 104 in Python" in caplog.text


def test_the_library_is_opened_once_by_many_threads(fresh, monkeypatch):
    opened = []
    original = library.Library.__init__
    monkeypatch.setattr(
        library.Library, "__init__", lambda self: opened.append(1) or original(self)
    )
    threads = [threading.Thread(target=fresh.unavailable) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 1


def test_modes_of_the_caller_do_not_reach_the_check(fresh):
    with FlopCounterMode(display=False) as counted, torch.device("meta"):
        assert fresh.unavailable() is None
    assert counted.get_total_flops() == 0


def test_a_default_device_does_not_matter():
    """Results are on the device of the arguments."""
    generator = torch.Generator().manual_seed(0)
    weights = gru_weights(generator, 9, 7)
    x = (torch.rand(3, 11, 9, generator=generator) < 0.1).double()
    h_0 = torch.zeros(3, 7, dtype=torch.float64)
    with torch.device("meta"):
        states, final = recurrence.run_gru(recurrence.choose(x), weights, x, h_0)
        grads = torch.autograd.grad(final.sum(), weights[:3])
    assert {tensor.device.type for tensor in (states, final, *grads)} == {"cpu"}


@pytest.fixture
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("name", ["compiled", "torch"])
def test_threads_do_not_get_each_others_numbers(name, switching_often):
    """Several threads run forward and backward passes at once, each with its own inputs."""
    n_threads, n_rounds = 4, 10

    def results(number, shared):
        generator = torch.Generator().manual_seed(number)
        n_trials = 3 + number
        weights = gru_weights(generator, 9, 7)
        own = (torch.rand(n_trials, 11, 9, generator=generator) < 0.1).double()
        found = []
        with recurrence.using(name):
            for inputs in (own, shared):
                h_0 = torch.zeros(len(inputs), 7, dtype=inputs.dtype)
                inputs = recurrence.shared(inputs)
                backend = recurrence.choose(inputs, h_0)
                for reverse in (False, True):
                    outputs = recurrence.run_gru(backend, weights, inputs, h_0, reverse)
                    by = [torch.ones_like(x) for x in outputs]
                    found += [*outputs, *gradients(outputs, by, leaves(weights))]
        return found

    def new_shared():
        generator = torch.Generator().manual_seed(99)
        return (torch.rand(8, 11, 9, generator=generator) < 0.1).double()

    expected = [results(number, new_shared()) for number in range(n_threads)]
    shared = [new_shared() for _ in range(n_rounds)]
    wrong, done = [], []
    start = threading.Barrier(n_threads)

    def forward_only(number, inputs):
        """Return whether many forward passes, which share what is stored with the inputs, agree."""
        weights = gru_weights(torch.Generator().manual_seed(number), 9, 7)
        h_0 = torch.zeros(len(inputs), 7, dtype=inputs.dtype)
        with recurrence.using(name), torch.no_grad():
            inputs = recurrence.shared(inputs)
            backend = recurrence.choose(inputs, h_0)
            first = recurrence.run_gru(backend, weights, inputs, h_0).final
            return all(
                torch.equal(recurrence.run_gru(backend, weights, inputs, h_0).final, first)
                for _ in range(2000)
            )

    def work(number):
        own = (torch.rand(3 + number, 2, 9) < 0.1 * (1 + number % 2)).double()
        if not forward_only(number, own):
            wrong.append((number, "forward"))
        for i in range(n_rounds):
            start.wait()
            actual = results(number, shared[i])
            same = (torch.allclose(a, b) for a, b in zip(actual, expected[number], strict=True))
            if not all(same):
                wrong.append((number, i))
        done.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(done) == n_threads


def test_recurrences_that_read_the_same_inputs_look_for_zeros_once(fresh, monkeypatch):
    assert fresh.unavailable() is None
    called = []
    call = CompiledBackend._call
    monkeypatch.setattr(
        CompiledBackend,
        "_call",
        lambda self, name, *args: (called.append(name), call(self, name, *args))[1],
    )
    inputs = recurrence.shared(torch.zeros(2, 3, 9, dtype=torch.float64))
    weights = gru_weights(torch.Generator().manual_seed(0), 9, 7)
    for reverse in (False, True):
        recurrence.run_gru(fresh, weights, inputs, torch.zeros(2, 7).double(), reverse)
    assert [name for name in called if name != "gru_forward"] == ["count_inputs", "compress_inputs"]
