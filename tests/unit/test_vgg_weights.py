"""Weights of VGG: files that are read, files that are refused, and downloads from a server on loopback."""

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import safetensors.torch
import torch

from metasr.errors import ConfigError
from metasr.vgg_weights import Published, download, find_weights, published, read_published, read_weights

STORED = {"features.0.weight": torch.arange(12.0).view(3, 4), "classifier.6.bias": torch.zeros(5)}
NOBODY = "http://127.0.0.1:9/models"


@pytest.fixture
def file(tmp_path):
    """A file such as torchvision publishes: a pickled state dict."""
    file = tmp_path / "publisher" / "vgg19-own.pth"
    file.parent.mkdir()
    torch.save(STORED, file)  # noqa: TID251
    return file


def published_as(file, server=None):
    """Describe a file as what a server publishes."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Published(f"{server.url if server else NOBODY}/{file.name}", digest)


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


def test_a_published_file_is_read_whatever_its_name(file, tmp_path):
    source = published_as(file)
    assert_stored(read_published(file.rename(tmp_path / "mine.pth"), source))


@pytest.mark.parametrize(
    ("network", "name", "url"),
    [
        ("vgg16", "vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth"),
        ("vgg19", "vgg19-dcbb9e9d.pth", "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"),
    ],
)
def test_the_checksum_belongs_to_the_file_that_torchvision_names(network, name, url):
    source = published(network)
    assert (source.name, source.url) == (name, url)
    assert source.sha256.startswith(name.removesuffix(".pth").partition("-")[2])
    assert len(source.sha256) == 64


@pytest.mark.parametrize(
    "raised", ["RuntimeError('operator torchvision::nms does not exist')", "OSError('libcudart')"]
)
def test_a_torchvision_that_does_not_fit_torch_is_one_line_that_says_what_to_install(monkeypatch, tmp_path, raised):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {raised}")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ConfigError,
        match=r"torchvision: .*beside torch \d.* \((operator|lib).*pip install .* torchvision==0[.]\d\d[.][*]$",
    ) as caught:
        published("vgg19")
    assert "\n" not in str(caught.value)


class Planted:
    """What runs code when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_another_pickle_is_refused_and_not_opened(tmp_path, network):
    trap = tmp_path / "trap"
    for name in ("weights.pth", published(network).name):
        torch.save({"features.0.weight": Planted(trap)}, tmp_path / name)  # noqa: TID251
        with pytest.raises(ConfigError, match=rf"{name}: not the whole {published(network).name}.*safetensors"):
            read_weights(tmp_path / name, network)
    assert not trap.exists()


def test_a_pickle_of_the_right_checksum_still_runs_no_code(tmp_path):
    trap, file = tmp_path / "trap", tmp_path / "vgg"
    torch.save({"features.0.weight": Planted(trap)}, file)  # noqa: TID251
    with pytest.raises(Exception, match="weights_only"):
        read_published(file, published_as(file))
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


def test_a_download_is_the_published_file(server, file, tmp_path):
    server.answer(file.read_bytes())
    source = published_as(file, server)
    target = find_weights("vgg19", folder=tmp_path / "cache" / "metasr", source=source)
    assert target.name == file.name
    assert_stored(read_published(target, source))
    assert list(target.parent.iterdir()) == [target]
    assert server.paths == [f"/models/{file.name}"]


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_a_downloaded_file_is_not_downloaded_again(network, tmp_path):
    kept = tmp_path / published(network).name
    kept.touch()
    assert find_weights(network, folder=tmp_path) == kept


def test_without_a_folder_the_users_cache_is_taken(monkeypatch, tmp_path):
    for variable, cache in (("XDG_CACHE_HOME", tmp_path / "xdg"), ("HOME", tmp_path / "home" / ".cache")):
        kept = cache / "metasr" / published("vgg16").name
        kept.parent.mkdir(parents=True)
        kept.touch()
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv(variable, str(cache if variable == "XDG_CACHE_HOME" else cache.parent))
        assert find_weights("vgg16") == kept


def answers(body):
    return {
        "another file": {"body": b"something else"},
        "cut short": {"body": body[:-1], "length": len(body)},
        "a changed bit": {"body": body[:-1] + bytes([body[-1] ^ 1])},
        "nothing": {"body": b""},
    }


@pytest.mark.parametrize("fault", answers(b"."))
def test_another_body_is_refused_and_not_kept(server, file, tmp_path, fault):
    server.answer(**answers(file.read_bytes())[fault])
    target = tmp_path / "cache" / file.name
    with pytest.raises(ConfigError, match=r"not the whole vgg19-own\.pth that torchvision publishes"):
        download(published_as(file, server), target)
    assert list(target.parent.iterdir()) == []


def test_a_file_that_shares_the_digits_of_the_name_is_refused(file):
    source = published_as(file)
    other = source.sha256[:8] + "0" * 56
    with pytest.raises(ConfigError, match=f"its SHA-256 is {source.sha256}, not {other}"):
        read_published(file, source._replace(sha256=other))


def test_a_server_that_refuses_is_quoted(server, file, tmp_path):
    server.answer(b"gone", status=404)
    with pytest.raises(
        ConfigError, match=r"cannot be downloaded \(HTTP Error 404.*--loss\.vgg-weights FILE.*perceptual 0"
    ):
        find_weights("vgg19", folder=tmp_path / "cache", source=published_as(file, server))
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_server_the_answer_says_what_to_do(monkeypatch, file, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ConfigError, match=r"cannot be downloaded.*--loss\.vgg-weights FILE.*--loss\.perceptual 0"):
        find_weights("vgg19", folder=tmp_path / "cache", source=published_as(file))


def test_a_cache_that_cannot_be_written_is_named(server, file, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(ConfigError, match=r"cannot be downloaded \(.*cache"):
        download(published_as(file, server), tmp_path / "cache" / file.name)


def test_workers_that_download_at_once_all_get_it(server, file, tmp_path):
    server.answer(file.read_bytes())
    source, target = published_as(file, server), tmp_path / "cache" / file.name
    workers = [threading.Thread(target=download, args=(source, target)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == file.read_bytes()
