"""Ray, started or joined."""

import json
import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private.node import Node
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from cluster.redaction import one_line
from metasr.errors import ConfigError, Interrupted, TrainingError

TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # Ray's 2 s between looks at the workers is long beside short steps
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "30",  # a worker that does not answer hangs; Ray would wait 10 minutes
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # until fewer workers are tried, after a node was lost
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # or every line comes twice
}
LONGER_WAITS = {
    "RAY_gcs_server_port_wait_time_s": "90",  # for Ray's own 30 s a busy machine is too slow
    "RAY_worker_register_timeout_seconds": "180",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",  # and for Ray Serve's 5
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
TRIES = 3  # for what Ray has no setting: it gives up when its node is not known after 30 s
STILL_STARTING_S = 20.0
ANSWER_S = 5.0
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20
log = logging.getLogger(__name__)


@contextmanager
def connected(cpus: float, tell: Callable[[str], None] | None = None, *, dashboard: bool = False) -> Iterator[None]:
    """Use the cluster that RAY_ADDRESS names, as in a submitted job; otherwise a Ray of our own, on this machine.

    A process that is connected already, such as an actor in which a trial of a sweep runs, stays as it is.
    Ray asks for a token by default and makes one in ~/.ray for a cluster of its own.

    Args:
        cpus: CPU cores that will be asked for; a local Ray offers at least as many.
        tell: Told when the start takes long; by default that is a warning in the log.
        dashboard: Start Ray's dashboard, on loopback, with a Ray of our own: ten processes, which compete with the
            workers at each start. Without it nobody frees the resources of a training inside a Ray that lives on.

    Raises:
        ConfigError: The cluster cannot be reached.
        TrainingError: Ray does not start here.
        Interrupted: SIGTERM came, and nobody else handles it.
    """
    for name, value in (TRAIN_ENVIRONMENT | LONGER_WAITS).items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    # Ray says at WARNING that its authentication is on, which is as it should be.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    with _sigterm_of_our_own() as take_sigterm:
        if address := os.environ.get("RAY_ADDRESS"):
            _join(address)
        else:
            # Nobody takes our node away, and the process that would look for it competes with workers at each start.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
            _start(max(os.cpu_count() or 1, round(cpus)), tell or log.warning, dashboard=dashboard)
        take_sigterm()  # from Ray's C++ code, which aborts a process that takes more than 3 s to end
        try:
            yield
        finally:
            ray.shutdown()


def has_started_ray() -> bool:
    """Return whether this process has started the Ray that it is connected to, so that it ends with it."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.head)


def _join(address: str) -> None:
    _reach(address)
    try:
        _init(address=address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Ray at {address}", one_line(error), "Check RAY_ADDRESS, or unset it to use this machine"
        ) from error


def _start(cpus: int, tell: Callable[[str], None], *, dashboard: bool) -> None:
    """Start a Ray of our own, in up to three tries: on a busy machine the first often takes too long for Ray."""
    for left in reversed(range(TRIES)):
        try:
            with _told_every(STILL_STARTING_S, lambda seconds: tell(f"starting Ray, {seconds:.0f} s")):
                _init(
                    address="local",
                    num_cpus=cpus,
                    object_store_memory=LOCAL_OBJECT_STORE_BYTES,
                    include_dashboard=dashboard,
                    dashboard_host="127.0.0.1",
                )
            if not dashboard:
                _tell_prometheus()
            return
        except Exception as error:  # Ray has none of its own for this
            if not left:
                node = _half_started(error)
                logs = node.get_logs_dir_path() if node else "/tmp/ray"
                what_to_do = f"Run the same command again when the machine has less to do; {logs} has Ray's logs"
                raise TrainingError("Ray does not start on this machine", one_line(error), what_to_do) from error
            tell(f"Ray has not started ({one_line(error)}): trying again")


def _tell_prometheus() -> None:
    """Write where Ray's metrics are, into the files that a dashboard would write, as far as they can be written."""
    node = ray._private.worker._global_node
    if node is None:
        return
    targets = [f"{one['NodeManagerAddress']}:{one['MetricsExportPort']}" for one in ray.nodes()]
    content = json.dumps([{"labels": {"job": "ray"}, "targets": targets}])
    for folder in (node.get_session_dir_path(), node.get_temp_dir_path()):
        file = Path(folder, PROMETHEUS_SERVICE_DISCOVERY_FILE)
        with suppress(OSError):
            partial = file.with_name(f"{file.name}.{os.getpid()}")
            partial.write_text(content)
            partial.replace(file)


def _init(**options: Any) -> None:
    """Call `ray.init`; what it has started is ended where it fails, or a signal comes."""
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    except BaseException as error:
        if node := _half_started(error):
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        ray.shutdown()
        raise


def _half_started(error: BaseException) -> Node | None:
    """Return the node whose start has failed. Ray forgets it: its processes would live on beside the next."""
    found = (frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__))
    return next((node for node in found if isinstance(node, Node)), None)


@contextmanager
def _told_every(seconds: float, tell: Callable[[float], None]) -> Iterator[None]:
    """Tell how long the block has taken, at intervals, while it lasts."""
    began, ended = time.monotonic(), threading.Event()

    def look() -> None:
        while not ended.wait(seconds):
            tell(time.monotonic() - began)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _sigterm_of_our_own() -> Iterator[Callable[[], object]]:
    """Keep SIGTERM from Ray, whose answer is exit code 15: the handler that there is keeps it, or Interrupted.

    What is yielded takes it again, after Ray has started.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL
    ours = _terminate if before is signal.SIG_DFL else before
    register = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda handler: None

    def take() -> object:
        return signal.signal(signal.SIGTERM, ours)

    take()
    try:
        yield take
    finally:
        ray._private.utils.set_sigterm_handler = register
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


def _reach(address: str) -> None:
    """Raise ConfigError where nobody listens, or our token is refused: Ray itself would ask for minutes."""
    where = urlsplit(address if "://" in address else f"//{address}")
    if not (where.hostname and where.port):
        return
    try:
        socket.create_connection((where.hostname, where.port), ANSWER_S).close()
        is_refused = _refuses_token(address)
    except OSError as error:
        why = error.strerror or "no answer"
        raise ConfigError(f"Ray at {address}", why, "Check RAY_ADDRESS, or unset it to use this machine") from None
    if is_refused:
        fix = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what `ray get-auth-token` says on the head"
        raise ConfigError(f"Ray at {address}", token_reason(), fix)


def _refuses_token(address: str) -> bool:
    """Return whether a cluster asks for another token than is sent from here, or than none."""
    if "://" in address:
        return False
    from ray._private.grpc_utils import init_grpc_channel  # here, because a Ray of our own does not need it

    return _answer(init_grpc_channel(address)) == "UNAUTHENTICATED"


def requires_token(address: str) -> bool | None:
    """Return whether a cluster refuses those who send no token; None if it does not answer."""
    import grpc  # type: ignore[import-untyped]

    return {"OK": False, "UNAUTHENTICATED": True}.get(_answer(grpc.insecure_channel(address)))


def _answer(channel: Any) -> str:
    """Return the name of the status with which a cluster answers."""
    import grpc

    try:
        channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")(b"", timeout=ANSWER_S)
    except grpc.RpcError as error:
        return str(error.code().name)
    finally:
        channel.close()
    return "OK"


def token_reason() -> str:
    """Say what is wrong with the token where a cluster does not let us in."""
    places = os.environ.get("RAY_AUTH_TOKEN"), os.environ.get("RAY_AUTH_TOKEN_PATH")
    is_there = any(places) or os.path.exists(os.path.expanduser("~/.ray/auth_token"))
    if is_there and os.environ.get("RAY_AUTH_MODE") == "token":
        return "the token here is not the cluster's"
    return "RAY_AUTH_MODE is not token, so none is sent" if is_there else "no token is set here"
