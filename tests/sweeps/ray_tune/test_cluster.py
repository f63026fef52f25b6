"""The resources that trials request, and the place where Ray keeps its files."""

import dataclasses

import fsspec
import pytest

from lfads_torch.sweeps.ray_tune.cluster import storage_arguments, trial_resources
from tests.sweeps.conftest import options


def nodes(*resources, alive=True):
    return lambda: [{"Alive": alive, "Resources": resource} for resource in resources]


@pytest.mark.parametrize(
    ("found", "words", "expected"),
    [
        (nodes({"CPU": 2}), [], {"cpu": 1}),
        (nodes({"CPU": 8, "GPU": 1}), [], {"cpu": 3, "gpu": 0.5}),
        (nodes({"CPU": 2}, {"CPU": 4, "GPU": 2}), [], {"cpu": 3, "gpu": 0.5}),
        (nodes({"CPU": 8, "GPU": 1}), ["sweep.gpus_per_trial=0"], {"cpu": 1}),
        (nodes({"CPU": 8, "GPU": 1}), ["sweep.gpus_per_trial=0.25"], {"cpu": 3, "gpu": 0.25}),
        (nodes({"CPU": 2}), ["sweep.cpus_without_gpu=2"], {"cpu": 2}),
    ],
)
def test_resources_follow_the_machines(monkeypatch, found, words, expected):
    monkeypatch.setattr("ray.nodes", found)
    assert trial_resources(options(*words)) == expected


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (nodes({"CPU": 2}), ["sweep.cpus_without_gpu=3"]),
        (nodes({"CPU": 2, "GPU": 1}), []),  # A trial needs 3 CPUs and half a GPU.
        (nodes({"CPU": 8, "GPU": 1}), ["sweep.gpus_per_trial=2"]),
        (nodes({"CPU": 8}, alive=False), []),
    ],
)
def test_resources_that_no_machine_has_are_refused(monkeypatch, found, words):
    monkeypatch.setattr("ray.nodes", found)
    with pytest.raises(ValueError, match=r"which no machine has.*sweep\.cpus_per_trial"):
        trial_resources(options(*words))


def test_where_files_are_kept(tmp_path):
    made = options()
    assert storage_arguments(made, tmp_path) == {"name": "trials", "storage_path": str(tmp_path)}
    shared = dataclasses.replace(made, storage="/shared", id="1234")
    expected = {"name": f"{tmp_path.name}_1234", "storage_path": "/shared"}
    assert storage_arguments(shared, tmp_path) == expected
    shared = dataclasses.replace(made, storage="s3://bucket/sweeps", id="1234")
    assert storage_arguments(shared, tmp_path)["storage_path"] == "s3://bucket/sweeps"
    # This kind of URL is not supported by pyarrow, but by fsspec.
    memory = dataclasses.replace(made, storage="memory://sweeps", id="1234")
    found = storage_arguments(memory, tmp_path)
    with found["storage_filesystem"].open_output_stream(f"{found['storage_path']}/x") as file:
        file.write(b"here")
    assert fsspec.filesystem("memory").cat("/sweeps/x") == b"here"
