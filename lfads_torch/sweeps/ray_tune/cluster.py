"""The machines that a search runs on, and where Ray keeps its files."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray

from lfads_torch.errors import UserError
from lfads_torch.sweeps.options import SweepOptions

EXPERIMENT = "trials"
"""Name of the folder of Ray's files in the folder of a sweep."""
_ENVIRONMENT = {
    # Ray's report of results is not needed, since the sweep prints one; usage is not reported.
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The state of the search is small, so that it is saved every second.
    "TUNE_GLOBAL_CHECKPOINT_S": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # GPUs are hidden from trials that ask for none. The present Ray needs a setting for this.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # The processes of trials stay in the working folder in which they were started.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
"""Settings of Ray, over which the user's environment takes precedence."""


@contextmanager
def cluster(options: SweepOptions) -> Iterator[None]:
    """Join the Ray cluster, or start one on this machine while the block runs."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # On Ctrl-C, Ray would end all trials as if they had finished training. Without its handler,
    # Ctrl-C interrupts the search like any kill, and the search can be resumed.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    # Two checkpoints are enough: each generation leaves one, and all trials wait for each other.
    warnings.filterwarnings("ignore", ".*CheckpointConfig.num_to_keep <= 2.*")
    if ray.is_initialized():
        yield
        return
    arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.ray_address is None:
        # Processes exchange checkpoints as files, so that Ray's shared memory may be small.
        arguments |= {"include_dashboard": False, "object_store_memory": 200_000_000}
    ray.init(address=options.ray_address or "local", **arguments)
    try:
        yield
    finally:
        ray.shutdown()


def trial_resources(options: SweepOptions) -> dict[str, float]:
    """Return the CPUs and GPUs that a trial asks for.

    Raises
    ------
    ValueError
        If no machine of the cluster has as many.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    asked: dict[str, float] = {"cpu": options.cpus_without_gpu}
    if options.gpus_per_trial and any(node.get("GPU") for node in nodes):
        asked = {"cpu": options.cpus_per_trial, "gpu": options.gpus_per_trial}
    if not any(
        all(node.get(name.upper(), 0) >= wanted for name, wanted in asked.items()) for node in nodes
    ):
        found = [{name: node.get(name, 0) for name in ("CPU", "GPU")} for node in nodes]
        raise UserError(
            f"A trial asks for {asked}, which no machine has: {found}. Lower sweep.cpus_per_trial, "
            f"sweep.gpus_per_trial or sweep.cpus_without_gpu."
        )
    return asked


def storage_arguments(options: SweepOptions, run_dir: Path) -> dict[str, Any]:
    """Return the arguments of ``ray.tune.run`` that determine where Ray keeps its files."""
    if options.storage is None:
        return {"name": EXPERIMENT, "storage_path": str(run_dir)}
    arguments: dict[str, Any] = {"name": f"{run_dir.name}_{options.id}"}
    protocol = urlsplit(options.storage).scheme
    if protocol in ("", "file", "s3", "gs", "gcs", "hdfs"):  # pyarrow supports these itself.
        return {**arguments, "storage_path": options.storage}
    import fsspec
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = fsspec.core.url_to_fs(options.storage)
    handler = PyFileSystem(FSSpecHandler(filesystem))
    return {**arguments, "storage_path": path, "storage_filesystem": handler}
