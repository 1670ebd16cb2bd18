"""What is looked at on the nodes of a cluster before training: versions, room, cards, and Ray itself."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from cluster.preflight import fit, machines, require_nodes, run_checks
from cluster.preflight.node import Card, NodeFacts, room, versions
from cluster.preflight.services import inspect_data
from cluster.store import open_store
from metasr.errors import ConfigError
from tests.cluster.training import ROOT, changed
from tests.patience import PATIENCE_S

# Nodes, as they describe themselves


def node(**values):
    facts = NodeFacts(
        address="10.0.0.1",
        versions=versions(),
        free_bytes={"storage.cache": 10**12, "storage.spool": 10**12},
        shm_bytes=10**10,
        memory_bytes=10**11,
        store_bytes=10**9,
        num_workers=1,
        vgg_sha256="a" * 64,
        cards=(Card("NVIDIA H100", 80 * 10**9),),
        driver="570.1",
    )
    return replace(facts, **values)


def test_a_node_with_other_versions_is_named():
    assert fit.alike([node()]).state == "ok"
    other = node(address="10.0.0.2", versions=versions() | {"torch": "2.12.0"})
    finding = fit.alike([node(), other])
    assert finding.state == "problem"
    assert "10.0.0.2 has torch 2.12.0" in finding.found


def test_a_disk_without_room_is_found(job):
    one = fit.checkpoint_bytes(job)
    assert fit.storage_room(job, 4 * one).state == "ok"
    assert fit.storage_room(job, 4 * one - 1).state == "problem"
    for spool, state in (10**12, "ok"), (2 * one - 1, "warning"), (one - 1, "problem"):
        other = node(free_bytes={"storage.cache": 10**12, "storage.spool": spool})
        assert fit.disks(job, inspect_data(job), [node(), other]).state == state


def test_what_a_folder_holds_makes_way_for_what_is_to_come(tmp_path):
    """Such as checkpoints that wait there to be uploaded."""
    (tmp_path / "run" / "step-1").mkdir(parents=True)
    (tmp_path / "run" / "step-1" / "state").write_bytes(bytes(10**8))
    assert room(str(tmp_path), count_own=True) - room(str(tmp_path)) > 10**8 / 2  # others use the disk too


def test_files_that_others_remove_while_a_folder_is_measured_do_not_stop_it(tmp_path):
    """Such as the checkpoints of another run, which are uploaded meanwhile."""
    ended = threading.Event()

    def upload():
        for number in itertools.count():
            folder = tmp_path / f"step-{number}"
            folder.mkdir()
            for name in range(20):
                (folder / str(name)).write_bytes(b"state")
            shutil.rmtree(folder)
            if ended.is_set():
                return

    other = threading.Thread(target=upload)
    other.start()
    try:
        for _ in range(500):
            assert room(str(tmp_path), count_own=True) > 0
            assert room(str(tmp_path / "step-0" / "7"), count_own=True) > 0
    finally:
        ended.set()
        other.join()


def test_the_estimate_of_a_checkpoint_is_not_below_a_real_one(job, tmp_path):
    import torch

    from metasr.identity import RunIdentity
    from metasr.training.state import TrainingState

    config = changed(job, "model", num_features=8, num_blocks=1)
    state = TrainingState.initial(config, torch.device("cpu"), mean=0.0, std=1.0)
    for optimiser in (state.generator_optimiser, state.discriminator_optimiser):
        for parameter in optimiser.param_groups[0]["params"]:
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()  # only then has it a state to be kept
    state.save(tmp_path, config, RunIdentity("run", "code", "digest", "url"))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= fit.checkpoint_bytes(config)


def test_small_shared_memory_and_little_memory_are_warned_about(job):
    data = inspect_data(job)
    assert fit.shared_memory([node()]).state == fit.memory(job, data, [node()]).state == "ok"
    assert fit.shared_memory([node(), node(shm_bytes=10**8)]).state == "warning"
    assert fit.memory(job, data, [node(memory_bytes=10**9)]).state == "warning"
    assert fit.memory(job, data, [node(memory_bytes=4 * 10**9, num_workers=4)]).state == "warning"


def test_nodes_with_other_vgg_weights_are_a_problem():
    assert fit.perceptual([node(), node()]).state == "ok"
    assert fit.perceptual([node(), node(vgg_sha256="b" * 64)]).state == "problem"


@pytest.mark.parametrize(
    ("nodes", "state", "said"),
    [
        ([node(), node()], "ok", "driver 570.1"),
        ([node(), node(cards=(Card("NVIDIA A100", 80 * 10**9),))], "warning", "mixed"),
        ([node(cards=(Card("NVIDIA H100", 10**9),))], "warning", "1.0 GB free"),
        ([node(), node(address="10.0.0.3", cards=())], "problem", "10.0.0.3"),
        ([node(num_workers=0)], "problem", "no node"),
    ],
)
def test_gpus_are_judged(nodes, state, said):
    finding = fit.gpus(nodes)
    assert finding.state == state
    assert said in finding.found


# Ray


@pytest.mark.parametrize(
    ("dashboard", "asks", "state"),
    [
        ("127.0.0.1:8265", True, "ok"),
        ("192.0.2.1:8265", True, "ok"),
        ("127.0.0.1:8265", False, "problem"),
        ("192.0.2.1:8265", False, "problem"),
        ("", None, "warning"),
        ("", True, "ok"),
        ("", False, "problem"),
    ],
)
def test_a_ray_that_anybody_can_use_is_a_problem(dashboard, asks, state):
    assert machines.access_found(machines.Cluster(dashboard, asks, [], {})).state == state


@pytest.mark.parametrize(
    ("num_workers", "min_workers", "free", "state"),
    [(4, 0, 4, "ok"), (4, 0, 1, "warning"), (5, 2, 4, "warning"), (5, 0, 4, "problem"), (5, 5, 4, "problem")],
)
def test_the_room_for_workers_is_judged(job, num_workers, min_workers, free, state):
    config = changed(job, "resources", num_workers=num_workers, min_workers=min_workers)
    cluster = machines.Cluster("", None, [{"Resources": {"CPU": 2.0}}] * 2, {"CPU": float(free)})
    finding = machines.room_found(config, cluster)
    assert finding.state == state
    assert "4 fit" in finding.found


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory):
    """A Ray of our own, which takes long to start. Its token is in a home of its own."""
    from cluster.runtime.connection import connected

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            environment.delenv(name, raising=False)
        with connected(cpus=2):
            yield ray.get_runtime_context().gcs_address
        environment.delenv("RAY_AUTH_MODE", raising=False)


def test_a_job_on_a_ray_that_is_well_has_no_problems(ray_here, job):
    results = {result.name: result for result in run_checks(job)}
    assert {name: result for name, result in results.items() if result.state in ("problem", "skipped")} == {}
    assert results["ray"].state == "ok"
    assert "token authentication is on" in results["ray"].found
    assert list(results) == [
        *("settings", "data", "shards", "storage", "storage room", "mlflow"),
        *("ray", "workers", "nodes", "versions", "disks", "memory", "shm"),
    ]


def test_prometheus_finds_the_metrics_of_a_ray_of_our_own(ray_here):
    folder = Path(ray._private.worker._global_node.get_session_dir_path())
    (found,) = json.loads((folder / PROMETHEUS_SERVICE_DISCOVERY_FILE).read_text())
    (target,) = found["targets"]
    with urllib.request.urlopen(f"http://{target}/metrics", timeout=PATIENCE_S) as answer:
        assert answer.status == 200


def test_a_node_that_has_other_data_or_no_weights_is_found(ray_here, job, damaged):
    """The node reads what the driver has read: here the index has changed in between."""
    config = changed(job, "data", url=str(damaged))
    data = inspect_data(config)
    (damaged / "index.json").unlink()
    cluster = machines.join(config, None)
    facts = machines.inspect_nodes(config, cluster, data, open_store(config.storage.url))
    finding = fit.able(facts)
    assert finding.state == "problem"
    assert "it has no index.json" in finding.found


def test_a_job_on_one_machine_hears_nothing_of_it_and_waits_for_no_process(ray_here, job, monkeypatch):
    told, started, data = [], [], inspect_data(job)
    monkeypatch.setattr("ray.remote", lambda **options: started.append)  # a process takes seconds to start
    require_nodes(job, data, told.append)
    assert told == started == []


def test_a_ray_without_room_ends_a_job_that_started_it_and_may_grow_where_it_was_joined(ray_here, job, monkeypatch):
    config, data, told = changed(job, "resources", num_workers=3, cpus_per_worker=9), inspect_data(job), []
    with pytest.raises(ConfigError, match="check workers: 3 workers of 9 CPU each: 0 fit"):
        require_nodes(config, data, pytest.fail)
    monkeypatch.setenv("RAY_ADDRESS", ray_here)
    require_nodes(config, data, told.append)
    assert [line.partition(":")[0] for line in told] == ["workers"]


@pytest.fixture
def elsewhere(ray_here, monkeypatch):
    """The node as one of another machine, with an id that may be another's."""

    def make(**values):
        cluster = machines.offered(access=False)
        (here,) = cluster.nodes
        other = here | {"NodeManagerAddress": "10.0.0.2"} | values
        monkeypatch.setattr(
            machines, "offered", lambda access: replace(cluster, nodes=[other, here | {"Resources": {}}])
        )

    return make


def test_a_node_with_other_code_or_without_weights_ends_a_job_at_its_start(elsewhere, job, monkeypatch, tmp_path):
    elsewhere()
    require_nodes(job, inspect_data(job), pytest.fail)
    without = changed(job, "loss", perceptual=0.006, vgg_weights=tmp_path / "none.safetensors")
    monkeypatch.setattr("cluster.preflight.run.check_perceptual", lambda loss: None)  # the driver has them
    with pytest.raises(ConfigError, match=r"check nodes: 10\.0\.0\.2: VGG weights .*none\.safetensors"):
        require_nodes(without, inspect_data(job), pytest.fail)
    monkeypatch.setattr(fit, "versions", lambda: versions() | {"code": "another"})
    with pytest.raises(ConfigError, match=r"check versions: 10\.0\.0\.2 has code .*, the driver another"):
        require_nodes(job, inspect_data(job), pytest.fail)


def test_a_node_that_has_gone_is_told_and_stops_no_job(elsewhere, job):
    elsewhere(NodeID="1" * 56)
    told = []
    require_nodes(job, inspect_data(job), told.append)
    assert told == ["not checked: node 10.0.0.2: it is gone. See the node's log, or remove it"]


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 32}, "the token here is not the cluster's"),
        pytest.param({}, "no token is set here", marks=pytest.mark.slow),
    ],
    ids=["wrong", "missing"],
)
def test_a_token_that_is_wrong_or_missing_is_explained(ray_here, tmp_path, environment, said):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "jobs" / "doctor.py",
            "--loss.perceptual",
            "0",
            "--tracking.uri",
            "http://127.0.0.1:9",
        ],
        env=plain | {"HOME": str(tmp_path), "RAY_ADDRESS": ray_here} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("PROBLEM  ray ")]
    assert said in line
    assert "InvalidAuthToken" not in done.stderr  # what Ray itself says each second, for two minutes
