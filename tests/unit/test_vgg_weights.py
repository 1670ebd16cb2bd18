"""Weights of VGG: files that are read, files that are refused, and fetching from a server on loopback."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import safetensors.torch
import torch

from metasr.errors import ConfigError
from metasr.vgg_weights import TORCHVISION_FILES, fetch, find_weights, read_published, read_weights

STORED = {"features.0.weight": torch.arange(12.0).view(3, 4), "classifier.6.bias": torch.zeros(5)}


@pytest.fixture
def published(tmp_path):
    """A file as torchvision publishes them: a pickled state dict, named after its SHA-256."""
    file = tmp_path / "publisher" / "vgg"
    file.parent.mkdir()
    torch.save(STORED, file)  # noqa: TID251
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return file.rename(file.with_name(f"vgg19-{digest[:8]}.pth"))


class Server(ThreadingHTTPServer):
    """Answers every path with `body`, and promises `length` bytes."""

    body, length, status = b"", 0, 200

    def answer(self, body, length=None, status=200):
        self.body, self.length, self.status = body, len(body) if length is None else length, status

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/models"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(self.server.length))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Answer) as server:
        server.paths = []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def assert_stored(weights):
    assert weights.keys() == STORED.keys()
    assert all(torch.equal(weights[name], value) for name, value in STORED.items())


def test_safetensors_are_read_whatever_their_name(tmp_path):
    safetensors.torch.save_file(STORED, tmp_path / "weights")
    assert_stored(read_weights(tmp_path / "weights", "vgg19"))


def test_a_published_file_is_read(published):
    assert_stored(read_published(published, published.name))


def test_a_published_file_may_have_been_renamed(published, tmp_path):
    assert_stored(read_published(published.rename(tmp_path / "mine.pth"), published.name))


class Planted:
    """What runs code when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_another_pickle_is_refused_and_not_opened(tmp_path, network):
    trap = tmp_path / "trap"
    for name in ("weights.pth", TORCHVISION_FILES[network]):
        torch.save({"features.0.weight": Planted(trap)}, tmp_path / name)  # noqa: TID251
        with pytest.raises(ConfigError, match=rf"{name}: not the whole {TORCHVISION_FILES[network]}.*safetensors"):
            read_weights(tmp_path / name, network)
    assert not trap.exists()


def test_a_pickle_of_the_right_name_still_runs_no_code(tmp_path):
    trap, file = tmp_path / "trap", tmp_path / "vgg"
    torch.save({"features.0.weight": Planted(trap)}, file)  # noqa: TID251
    with pytest.raises(Exception, match="weights_only"):
        read_published(file, f"vgg-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth")
    assert not trap.exists()


@pytest.mark.parametrize("name", ["vgg.pt", "vgg.safetensors"])
def test_a_file_of_another_format_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 not safetensors")
    with pytest.raises(ConfigError, match=rf"{name}: not a safetensors file"):
        read_weights(tmp_path / name, "vgg19")


def test_a_file_that_was_named_is_taken(tmp_path):
    file = tmp_path / "mine.safetensors"
    file.touch()
    assert find_weights("vgg19", file, folder=tmp_path / "cache") == file
    with pytest.raises(ConfigError, match=r"absent\.safetensors: there is no such file.*--loss\.perceptual 0"):
        find_weights("vgg19", tmp_path / "absent.safetensors", folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_fetched_file_is_the_published_one(server, published, tmp_path):
    server.answer(published.read_bytes())
    target = tmp_path / "cache" / "metasr" / published.name
    fetch(f"{server.url}/{published.name}", target)
    assert_stored(read_published(target, published.name))
    assert list(target.parent.iterdir()) == [target]
    assert server.paths == [f"/models/{published.name}"]


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_what_is_kept_is_not_fetched_again(server, tmp_path, network):
    kept = tmp_path / TORCHVISION_FILES[network]
    kept.touch()
    assert find_weights(network, folder=tmp_path, url=server.url) == kept
    assert server.paths == []


def test_without_a_folder_the_users_cache_is_taken(monkeypatch, tmp_path):
    for variable, cache in (("XDG_CACHE_HOME", tmp_path / "xdg"), ("HOME", tmp_path / "home" / ".cache")):
        kept = cache / "metasr" / TORCHVISION_FILES["vgg16"]
        kept.parent.mkdir(parents=True)
        kept.touch()
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv(variable, str(cache if variable == "XDG_CACHE_HOME" else cache.parent))
        assert find_weights("vgg16", url="http://127.0.0.1:9") == kept


def answers(body):
    return {
        "another file": {"body": b"something else"},
        "cut short": {"body": body[:-1], "length": len(body)},
        "a changed bit": {"body": body[:-1] + bytes([body[-1] ^ 1])},
        "nothing": {"body": b""},
    }


@pytest.mark.parametrize("fault", answers(b"."))
def test_another_body_is_refused_and_not_kept(server, published, tmp_path, fault):
    server.answer(**answers(published.read_bytes())[fault])
    target = tmp_path / "cache" / published.name
    with pytest.raises(ConfigError, match=r"not the whole vgg19-\w{8}\.pth that torchvision publishes"):
        fetch(f"{server.url}/{published.name}", target)
    assert list(target.parent.iterdir()) == []


def test_a_server_that_refuses_is_quoted(server, tmp_path):
    server.answer(b"gone", status=404)
    with pytest.raises(
        ConfigError, match=r"cannot be fetched \(HTTP Error 404.*--loss\.vgg-weights FILE.*perceptual 0"
    ):
        find_weights("vgg19", folder=tmp_path, url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_without_a_server_the_answer_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ConfigError, match=r"cannot be fetched.*--loss\.vgg-weights FILE.*--loss\.perceptual 0"):
        find_weights("vgg19", folder=tmp_path / "cache", url="http://127.0.0.1:9/models")


def test_a_cache_that_cannot_be_written_is_named(server, published, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    server.answer(published.read_bytes())
    with pytest.raises(ConfigError, match=r"cannot be fetched \(.*cache"):
        fetch(f"{server.url}/{published.name}", tmp_path / "cache" / published.name)


def test_workers_that_fetch_at_once_all_get_it(server, published, tmp_path):
    server.answer(published.read_bytes())
    target = tmp_path / "cache" / published.name
    workers = [threading.Thread(target=fetch, args=(f"{server.url}/{published.name}", target)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == published.read_bytes()
