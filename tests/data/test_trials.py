"""Trials in memory are indexed one by one or many at a time."""

import numpy as np
import pytest
import torch

from lfads_torch.data.trials import SessionDataset, to_tensor
from lfads_torch.tuples import SessionBatch


def test_to_tensor_copies():
    array = np.zeros(3, dtype="uint8")
    tensor = to_tensor(array)
    tensor += 1
    assert tensor.dtype == torch.float32
    assert array.sum() == 0


def test_dataset_indexing():
    data, extra = torch.arange(12.0).reshape(4, 3, 1), torch.arange(4)
    dataset = SessionDataset(SessionBatch(data, data, truth=data), [extra])
    trial, (number,) = dataset[2]
    assert torch.equal(trial.encod_data, data[2])
    assert number == 2
    assert trial.ext_input is None
    for index in ([3, 1], torch.tensor([3, 1]), slice(1, 4, 2)):
        batch, (picked,) = dataset[index]
        assert torch.equal(batch.truth, data[index])
        assert torch.equal(picked, extra[index])


def test_dataset_with_unequal_lengths():
    data = torch.zeros(4, 3, 1)
    with pytest.raises(ValueError, match=r"4 trials and a tensor of shape \(3,\)"):
        SessionDataset(SessionBatch(data, data), [torch.zeros(3)])
