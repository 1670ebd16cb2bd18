"""Who gets an answer: the page itself, with the secret in the address, and nobody else."""

import asyncio

import pytest
import torch

from metasr.inference.bundle import Bundle
from metasr.models import Generator
from metasr.viewer.app import create_app
from metasr.viewer.model import LoadedModel
from metasr.viewer.serve import listen
from metasr.viewer.session import Sessions
from tests.unit.nifti import in_memory
from tests.unit.test_upscale import brain

TOKEN = "a-secret"
HOST = {"host": "127.0.0.1:8765"}
WINDOW = "plane=axial&index=4&rows=40/20:0:10&columns=40/20:0:12"


@pytest.fixture(scope="module")
def app():
    torch.manual_seed(0)
    generator = Generator(skip="bicubic", norm="none", num_features=4, num_blocks=1).eval()
    about = {"config": {"train": {"scale_min": 1.1, "scale_max": 4.0}}, "num_parameters": generator.num_parameters}
    model = LoadedModel(lambda: Bundle(generator, about, "d" * 64))
    model.start(lambda: pytest.fail("the model must load"))
    sessions = Sessions(model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_urlsafe", lambda size: TOKEN)
        sessions.open(in_memory(brain((20, 20, 10))))
    made = create_app(sessions)
    while ask(made, f"/{TOKEN}/model")[2].startswith(b'{"state":"loading"'):
        pass
    return made


def ask(app, path, method="GET", body=b"", root_path="", **headers):
    """Return status, headers and body of an answer."""
    path, _, query = path.partition("?")
    sent = []
    given = HOST | {name.replace("_", "-"): value for name, value in headers.items()}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": root_path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }

    requests = [{"type": "http.request", "body": body}]

    async def receive():
        if not requests:
            await asyncio.Event().wait()  # the client stays
        return requests.pop()

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "localhost", "[::1]:9000"])
@pytest.mark.parametrize(
    "path", ["/", "/main.js", "/volume", "/model", "/slice?plane=axial&index=0", f"/window?{WINDOW}"]
)
def test_the_page_is_answered(app, path, host):
    assert ask(app, f"/{TOKEN}{path}", host=host)[0] == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/volume", {}),
        ("/another-secret/volume", {}),
        (f"/{TOKEN}x/volume", {}),
        (f"/{TOKEN}/volume", {"host": "evil.example:8765"}),
        (f"/{TOKEN}/volume", {"host": "127.0.0.1.evil.example"}),
        (f"/{TOKEN}/volume", {"host": ""}),
        (f"/{TOKEN}/volume", {"host": "[::1"}),
        (f"/{TOKEN}/volume", {"origin": "https://evil.example"}),
        (f"/{TOKEN}/volume", {"origin": "null"}),
        (f"/{TOKEN}/volume", {"origin": "http://127.0.0.1:9999"}),
        (f"/{TOKEN}/volume", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}),
        (f"/{TOKEN}/volume", {"sec_fetch_site": "same-site", "sec_fetch_mode": "cors"}),
        (f"/{TOKEN}/", {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}),
        (f"/{TOKEN}/../volume", {"host": "evil.example"}),
    ],
)
def test_others_are_refused_and_told_nothing(app, path, headers):
    status, _, body = ask(app, path, **headers)
    assert status == 403
    assert b"The address" in body or b"address" in body
    assert b"memory.nii" not in body


def test_a_link_to_the_page_may_be_followed(app):
    followed = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert ask(app, f"/{TOKEN}/", **followed)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(app, method):
    assert ask(app, f"/{TOKEN}/volume", method=method)[0] == 403


@pytest.mark.parametrize("path", [f"/{TOKEN}/", "/wrong"])
def test_the_page_may_load_nothing_from_elsewhere_and_tells_nobody_its_address(app, path):
    _, headers, _ = ask(app, path)
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "http" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_files_beside_the_page_are_not_served(app):
    for path in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "/etc/passwd"):
        assert ask(app, f"/{TOKEN}/{path}")[0] == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("plane=oblique&index=4&rows=40/20:0:10&columns=40/20:0:12", 422),
        ("plane=axial&index=10&rows=40/20:0:10&columns=40/20:0:12", 404),
        ("plane=axial&index=4&rows=40/20:0:41&columns=40/20:0:12", 422),
        ("plane=axial&index=4&rows=4000000/20:0:10&columns=40/20:0:12", 422),
        ("plane=axial&index=4&rows=nan/20:0:10&columns=40/20:0:12", 422),
    ],
)
def test_a_window_that_cannot_be_is_refused(app, query, status):
    assert ask(app, f"/{TOKEN}/window?{query}")[0] == status


def test_a_window_says_what_it_cost(app):
    _, headers, body = ask(app, f"/{TOKEN}/window?{WINDOW}")
    assert len(body) == 2 * 10 * 12
    assert [stage.partition(";")[0] for stage in headers["server-timing"].split(", ")] == [
        "wait",
        "encode",
        "decode",
        "pack",
    ]


def test_of_each_page_the_latest_window_wins(app):
    def status(page, turn):
        return ask(app, f"/{TOKEN}/window?{WINDOW}&page={page}&turn={turn}")[0]

    assert [status("a", 7), status("a", 6), status("b", 1), status("a", 8)] == [200, 204, 200, 200]


def test_a_port_that_is_taken_leads_to_the_next():
    with listen(0) as first:
        port = first.getsockname()[1]
        assert first.getsockname()[0] == "127.0.0.1"
        with listen(port) as second:
            assert port < second.getsockname()[1] < port + 50
