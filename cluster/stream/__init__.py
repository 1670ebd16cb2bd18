"""Reading shards: every byte is verified, and nothing in them is executed."""

from cluster.stream.cache import ShardCache, shard_cache
from cluster.stream.source import KEPT_WHOLE_BYTES, ShardCrops, max_shards_in_memory
from cluster.stream.validation import held_out_slices, slices_of, validation_slices
from cluster.stream.verified import read_index, read_samples

__all__ = [
    "KEPT_WHOLE_BYTES",
    "ShardCache",
    "ShardCrops",
    "held_out_slices",
    "max_shards_in_memory",
    "read_index",
    "read_samples",
    "shard_cache",
    "slices_of",
    "validation_slices",
]
