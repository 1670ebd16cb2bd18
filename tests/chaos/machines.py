"""A Ray cluster of several machines on this one: raylets that come, are lost, or are about to be taken away."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.chaos.killer import descendants, send, train_workers, until
from tests.cluster.test_submit import RAY, free_port
from tests.patience import PATIENCE_S

TRIES = 3


class Machine(NamedTuple):
    """A `ray start` process, and what it has printed."""

    process: subprocess.Popen
    log: Path

    @property
    def node_id(self):
        """The name Ray has given it."""
        for pid in descendants(self.process.pid):
            with suppress(OSError):
                if found := re.search(rb"--node[-_]id=([0-9a-f]{56})", Path(f"/proc/{pid}/cmdline").read_bytes()):
                    return found[1].decode()
        raise AssertionError(self.log.read_text())


class Machines:
    """The cluster: a head without room for workers, and others.

    Attributes:
        environment: Of those who may use it.
        dashboard: Where jobs are submitted.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: Ray's sockets lie in it, and their paths must be
        self.environment = {
            # A job runs in the environment of the cluster.
            "PATH": f"{RAY.parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_JOB_STOP_WAIT_TIME_S": "60",  # Ray gives a job 3 s between SIGTERM and SIGKILL
            "RAY_raylet_start_wait_time_s": "120",  # other tests may keep the machine busy,
            "RAY_worker_niceness": "0",  # and Ray's workers make way for all others
        }
        port = free_port()
        self.dashboard = f"http://127.0.0.1:{port}"
        self._started = []
        ports = [f"--port={free_port()}", f"--dashboard-port={port}"]
        try:
            head = self._start("--head", "--num-cpus=0", f"--temp-dir={self.folder}", *ports)
        except BaseException:
            self.close()
            raise
        self._address = re.search(r"--address='([^']+)'", head.log.read_text())[1]
        self.environment["RAY_ADDRESS"] = self._address

    def add(self, num_cpus):
        """Have a machine join. Ray gives up where others keep the machine busy, and is then asked again."""
        arguments = [f"--num-cpus={num_cpus}", f"--address={self._address}"]
        for _ in range(TRIES - 1):
            with suppress(AssertionError):
                return self._start(*arguments)
        return self._start(*arguments)

    def lose(self, machine):
        """Let a machine be gone, with all its processes at once."""
        if machine.process.poll() is not None:
            return  # it is gone, and another process may have its number
        send(signal.SIGKILL, [machine.process.pid, *descendants(machine.process.pid)])
        machine.process.wait()

    def announce_loss(self, machine, within_s):
        """Tell Ray that a machine will be taken away."""
        reason = ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=spot"]
        deadline = f"--deadline-remaining-seconds={within_s}"
        command = [RAY, "drain-node", f"--address={self._address}", f"--node-id={machine.node_id}", *reason, deadline]
        subprocess.run(
            command, env=os.environ | self.environment, check=True, capture_output=True, timeout=PATIENCE_S
        )

    def workers(self):
        """Return the pids of the training workers on all machines."""
        return train_workers(*self._pids())

    def processes(self):
        """Return the pids of all that the machines have started."""
        return descendants(*self._pids())

    def logs_of_workers(self):
        """Return what workers have written to their standard error."""
        return "".join(path.read_text(errors="replace") for path in self.folder.glob("session_2*/logs/worker-*.err"))

    def close(self):
        """Lose all, at once."""
        for machine in reversed(self._started):
            self.lose(machine)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pids(self):
        return [machine.process.pid for machine in self._started]

    def _start(self, *arguments):
        log = self.folder / f"machine-{len(self._started)}.log"
        agent = f"--dashboard-agent-listen-port={free_port()}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [RAY, "start", "--block", "--disable-usage-stats", agent, *arguments],
                env=os.environ | self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        machine = Machine(process, log)
        self._started.append(machine)
        until(
            lambda: process.poll() is not None or "will now block" in log.read_text(),
            PATIENCE_S,
            "Ray",
            every_s=0.2,
        )
        assert process.poll() is None, log.read_text()
        return machine
