"""From a folder of volumes or photographs to shards in a store."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.config import PrepareConfig
from cluster.shards import INDEX, SPLITS, Index, Sample, ShardWriter, Split
from cluster.store import Store
from metasr import __version__
from metasr.data.intensity import IntensityScale
from metasr.data.photos import find_photos, load_luminance, tiles
from metasr.data.slices import brain_slices, informational_crop
from metasr.data.split import digest_of_names, split_subjects
from metasr.data.subjects import Subject, find_subjects
from metasr.data.volume import load_volume
from metasr.errors import DataError, MetaSRError

MAX_UNIT = 10.0
MAX_INTENSITY = 1e30  # far beyond any scanner, and far from what float32 can hold


@dataclass
class Statistics:
    """Mean and standard deviation of images seen one after the other."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, image: np.ndarray) -> None:
        """Take in an image."""
        values = image.astype(np.float64)
        self.count += values.size
        self.total += float(values.sum())
        self.squares += float((values**2).sum())

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self.total / self.count

    @property
    def std(self) -> float:
        """Standard deviation of all values."""
        return math.sqrt(max(self.squares / self.count - self.mean**2, 0.0))


@dataclass
class Report:
    """What `prepare` did: the index it wrote, and the subjects it had to leave out with the reason."""

    index: Index
    refused: dict[str, str]


def prepare(folder: Path, store: Store, options: PrepareConfig, tell: Callable[[str], None]) -> Report:
    """Write the slices of all subjects of a folder, or its photographs, into shards, and the index last.

    Training slices are cut to the crop with the most brain, training photographs into tiles; those that validate
    are whole. A file that cannot be used is reported, and the others go on. One file at a time is in memory.

    Args:
        folder: With a NIfTI volume per subject, or with photographs.
        store: Where the shards go.
        options: See `PrepareConfig`.
        tell: Called with a line for each subject.

    Raises:
        DataError: There is nothing to prepare, or nothing that can be used.
    """
    taken = _Taken(store, options, tell)
    waiting = find_photos(folder) if options.kind == "photos" else find_subjects(folder, options.modality)
    # Those who validate come first: where none of them can be used, others are chosen from those who wait.
    while not taken.subjects["val"]:
        validating = _validation_subjects(waiting, options)
        for subject in validating:
            taken.add(subject, "val")
        waiting = [subject for subject in waiting if subject not in validating]
        if options.val_subjects or len(waiting) < 2:
            break
    for subject in waiting:
        taken.add(subject, "train")
    if not all(taken.subjects.values()):
        raise DataError(
            f"folder {folder}",
            "too few usable subjects: training and validation need one each",
            "See the reasons above",
        )
    index = taken.close()
    index.check()
    store.put(INDEX, index.to_bytes())
    return Report(index, taken.refused)


class _Taken:
    """The subjects taken so far: their slices on the way into shards, and who had to be left out."""

    def __init__(self, store: Store, options: PrepareConfig, tell: Callable[[str], None]) -> None:
        self.subjects: dict[Split, list[str]] = {split: [] for split in SPLITS}
        self.refused: dict[str, str] = {}
        self._options, self._tell = options, tell
        self._statistics = Statistics()
        self._writers = {split: ShardWriter(store, split, options.shard_mb * 1e6) for split in SPLITS}

    def add(self, subject: Subject, split: Split) -> None:
        """Take the images of a subject into a split, or note why it cannot be used."""
        cut = _tiles if self._options.kind == "photos" else _slices
        try:
            samples = list(cut(subject, self._options, crop=split == "train"))
        except MetaSRError as error:
            self.refused[subject.name] = str(error)
            self._tell(f"{subject.name}: left out. {error}")
            return
        if split == "train":
            for sample in samples:
                self._statistics.add(sample.image)
        self._writers[split].write_all(samples)
        self.subjects[split].append(subject.name)
        self._tell(f"{subject.name}: {len(samples)} {'images' if cut is _tiles else 'slices'}, {split}")

    def close(self) -> Index:
        """Store the last shards and return the index of all.

        Raises:
            DataError: All training crops show one value.
        """
        if not self._statistics.std:
            raise DataError("the training crops", "all their values are the same", "Give images that show something")
        return Index(
            tool_version=__version__,
            options=self._options.model_dump(mode="json"),
            kind=self._options.kind,
            modality=self._options.modality,
            mean=self._statistics.mean,
            std=self._statistics.std,
            subjects={split: tuple(names) for split, names in self.subjects.items()},
            split_sha256={split: digest_of_names(names) for split, names in self.subjects.items()},
            shards=tuple(shard for writer in self._writers.values() for shard in writer.close()),
        )


def _validation_subjects(subjects: Sequence[Subject], options: PrepareConfig) -> list[Subject]:
    names = [subject.name for subject in subjects]
    if unknown := set(options.val_subjects) - set(names):
        raise DataError(f"subject {min(unknown)}", "it is not in the folder", f"Choose from {', '.join(names)}")
    chosen = options.val_subjects or split_subjects(subjects, options.val_fraction, options.seed)
    return [subject for subject in subjects if subject.name in chosen]


def _slices(subject: Subject, options: PrepareConfig, *, crop: bool) -> Iterator[Sample]:
    """Yield the slices of a subject that show enough brain, from feet to head."""
    volume = load_volume(subject.file)
    if np.abs(volume.data).max() > MAX_INTENSITY:
        raise DataError(str(subject.file), f"its intensities go beyond {MAX_INTENSITY:g}", "Repair or leave it out")
    intensities = IntensityScale.fit(volume.data)
    if intensities is None:
        raise DataError(str(subject.file), "all its voxels are the same", "Leave it out")
    axial = intensities.to_unit(volume.slices())
    numbers = brain_slices(axial, options.min_brain)[:: options.slice_step]
    if not len(numbers):
        raise DataError(str(subject.file), f"no slice has {options.min_brain:.0%} of brain", "Lower --min-brain")
    for number in numbers:
        image = informational_crop(axial[number], options.crop_px) if crop else axial[number]
        # Beyond is no tissue but a defect of the image, which must not decide the mean or end in infinity.
        image = image.clip(-MAX_UNIT, MAX_UNIT)
        yield Sample(subject=subject.name, slice=int(number), image=np.ascontiguousarray(image, dtype=np.float16))


def _tiles(subject: Subject, options: PrepareConfig, *, crop: bool) -> Iterator[Sample]:
    """Yield the tiles of a photograph, or the whole."""
    image = load_luminance(subject.file)
    if min(image.shape) < options.crop_px:
        size = " x ".join(map(str, image.shape[::-1]))
        raise DataError(str(subject.file), f"its {size} pixels hold no tile of {options.crop_px}", "Lower --crop-px")
    if image.min() == image.max():
        raise DataError(str(subject.file), "all its pixels are the same", "Leave it out")
    for number, tile in enumerate(tiles(image, options.crop_px) if crop else [image]):
        yield Sample(subject=subject.name, slice=number, image=np.ascontiguousarray(tile, dtype=np.float16))
