"""WebDataset shards and their index: what `prepare` writes and `stream` reads.

A shard is a plain tar: for each image `<key>.npy`, the image, and `<key>.json`, what it is. The index names every
shard with its length and SHA-256 and is written last: a store without an index holds no data set.
"""

from cluster.shards.index import (
    INDEX,
    SPLITS,
    TAR_BLOCK_BYTES,
    Index,
    Sample,
    Shard,
    Split,
    data_store,
    index_key,
    quick_checksum,
    require_index,
    shard_name,
)
from cluster.shards.writer import Limit, ShardWriter, sample_bytes, shard_bytes

__all__ = [
    "INDEX",
    "SPLITS",
    "TAR_BLOCK_BYTES",
    "Index",
    "Limit",
    "Sample",
    "Shard",
    "ShardWriter",
    "Split",
    "data_store",
    "index_key",
    "quick_checksum",
    "require_index",
    "sample_bytes",
    "shard_bytes",
    "shard_name",
]
