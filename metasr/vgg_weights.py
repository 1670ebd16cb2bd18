"""Weights of a trained VGG: from a file, or the ones torchvision publishes, downloaded once and verified."""

import hashlib
import logging
import os
import tempfile
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from metasr.errors import ConfigError

# torchvision publishes only the first eight digits, in the names of the files.
SHA256: Mapping[str, str] = MappingProxyType(
    {
        "vgg16": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        "vgg19": "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
    }
)
TIMEOUT_S = 5  # to connect, and between two chunks
CHUNK_BYTES = 2**20
FIX = "Give --loss.vgg-weights FILE (safetensors or torchvision's), or --loss.perceptual 0 to train without it"

log = logging.getLogger(__name__)


class Published(NamedTuple):
    """A file of weights that torchvision publishes.

    Attributes:
        url: Where it is downloaded from.
        sha256: Of the whole file, in hexadecimal digits.
    """

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.url.rpartition("/")[2]


def torchvision_models() -> ModuleType:
    """Return `torchvision.models`. It is imported where it is needed only, because that takes a second.

    Raises:
        ConfigError: torchvision is missing, or was not built for the torch that is installed.
    """
    try:
        from torchvision import models
    except (ImportError, OSError, RuntimeError) as error:
        counterpart = f"0.{int(torch.__version__.split('.')[1]) + 15}"  # torch 2.0 has 0.15, and both count on
        raise ConfigError(
            "torchvision",
            f"it cannot be imported beside torch {torch.__version__} ({error})",
            f"From the index that torch came from, pip install --force-reinstall torchvision=={counterpart}.*",
        ) from error
    loaded: ModuleType = models
    return loaded


def published(network: str) -> Published:
    """Return what torchvision publishes for vgg16 or vgg19, trained on ImageNet.

    Raises:
        ConfigError: torchvision cannot be imported.
    """
    return Published(torchvision_models().get_model_weights(network).IMAGENET1K_V1.url, SHA256[network])


def find_weights(
    network: str, file: Path | None = None, *, folder: Path | None = None, source: Published | None = None
) -> Path:
    """Return `file`; without one, torchvision's file on this machine, downloaded if it is not there yet.

    Args:
        network: vgg16 or vgg19.
        file: Weights that the user names.
        folder: Where downloads are kept; by default `metasr` in the user's cache.
        source: What is downloaded; by default what torchvision publishes for `network`.

    Raises:
        ConfigError: There is no such file, it cannot be downloaded, or torchvision cannot be imported.
    """
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"VGG weights {file}", "there is no such file", FIX)
        return file
    source = source or published(network)
    target = (folder or _cache()) / source.name
    if not target.is_file():
        log.warning("downloading %s, once, into %s", source.url, target.parent)
        download(source, target)
    return target


def download(source: Published, target: Path) -> None:
    """Download a published file to `target`, which appears when the file is whole and verified.

    Raises:
        ConfigError: It cannot be downloaded, or its SHA-256 is another.
    """
    part = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: other workers of this machine may be downloading the same file.
        with (
            urllib.request.urlopen(source.url, timeout=TIMEOUT_S) as response,
            tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as stream,
        ):
            part, digest = Path(stream.name), hashlib.sha256()
            while chunk := response.read(CHUNK_BYTES):
                digest.update(chunk)
                stream.write(chunk)
        _verify(source.url, digest.hexdigest(), source)
        part.replace(target)
    except (OSError, HTTPException) as error:
        raise ConfigError(f"VGG weights {source.url}", f"they cannot be downloaded ({error})", FIX) from error
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
            return read_published(file, published(network))
        weights: dict[str, Tensor] = safetensors.torch.load_file(file)
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"VGG weights {file}", f"not a safetensors file ({error})", "Check the file") from error
    return weights


def read_published(file: Path, source: Published) -> dict[str, Tensor]:
    """Read a pickled state dict, if it is the file that was published.

    Raises:
        ConfigError: Its SHA-256 is another.
    """
    with file.open("rb") as stream:
        _verify(str(file), hashlib.file_digest(stream, "sha256").hexdigest(), source)
        stream.seek(0)
        # Reading a pickle can run code. This one is the published file, and `weights_only` admits only tensors.
        weights: dict[str, Tensor] = torch.load(stream, map_location="cpu", weights_only=True)  # noqa: TID251
    return weights


def _verify(what: str, digest: str, source: Published) -> None:
    if digest != source.sha256:
        raise ConfigError(
            f"VGG weights {what}",
            f"not the whole {source.name} that torchvision publishes: its SHA-256 is {digest}, not {source.sha256}",
            "Download it again; other weights must be safetensors with torchvision's key names",
        )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metasr"
