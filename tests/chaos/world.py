"""A training on this machine with all that it needs, real, and what can be done to it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress

from cluster.checkpoints import RunCheckpoints
from cluster.store import open_store
from metasr.errors import StoreError
from tests.chaos.killer import send, train_workers, until
from tests.cluster.fault_proxy import Answer, CutShort, FaultProxy, Flip, Refuse, Reset, mixed
from tests.cluster.patients import OPTIONS, make_volumes, run_prepare
from tests.cluster.tracked import MlflowServer
from tests.cluster.training import ROOT, arguments_of

BUCKET = "chaos"
FAULTS = (Answer(500), Answer(503), Refuse(), Reset(), Reset(1000), CutShort(1000), Flip(2000))
FAILING_SHARE = 0.3
START_TIMEOUT_S = 180
PAUSE_S = 2.0


class World:
    """Patients, an S3 server behind a proxy, an MLflow server, and a training whose driver is started again.

    Args:
        folder: For everything.
        seed: Decides which requests fail while the store does.

    Attributes:
        storage_url, data_url: Where the run and its shards are, in the bucket.
        mlflow: The server.
        proxy: Before the S3 server.
        ends: Exit codes of drivers so far.
    """

    def __init__(self, folder, seed):
        self.ends, self.folder = [], folder
        self.storage_url, self.data_url = f"s3://{BUCKET}/runs", f"s3://{BUCKET}/data"
        self._failing = mixed(seed, FAILING_SHARE, FAULTS)
        self._weather = {}
        self._closing, self._mlflow_is_up = ExitStack(), threading.Event()
        self._driver, self._command, self._pause_until = None, [], 0.0
        self._reports = {}

    def __enter__(self):
        try:
            self._serve()
        except BaseException:
            self._closing.close()
            raise
        return self

    def __exit__(self, *_):
        self._closing.close()

    # The training

    def train(self, settings):
        """Start a training, which `look_after` keeps alive."""
        places = {"storage.url": self.storage_url, "tracking.uri": self.mlflow.uri}
        arguments = arguments_of(self.folder, self.data_url, places | settings)
        self._command = [sys.executable, ROOT / "jobs" / "train.py", *arguments]
        self._start_driver()
        self._closing.callback(lambda: self._driver.kill())

    def look_after(self):
        """Start the driver again if it has ended before the run has, as a job's retry does; return if it has."""
        code = self._driver.poll()
        if code is None:
            return False
        if not self._pause_until:
            self.ends.append(code)
            self._take_report()
            self._pause_until = time.monotonic() + PAUSE_S
        if code != 0 and time.monotonic() > self._pause_until:
            self._start_driver()
        return code == 0

    def said(self):
        """Return what drivers have said so far."""
        return (self.folder / "training.log").read_text()

    def run_name(self):
        """Return the name of the run."""
        return re.search(r"run (\S+), code", self.said())[1]

    def checkpoints(self):
        """Return its checkpoints, past the proxy."""
        return RunCheckpoints(self._store, self.run_name())

    def reports(self):
        """Return what those drivers said of themselves that came to it."""
        return list(self._reports.values())

    def calm_down(self):
        """Wait until nothing is broken any more; what `strike` returned was called before."""
        assert not self._weather
        assert self._mlflow_is_up.wait(START_TIMEOUT_S)

    # What happens to it

    def strike(self, fault):
        """Let a fault happen; return what was done, and what ends it, None for what ends by itself."""
        match fault.kind:
            case "worker killed":
                return self._signal_worker(fault.place, signal.SIGKILL)[0], None
            case "worker frozen":
                done, workers = self._signal_worker(fault.place, signal.SIGSTOP)
                return done, lambda: send(signal.SIGCONT, workers)
            case "driver killed":
                return self._signal_driver(signal.SIGKILL), None
            case "driver asked to end":
                return self._signal_driver(signal.SIGTERM), None
            case "store fails":
                return self._worsen(fault.kind, self._failing, f"{FAILING_SHARE:.0%} of requests")
            case "store away":
                return self._worsen(fault.kind, lambda *_: Refuse(), "connections reset")
            case "MLflow killed":
                return self._kill_mlflow()
            case "bit flipped":
                return self._flip(fault.place), None
        raise ValueError(fault.kind)

    def _signal_worker(self, place, number):
        workers = train_workers(self._driver.pid)
        chosen = workers[int(place * len(workers)) :][:1]
        send(number, chosen)
        return f"process {chosen[0]}, of {len(workers)}" if chosen else "there was none", chosen

    def _signal_driver(self, number):
        if self._driver.poll() is not None:
            return "there was none"
        self._driver.send_signal(number)
        return f"process {self._driver.pid}"

    def _kill_mlflow(self):
        if not self._mlflow_is_up.is_set():
            return "there was none", None
        self._mlflow_is_up.clear()
        self.mlflow.kill()
        return "SIGKILL to the server", threading.Thread(target=self._start_mlflow, daemon=True).start

    def _start_mlflow(self):
        self.mlflow.start()
        self._mlflow_is_up.set()

    def _worsen(self, kind, plan, done):
        self._weather[kind] = plan
        return done, lambda: self._weather.pop(kind, None)

    def _flip(self, place):
        """Flip a bit of the newest checkpoint, and have a worker die that would have gone on without it."""
        newest = next(iter(self.checkpoints().entries()), None)
        if newest is None or newest.step >= self._num_steps():
            return "there was no checkpoint that a run would go on from"
        name = sorted(newest.files)[int(place * len(newest.files))]
        key = f"{self.run_name()}/{newest.folder}/{name}"
        with suppress(StoreError):  # it was let go just now
            content = bytearray(self._store.get(key))
            content[int(place * len(content))] ^= 1
            self._store.put(key, bytes(content))
        self._signal_worker(place, signal.SIGKILL)
        return f"step {newest.step}, {name}; and SIGKILL to a worker"

    # Its parts

    def _serve(self):
        command = [sys.executable, ROOT / "infra" / "storage" / "s3.py", "--port=0", f"--bucket={BUCKET}"]
        server = subprocess.Popen([*command, f"--folder={self.folder}/s3"], stdout=subprocess.PIPE)
        self._closing.callback(server.kill)
        server.stdout.readline()  # it has then written how to reach it
        for line in (self.folder / "s3" / "env").read_text().splitlines():
            os.environ.update([line.removeprefix("export ").split("=", 1)])
        self._store, data = open_store(self.storage_url), open_store(self.data_url)
        until(lambda: _is_there(data), START_TIMEOUT_S, "the S3 server")
        run_prepare(make_volumes(self.folder / "patients"), data, OPTIONS.model_copy(update={"shard_mb": 0.03}))
        self.proxy = self._closing.enter_context(FaultProxy(os.environ["AWS_ENDPOINT_URL"], self._plan))
        (self.folder / "mlflow").mkdir()
        self.mlflow = MlflowServer(self.folder / "mlflow")
        self._mlflow_is_up.set()
        self._closing.callback(lambda: self.mlflow.kill() if self._mlflow_is_up.is_set() else None)

    def _plan(self, number, method, path):
        for plan in list(self._weather.values()):
            if fault := plan(number, method, path):
                return fault
        return None

    def _start_driver(self):
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        with (self.folder / "training.log").open("ab") as log:
            self._driver = subprocess.Popen(
                self._command,
                env=environment | {"AWS_ENDPOINT_URL": self.proxy.url, "OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pause_until = 0.0

    def _take_report(self):
        with suppress(StoreError, TypeError):  # no driver came to one yet
            report = json.loads(self._store.get(f"{self.run_name()}/run-report.json"))
            self._reports[json.dumps(report)] = report

    def _num_steps(self):
        return int(self._command[self._command.index("--train.steps") + 1])


def _is_there(store):
    try:
        store.require()
    except StoreError:
        return False
    return True
