"""A page for a team: who may send volumes, what is refused, how long they stay open, and which model shows them."""

import gzip
import hashlib
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from metasr.inference.bundle import Bundle
from metasr.models import Generator
from metasr.viewer.app import create_app
from metasr.viewer.guard import NAMES, Access
from metasr.viewer.model import ready
from metasr.viewer.session import Limits, Sessions
from tests.unit.test_upscale import brain
from tests.unit.test_viewer_guard import HOST, ask

SECRET = "a-secret-of-a-team"
BEARER = {"authorization": f"Bearer {SECRET}"}
SHAPE = (20, 20, 10)
VOLUME_BYTES = 8 * 20 * 20 * 10
WINDOW = "plane=axial&index=4&rows=40/20:0:10&columns=40/20:0:12"
ACCESS = Access(NAMES | {"mri.example"}, hashlib.sha256(SECRET.encode()).hexdigest(), "Ask at the door.")


class Now:
    """The model of now, and the time."""

    def __init__(self):
        torch.manual_seed(0)
        self.generator = Generator(skip="bicubic", norm="none", num_features=4, num_blocks=1).eval()
        self.seconds = 0.0
        self.use("a")

    def use(self, letter):
        about = {"config": {"train": {"scale_min": 1.1, "scale_max": 4.0}}, "num_parameters": 7}
        self.now = Bundle(self.generator, about, 64 * letter)

    def bundle(self):
        return self.now

    def description(self):
        return ready(self.now)

    def clock(self):
        return self.seconds


@pytest.fixture
def now():
    return Now()


def opened(now, **limits):
    limits = {"sessions": 2, "memory_bytes": 10**6, "features_bytes": 1000, "idle_s": 60.0} | limits
    return create_app(Sessions(now, Limits(**limits), now.clock), ACCESS, max_bytes=10**5)


@pytest.fixture(scope="module")
def volume():
    voxels = brain(SHAPE).astype(np.int16)
    return nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 3.0, 1.0])).to_bytes()


def send(app, body, path="/", root_path="", **headers):
    """Return the status and what the answer says."""
    status, _, said = ask(app, path, "POST", body=body, root_path=root_path, **(BEARER | headers))
    return status, json.loads(said) if said.startswith(b"{") else said.decode()


def test_who_has_the_secret_gets_a_page_for_a_volume(now, volume):
    app = opened(now)
    assert ask(app, "/door/")[0] == 200
    for body in (volume, gzip.compress(volume)):
        status, said = send(app, body)
        assert status == 201
        assert json.loads(ask(app, f"{said['page']}volume")[2])["shape"] == list(SHAPE)
        assert b"<title>metasr view</title>" in ask(app, said["page"])[2]
        assert len(ask(app, f"{said['page']}window?{WINDOW}")[2]) == 2 * 10 * 12
        assert len(said["page"]) > 30


def test_below_a_path_all_addresses_begin_with_it(now, volume):
    app = opened(now)
    page = send(app, volume, "/view/", root_path="/view")[1]["page"]
    assert page.startswith("/view/")
    assert ask(app, f"{page}main.js", root_path="/view")[0] == 200
    for path, target in (("/view", "/view/"), ("/view/", "/view/door/"), (page.rstrip("/"), page)):
        status, headers, _ = ask(app, path, root_path="/view")
        assert status == 307
        assert headers["location"].removeprefix(f"http://{HOST['host']}") == target


@pytest.mark.parametrize("authorization", ["", "Bearer another-secret-of-18", f"Basic {SECRET}", SECRET])
def test_without_the_secret_nothing_is_opened(now, volume, authorization):
    app = opened(now)
    assert send(app, volume, authorization=authorization)[0] == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "mri.example"}, 201),
        ({"host": "mri.example", "origin": "https://mri.example"}, 201),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, 201),
        ({"host": "evil.example"}, 403),
        ({"host": "mri.example.evil.example"}, 403),
        ({"host": "mri.example", "origin": "https://evil.example"}, 403),
        ({"host": "mri.example", "sec_fetch_site": "cross-site", "sec_fetch_mode": "cors"}, 403),
    ],
)
def test_only_under_its_own_names_and_from_its_own_page(now, volume, headers, status):
    assert send(opened(now), volume, **headers)[0] == status


def test_where_it_is_full_the_next_is_told_when_there_is_room(now, volume):
    app = opened(now)
    first = send(app, volume)[1]["page"]
    now.seconds = 20.0
    second = send(app, volume)[1]["page"]
    status, said = send(app, volume)
    assert status == 503
    assert said["error"] == (
        "all room is taken by 2 open volumes: the first is closed in 1 minutes if nobody looks at it. Try again then"
    )
    now.seconds = 50.0
    assert ask(app, f"{first}volume")[0] == 200  # and is thereby in use
    now.seconds = 90.0
    assert send(app, volume)[0] == 201
    assert [ask(app, f"{page}volume")[0] for page in (first, second)] == [200, 403]
    assert b"Ask at the door." in ask(app, second)[2]


def test_memory_is_bounded(now, volume):
    app = opened(now, memory_bytes=2 * VOLUME_BYTES + 1500)  # volumes would fit twice, their features not
    assert send(app, volume)[0] == 201
    assert send(app, volume)[0] == 503
    status, said = send(opened(now, memory_bytes=VOLUME_BYTES), volume)
    assert status == 503
    assert "takes more memory" in said["error"]


def test_what_cannot_be_shown_is_refused_without_a_path(now, volume):
    wide = nib.Nifti1Image(np.zeros((1500, 1500, 1), np.int8), np.eye(4)).to_bytes()
    app = opened(now)
    for body, expected in (
        (b"", 422),
        (b"no volume" * 100, 422),
        (volume[:-10], 422),
        (gzip.compress(volume)[:-20], 422),
        (bytes(10**5 + 1), 413),
        (gzip.compress(wide), 413),
    ):
        status, said = send(app, body)
        assert status == expected
        assert "/tmp" not in said["error"]
        assert "volume" in said["error"]


def test_a_volume_that_is_open_is_shown_by_the_model_of_now(now, volume):
    app = opened(now)
    page = send(app, volume)[1]["page"]

    def model():
        return ask(app, f"{page}window?{WINDOW}")[1]["x-metasr-model"]

    assert model() == 12 * "a"
    now.use("b")
    assert model() == json.loads(ask(app, f"{page}model")[2])["digest"] == 12 * "b"
