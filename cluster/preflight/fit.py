"""Judge the facts that nodes report: whether they are alike, and large enough for the run."""

import torch

from cluster.config import JobConfig
from cluster.preflight.node import NodeFacts, versions
from cluster.preflight.results import Judgement, ok, problem, warning
from cluster.preflight.services import Data
from cluster.stream import KEPT_WHOLE_BYTES, max_shards_in_memory
from metasr.models import build_discriminator, build_generator

GB = 1e9
PROCESS_BYTES = 1_500_000_000  # memory of a worker without data: python, torch and Ray
LOG_BYTES_A_STEP = 300
FREE_CARD_BYTES = 4_000_000_000


def alike(nodes: list[NodeFacts]) -> Judgement:
    """Judge whether all nodes run the driver's versions."""
    here = versions()
    differ = [
        f"{node.address} has {name} {node.versions.get(name)}, the driver {version}"
        for node in nodes
        for name, version in here.items()
        if node.versions.get(name) != version
    ]
    if differ:
        return problem("; ".join(differ), "Give all nodes and the driver the same image and the same code")
    code = here["code"][:12] + ("+changes" if here["code"].endswith("+changes") else "")
    shown = ", ".join(f"{name} {version}" for name, version in (here | {"code": code}).items())
    return ok(f"{len(nodes)} node(s) and the driver: {shown}")


def able(nodes: list[NodeFacts]) -> Judgement:
    """Judge whether every node reaches what the driver reaches."""
    if failures := [f"{node.address}: {failure}" for node in nodes for failure in node.failures]:
        return problem("; ".join(failures), "Give nodes the driver's AWS_* variables, mounts and files")
    return ok(f"{len(nodes)} node(s) reach the data and storage.url")


def checkpoint_bytes(config: JobConfig) -> int:
    """Return an upper estimate of the size of one checkpoint of the run, in bytes."""
    with torch.device("meta"):
        networks = build_generator(config.model), build_discriminator(config.model)
    generator, discriminator = (sum(value.nbytes for value in network.state_dict().values()) for network in networks)
    copies = 4 + (2 if config.optim.ema_decay else 0)  # weights, two moments of Adam, the bundle; the EMA twice
    return int(copies * generator + 3 * discriminator) + LOG_BYTES_A_STEP * config.train.steps


def storage_room(config: JobConfig, free_bytes: int) -> Judgement:
    """Judge the room in a `storage.url` that is a folder."""
    one, number = checkpoint_bytes(config), config.train.keep_checkpoints + 1
    said = f"{free_bytes / GB:.1f} GB free; {number} checkpoints need {number * one / GB:.2f} GB"
    if free_bytes < number * one:
        return problem(said, "Free some space, choose another storage.url, or lower train.keep_checkpoints")
    return ok(said)


def disks(config: JobConfig, data: Data, nodes: list[NodeFacts]) -> Judgement:
    """Judge the disk space of nodes for checkpoints that wait for upload, and for cached shards."""
    spool = 2 * checkpoint_bytes(config)
    total = sum(shard.num_bytes for shard in data.index.shards)
    is_cached = config.storage.cache and not data.store.is_local
    cache = min(total, int(config.storage.cache_gb * GB)) if is_cached else 0
    least = min(nodes, key=lambda node: node.free_bytes["storage.spool"])
    free = least.free_bytes["storage.spool"]
    if free < spool:
        said = f"{least.address} has {free / GB:.2f} GB for storage.spool, two checkpoints need {spool / GB:.2f} GB"
        judged = warning if 2 * free >= spool else problem
        return judged(said, "Free some space there, or set storage.spool to another disk")
    least = min(nodes, key=lambda node: node.free_bytes["storage.cache"])
    free = least.free_bytes["storage.cache"]
    if free < cache + spool:
        said = f"{least.address} has {free / GB:.2f} GB for storage.cache, the shards need {cache / GB:.2f} GB"
        return warning(said, "Free some space there, set storage.cache to another disk, or lower storage.cache_gb")
    return ok(f"at least {min(node.free_bytes['storage.spool'] for node in nodes) / GB:.1f} GB free on every node")


def shared_memory(nodes: list[NodeFacts]) -> Judgement:
    """Judge /dev/shm, where Ray keeps its objects."""
    if small := [node for node in nodes if node.shm_bytes < node.store_bytes]:
        node = small[0]
        said = f"{node.address} has {node.shm_bytes / GB:.2f} GB, Ray needs {node.store_bytes / GB:.2f} GB"
        return warning(said, "Enlarge it (--shm-size, or an emptyDir of medium Memory), or Ray uses the disk instead")
    return ok(f"at least {min(node.shm_bytes for node in nodes) / GB:.1f} GB on every node")


def worker_bytes(config: JobConfig, data: Data) -> int:
    """Return the most memory that a worker takes, in bytes: its process and the shards it holds, see `ShardCrops`."""
    sizes = sorted((shard.num_bytes for shard in data.index.shards if shard.split == "train"), reverse=True)
    num_virtual_shards = config.train.num_virtual_shards
    own = -(-num_virtual_shards // config.resources.num_workers)
    held = max_shards_in_memory(own, num_virtual_shards, config.data.shuffle_shards)
    return PROCESS_BYTES + (sum(sizes) if sum(sizes) <= KEPT_WHOLE_BYTES else sum(sizes[:held]))


def memory(config: JobConfig, data: Data, nodes: list[NodeFacts]) -> Judgement:
    """Judge the memory for the workers of each node."""
    needed = worker_bytes(config, data)
    each = {node.address: node.memory_bytes // node.num_workers for node in nodes if node.num_workers}
    if not each:
        return warning("no worker fits on any node", "See the check `workers`")
    least = min(each, key=lambda address: each[address])
    said = f"{each[least] / GB:.1f} GB for each worker on {least}; process and shards need {needed / GB:.1f} GB"
    if each[least] < needed:
        return warning(said, "Lower data.shuffle_shards, reserve more cpus_per_worker, or make smaller shards")
    return ok(said)


def perceptual(nodes: list[NodeFacts]) -> Judgement:
    """Judge whether all nodes have the same weights of the perceptual loss."""
    by_sha: dict[str, str] = {node.vgg_sha256: node.address for node in nodes}
    if len(by_sha) > 1:
        shown = ", ".join(f"{address} {sha256[:12] or 'none'}" for sha256, address in by_sha.items())
        return problem(f"nodes differ in their VGG weights: {shown}", "Copy one file to all, see --loss.vgg-weights")
    return ok(f"the same VGG weights on every node, SHA-256 {next(iter(by_sha))[:12]}")


def gpus(nodes: list[NodeFacts]) -> Judgement:
    """Judge the GPUs of the nodes that workers fit on."""
    using = [node for node in nodes if node.num_workers]
    if blind := [node.address for node in using if len(node.cards) < node.num_workers]:
        said = f"torch sees fewer GPUs than Ray has on {', '.join(blind)}"
        return problem(said, "Install a CUDA build of torch there, and a recent enough driver")
    if not using:
        return problem(
            "Ray knows of no node with a GPU", "Start Ray with --num-gpus, or train with --resources.gpu false"
        )
    kinds = sorted({card.kind for node in using for card in node.cards})
    drivers = ", ".join(sorted({node.driver for node in using}))
    free = min(card.free_bytes for node in using for card in node.cards)
    said = f"{', '.join(kinds)}; driver {drivers}; at least {free / GB:.1f} GB free on every GPU"
    if len(kinds) > 1:
        return warning(f"{said}; mixed", "Use one kind of GPU: only then are weights equal bit for bit")
    if free < FREE_CARD_BYTES:
        return warning(said, "See who else uses the GPU: nvidia-smi")
    return ok(said)
