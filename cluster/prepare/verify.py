"""Verifies a whole data set against its index."""

import math
from collections.abc import Callable, Mapping, Set

from cluster.prepare.cut import Statistics
from cluster.prepare.plan import recipe_sha256
from cluster.shards import INDEX, SPLITS, Index, Shard, Split
from cluster.store import Store, WaitingStore
from metasr.errors import DataError


def verify(store: Store, tell: Callable[[str], None]) -> Index:
    """Read every shard of a store, check everything that its index states, and return the index.

    For each shard: length, checksums, number and format of the samples, their subjects and offsets. For all: no
    patient is in both splits, no subject is without samples, mean and standard deviation of the training images.
    What images do not show, such as their spacing, is covered by the index's own SHA-256.

    Args:
        store: Store of the data set.
        tell: Called with a line for each shard, and when the store is away.

    Raises:
        StoreError: The store, or a shard, is missing.
        DataError: A shard differs from the index, or the index is wrong.
    """
    from cluster.stream import read_index  # here: it imports torch, which `prepare` need not wait for
    from cluster.stream.verified import samples_of

    index, waiting = read_index(store), WaitingStore(store, tell)
    statistics = Statistics()
    subjects: dict[Split, set[str]] = {split: set() for split in SPLITS}
    for shard in index.shards:
        data = waiting.get(shard.name, sha256=shard.sha256, num_bytes=shard.num_bytes)
        samples = samples_of(data, index, shard)
        here = dict.fromkeys(sample.subject for sample in samples)
        _compare(shard, Shard.of(data, shard.split, 0, here))
        subjects[shard.split] |= here.keys()
        if shard.split == "train":
            statistics = sum((Statistics.of(sample.image) for sample in samples), statistics)
        tell(f"{shard.name}: {shard.num_samples} samples, as the index says")
    _check_rest(index, subjects, statistics, f"{INDEX} in {store.url}")
    return index


def _compare(stated: Shard, found: Shard) -> None:
    """Raise DataError if a shard differs from what the index states; older indexes state less."""
    for name in sorted(stated.model_fields_set - {"name"}):
        if getattr(stated, name) != getattr(found, name):
            reason = f"its {name} is not what the index says"
            raise DataError(f"shard {stated.name}", reason, "Prepare the data again")


def _check_rest(index: Index, subjects: Mapping[Split, Set[str]], statistics: Statistics, what: str) -> None:
    """Raise DataError if the index is wrong about all shards together."""
    wrong = [
        f"its {name} is {stated:.6g}, that of the training images is {found:.6g}"
        for name, stated, found in (("mean", index.mean, statistics.mean), ("std", index.std, statistics.std))
        if not math.isclose(stated, found, rel_tol=1e-6, abs_tol=1e-9)
    ]
    for split in SPLITS:
        missing = set(index.subjects[split]) - subjects[split]
        wrong += [f"subject {name} has no samples in the {split} split" for name in sorted(missing)]
    if index.recipe_sha256 not in ("", recipe_sha256(index.options, index.tool_version)):
        wrong.append("its recipe_sha256 is not that of its tool_version and options")
    if wrong:
        raise DataError(what, wrong[0], "Prepare the data again")
