"""Ray, started or joined."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import ray

from cluster.redaction import one_line
from metasr.errors import ConfigError, TrainingError

TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # Ray's 2 s between looks at the workers is long beside short steps
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "30",  # a worker that does not answer hangs; Ray would wait 10 minutes
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # until fewer workers are tried, after a node was lost
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # or every line comes twice
}
ANSWER_S = 5.0
LOCAL_OBJECT_STORE_BYTES = 256 * 2**20


@contextmanager
def connected(cpus: float) -> Iterator[None]:
    """Use the cluster that RAY_ADDRESS names, as in a submitted job; otherwise a Ray of our own, on this machine.

    A process that is connected already, such as an actor in which a trial of a sweep runs, stays as it is.
    Ray asks for a token by default and makes one in ~/.ray for a cluster of its own; its dashboard is on loopback.

    Args:
        cpus: CPU cores that will be asked for; a local Ray offers at least as many.

    Raises:
        ConfigError: The cluster cannot be reached.
        TrainingError: Ray does not start here.
    """
    for name, value in TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    # Ray says at WARNING that its authentication is on, which is as it should be.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    init = partial(ray.init, log_to_driver=False, logging_level=logging.WARNING)
    if address := os.environ.get("RAY_ADDRESS"):
        _reach(address)
        try:
            init(address=address)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"Ray at {address}", one_line(error), "Check RAY_ADDRESS, or unset it to use this machine"
            ) from error
    else:
        # Nobody takes our node away, and the process that would look for it competes with workers at each start.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        try:
            init(
                address="local",
                num_cpus=max(os.cpu_count() or 1, round(cpus)),
                object_store_memory=LOCAL_OBJECT_STORE_BYTES,
                dashboard_host="127.0.0.1",
            )
        except Exception as error:  # Ray has none of its own for this
            what_to_do = "Run the same command again when the machine has less to do; /tmp/ray has Ray's logs"
            raise TrainingError("Ray does not start on this machine", one_line(error), what_to_do) from error
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raise ConfigError where nobody listens: Ray itself would ask for minutes."""
    where = urlsplit(address if "://" in address else f"//{address}")
    if not (where.hostname and where.port):
        return
    try:
        socket.create_connection((where.hostname, where.port), ANSWER_S).close()
    except OSError as error:
        why = error.strerror or "no answer"
        raise ConfigError(f"Ray at {address}", why, "Check RAY_ADDRESS, or unset it to use this machine") from None
