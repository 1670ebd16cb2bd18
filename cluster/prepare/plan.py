"""Before anything is read: which subjects there are, who trains and who validates, and what identifies all that."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.config import PrepareConfig
from cluster.prepare.pseudonyms import Names
from cluster.shards import Limit, Split
from metasr import __version__
from metasr.data.photos import find_photos
from metasr.data.split import split_subjects
from metasr.data.subjects import Subject, find_subjects, patient_of
from metasr.errors import DataError

MIN_SHARDS = 4


@dataclass(frozen=True)
class SplitPlan:
    """Who validates and who trains, in the order in which they go into shards."""

    val: tuple[Subject, ...]
    train: tuple[Subject, ...]

    def subjects(self, split: Split) -> tuple[Subject, ...]:
        """Return the subjects of a split."""
        return self.val if split == "val" else self.train

    def shard_limit(self, split: Split, options: PrepareConfig) -> Limit:
        """Return when a shard is full: workers can share out a split that has several shards."""
        return Limit(options.shard_mb * 1e6, max(1, len(self.subjects(split)) // MIN_SHARDS))


def find(folder: Path, options: PrepareConfig) -> list[Subject]:
    """Return the subjects of a folder, sorted by name.

    Raises:
        DataError: There are none, or it is not clear which files are meant.
    """
    return find_photos(folder) if options.kind == "photos" else find_subjects(folder, options.modality)


def make_plan(subjects: Sequence[Subject], options: PrepareConfig, stored: Names = str) -> SplitPlan:
    """Divide subjects into those who validate and those who train. It follows from the arguments alone.

    Each split is in the order of the names that are stored: in that of others, pseudonyms could be told by counting.

    Raises:
        DataError: A subject that should validate is not there, a patient would be in both, or there are too few.
    """
    names = [subject.name for subject in subjects]
    if unknown := set(options.val_subjects) - set(names):
        raise DataError(f"subject {min(unknown)}", "it is not in the folder", f"Choose from {', '.join(names)}")
    chosen = set(options.val_subjects or split_subjects(subjects, options.val_fraction, options.seed))
    ordered = sorted(subjects, key=lambda subject: stored(subject.name))
    val = tuple(subject for subject in ordered if subject.name in chosen)
    train = tuple(subject for subject in ordered if subject.name not in chosen)
    if both := {patient_of(subject.name) for subject in val} & {patient_of(subject.name) for subject in train}:
        reason = "it is in training and in validation"
        raise DataError(f"subject {min(both)}", reason, "Let all of a patient's visits validate, or none")
    return SplitPlan(val, train)


def said_options(options: PrepareConfig, names: Names) -> dict[str, Any]:
    """Return the options as the index says them."""
    val_subjects = [names(name) for name in options.val_subjects]
    if options.pseudonymise:
        val_subjects.sort()
    return options.model_dump(mode="json") | {"val_subjects": val_subjects}


def recipe_sha256(options: dict[str, Any], tool_version: str = __version__) -> str:
    """Return what identifies how data is prepared."""
    return _digest({"tool_version": tool_version, "options": options})


def input_sha256(recipe: str, subjects: Sequence[Subject], names: Names) -> str:
    """Return what identifies how data is prepared and from which files, by their sizes and times."""
    files = [
        (names(subject.name), status.st_size, status.st_mtime_ns)
        for subject in subjects
        for status in [subject.file.stat()]
    ]
    return _digest({"recipe": recipe, "files": files})


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
