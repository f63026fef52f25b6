"""The scheduler on real Ray clusters whose processes and machines are killed, with fast trials."""

import time
from threading import Thread

import pytest
import ray
from ray import tune
from ray.cluster_utils import Cluster

from lfads_torch.sweeps.ray_tune.scheduler import BinaryTournamentPBT, Population
from lfads_torch.sweeps.space import HyperParam
from tests.sweeps.ray_tune.light import Light

pytestmark = pytest.mark.slow


def search(folder, seconds=0.1, killer=None, n_trials=4, n_epochs=10):
    scheduler = BinaryTournamentPBT(
        perturbation_interval=2, hyperparam_mutations={"rate": HyperParam(0.1, 1.0)}
    )
    return tune.run(
        Light,
        name="light",
        storage_path=str(folder),
        metric="valid/recon_smth",
        mode="min",
        config={
            "rate": tune.loguniform(0.1, 1.0), "folder": str(folder), "seconds": seconds,
            "killer": killer,
        },
        num_samples=n_trials,
        resources_per_trial={"cpu": 1},
        search_alg=Population(random_state=0),
        scheduler=scheduler,
        stop={"cur_epoch": n_epochs},
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=2),
        max_failures=3,
        raise_on_failed_trial=False,
        reuse_actors=True,
        verbose=0,
    ).trials  # fmt: skip


def found(trials):
    return {
        int(trial.trial_id.split("_")[-1]): (trial.status, trial.last_result["valid/recon_smth"])
        for trial in trials
    }


@pytest.fixture
def two_cpus():
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


@pytest.fixture
def quiet_search(tmp_path, two_cpus):
    """Outcomes and number of processes of a search without failures."""
    folder = tmp_path / "quiet"
    folder.mkdir()
    return found(search(folder)), len(list(folder.glob("[0-9]*")))


def test_processes_are_kept(quiet_search):
    trials, n_processes = quiet_search
    assert [status for status, _ in trials.values()] == ["TERMINATED"] * 4
    assert n_processes < 10  # 20 steps; Ray sometimes starts one although another is idle


def test_a_process_that_waits_is_killed(tmp_path, quiet_search):
    trials = search(tmp_path, killer=3)
    assert (tmp_path / "killed").exists()
    assert found(trials) == quiet_search[0]


def test_a_machine_is_lost(tmp_path, quiet_search):
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    def kill():
        while len(list(tmp_path.glob("[0-9]*"))) < 2:  # until both machines train
            time.sleep(0.1)
        time.sleep(2.5)
        cluster.remove_node(nodes[0], allow_graceful=False)

    killing = Thread(target=kill)
    killing.start()
    try:
        trials = search(tmp_path, seconds=1.0)
        killing.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert any(trial.num_failures for trial in trials)
    assert found(trials) == quiet_search[0]
