"""Reading a data set again, all of it, as it was promised."""

import math
from collections.abc import Callable

from cluster.prepare.cut import Statistics
from cluster.shards import INDEX, Index
from cluster.store import Store
from metasr.errors import DataError


def verify(store: Store, tell: Callable[[str], None]) -> Index:
    """Read every shard of a store and check all that its index says of it; return the index.

    Length, SHA-256, number and form of the samples, whose they are, no patient in both splits, and the mean and
    standard deviation of the training images.

    Args:
        store: Where the data set is.
        tell: Called with a line for each shard.

    Raises:
        StoreError: The store, or a shard, is not there.
        DataError: A shard is not what the index says, or the index is wrong.
    """
    from cluster.stream import read_index  # here, because it brings torch, for which who prepares need not wait
    from cluster.stream.verified import read_shard

    index = read_index(store)
    statistics = Statistics()
    for shard in index.shards:
        samples = read_shard(store, index, shard)
        if shard.split == "train":
            statistics = sum((Statistics.of(sample.image) for sample in samples), statistics)
        tell(f"{shard.name}: {shard.num_samples} samples, as the index says")
    for name, stated, found in (("mean", index.mean, statistics.mean), ("std", index.std, statistics.std)):
        if not math.isclose(stated, found, rel_tol=1e-6, abs_tol=1e-9):
            raise DataError(
                f"{INDEX} in {store.url}",
                f"its {name} is {stated:.6g}, that of the training images is {found:.6g}",
                "Prepare the data again",
            )
    return index
