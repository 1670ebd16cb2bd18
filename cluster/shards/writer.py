"""Writing WebDataset shards."""

import io
import json
import math
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.shards.index import TAR_BLOCK_BYTES, Sample, Shard, Split
from cluster.store import Store

NPY_HEADER_BYTES = 128  # as NumPy writes it for any image


@dataclass(frozen=True)
class Limit:
    """When a shard is full: with so many bytes, or so many subjects, whatever comes first."""

    num_bytes: float
    num_subjects: int

    def reached(self, num_bytes: int, num_subjects: int) -> bool:
        """Return whether a shard of these ends here."""
        return num_bytes >= self.num_bytes or num_subjects >= self.num_subjects


class ShardWriter:
    """Collect the samples of subjects into tars and put each into the store when it is full.

    A shard ends with the subject that makes it full. The same subjects in the same order give the same bytes.

    Args:
        store: Where the shards go.
        split: Whose shards they are.
        limit: When a shard is full.
        shards: Those that are in the store already.
    """

    def __init__(self, store: Store, split: Split, limit: Limit, shards: Iterable[Shard] = ()) -> None:
        self.shards = list(shards)
        self._store, self._split, self._limit = store, split, limit
        self._members: list[dict[str, Any]] = []
        self._subjects: list[str] = []
        self._num_bytes = 0

    def write(self, subject: str, samples: Iterable[Sample]) -> Shard | None:
        """Add all samples of a subject; return the shard that is full with them and in the store now."""
        for sample in samples:
            buffer = io.BytesIO()
            np.save(buffer, sample.image, allow_pickle=False)
            files = {
                "npy": buffer.getvalue(),
                "json": json.dumps(_description(sample)).encode(),
            }
            self._members.append({"__key__": _key(sample), **files})
            self._num_bytes += sum(_tar_bytes(len(content)) for content in files.values())
        self._subjects.append(subject)
        return self.close() if self._limit.reached(self._num_bytes, len(self._subjects)) else None

    def close(self) -> Shard | None:
        """Store what was collected since the last shard, and return the shard; None where that is nothing."""
        if not self._members:
            return None
        import webdataset  # here, because it brings torch, for which those who write nothing need not wait

        buffer = io.BytesIO()
        with webdataset.TarWriter(buffer, encoder=False, mtime=0) as tar:
            for member in self._members:
                tar.write(member)
        data = buffer.getvalue()
        shard = Shard.of(data, self._split, len(self.shards), self._subjects)
        self._store.put(shard.name, data, sha256=shard.sha256)
        self.shards.append(shard)
        self._members, self._subjects, self._num_bytes = [], [], 0
        return shard


def sample_bytes(shape: tuple[int, int]) -> int:
    """Return what an image of a shape takes in a shard, with what is said of it."""
    return _tar_bytes(NPY_HEADER_BYTES + math.prod(shape) * np.dtype(np.float16).itemsize) + _tar_bytes(1)


def shard_bytes(samples_bytes: int) -> int:
    """Return how long the shard is whose samples take so many bytes: a tar has an end, and whole records."""
    return tarfile.RECORDSIZE * -(-(samples_bytes + 2 * TAR_BLOCK_BYTES) // tarfile.RECORDSIZE)


def _tar_bytes(num_bytes: int) -> int:
    """Return what a file of so many bytes takes in a tar: a header and whole blocks."""
    return TAR_BLOCK_BYTES * (1 + -(-num_bytes // TAR_BLOCK_BYTES))


def _description(sample: Sample) -> dict[str, Any]:
    """Return what is said of an image beside it."""
    contrast = {"contrast": sample.contrast} if sample.contrast else {}
    return {"subject": sample.subject, "slice": sample.slice} | contrast


def _key(sample: Sample) -> str:
    """Return the name of a sample's files: no folders, and no dot, at the first of which WebDataset ends it."""
    subject = sample.subject.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")
    return f"{subject}-{sample.slice:04d}"
