"""The table of services, in the order of their start, and what becomes of each: started, stopped, looked at."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local import database, nodes, process, storage, tracking, watching
from infra.local.stack import Stack, StackError, Tell, as_database_owner, plain_environment, program

READY_S = 900.0
LOOK_AGAIN_S = 0.2
TRIES = 6  # on a busy machine Ray gives up, and is asked again


def nothing(stack: Stack) -> None:
    """Do nothing: for a service that needs no more."""


def no_more(stack: Stack) -> dict[str, str]:
    """Return no variables: for a service that needs none."""
    return {}


@dataclass(frozen=True)
class Service:
    """One row.

    Attributes:
        about: What it is, and how it is reached.
        command: Its command line.
        healthy: Whether it does its work.
        prepare: What must be there before each start.
        furnish: What is put into it after each start; again changes nothing.
        environment: Variables of its own.
        needs: A service without which it would wait for ever.
        given_up: Whether it will not come up any more, although it lives, started at a time.
        stop: The signal that ends it in order.
        owned_by_database: Whether it runs as PostgreSQL's user when root starts it.
    """

    about: Callable[[Stack], str]
    command: Callable[[Stack], Sequence[str | Path]]
    healthy: Callable[[Stack], bool]
    prepare: Callable[[Stack], None] = nothing
    furnish: Callable[[Stack], None] = nothing
    environment: Callable[[Stack], dict[str, str]] = no_more
    needs: str = ""
    given_up: Callable[[Stack, float], bool] = lambda stack, since: False
    stop: int = signal.SIGTERM
    owned_by_database: bool = False


SERVICES = {
    "storage": Service(
        lambda stack: f"SeaweedFS, S3 at {stack.url('s3')}",
        storage.command,
        storage.healthy,
        storage.prepare,
        storage.furnish,
        lambda stack: {"TMPDIR": str(stack.place("storage"))},  # for its logs
    ),
    "database": Service(
        lambda stack: f"PostgreSQL, socket in {stack.place('database')}",
        database.command,
        database.healthy,
        database.prepare,
        database.furnish,
        stop=signal.SIGINT,  # does not wait for clients to leave
        owned_by_database=True,
    ),
    "mlflow": Service(
        lambda stack: f"MLflow at {stack.url('mlflow')}, user trainer",
        tracking.command,
        tracking.healthy,
        tracking.prepare,
        tracking.furnish,
        tracking.environment,
    ),
    "head": Service(
        lambda stack: f"Ray, dashboard at {stack.url('dashboard')}",
        nodes.head,
        nodes.head_healthy,
        environment=nodes.environment,
        given_up=nodes.given_up,
    ),
    "node": Service(
        lambda stack: "a second node of Ray",
        nodes.node,
        nodes.node_healthy,
        environment=nodes.environment,
        given_up=nodes.given_up,
        needs="head",
    ),
    "prometheus": Service(
        lambda stack: f"Prometheus at {stack.url('prometheus')}",
        watching.command,
        watching.healthy,
        watching.prepare,
    ),
}


def pid_file(stack: Stack, name: str) -> Path:
    """Return the pid file of a service."""
    return stack.place("run") / f"{name}.pid"


def log_file(stack: Stack, name: str) -> Path:
    """Return the log of a service."""
    return stack.place("logs") / f"{name}.log"


def absent(stack: Stack) -> dict[str, str]:
    """Return the services that this stack does without, and why."""
    found = {}
    if stack.storage != "seaweedfs":
        found["storage"] = f"folders below {stack.place('files')} stand in for buckets"
    if stack.database != "postgresql":
        found["database"] = f"sqlite files in {stack.place('mlflow')} stand in for it"
    if program("prometheus") is None:
        found["prometheus"] = "not installed: apt-get install prometheus"
    return found


def up(stack: Stack, names: Sequence[str], tell: Tell) -> None:
    """Start services that do not run, in their order, each when the one before does its work.

    Raises:
        StackError: One does not start; the message ends with its log.
    """
    left_out = absent(stack)
    for name, service in SERVICES.items():
        if name not in names:
            continue
        if name in left_out:
            tell(f"{name:<11}left out: {left_out[name]}")
            continue
        began = time.monotonic()
        if not process.alive(pid_file(stack, name)):
            service.prepare(stack)
        _start(stack, name, service)
        service.furnish(stack)
        tell(f"{name:<11}{service.about(stack)} ({time.monotonic() - began:.0f} s)")


def down(stack: Stack, names: Sequence[str], tell: Tell) -> None:
    """Stop services, the last one first."""
    for name in reversed(SERVICES):
        if name in names and process.stop(pid_file(stack, name), SERVICES[name].stop):
            tell(f"{name:<11}stopped")


def status(stack: Stack, tell: Tell) -> bool:
    """Say how each service is; return whether all are well."""
    left_out, well = absent(stack), True
    for name, service in SERVICES.items():
        if name in left_out:
            tell(f"left out  {name:<11}{left_out[name]}")
            continue
        pid = process.alive(pid_file(stack, name))
        state = ("ok" if service.healthy(stack) else "NO ANSWER") if pid else "DOWN"
        well = well and state == "ok"
        about = f"{service.about(stack)}, pid {pid}" if pid else f"`make up` starts it; {log_file(stack, name)}"
        tell(f"{state:<10}{name:<11}{about}")
    return well


def _start(stack: Stack, name: str, service: Service) -> None:
    log, deadline = log_file(stack, name), time.monotonic() + READY_S
    for _ in range(TRIES):
        since = time.time()
        if not process.alive(pid_file(stack, name)):
            owner = as_database_owner() if service.owned_by_database else {}
            variables = plain_environment() | service.environment(stack)
            process.start(pid_file(stack, name), log, service.command(stack), variables, owner)
        while process.alive(pid_file(stack, name)) and time.monotonic() < deadline:
            if service.healthy(stack):
                return
            if service.needs and not process.alive(pid_file(stack, service.needs)):
                raise StackError(f"{service.needs} has ended ({log_file(stack, service.needs)}): run the same again")
            if service.given_up(stack, since):
                process.stop(pid_file(stack, name), within_s=0)  # it would not listen
            time.sleep(LOOK_AGAIN_S)
    raise StackError(f"{name} does not start; {log} ends with\n{log.read_text(errors='replace')[-1500:]}")
