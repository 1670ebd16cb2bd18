"""The mailbox of a simulated run, in a process of its own, reached without Ray.

`cluster.training.mailbox` and `cluster.training.progress` talk to an actor. Here that is the same class behind a
server of Python's own, and `deliver_without_ray` gives both modules what they need of Ray: a call is made at once.
As a program this is the server: it prints its port, and ends with its standard input.
"""

import os
import secrets
import subprocess
import sys
import threading
from contextlib import contextmanager
from multiprocessing.managers import BaseManager

from cluster.training import mailbox, progress
from cluster.training.mailbox import Mailbox

PORT, KEY = "SIMULATION_PORT", "SIMULATION_KEY"


class _Box:
    """A mailbox whose methods run one at a time, as those of an actor do."""

    def __init__(self, max_failures):
        self._mailbox, self._lock = Mailbox(max_failures), threading.Lock()

    def call(self, name, *arguments):
        with self._lock:
            return getattr(self._mailbox, name)(*arguments)


class _Office(BaseManager):
    pass


_BOXES = {}


def _open(name, max_failures):
    return _BOXES.setdefault(name, _Box(max_failures))


_Office.register("open", callable=_open)


class Handle:
    """What an actor's handle is: `handle.method.remote(...)`."""

    def __init__(self, name, max_failures=0):
        office = _Office(("127.0.0.1", int(os.environ[PORT])), os.environ[KEY].encode())
        office.connect()
        self.name, self._box = name, office.open(name, max_failures)

    def __getattr__(self, method):
        box = self._box

        class Method:
            @staticmethod
            def remote(*arguments):
                return box.call(method, *arguments)

        return Method


class _InsteadOfRay:
    """Of `ray`, what those modules use. What is asked for is there already."""

    def get(self, answer, timeout=None):
        return answer

    def get_runtime_context(self):
        return self

    def get_node_id(self):
        return "0" * 56

    def remote(self, kind):
        assert kind is Mailbox

        class Actor:
            @staticmethod
            def options(**_):
                return Actor

            @staticmethod
            def remote(max_failures):
                return Handle(secrets.token_hex(4), max_failures)

        return Actor

    def kill(self, handle):
        """Leave it: the server ends with the simulation."""


def deliver_without_ray():
    """Have this process reach mailboxes by way of the server."""
    mailbox.ray = progress.ray = _InsteadOfRay()


@contextmanager
def office():
    """Run the server until the block ends; yield its process id. Others find it by their environment."""
    os.environ[KEY] = secrets.token_hex(16)
    command = [sys.executable, "-m", "tests.simulation.post"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        os.environ[PORT] = server.stdout.readline().strip()
        try:
            yield server.pid
        finally:
            server.stdin.close()
            server.wait()


def _serve():
    server = _Office(("127.0.0.1", 0), os.environ[KEY].encode()).get_server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.address[1], flush=True)
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    from tests.simulation import post  # so that what it serves is of this module's usual name

    post._serve()
