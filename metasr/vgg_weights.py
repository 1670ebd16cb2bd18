"""Weights of a trained VGG: from a file, or the ones torchvision publishes, fetched once and verified."""

import hashlib
import logging
import os
import tempfile
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metasr.errors import ConfigError

TORCHVISION_URL = "https://download.pytorch.org/models"
# The hexadecimal digits begin the SHA-256 of the file.
TORCHVISION_FILES: Mapping[str, str] = MappingProxyType(
    {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
)
TIMEOUT_S = 5  # for the connection, and between two pieces
CHUNK_BYTES = 2**20
FIX = "Give --loss.vgg-weights FILE (safetensors or torchvision's), or --loss.perceptual 0 to train without it"

log = logging.getLogger(__name__)


def find_weights(
    network: str, file: Path | None = None, *, folder: Path | None = None, url: str = TORCHVISION_URL
) -> Path:
    """Return `file`; without one, torchvision's file on this machine, fetched if it is not there yet.

    Args:
        network: vgg16 or vgg19.
        file: Weights that somebody named.
        folder: Where fetched files are kept; `metasr` in the user's cache if not given.
        url: Where they are fetched from.

    Raises:
        ConfigError: There is no such file, or it cannot be fetched.
    """
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"VGG weights {file}", "there is no such file", FIX)
        return file
    name = TORCHVISION_FILES[network]
    kept = (folder or _cache()) / name
    if not kept.is_file():
        log.warning("fetching %s/%s, once, into %s", url, name, kept.parent)
        fetch(f"{url}/{name}", kept)
    return kept


def fetch(url: str, target: Path) -> None:
    """Download a file whose name holds the first digits of its SHA-256; it appears when it is whole and verified.

    Raises:
        ConfigError: It cannot be had, or something else came.
    """
    part = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of its own name: the other workers of this machine may be fetching it too.
        with (
            urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer,
            tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as stream,
        ):
            part, digest = Path(stream.name), hashlib.sha256()
            while chunk := answer.read(CHUNK_BYTES):
                digest.update(chunk)
                stream.write(chunk)
        _verify(url, digest.hexdigest(), target.name)
        part.replace(target)
    except (OSError, HTTPException) as error:
        raise ConfigError(f"VGG weights {url}", f"they cannot be fetched ({error})", FIX) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def read_weights(file: Path, network: str) -> dict[str, Tensor]:
    """Read a safetensors file, or torchvision's own file of the network.

    Raises:
        ConfigError: It is neither.
    """
    try:
        if file.suffix == ".pth":
            return read_published(file, TORCHVISION_FILES[network])
        weights: dict[str, Tensor] = safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"VGG weights {file}", f"not a safetensors file ({error})", "Check the file") from error
    return weights


def read_published(file: Path, name: str) -> dict[str, Tensor]:
    """Read a pickled state dict that has the SHA-256 in its published `name`.

    Raises:
        ConfigError: It has another.
    """
    with file.open("rb") as stream:
        _verify(str(file), hashlib.file_digest(stream, "sha256").hexdigest(), name)
        stream.seek(0)
        # A pickle can run code when it is read. This one is the file that was published, and nothing but tensors
        # is taken from it.
        weights: dict[str, Tensor] = torch.load(stream, map_location="cpu", weights_only=True)  # noqa: TID251
    return weights


def _verify(what: str, digest: str, name: str) -> None:
    expected = Path(name).stem.rpartition("-")[2]
    if not digest.startswith(expected):
        raise ConfigError(
            f"VGG weights {what}",
            f"not the whole {name} that torchvision publishes: its SHA-256 is {digest[:8]}..., not {expected}...",
            "Download it again; other weights must be safetensors with torchvision's key names",
        )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metasr"
