"""Ray on this machine: a head, and a second node that may be lost, with a token; the dashboard on loopback."""

import json
import os
import socket
import urllib.request
from pathlib import Path

from infra.local.stack import NODE_PORTS, Stack, StackError, program

OBJECT_STORE_BYTES = 300_000_000
LONGEST = 44  # characters of Ray's folder: sockets lie some 60 below it, and end at 107


def environment(stack: Stack) -> dict[str, str]:
    """Return the variables of both nodes; jobs inherit them."""
    return {
        **stack.client(),
        "RAY_JOB_STOP_WAIT_TIME_S": "120",  # time for a last checkpoint; Ray gives 3 s
        "RAY_raylet_start_wait_time_s": "120",  # on a busy machine
        "RAY_PROMETHEUS_HOST": stack.url("prometheus"),
    }


def folder(stack: Stack) -> Path:
    """Return where Ray keeps its sessions, which all may write to: in a folder that others do not enter.

    Where the stack lies too deep for the sockets in it, it is a short way there.
    """
    inside = stack.place("run") / "ray"
    if len(str(inside)) <= LONGEST:
        return inside
    short = Path(f"/tmp/ray-{os.geteuid()}-{stack.ports['ray']}")
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.geteuid():
        raise StackError(f"{short} is another user's: give a shorter --folder")
    return short / "ray"


def head(stack: Stack) -> list[str]:
    """Return the command of the head, with half of the processors."""
    ports = [f"--port={stack.ports['ray']}", f"--ray-client-server-port={stack.ports['ray_client']}"]
    ports += [f"--dashboard-port={stack.ports['dashboard']}", "--dashboard-host=127.0.0.1"]
    ports += _ports(stack, "head")
    # GPUs are the second node's: both would count the same ones.
    return [
        *_start(_processors() - _processors() // 2),
        "--head",
        "--num-gpus=0",
        f"--temp-dir={folder(stack)}",
        *ports,
    ]


def node(stack: Stack) -> list[str]:
    """Return the command of the second node, with the other half, and the GPUs."""
    head = f"--address=127.0.0.1:{stack.ports['ray']}"
    # In one folder for both, the second to unpack a job's files would take them away from under the first.
    return [*_start(max(1, _processors() // 2)), head, f"--temp-dir={_other(stack)}", *_ports(stack, "node")]


def head_healthy(stack: Stack) -> bool:
    """Return whether the head is a node itself; its dashboard answers before that, and Ray may still give up."""
    return bool(live_nodes(stack))


def node_healthy(stack: Stack) -> bool:
    """Return whether Ray has two nodes, and this one answers: a lost one counts as alive for a while."""
    port = stack.ports["node_dashboard-agent-listen"]
    return len(live_nodes(stack)) >= 2 and _is_open(port)


def given_up(stack: Stack, since: float) -> bool:
    """Return whether a raylet has crashed since a time: `ray start` would wait minutes for it.

    On a busy machine it does so: after 15 s without a word from its dashboard agent, which no setting changes.
    """
    found = (path for one in (folder(stack), _other(stack)) for path in one.glob("session_latest/logs/raylet*.err"))
    said = [path for path in found if path.stat().st_mtime > since]
    return any("Check failed" in path.read_text(errors="replace") for path in said)


def live_nodes(stack: Stack) -> list[str]:
    """Return the names of the nodes that are alive, as the dashboard tells."""
    answer = _asked(stack, "/nodes?view=summary") or {}
    nodes = answer.get("data", {}).get("summary", [])
    return [one["raylet"]["nodeId"] for one in nodes if one.get("raylet", {}).get("state") == "ALIVE"]


def _other(stack: Stack) -> Path:
    return folder(stack).with_name("node")


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _start(num_cpus: int) -> list[str]:
    memory = f"--object-store-memory={OBJECT_STORE_BYTES}"
    return [program("ray") or "ray", "start", "--block", "--disable-usage-stats", f"--num-cpus={num_cpus}", memory]


def _ports(stack: Stack, node: str) -> list[str]:
    """Return the ports of a node's helpers. Of those that choose theirs, Ray waits 15 s to hear it."""
    return [f"--{name}-port={stack.ports[f'{node}_{name}']}" for name in NODE_PORTS]


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _asked(stack: Stack, path: str) -> dict | None:
    headers = {"Authorization": f"Bearer {stack.secrets['ray']}"}
    request = urllib.request.Request(stack.url("dashboard") + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None
