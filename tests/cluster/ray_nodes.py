"""Nodes of a Ray cluster on this machine."""

import re
import subprocess
import sysconfig
from contextlib import ExitStack, contextmanager
from pathlib import Path

RAY = Path(sysconfig.get_path("scripts")) / "ray"
TRIES = 3


@contextmanager
def ray_node(environment, *arguments):
    """Start a node, and end it with the block. On a busy machine Ray gives up after 30 s, and is asked again.

    Ray would give the work on it 30 s to move to other nodes, before it ends.
    """
    environment = {**environment, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    command = [RAY, "start", "--block", "--disable-usage-stats", *arguments]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with ExitStack() as started:
        for _ in range(TRIES):
            node = subprocess.Popen(command, env=environment, start_new_session=True, **output)
            started.enter_context(node)
            started.callback(node.terminate)  # and with it all that it has started
            said = []
            for line in node.stdout:
                said.append(line)
                if "will now block" in line:
                    yield node
                    return
        raise AssertionError("".join(said))


def working(head):
    """Return the process ids of the workers of a Ray that are at an item of `in_order`: Ray titles them so."""
    parents, titles = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int(re.search(r"PPid:\s*(\d+)", (process / "status").read_text())[1])
            titles[int(process.name)] = (process / "cmdline").read_bytes()
        except OSError:
            continue

    def is_of_head(process):
        return process == head.pid or (process in parents and is_of_head(parents[process]))

    return [process for process, title in titles.items() if title.startswith(b"ray::_call") and is_of_head(process)]
