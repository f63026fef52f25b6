"""Random masks have the requested probability, and no pattern."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lfads_torch.recurrence import masks
from lfads_torch.recurrence.masks import random_mask


@pytest.mark.parametrize("probability", [0.0, 1e-300, 0.001, 0.3, 0.5, 1 / 3, 0.9999, 1.0])
def test_random_mask_has_its_probability(probability):
    torch.manual_seed(0)
    mask = random_mask((1001, 503, 3), probability, torch.device("cpu"))
    assert mask.dtype == torch.bool
    assert mask.shape == (1001, 503, 3)
    deviation = (probability * (1 - probability) / mask.numel()) ** 0.5
    assert abs(mask.double().mean() - probability) <= 4 * deviation
    columns = mask.double().mean(dim=0) - probability
    assert columns.abs().max() <= 5 * deviation * 1509**0.5 + 5 / 1001


def test_random_mask_is_independent_between_neighbours_and_calls():
    torch.manual_seed(0)
    n = 2**20
    masks = [random_mask((n,), 0.3, torch.device("cpu")).double() for _ in range(2)]
    pairs = [masks] + [(masks[0][:-lag], masks[0][lag:]) for lag in (1, 2, 4, 8, 64)]
    for pair in pairs:
        assert torch.corrcoef(torch.stack(tuple(pair)))[0, 1].abs() < 5 / n**0.5


def test_random_mask_follows_the_seed_and_takes_any_shape():
    for shape in [(), (0,), (7,), (3, 0, 2), (5, 3)]:
        drawn = []
        for _ in range(2):
            torch.manual_seed(3)
            drawn.append(random_mask(shape, 0.4, torch.device("cpu")))
        assert torch.equal(*drawn)
        assert drawn[0].shape == shape


def test_random_mask_where_the_first_gaps_do_not_reach_the_end(monkeypatch):
    monkeypatch.setattr(masks, "math", SimpleNamespace(sqrt=lambda x: -x / 8))
    events = masks._events(np.random.default_rng(0), 10**6, 0.01)
    assert (np.diff(events) > 0).all()
    assert events[0] >= 0
    assert events[-1] < 10**6
    halves = np.histogram(events, [0, 500_000, 1_000_000])[0]
    assert (abs(halves - 5000) < 5 * (5000 * 0.99) ** 0.5).all()
