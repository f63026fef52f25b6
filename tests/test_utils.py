"""The small helper functions work on nested structures."""

import pytest
import torch
from omegaconf import OmegaConf

from lfads_torch.tuples import SessionBatch
from lfads_torch.utils import (
    flatten,
    send_batch_to_device,
    transpose_lists,
)

# ------------------------------------------------------------------ flatten, transpose_lists


def test_flatten():
    nested = {"a": {"b": {"c": 1, "d": [2, {"e": 3}]}}, "f": None, "g.h": 4}
    assert flatten(nested) == {"a.b.c": 1, "a.b.d": [2, {"e": 3}], "f": None, "g.h": 4}
    assert flatten({}) == {}
    assert flatten({"a": {"b": 1}}, prefix="x.") == {"x.a.b": 1}
    assert flatten(OmegaConf.create({"a": {"b": 1}, "c": 2})) == {"a.b": 1, "c": 2}
    assert list(flatten({"b": 1, "a": {"z": 1, "y": 2}})) == ["b", "a.z", "a.y"]


def test_flatten_does_not_change_its_argument():
    nested = {"a": {"b": 1}}
    flatten(nested)
    assert nested == {"a": {"b": 1}}


def test_transpose_lists():
    assert transpose_lists([[1, 2, 3], [4, 5, 6]]) == [[1, 4], [2, 5], [3, 6]]
    assert transpose_lists([("a", 1)]) == [["a"], [1]]
    assert transpose_lists([]) == []


def test_transpose_lists_of_unequal_lengths():
    with pytest.raises(ValueError, match="shorter"):
        transpose_lists([[1, 2], [3]])


# ------------------------------------------------------------------ send_batch_to_device


def test_send_batch_to_device():
    # The meta device exists on every machine.
    tensor = torch.ones(2, 3)
    batch = {
        0: (SessionBatch(tensor, tensor, truth=tensor), (tensor, [tensor])),
        1: None,
        "name": "text",
    }
    sent = send_batch_to_device(batch, "meta")
    assert sent.keys() == batch.keys()
    session_batch, (extra, [another]) = sent[0]
    assert type(session_batch) is SessionBatch
    moved = [session_batch.encod_data, session_batch.recon_data, session_batch.truth]
    for value in (*moved, extra, another):
        assert value.device.type == "meta"
        assert value.shape == (2, 3)
    assert session_batch.ext_input is None
    assert sent[1] is None
    assert sent["name"] == "text"
    assert isinstance(sent[0], tuple)
    assert isinstance(sent[0][1][1], list)
    assert tensor.device.type == "cpu"


def test_send_a_bare_batch_to_its_own_device():
    batch = SessionBatch(torch.rand(2, 3, 4), torch.rand(2, 3, 4))
    sent = send_batch_to_device(batch, torch.device("cpu"))
    assert sent.encod_data is batch.encod_data
