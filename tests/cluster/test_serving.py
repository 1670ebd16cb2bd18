"""A model served to a team: who may ask, what is refused, what is answered, and by which model."""

import gzip
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import nibabel as nib
import numpy as np
import pytest

from cluster.registry import CHAMPION
from cluster.serving.current import CurrentModel, Followed
from cluster.serving.requests import TooLargeError, options_of, upscale_bytes
from metasr.errors import ConfigError, MetaSRError
from metasr.inference.sidecar import asked
from tests.jobs.command import METASR
from tests.patience import PATIENCE_S

TOKEN = "a-secret-of-a-team"
SHAPE = (16, 16, 4)


@pytest.fixture
def volume():
    voxels = np.random.default_rng(0).integers(100, 400, SHAPE).astype(np.int16)
    return nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])).to_bytes()


def test_a_query_asks_as_the_flags_of_upscale_do(volume):
    said = asked(options_of({"scale": "2x1.5", "plane": "coronal", "ensemble": ""}))
    assert said["request"]["scale"] == [2.0, 1.5]
    assert (said["request"]["plane"], said["ensemble"], said["labels"]) == ("coronal", True, False)
    for query in (
        {},
        {"scale": "2", "spacing": "1"},
        {"scale": "two"},
        {"scale": "2", "sacle": "3"},
        {"plane": "up"},
    ):
        with pytest.raises(ConfigError):
            options_of(query)


@pytest.fixture
def promoted(client, config, versions):
    """Make a version the champion."""

    def promote(version):
        client.set_registered_model_alias(config.model, CHAMPION, version)

    promote("1")
    return promote


def test_the_model_follows_its_alias_and_stays_where_the_registry_or_a_version_is_bad(
    promoted, config, volume, registry, monkeypatch
):
    changes = []
    current = CurrentModel(Followed("", config, every_s=1e6), lambda: changes.append(1))
    first = current.model
    current.refresh()
    assert (current.model, changes) == (first, [])
    promoted("2")
    current.refresh()
    assert current.model.version == f"{config.model} 2"
    assert (current.model.bundle.digest != first.bundle.digest, changes) == (True, [1])
    promoted("3")
    monkeypatch.setattr("cluster.serving.current.choose_bundle", _damaged)
    with pytest.raises(MetaSRError):
        current.refresh()
    assert current.model.version == f"{config.model} 2"

    options = options_of({"scale": "2"})
    for body in (volume, gzip.compress(volume)):
        made = upscale_bytes(body, options, current.model, 10**6)
        assert nib.Nifti1Image.from_bytes(gzip.decompress(made.volume)).shape == (32, 32, 4)
        assert json.loads(made.description)["model"]["version"] == f"{config.model} 2"
    for body in (b"", b"no volume" * 100, gzip.compress(volume)[:-20], volume[:400]):
        with pytest.raises(MetaSRError) as refused:
            upscale_bytes(body, options, current.model, 10**6)
        assert "/tmp" not in str(refused.value)
    with pytest.raises(TooLargeError):
        upscale_bytes(gzip.compress(bytes(2 * 10**6)), options, current.model, 10**6)


def _damaged(*_):
    raise MetaSRError("version 3", "it is damaged")


class Service:
    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, path, body=None, token=TOKEN):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(self.url + path, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers


@pytest.fixture
def service(promoted, config, monkeypatch, tmp_path):
    """`metasr serve` on a Ray of its own."""
    monkeypatch.setenv("METASR_SERVE_TOKEN", TOKEN)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [METASR, "serve", "--port", port, "--max-mb", "1", "--tracking.uri", config.uri]
    command += ["--tracking.model", config.model]
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=err, text=True)
    try:
        line = process.stdout.readline()
        while line and "answers those who have" not in line:
            line = process.stdout.readline()
        assert line, (tmp_path / "err").read_text()
        yield Service(port)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "err").read_text()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.slow
def test_a_team_sends_volumes_and_gets_those_of_the_champion_of_now(service, promoted, config, volume):
    assert service.ask("/health", token="")[:2] == (200, b'{"status":"ok"}')
    for token in ("", "another"):
        assert service.ask("/upscale?scale=2", volume, token)[0] == 401
        assert service.ask("/model", token=token)[0] == 401
    assert service.ask("/nothing")[0] == 404
    assert service.ask("/upscale?scale=2", bytes(2 * 10**6))[0] == 413
    assert service.ask("/upscale?scale=2", b"no volume" * 100)[0] == 422
    status, body, headers = service.ask("/upscale?scale=2", volume)
    assert status == 200
    assert nib.Nifti1Image.from_bytes(gzip.decompress(body)).shape == (32, 32, 4)
    assert json.loads(headers["X-Metasr"])["model"]["version"] == f"{config.model} 1"
    promoted("2")
    deadline = time.monotonic() + PATIENCE_S
    while json.loads(service.ask("/model")[1])["version"] != f"{config.model} 2":
        assert time.monotonic() < deadline, "the champion of before is still served"
        time.sleep(0.5)
    _, _, headers = service.ask("/upscale?scale=2", volume)
    assert json.loads(headers["X-Metasr"])["model"]["version"] == f"{config.model} 2"


@pytest.mark.slow
def test_a_team_zooms_on_a_page_by_the_champion_of_now(service, promoted, volume):
    assert service.ask("/view/", token="")[0] == 200  # the door
    assert service.ask("/view/", volume, token="another")[0] == 401
    status, said, _ = service.ask("/view/", volume)
    page = json.loads(said)["page"]
    assert (status, page[:6]) == (201, "/view/")
    assert json.loads(service.ask(f"{page}volume", token="")[1])["shape"] == list(SHAPE)
    window = f"{page}window?plane=axial&index=1&rows=32/16:0:20&columns=32/16:0:32"

    def model():
        status, codes, headers = service.ask(window, token="")
        assert (status, len(codes)) == (200, 2 * 20 * 32)
        return headers["X-Metasr-Model"]

    first = model()
    promoted("2")
    deadline = time.monotonic() + PATIENCE_S
    while model() == first:
        assert time.monotonic() < deadline, "the champion of before is still shown"
        time.sleep(0.5)
    assert service.ask("/view/a-secret-of-nothing/volume")[0] == 403
