"""The facts of a node, collected by a Ray task on it."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cluster.config import JobConfig
from cluster.preflight.services import PATIENCE, try_store
from cluster.runtime.code_version import code_version
from cluster.store import free_bytes, open_store
from cluster.stream import read_index
from metasr.arithmetic import has_bfloat16
from metasr.errors import MetaSRError
from metasr.vgg_weights import find_weights

CARDS_TIMEOUT_S = 60
# In its own process: Ray hides GPUs from a task that reserves none, and querying a GPU takes memory on it.
_CARDS = """
import json, torch
cards = range(torch.cuda.device_count())
print(json.dumps([[torch.cuda.get_device_name(i), torch.cuda.mem_get_info(i)[0]] for i in cards]))
"""
_ALL_CARDS = """
import torch
cards = range(torch.cuda.device_count())
native = [not torch.cuda.set_device(i) and torch.cuda.is_bf16_supported(including_emulation=False) for i in cards]
print(bool(native) and all(native))
"""


@dataclass(frozen=True)
class Card:
    """A GPU."""

    kind: str
    free_bytes: int


@dataclass(frozen=True)
class NodeFacts:
    """A node, as it sees itself.

    Attributes:
        address: Its address in Ray.
        versions: Versions of what must be equal on all nodes.
        free_bytes: Free space for the cache and for the spool, with their present content, which is replaced.
        shm_bytes: Size of /dev/shm.
        memory_bytes: Available memory.
        store_bytes: Limit of Ray's object store in /dev/shm.
        num_workers: Training processes that fit on it.
        failures: Failed operations, one line each.
        vgg_sha256: SHA-256 of the weights of the perceptual loss; empty if it is not used.
        cards: Its GPUs, as torch sees them.
        driver: Version of the GPU driver.
    """

    address: str
    versions: dict[str, str]
    free_bytes: dict[str, int]
    shm_bytes: int
    memory_bytes: int
    store_bytes: int = 0
    num_workers: int = 0
    failures: tuple[str, ...] = ()
    vgg_sha256: str = ""
    cards: tuple[Card, ...] = field(default=())
    driver: str = ""


def inspect_node(config: JobConfig, address: str, data_digest: str, marker: str, cards: bool) -> NodeFacts:
    """Return the facts of this node.

    Args:
        config: Settings of the job, with locations that mean the same on all machines.
        address: Address of this node.
        data_digest: Digest of the index that the driver has read; empty if it could not.
        marker: Key of an object that the driver has put into `storage.url`; empty if it could not.
        cards: Query the GPUs too, which takes seconds.
    """
    failures: list[str] = []
    try:
        if data_digest and read_index(open_store(config.data.url, PATIENCE)).digest() != data_digest:
            failures.append("data.url holds different data there")
        if marker:
            try_store(config.storage.url).get(marker)
    except MetaSRError as error:
        failures.append(str(error))
    found, driver = _cards(failures) if cards and config.resources.gpu else ((), "")
    vgg_sha256 = _vgg_sha256(config, failures)
    return NodeFacts(
        address=address,
        versions=versions(),
        free_bytes={
            "storage.cache": room(config.storage.cache, count_own=True),
            "storage.spool": room(config.storage.spool, count_own=True),
        },
        shm_bytes=_shm_bytes(),
        memory_bytes=_available_memory(),
        failures=tuple(failures),
        vgg_sha256=vgg_sha256,
        cards=found,
        driver=driver,
    )


def computes_bfloat16(gpu: bool) -> bool:
    """Return whether all GPUs of this machine, or else its processor, compute bfloat16 natively."""
    if not gpu:
        return has_bfloat16(torch.device("cpu"))
    try:
        return _said([sys.executable, "-c", _ALL_CARDS], _seeing_cards()).strip() == "True"
    except (OSError, subprocess.SubprocessError):
        return False


def versions() -> dict[str, str]:
    """Return the versions of what must be equal on the driver and on all nodes."""
    libraries = {name: importlib.metadata.version(name) for name in ("torch", "ray")}
    return {"python": platform.python_version(), **libraries, "code": code_version()}


def room(folder: str, *, count_own: bool = False) -> int:
    """Return the free bytes on the disk of a folder, which need not exist.

    Args:
        folder: The folder.
        count_own: Add the size of the folder itself.
    """
    path = Path(folder or os.sep).expanduser().absolute()
    held = _bytes_below(path) if count_own and folder else 0
    return free_bytes(path) + held


def _bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder, ignoring those that other processes remove meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def _shm_bytes() -> int:
    status = os.statvfs("/dev/shm")
    return status.f_blocks * status.f_frsize


def _available_memory() -> int:
    """Return Linux's available memory, or what the container's limit leaves if that is less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        return min(available, int(limit) - used) if limit != "max" else available
    except OSError:
        return available


def _vgg_sha256(config: JobConfig, failures: list[str]) -> str:
    if not config.loss.perceptual:
        return ""
    try:
        file = find_weights(config.loss.vgg_network, config.loss.vgg_weights)
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except (MetaSRError, OSError) as error:
        failures.append(str(error))
        return ""


def _cards(failures: list[str]) -> tuple[tuple[Card, ...], str]:
    environment = _seeing_cards()
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = _said(query, environment).splitlines()[0].strip()
        found = json.loads(_said([sys.executable, "-c", _CARDS], environment))
    except (OSError, IndexError, ValueError, subprocess.SubprocessError) as error:
        failures.append(f"torch does not see its GPUs ({type(error).__name__})")
        return (), ""
    return tuple(Card(kind, free) for kind, free in found), driver


def _seeing_cards() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}


def _said(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=CARDS_TIMEOUT_S
    )
    return done.stdout
