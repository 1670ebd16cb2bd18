"""The life of a model on the stack of `make up`, in order, with a node and MLflow lost in the middle: `make e2e`."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import pytest

from cluster.checkpoints import RunCheckpoints
from cluster.compare.states import state_digest
from cluster.store import open_store
from infra.local import copies, process, services
from infra.local.stack import Stack, load_or_make
from tests.chaos.killer import descendants, send, until
from tests.cluster.training import ROOT, TINY, flags, newest_digest, train_locally
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.slow
EVERY, STEPS = 10, 60
SETTINGS = {
    "train.steps": STEPS,
    "train.checkpoint_every_steps": EVERY,
    "train.pixel_only_steps": STEPS - 10,
    "train.virtual_shards": 2,
}
SWEEP = "space: {optim.generator_lr: {choice: [0.0005, 0.001]}}\n"
SHORT = {"train.steps": 4, "train.checkpoint_every_steps": 2, "train.pixel_only_steps": 4, "search.trials": 2}


class Server:
    """A stack, and somebody who works with it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.places = {
            "data.url": stack.client()["DATA_URL"],
            "storage.url": stack.client()["STORAGE_URL"],
            "storage.spool": folder / "spool",
            "storage.cache": folder / "cache",
            "tracking.uri": stack.client()["TRACKING_URI"],
            "tracking.spool": folder / "records",
        }
        names = ("AWS_", "RAY_", "MLFLOW_")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
        self.environment |= stack.client() | {"HOME": str(folder), "OMP_NUM_THREADS": "1"}

    def command(self, *command, **environment) -> subprocess.Popen:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.environment | environment, **options)

    def metasr(self, *arguments, **environment) -> str:
        return ended(self.command(Path(sys.executable).with_name("metasr"), *map(str, arguments), **environment))

    def submit(self, verb: str, *arguments) -> subprocess.Popen:
        ray = [Path(sys.executable).with_name("ray"), "job", "submit", "--address", self.stack.url("dashboard")]
        job = ["--working-dir", ".", "--", "python", f"jobs/{verb}.py", *map(str, arguments)]
        return self.command(*ray, *job)

    def up(self, *names: str) -> None:
        services.up(self.stack, names or list(services.SERVICES), print)

    def lose(self, name: str) -> None:
        """End a service and all below it at once, as a machine ends."""
        pid = process.alive(services.pid_file(self.stack, name))
        assert pid
        send(signal.SIGKILL, [pid, *descendants(pid)])
        until(lambda: not process.alive(services.pid_file(self.stack, name)), PATIENCE_S, name, every_s=0.1)

    def checkpoints(self) -> RunCheckpoints:
        """Return the checkpoints of the one run there is."""
        (run,) = self.runs()
        return RunCheckpoints(open_store(self.places["storage.url"]), run)

    def runs(self) -> list[str]:
        """Return the runs that have a checkpoint."""
        store = open_store(self.places["storage.url"])
        return [name for name in store.names() if store.exists(f"{name}/checkpoints.json")]


def ended(running: subprocess.Popen, code: int = 0) -> str:
    output, _ = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == code, output
    return output


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = Path(tempfile.mkdtemp(prefix="st-", dir="/tmp"))  # where PostgreSQL's user may go, and sockets fit
    folder.chmod(0o711)
    server = Server(load_or_make(folder / "s", print, any_ports=True), tmp_path_factory.mktemp("home"))
    with pytest.MonkeyPatch.context() as environment:
        for name, value in server.stack.s3("trainer").items():
            environment.setenv(name, value)
        try:
            server.up()
            yield server
        finally:
            services.down(server.stack, list(services.SERVICES), print)
            shutil.rmtree(folder, ignore_errors=True)


def test_a_model_lives_its_life_on_the_stack(server, subjects_folder, tmp_path):
    began = time.monotonic()

    def tell(line):
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    recipe, sweep = tmp_path / "tiny.yaml", tmp_path / "rates.yaml"
    recipe.write_text("train:\n  steps: 1\n")
    sweep.write_text(SWEEP)
    places = server.places
    where = flags({"tracking.uri": places["tracking.uri"]})

    prepared = ["-i", subjects_folder, "-o", places["data.url"], "--modality", "t1ce", "--crop-px", "40"]
    server.metasr("prepare", *prepared, "--workers", "1")
    tell(f"prepared to {places['data.url']}")

    two = {"resources.num_workers": 2, "resources.min_workers": 1}
    run = ["--recipe", recipe, *flags({**places, **TINY, **SETTINGS, **two})]
    address = f"127.0.0.1:{server.stack.ports['ray']}"
    found = server.metasr("doctor", *run, RAY_ADDRESS=address)
    assert "PROBLEM" not in found
    assert "warning" not in found, found
    tell(f"doctor: {found.count('ok ')} checks, all ok")

    training = server.submit("train", *run)
    until(
        lambda: bool(server.runs()) and bool(server.checkpoints().entries()), PATIENCE_S, "a checkpoint", every_s=0.2
    )
    server.lose("node")
    server.lose("mlflow")
    tell("node and MLflow lost, after the first checkpoint")
    server.up("mlflow", "node")
    tell("both are back")
    output, _ = training.communicate(timeout=PATIENCE_S)
    assert training.returncode in (0, 3), output  # 3 if it ends before MLflow has got everything
    assert re.search(r"run tiny-\w+ finished", output), output
    assert "restart 1:" in output
    server.metasr("sync", *where, *flags({"tracking.spool": places["tracking.spool"]}))
    step, digest = newest_digest(server.checkpoints())
    tell(f"trained: step {step}, SHA-256 of weights, optimisers and log {digest}")

    undisturbed = train_locally(tmp_path, places["data.url"], SETTINGS)
    assert (step, digest) == (STEPS, state_digest(undisturbed))
    tell("equal to those of an undisturbed training in one process")

    ended(server.submit("evaluate", "challenger", *flags({"eval.scales": 2}), "--workers", "1", *where))
    server.metasr("promote", "challenger", "--force", "the end-to-end test", *where)
    tell("evaluated and promoted")
    one = {"resources.num_workers": 1, "search.concurrent": 1, "search.searcher": "random"}
    tuning = ["--sweep", sweep, "--recipe", recipe, *flags({**places, **TINY, **SETTINGS, **one, **SHORT})]
    ended(server.submit("tune", *tuning))
    tell("swept")

    volume = next(subjects_folder.rglob("*t1ce*"))
    server.metasr("upscale", volume, tmp_path / "sr.nii.gz", "--scale", "2", "--model", "@champion", *where)
    assert nib.load(tmp_path / "sr.nii.gz").shape[0] == 2 * nib.load(volume).shape[0]
    tell("upscaled from the registry")

    told = server.metasr("promote", "--history", *where)
    assert "the end-to-end test" in told
    restored_history_is(told, server, tmp_path)
    tell("backed up, restored into another stack, with its history")


def restored_history_is(told: str, server: Server, tmp_path: Path) -> None:
    """Assert that a stack restored from a copy tells the same history, and holds the same weights."""
    copies.backup(server.stack, tmp_path / "copy", print)
    services.down(server.stack, list(services.SERVICES), print)
    other = copies.restore(tmp_path / "copy", server.stack.folder.parent / "r", print, any_ports=True)
    try:
        services.up(other, ["mlflow"], print)
        where = flags({"tracking.uri": other.url("mlflow")})
        assert server.metasr("promote", "--history", *where, **other.client()) == told
        again = ["evaluate", "@champion", *flags({"data.url": other.client()["DATA_URL"], "eval.scales": 2})]
        server.metasr(*again, "--workers", "1", *where, **other.client())
    finally:
        services.down(other, list(services.SERVICES), print)
