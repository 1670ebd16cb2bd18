"""The lists of checks: all of them for `metasr doctor`, the quick ones for the start of a job."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from cluster.config import JobConfig, check_workers
from cluster.preflight import fit, machines, services
from cluster.preflight.results import CheckResult, Checks, Judgement, ok
from cluster.store import Store, UnavailableError, open_store
from metasr.errors import ConfigError
from metasr.perceptual import check_perceptual

VGG_DEADLINE_S = 300.0  # includes a download
DATABASE_S = 60.0  # MLflow creates its tables on first use
JOIN_S = 40.0
START_S = 180.0
NODES_S = machines.NODES_ANSWER_S + 30
QUICK_S = 30.0  # a slow store or node must not keep a job from starting


class AwayError(ConfigError, UnavailableError):
    """A store that a job needs is away: who knows that it was there can wait for it."""


def run_checks(
    config: JobConfig, see: Callable[[CheckResult], None] = lambda result: None, *, deadline_s: float = 20.0
) -> list[CheckResult]:
    """Run all checks: data, stores, MLflow, Ray and each of its nodes.

    Join or start Ray, unless this process is connected already.

    Args:
        config: Settings of the job.
        see: Called with each result as soon as it is known.
        deadline_s: Limit for each check of a service, in seconds. Ray and its nodes have longer ones.
    """
    checks = Checks(see)
    checks.judge("settings", lambda: _settings_found(config))
    _check_stores(checks, config, deadline_s)
    checks.look("mlflow", lambda: services.inspect_mlflow(config.tracking), max(deadline_s, DATABASE_S))
    checks.judge("mlflow", services.mlflow_found, "mlflow")
    if config.loss.perceptual:
        checks.look("vgg", lambda: check_perceptual(config.loss), VGG_DEADLINE_S)
    with ExitStack() as stack:
        if not os.environ.get("RAY_ADDRESS"):
            machines.start(config, stack)
        _check_machines(checks, config, stack)
    return checks.results


def require(config: JobConfig, tell: Callable[[str], None]) -> services.Data:
    """Check the stores at the start of a job, in about two seconds at most; return its data set.

    Args:
        config: Settings of the job.
        tell: Called with each warning.

    Raises:
        AwayError: The first problem is a store that does not answer, or asks for patience.
        ConfigError: The first problem.
    """
    checks = Checks()
    _check_stores(checks, config, QUICK_S)
    _raise_or_tell(checks, tell)
    data: services.Data = checks.seen("data")
    return data


def require_nodes(config: JobConfig, data: services.Data, tell: Callable[[str], None]) -> None:
    """Check Ray and, in parallel, the nodes that can train, once a job is connected.

    Problems that neither stop nor falsify the training are warnings: a joined Ray that is open to everybody, or has
    no room for the workers yet.

    Args:
        config: Settings of the job.
        data: Its data set.
        tell: Called with each warning.

    Raises:
        ConfigError: The first problem.
    """
    is_joined = bool(os.environ.get("RAY_ADDRESS"))
    checks, storage = Checks(), open_store(config.storage.url)
    checks.look("data", lambda: data, QUICK_S)
    checks.look("ray", lambda: machines.offered(access=is_joined), QUICK_S)
    checks.judge("workers", lambda cluster: machines.room_found(config, cluster), "ray")
    if not is_joined:  # a local Ray has no other users
        checks.results = [result for result in checks.results if result.state != "warning"]
    if is_joined and (cluster := checks.seen("ray")) and cluster.requires_token is False:
        checks.judge("ray", machines.access_found, "ray")
    look = partial(machines.inspect_start, config, data=data, storage=storage, tell=tell, deadline_s=QUICK_S)
    checks.look("nodes", look, NODES_S, "ray")
    checks.look("vgg", lambda: check_perceptual(config.loss), QUICK_S)
    if checks.seen("nodes"):
        _judge_nodes(checks, config)
    _raise_or_tell(checks, tell, passes=("ray", "workers") if is_joined else ())


def _raise_or_tell(checks: Checks, tell: Callable[[str], None], *, passes: Sequence[str] = ()) -> None:
    """Raise ConfigError for the first problem; report warnings, and the problems of the checks in `passes`."""
    for result in checks.results:
        if result.state == "problem" and result.name not in passes:
            kind = AwayError if result.name in checks.unanswered else ConfigError
            raise kind(f"check {result.name}", result.found, result.fix)
    for result in checks.results:
        if result.state in ("problem", "warning"):
            tell(f"{result.name}: {result.found}. {result.fix}")


def _settings_found(config: JobConfig) -> Judgement:
    check_workers(config)
    return ok(f"{config.resources.num_workers} workers share {config.train.num_virtual_shards} virtual shards")


def _check_stores(checks: Checks, config: JobConfig, deadline_s: float) -> None:
    checks.look("data", lambda: services.inspect_data(config), deadline_s)
    checks.judge("data", services.data_found, "data")
    checks.look("shards", services.inspect_shards, deadline_s, "data")
    checks.judge("shards", ok, "shards")
    checks.look("storage", lambda: services.try_store(config.storage.url), deadline_s)
    checks.judge("storage", services.store_found, "storage")
    checks.judge("storage room", lambda storage: _storage_room(config, storage), "storage")


def _storage_room(config: JobConfig, storage: Store) -> Judgement:
    free_bytes = storage.free_bytes()
    return ok("a bucket has room") if free_bytes is None else fit.storage_room(config, free_bytes)


def _check_ray(checks: Checks, config: JobConfig, stack: ExitStack, deadline_s: float) -> None:
    address = os.environ.get("RAY_ADDRESS", "")
    checks.look("ray", lambda: machines.join(config, stack), deadline_s, late=lambda: machines.no_ray(address))
    checks.judge("ray", machines.access_found, "ray")
    checks.judge("workers", lambda cluster: machines.room_found(config, cluster), "ray")


def _check_machines(checks: Checks, config: JobConfig, stack: ExitStack) -> None:
    _check_ray(checks, config, stack, JOIN_S if os.environ.get("RAY_ADDRESS") else START_S)
    data, storage = checks.seen("data"), checks.seen("storage")
    checks.look("nodes", lambda cluster: machines.inspect_nodes(config, cluster, data, storage), NODES_S, "ray")
    _judge_nodes(checks, config)
    if config.resources.gpu:
        checks.judge("gpus", fit.gpus, "nodes")


def _judge_nodes(checks: Checks, config: JobConfig) -> None:
    checks.judge("nodes", fit.able, "nodes")
    checks.judge("versions", fit.alike, "nodes")
    checks.judge("disks", lambda data, nodes: fit.disks(config, data, nodes), "data", "nodes")
    checks.judge("memory", lambda data, nodes: fit.memory(config, data, nodes), "data", "nodes")
    checks.judge("shm", fit.shared_memory, "nodes")
    if config.loss.perceptual:
        checks.judge("vgg", lambda _, nodes: fit.perceptual(nodes), "vgg", "nodes")
