"""Runs in MLflow, the files that they kept, and a server that can be killed."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

from cluster.config import TrackingConfig
from cluster.tracking import Run, connect, now_ms
from tests.patience import PATIENCE_S


def start(config, name="run-1", params=None, tags=None):
    run = Run.find_or_make(config, name, params or {}, now_ms())
    run.resume(tags or {})
    return run


def artifact(client, run_id, path, folder):
    return Path(client.download_artifacts(run_id, path, str(folder))).read_bytes()


@cache
def _empty_database():
    with tempfile.TemporaryDirectory() as folder:
        connect(TrackingConfig(uri=f"sqlite:///{folder}/mlflow.db"))
        return Path(folder, "mlflow.db").read_bytes()


def empty_database(path):
    """Write a tracking database without runs, as MLflow makes it in seconds of its own; return its URL."""
    path.write_bytes(_empty_database())
    return f"sqlite:///{path}"


def closed_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class MlflowServer:
    """A real `mlflow server`; what it has stored outlives it.

    Args:
        folder: For its artifacts and its log.
        backend: URL of its database; a sqlite file in the folder if there is none.
        options: More arguments.
        environment: More variables.
    """

    def __init__(self, folder, backend="", options=(), environment=()):
        self.port = closed_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder, self._process = folder, None
        self._backend = backend or empty_database(folder / "mlflow.db")
        self._options, self._environment = options, _environment() | dict(environment)
        try:
            self.start()
        except BaseException:
            self.kill()
            raise

    def config(self, spool):
        """Settings for an experiment and a model that nobody else has."""
        name = uuid.uuid4().hex
        return TrackingConfig(uri=self.uri, experiment=f"e-{name}", model=f"m-{name}", spool=str(spool))

    def start(self):
        command = [sys.executable, "-m", "mlflow", "server", "--workers=1", "--host=127.0.0.1", f"--port={self.port}"]
        places = [f"--backend-store-uri={self._backend}", f"--artifacts-destination={self._folder}/a"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *places, *self._options],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=self._environment,
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._is_up():
            assert time.monotonic() < deadline, (self._folder / "log").read_text()[-2000:]
            assert self._process.poll() is None, (self._folder / "log").read_text()[-2000:]
            time.sleep(0.05)

    def kill(self):
        with suppress(ProcessLookupError):  # one that did not start has gone, and the assertion above says why
            os.killpg(self._process.pid, signal.SIGKILL)  # it and its workers, in a session of their own
        self._process.wait()

    def _is_up(self):
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        except OSError:
            return False


def _environment():
    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "OMP_NUM_THREADS": "1"}
