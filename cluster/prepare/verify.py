"""Reading a data set again, all of it, as it was promised."""

import math
from collections.abc import Callable, Mapping, Set

from cluster.prepare.cut import Statistics
from cluster.prepare.plan import recipe_sha256
from cluster.shards import INDEX, SPLITS, Index, Shard, Split
from cluster.store import Store, WaitingStore
from metasr.errors import DataError


def verify(store: Store, tell: Callable[[str], None]) -> Index:
    """Read every shard of a store and check all that its index says of it; return the index.

    Of each shard its length, checksums, number and form of the samples, whose they are and where they lie; no patient
    in both splits and no subject without samples; the mean and standard deviation of the training images. What
    images do not show, such as their spacing, the index's own SHA-256 covers.

    Args:
        store: Where the data set is.
        tell: Called with a line for each shard, and when the store is waited for.

    Raises:
        StoreError: The store, or a shard, is not there.
        DataError: A shard is not what the index says, or the index is wrong.
    """
    from cluster.stream import read_index  # here, because it brings torch, for which who prepares need not wait
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
    """Raise DataError if the index says something else of a shard than there is; an older one says less."""
    for name in sorted(stated.model_fields_set - {"name"}):
        if getattr(stated, name) != getattr(found, name):
            reason = f"its {name} is not what the index says"
            raise DataError(f"shard {stated.name}", reason, "Prepare the data again")


def _check_rest(index: Index, subjects: Mapping[Split, Set[str]], statistics: Statistics, what: str) -> None:
    """Raise DataError if what the index says of all shards together is not so."""
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
