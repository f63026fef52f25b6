"""Small helpers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from lfads_torch import utils
from lfads_torch.tuples import SessionBatch
from lfads_torch.utils import (
    flatten,
    move_aside,
    random_mask,
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
    # The meta device is there without an accelerator.
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


def test_send_a_bare_batch_to_where_it_is():
    batch = SessionBatch(torch.rand(2, 3, 4), torch.rand(2, 3, 4))
    sent = send_batch_to_device(batch, torch.device("cpu"))
    assert sent.encod_data is batch.encod_data


# ------------------------------------------------------------------ random_mask


@pytest.mark.parametrize("probability", [0.0, 0.001, 0.3, 0.5, 1 / 3, 0.9999, 1.0])
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
    too_few = SimpleNamespace(sqrt=lambda x: -x / 8, log1p=math.log1p)
    monkeypatch.setattr(utils, "math", too_few)
    torch.manual_seed(0)
    events = utils._events(10**6, 0.01)
    assert (np.diff(events) > 0).all()
    assert events[0] >= 0
    assert events[-1] < 10**6
    halves = np.histogram(events, [0, 500_000, 1_000_000])[0]
    assert (abs(halves - 5000) < 5 * (5000 * 0.99) ** 0.5).all()


# ------------------------------------------------------------------ move_aside


def test_move_aside_a_file(tmp_path):
    path = tmp_path / "metrics.csv"
    for text, expected in [("old", "metrics.1.csv"), ("newer", "metrics.2.csv")]:
        path.write_text(text)
        assert move_aside(path) == tmp_path / expected
        assert (tmp_path / expected).read_text() == text
        assert not path.exists()
    assert (tmp_path / "metrics.1.csv").read_text() == "old"


def test_move_aside_takes_the_first_free_number(tmp_path):
    for name in ("a.csv", "a.1.csv", "a.3.csv"):
        (tmp_path / name).write_text(name)
    assert move_aside(str(tmp_path / "a.csv")) == tmp_path / "a.2.csv"
    assert {p.name for p in tmp_path.iterdir()} == {"a.1.csv", "a.2.csv", "a.3.csv"}


@pytest.mark.parametrize("name", ["run", "run_lr0.01"])
def test_move_aside_a_folder(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "content").write_text("kept")
    assert move_aside(folder) == tmp_path / f"{name}.1"
    assert (tmp_path / f"{name}.1" / "content").read_text() == "kept"


def test_move_aside_nothing(tmp_path):
    assert move_aside(tmp_path / "absent") is None
