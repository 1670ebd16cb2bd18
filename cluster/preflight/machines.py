"""Ray and its nodes: whether they can be reached and by whom, have room for the workers, and are alike."""

import dataclasses
import logging
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import GetTimeoutError, NodeDiedError, RayError, TaskUnschedulableError, WorkerCrashedError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.config import JobConfig, portable
from cluster.preflight.node import NodeFacts, computes_bfloat16, inspect_node
from cluster.preflight.results import Judgement, ok, problem, warning
from cluster.preflight.services import Data, is_loopback
from cluster.redaction import one_line
from cluster.runtime.connection import connected, requires_token, token_reason
from cluster.store import Store
from metasr.errors import ConfigError, MetaSRError

ANSWER_S = 5.0
NODES_ANSWER_S = 90.0


class NoAnswerError(ConfigError):
    """A node does not answer, or is gone."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes:
        dashboard: Host and port of its dashboard; empty without one.
        requires_token: Whether it requires a token; None if unknown.
        nodes: The live nodes, as Ray describes them.
        free: Resources that are not reserved.
    """

    dashboard: str
    requires_token: bool | None
    nodes: list[dict[str, Any]]
    free: dict[str, float]


def start(config: JobConfig, stack: ExitStack) -> None:
    """Start a local Ray in the calling thread: Ray's processes end with the thread that started them."""
    with suppress(MetaSRError):  # `join` tries again and reports the error
        stack.enter_context(connected(config.resources.cpus))


def join(config: JobConfig, stack: ExitStack) -> Cluster:
    """Connect to Ray, unless connected, and return the cluster.

    Raises:
        ConfigError: It cannot be reached.
    """
    if not ray.is_initialized():
        try:
            stack.enter_context(connected(config.resources.cpus))
        except ConfigError as error:
            if not error.why.startswith("Failed to connect"):  # the error is specific, such as different versions
                raise
            fix = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the output of `ray get-auth-token` on the head"
            raise ConfigError(no_ray(os.environ.get("RAY_ADDRESS", "")), "", fix) from error
    return offered()


def offered(*, access: bool = True) -> Cluster:
    """Return the Ray cluster that this process is connected to; without `access`, leave out the dashboard."""
    dashboard = _dashboard() if access else ""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(dashboard, _requires_token(dashboard) if access else None, nodes, ray.available_resources())


def _dashboard() -> str:
    """Return the address of the dashboard. Only `ray.init` tells it, and logs a warning when called again."""
    logger = logging.getLogger("ray")
    level = logger.level
    try:
        return str(ray.init(ignore_reinit_error=True, logging_level=logging.ERROR).dashboard_url or "")
    finally:
        logger.setLevel(level)


def no_ray(address: str) -> str:
    """Return the likely cause when Ray cannot be joined."""
    if not address:
        return "Ray did not start here"
    return f"cannot join Ray at {address}: it is no Ray, or {token_reason()}"


def _requires_token(dashboard: str) -> bool | None:
    if not dashboard:
        return requires_token(ray.get_runtime_context().gcs_address)
    try:
        with urllib.request.urlopen(f"http://{dashboard}/api/version", timeout=ANSWER_S):
            return False
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError:
        return None


def access_found(cluster: Cluster) -> Judgement:
    """Judge the access control of Ray: without a token, whoever reaches its ports can run any code."""
    host = urlsplit(f"//{cluster.dashboard}").hostname or ""
    if cluster.requires_token is None:
        return warning(
            f"the dashboard {cluster.dashboard or '(none)'} does not answer here: authentication was not checked",
            "Run this on the head, or make sure that RAY_AUTH_MODE=token is set there",
        )
    if not cluster.requires_token:
        open_to = "users of its machine" if is_loopback(host) else "everybody who reaches it"
        return problem(
            f"token authentication is off: {open_to} can run code through {cluster.dashboard or 'its ports'}",
            "`ray get-auth-token --generate` on the head, RAY_AUTH_MODE=token on all nodes, and restart Ray",
        )
    where = "on loopback" if is_loopback(host) else "open to the network, with the token"
    if not host:
        where = "off"
    return ok(f"{len(cluster.nodes)} node(s); token authentication is on; dashboard {where}")


def workers_on(config: JobConfig, resources: dict[str, float]) -> int:
    """Return how many workers fit into resources."""
    fit = int(resources.get("CPU", 0) / config.resources.cpus_per_worker + 1e-9)
    if not config.resources.gpu:
        return fit
    return min(fit, int(resources.get("GPU", 0) / config.resources.gpus_per_worker + 1e-9))


def room_found(config: JobConfig, cluster: Cluster) -> Judgement:
    """Judge whether all workers fit, and how many fit now."""
    asked, least = config.resources.num_workers, config.resources.min_workers or config.resources.num_workers
    fit = sum(workers_on(config, node["Resources"]) for node in cluster.nodes)
    now = min(fit, workers_on(config, cluster.free))
    needs = f"{config.resources.cpus_per_worker:g} CPU" + _gpu_needed(config)
    said = f"{asked} workers of {needs} each: {fit} fit, {now} of them now"
    if fit < least:
        return problem(said, f"Add nodes, or set --resources.num-workers to {fit}" if fit else "Add nodes")
    if now < asked:
        return warning(said, "Wait for other jobs, add nodes, or use fewer workers")
    return ok(said)


def _gpu_needed(config: JobConfig) -> str:
    share = config.resources.gpus_per_worker
    return (" and a GPU" if share == 1 else f" and {share:g} of a GPU") if config.resources.gpu else ""


def inspect_nodes(config: JobConfig, cluster: Cluster, data: Data | None, storage: Store | None) -> list[NodeFacts]:
    """Collect the facts of all nodes, in parallel.

    Raises:
        ConfigError: A node does not answer, or cannot run our code.
    """
    answers = _answers(config, cluster.nodes, data, storage, NODES_ANSWER_S)
    return [_facts(config, node, answer) for node, answer in answers]


def nodes_without_bfloat16(config: JobConfig) -> list[str]:
    """Ask the nodes that workers fit on, at once, and return the addresses of those whose bfloat16 would be slow.

    Raises:
        ConfigError: A node does not answer, or workers fit on none.
    """
    fix = "Give --train.precision float32 or bfloat16, or run the same command again later"
    nodes = [node for node in ray.nodes() if node["Alive"] and workers_on(config, node["Resources"])]
    if not nodes:
        raise ConfigError("train.precision auto", "no node that a worker fits on is there to be asked", fix)
    asked = _ask(nodes, computes_bfloat16, lambda node: (config.resources.gpu,))
    try:
        answers = ray.get(asked, timeout=NODES_ANSWER_S)
    except RayError as error:
        raise ConfigError("train.precision auto", f"not all nodes answer ({one_line(error)})", fix) from None
    return [node["NodeManagerAddress"] for node, has in zip(nodes, answers, strict=True) if not has]


def inspect_start(
    config: JobConfig, cluster: Cluster, data: Data, storage: Store, tell: Callable[[str], None], deadline_s: float
) -> list[NodeFacts]:
    """Collect the facts of the nodes that workers fit on: other machines in parallel, this machine in this process.

    GPUs are left out, and so is what the driver has checked already. On one machine no process is started.

    Args:
        config: Settings of the job.
        cluster: The cluster of the nodes.
        data: The data set that the driver has read.
        storage: Store of the checkpoints.
        tell: Called with a line for each node that has not answered.
        deadline_s: Limit for all answers, in seconds.

    Raises:
        ConfigError: A node cannot run our code.
    """
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in cluster.nodes}
    here = addresses.get(ray.get_runtime_context().get_node_id())
    fitting = [node for node in cluster.nodes if workers_on(config, node["Resources"])]
    others = [node for node in fitting if node["NodeManagerAddress"] != here]
    found = []
    for node, answer in _answers(config, others, data, storage, deadline_s, cards=False) if others else []:
        try:
            found.append(_facts(config, node, answer))
        except NoAnswerError as error:
            tell(f"not checked: {error}")
    if ours := [node for node in fitting if node["NodeManagerAddress"] == here]:
        loss = config.loss if others else config.loss.model_copy(update={"perceptual": 0.0})  # nothing to compare
        facts = inspect_node(config.model_copy(update={"loss": loss}), str(here), "", "", cards=False)
        found += [_with_resources(config, facts, node) for node in ours]
    return found


def _answers(
    config: JobConfig,
    nodes: list[dict[str, Any]],
    data: Data | None,
    storage: Store | None,
    deadline_s: float,
    *,
    cards: bool = True,
) -> list[tuple[dict[str, Any], "ray.ObjectRef[NodeFacts]"]]:
    """Query nodes, wait for their answers until the deadline, and return both."""
    marker = f"doctor/{uuid.uuid4().hex}" if storage else ""
    if storage:
        storage.put(marker, b"here")
    try:
        what, digest = portable(config), data.index.digest() if data else ""
        asked = _ask(nodes, inspect_node, lambda node: (what, node["NodeManagerAddress"], digest, marker, cards))
        ray.wait(asked, num_returns=len(asked), timeout=deadline_s)
    finally:
        if storage:
            storage.delete(marker)
    return list(zip(nodes, asked, strict=True))


def _ask(
    nodes: list[dict[str, Any]], function: Callable[..., Any], arguments: Callable[[dict[str, Any]], tuple[Any, ...]]
) -> list["ray.ObjectRef[Any]"]:
    """Call a function on each node, without resources and without retries; return the pending results."""
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in nodes]
    return [
        remote.options(scheduling_strategy=place).remote(*arguments(node))
        for place, node in zip(there, nodes, strict=True)
    ]


def _facts(config: JobConfig, node: dict[str, Any], answer: "ray.ObjectRef[NodeFacts]") -> NodeFacts:
    what = f"node {node['NodeManagerAddress']}"
    try:
        return _with_resources(config, ray.get(answer, timeout=0.1), node)
    except (GetTimeoutError, TaskUnschedulableError, NodeDiedError, WorkerCrashedError) as error:
        why = "it does not answer" if isinstance(error, GetTimeoutError) else "it is gone"
        raise NoAnswerError(what, why, "See the node's log, or remove it") from None
    except (RayError, ImportError) as error:
        fix = "Give all nodes the same image, and send the code along: `ray job submit --working-dir .`"
        raise ConfigError(f"{what} cannot run our code", str(error).strip().splitlines()[-1], fix) from None


def _with_resources(config: JobConfig, facts: NodeFacts, node: dict[str, Any]) -> NodeFacts:
    return dataclasses.replace(
        facts,
        store_bytes=int(node["Resources"].get("object_store_memory", 0)),
        num_workers=min(config.resources.num_workers, workers_on(config, node["Resources"])),
    )
