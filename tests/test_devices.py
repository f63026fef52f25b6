"""Tests, on a CPU, of the code that runs on other devices.

The library asks ``lfads_torch.utils.on_cpu``, which these tests replace. ``tests/test_golden.py``
compares the golden figures in this way, too.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lfads_torch import recurrence, utils
from lfads_torch.modules.augmentations import AugmentationStack, SelectiveBackpropThruTime
from lfads_torch.recurrence import unit
from lfads_torch.recurrence.masks import random_mask
from tests.conftest import tiny_model
from tests.modules import test_fused
from tests.recurrence import test_decoder, test_gru
from tests.recurrence.common import Case
from tests.test_model import bare, batch


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    monkeypatch.setattr(utils, "on_cpu", lambda x: False)


def test_the_recurrences_in_pytorch_run_in_one_block():
    x = torch.zeros(4, 3, 2)
    for choice in ("auto", "torch", "compiled"):
        with recurrence.using(choice):
            assert recurrence.choose(x).name == "torch"
    assert unit.bins_of_block(500, 10**9, x) == 500
    test_gru.test_recurrent_unit(case=Case("torch"))
    test_decoder.test_decoder(case=Case("torch"))
    test_fused.test_encoder_and_decoder(name="torch")


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_masks_are_drawn_there(probability):
    torch.manual_seed(0)
    mask = random_mask((100, 1000), probability, torch.device("cpu"))
    assert mask.dtype == torch.bool
    assert mask.double().mean().item() == pytest.approx(probability, abs=0.01)


class Answers(TorchDispatchMode):
    """Counts operations that wait for the device to answer."""

    waiting = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in self.waiting):
            self.counts[str(function)] += 1
        boolean = [x for x in args[1:2] if isinstance(x, list | tuple)]
        if "index" in str(function) and any(
            x is not None and x.dtype == torch.bool for indices in boolean for x in indices
        ):
            self.counts["boolean index"] += 1
        return function(*args, **(kwargs or {}))


def test_a_training_step_waits_for_the_device_once():
    """It waits to find out whether the loss is finite."""
    model = tiny_model()
    bare(model)
    model.on_train_epoch_start()
    with Answers() as answers:
        model.training_step({0: (batch(), ())}, 0).backward()
    assert answers.counts == {"aten._local_scalar_dense.default": 1}


@pytest.mark.parametrize("missing", [False, True])
def test_a_step_is_that_of_a_cpu(missing, monkeypatch):
    results = []
    for answer in (True, False):
        monkeypatch.setattr(utils, "on_cpu", lambda x, answer=answer: answer)
        torch.manual_seed(0)
        stack = AugmentationStack([SelectiveBackpropThruTime()], [0], [0])
        model = tiny_model(
            dropout_rate=0.0, variational=False, train_aug_stack=stack, recurrence="torch"
        )
        logged = bare(model)
        counts = batch().recon_data * 2
        if missing:
            counts[0, 3, 1] = torch.nan
        model.training_step({0: (batch(recon_data=counts), ())}, 0).backward()
        results.append((logged, [p.grad for p in model.parameters() if p.requires_grad]))
    (expected_log, expected), (log, grads) = results
    assert log == pytest.approx(expected_log, rel=1e-5, nan_ok=True)
    torch.testing.assert_close(grads, expected, rtol=1e-4, atol=1e-4)
