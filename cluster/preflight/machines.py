"""Ray and its nodes: can they be reached and by whom, is there room, are they alike."""

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
from cluster.preflight.node import NodeFacts, look_at_node
from cluster.preflight.results import Judgement, ok, problem, warning
from cluster.preflight.services import Data, is_loopback
from cluster.runtime.connection import connected
from cluster.store import Store
from metasr.errors import ConfigError, MetaSRError

ANSWER_S = 5.0
NODES_ANSWER_S = 90.0
_TOKEN_NAMES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class NoAnswerError(ConfigError):
    """A node that says nothing, or has gone."""


@dataclass(frozen=True)
class Cluster:
    """A Ray that this process is connected to.

    Attributes:
        dashboard: Host and port of its dashboard; empty without one.
        asks_for_token: Whether the dashboard refuses who has none; None if that cannot be seen from here.
        nodes: The living nodes, as Ray describes them.
        free: Resources that nobody has reserved now.
    """

    dashboard: str
    asks_for_token: bool | None
    nodes: list[dict[str, Any]]
    free: dict[str, float]


def start(config: JobConfig, stack: ExitStack) -> None:
    """Start a Ray of our own, here: its processes end with the thread that has started them."""
    with suppress(MetaSRError):  # `join` tries again, and says why
        stack.enter_context(connected(config.resources.cpus))


def join(config: JobConfig, stack: ExitStack) -> Cluster:
    """Connect to Ray, unless that was done, and return what it offers.

    Raises:
        ConfigError: It cannot be reached.
    """
    if not ray.is_initialized():
        try:
            stack.enter_context(connected(config.resources.cpus))
        except ConfigError as error:
            if not error.why.startswith("Failed to connect"):  # it has said more, such as that versions differ
                raise
            fix = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` says on the head"
            raise ConfigError(no_ray(os.environ.get("RAY_ADDRESS", "")), "", fix) from error
    return offered()


def offered(*, access: bool = True) -> Cluster:
    """Return what the Ray that this process is connected to offers; without `access`, not whom it lets in."""
    dashboard = _dashboard() if access else ""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return Cluster(dashboard, _asks_for_token(dashboard), nodes, ray.available_resources())


def _dashboard() -> str:
    """Return where the dashboard is. Ray tells that to who connects alone, and complains of a second time."""
    logger = logging.getLogger("ray")
    level = logger.level
    try:
        return str(ray.init(ignore_reinit_error=True, logging_level=logging.ERROR).dashboard_url or "")
    finally:
        logger.setLevel(level)


def no_ray(address: str) -> str:
    """Say what may be the cause where a Ray does not let us in."""
    has_token = any(os.environ.get(name) for name in _TOKEN_NAMES) or os.path.exists(
        os.path.expanduser("~/.ray/auth_token")
    )
    token = "the token here is another than the cluster's" if has_token else "no token is set here"
    return f"Ray at {address} did not let us in: it is no Ray, or {token}" if address else "Ray did not start here"


def _asks_for_token(dashboard: str) -> bool | None:
    if not dashboard:
        return None
    try:
        with urllib.request.urlopen(f"http://{dashboard}/api/version", timeout=ANSWER_S):
            return False
    except urllib.error.HTTPError as error:
        return error.code in (401, 403)
    except OSError:
        return None


def access_found(cluster: Cluster) -> Judgement:
    """Judge who can use this Ray: whoever reaches its ports without a token can run any code."""
    host = urlsplit(f"//{cluster.dashboard}").hostname or ""
    if cluster.asks_for_token is None:
        return warning(
            f"the dashboard {cluster.dashboard or '(none)'} does not answer here: authentication was not seen",
            "Run this on the head, or look there that RAY_AUTH_MODE=token is set",
        )
    if not cluster.asks_for_token:
        open_to = "users of its machine" if is_loopback(host) else "everybody who reaches it"
        return problem(
            f"token authentication is off: {open_to} can run code through {cluster.dashboard}",
            "`ray get-auth-token --generate` on the head, RAY_AUTH_MODE=token on all nodes, and start Ray again",
        )
    where = "on loopback" if is_loopback(host) else "open to the network, with the token"
    return ok(f"{len(cluster.nodes)} node(s); token authentication is on; dashboard {where}")


def workers_on(config: JobConfig, resources: dict[str, float]) -> int:
    """Return how many workers fit into resources."""
    fit = int(resources.get("CPU", 0) / config.resources.cpus_per_worker + 1e-9)
    if not config.resources.gpu:
        return fit
    return min(fit, int(resources.get("GPU", 0) / config.resources.gpus_per_worker + 1e-9))


def room_found(config: JobConfig, cluster: Cluster) -> Judgement:
    """Judge whether all workers fit, and how many would now."""
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


def look_at_nodes(config: JobConfig, cluster: Cluster, data: Data | None, storage: Store | None) -> list[NodeFacts]:
    """Ask every node, at once.

    Raises:
        ConfigError: A node does not answer, or cannot run our code.
    """
    answers = _answers(config, cluster.nodes, data, storage, NODES_ANSWER_S)
    return [_facts(config, node, answer) for node, answer in answers]


def look_at_start(
    config: JobConfig, cluster: Cluster, data: Data, storage: Store, tell: Callable[[str], None], deadline_s: float
) -> list[NodeFacts]:
    """Ask the nodes of other machines that workers fit on, at once; this machine is looked at from here.

    GPUs are left out, and what the driver has looked at already. On one machine no process is started.

    Args:
        config: Of the job.
        cluster: Which has the nodes.
        data: What the driver has read.
        storage: Of checkpoints.
        tell: Told which nodes have not answered.
        deadline_s: For all answers.

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
            tell(f"not looked at: {error}")
    if ours := [node for node in fitting if node["NodeManagerAddress"] == here]:
        loss = config.loss if others else config.loss.model_copy(update={"perceptual": 0.0})  # nothing to compare
        facts = look_at_node(config.model_copy(update={"loss": loss}), str(here), "", "", cards=False)
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
    """Ask nodes, wait for their answers until the deadline, and return both."""
    marker = f"doctor/{uuid.uuid4().hex}" if storage else ""
    ask = ray.remote(num_cpus=0, max_retries=0)(look_at_node)
    if storage:
        storage.put(marker, b"here")
    try:
        asked = [
            ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                portable(config),
                node["NodeManagerAddress"],
                data.index.digest() if data else "",
                marker,
                cards,
            )
            for node in nodes
        ]
        ray.wait(asked, num_returns=len(asked), timeout=deadline_s)
    finally:
        if storage:
            storage.delete(marker)
    return list(zip(nodes, asked, strict=True))


def _facts(config: JobConfig, node: dict[str, Any], answer: "ray.ObjectRef[NodeFacts]") -> NodeFacts:
    what = f"node {node['NodeManagerAddress']}"
    try:
        return _with_resources(config, ray.get(answer, timeout=0.1), node)
    except (GetTimeoutError, TaskUnschedulableError, NodeDiedError, WorkerCrashedError) as error:
        why = "it does not answer" if isinstance(error, GetTimeoutError) else "it has gone"
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
