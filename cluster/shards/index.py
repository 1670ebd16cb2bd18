"""The index of a data set: which shards it has, and what makes them trustworthy."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydantic import Field

from cluster.config import Kind
from cluster.store import RetryPolicy, Store, open_store
from metasr.config import Section
from metasr.data.patients import patient_of
from metasr.data.split import digest_of_names
from metasr.errors import ConfigError, DataError

INDEX = "index.json"
INDEXES = "indexes"
Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
TAR_BLOCK_BYTES = 512
NAME_DIGITS = 12  # of the SHA-256, in hexadecimal
NPY_PREFIX_BYTES = 10  # magic, version, and the length of the header that follows


@dataclass(frozen=True)
class Sample:
    """A slice, or a part of a photograph, on its way into a shard or out of one.

    Attributes:
        subject: Whose.
        slice: Which slice, counted from the feet; which tile of a photograph, row by row.
        image: float16 `[H, W]`, intensities in about [0, 1].
        contrast: Of the image, where the data set has several.
    """

    subject: str
    slice: int
    image: NDArray[np.float16]
    contrast: str = ""


class Shard(Section):
    """A shard as the index knows it."""

    name: str
    split: Split
    num_samples: int
    num_bytes: int
    sha256: str
    xxh3_128: str = ""
    """The `quick_checksum` of the same bytes."""
    subjects: tuple[str, ...] = ()
    """Whose samples it holds, in their order: always all samples of a subject."""
    array_offsets: tuple[int, ...] = ()
    """Where in the tar the raw float16 values of each sample begin, after the header of its npy file."""
    array_bytes: tuple[int, ...] = ()
    """How many bytes they take."""

    @classmethod
    def of(cls, data: bytes, split: Split, number: int, subjects: Iterable[str]) -> "Shard":
        """Return what the index says of the shard of a number in its split, with these bytes of these subjects."""
        sha256 = hashlib.sha256(data).hexdigest()
        offsets, sizes = _arrays(data)
        return cls(
            name=shard_name(split, number, sha256),
            split=split,
            num_samples=len(offsets),
            num_bytes=len(data),
            sha256=sha256,
            xxh3_128=quick_checksum(data),
            subjects=tuple(subjects),
            array_offsets=offsets,
            array_bytes=sizes,
        )


class Index(Section):
    """What a store holds."""

    format: Literal[1] = 1
    tool_version: str
    options: dict[str, Any]
    """How the data was prepared."""
    kind: Kind = "volumes"
    """What the images are made of."""
    modality: str = ""
    """Contrast of the volumes, where one was chosen; several with commas."""
    contrasts: dict[str, str] = Field(default_factory=dict)
    """Contrast of each subject, where there are several: those of one patient are subjects of their own."""
    patients: dict[str, str] = Field(default_factory=dict)
    """Who a subject is of, where its name alone would say something else; see `patient_of`."""
    mean: float
    """Mean intensity of the training crops."""
    std: float = Field(gt=0)
    """Standard deviation of the training crops."""
    spacing_mm: tuple[float, float] | None = None
    """Smallest and largest distance of neighbouring pixels in the slices, before any degradation."""
    skull_stripped: bool | None = None
    """Whether a constant surrounds the brain in every volume. Older indexes, and those of photographs, do not say."""
    recipe_sha256: str = ""
    """SHA-256 of how the data was prepared: equal where tool version and options are."""
    subjects: dict[Split, tuple[str, ...]]
    split_sha256: dict[Split, str] = Field(default_factory=dict)
    """SHA-256 of the sorted names of each split: equal where two data sets have the same split."""
    shards: tuple[Shard, ...]
    sha256: str = ""
    """The `digest` of all the rest. Older indexes have none."""

    def to_bytes(self) -> bytes:
        """Return the index as it is stored."""
        return self._json(without=set())

    def digest(self) -> str:
        """Return the SHA-256 of all that the index says, without `sha256` itself: the identity of the data set."""
        return hashlib.sha256(self._json(without={"sha256"})).hexdigest()

    def sealed(self) -> "Index":
        """Return the index with its digest in it, by which damage to it is found."""
        return self.model_copy(update={"sha256": self.digest()})

    def _json(self, without: set[str]) -> bytes:
        # What an older index does not say is not added, so that its data set keeps its identity.
        said = self.model_dump(mode="json", exclude_unset=True, exclude=without) | {"format": self.format}
        return (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()

    def summary(self) -> str:
        """Return what the store holds, in one line."""
        images = sum(shard.num_samples for shard in self.shards)
        images_of, whose = ("images", "photographs") if self.kind == "photos" else ("slices", "subjects")
        return (
            f"{images} {images_of} of {len(self.subjects['train'])} training and {len(self.subjects['val'])} "
            f"validation {whose} in {len(self.shards)} shards, mean {self.mean:.3f}, std {self.std:.3f}"
        )

    def recorded_patient(self, subject: str) -> str:
        """Return who a subject is of where its name alone would say something else; empty where it does not."""
        patient = subject if self.kind == "photos" else self.patients.get(subject, "")
        return "" if patient == patient_of(subject) else patient

    def patient_of(self, subject: str) -> str:
        """Return who a subject is of."""
        return self.recorded_patient(subject) or patient_of(subject)

    def check(self) -> None:
        """Raise DataError if it is damaged, a patient is in both splits, a split is empty or not as it was made."""
        if self.sha256 and self.sha256 != self.digest():
            reason = "it is damaged: its SHA-256 is not the one that it was written with"
            raise DataError(INDEX, reason, f"Restore it from {index_key(self.sha256)}, or prepare the data again")
        train, val = ({self.patient_of(name) for name in self.subjects.get(split, ())} for split in SPLITS)
        if train & val:
            raise DataError(
                f"subject {min(train & val)}", "it is in training and in validation", "Prepare the data again"
            )
        for split in SPLITS:
            if not self.subjects.get(split) or not any(
                shard.num_samples for shard in self.shards if shard.split == split
            ):
                raise DataError(
                    f"the {split} split", "it has no samples", "Prepare the data again with more subjects"
                )
            if self.split_sha256 and self.split_sha256.get(split) != digest_of_names(self.subjects[split]):
                raise DataError(
                    f"the {split} split", "its subjects are not those it was made with", "Prepare the data again"
                )


def shard_name(split: Split, number: int, sha256: str) -> str:
    """Return the key of a shard.

    Part of its SHA-256 is in it: a shard is never overwritten by one of other bytes, so that an index stays whole
    while another data set is prepared into the same store.
    """
    return f"{split}-{number:06d}-{sha256[:NAME_DIGITS]}.tar"


def data_store(url: str, policy: RetryPolicy | None = None) -> Store:
    """Return the store that `data.url` names; raise ConfigError where it names none."""
    if not url:
        raise ConfigError(
            "data.url is not set", "there is nothing to train on", "Give --data.url, see `metasr prepare`"
        )
    return open_store(url, policy)


def require_index(store: Store) -> None:
    """Raise StoreError where a store is not there, and DataError where it holds no data set."""
    store.require()
    if not store.exists(INDEX):
        fix = f"Make one with `metasr prepare -i FOLDER -o {store.url}`"
        raise DataError(f"store {store.url}", f"it has no {INDEX}", fix)


def index_key(digest: str) -> str:
    """Return where an index is kept too, by its digest: who began with it finds it when there is a newer one."""
    return f"{INDEXES}/{digest}.json"


def quick_checksum(data: bytes) -> str:
    """Return the XXH3 of 128 bits, in hexadecimal: accidental damage does not escape it, though intent would."""
    return xxhash.xxh3_128_hexdigest(data)


def _arrays(tar_bytes: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return where in a tar the raw values of its arrays begin, and how many bytes they take."""
    offsets, sizes = [], []
    with tarfile.open(fileobj=io.BytesIO(tar_bytes), mode="r:") as tar:
        for member in tar:
            if member.name.endswith(".npy"):
                start = member.offset_data
                header = NPY_PREFIX_BYTES + int.from_bytes(tar_bytes[start + 8 : start + 10], "little")
                offsets.append(start + header)
                sizes.append(member.size - header)
    return tuple(offsets), tuple(sizes)
