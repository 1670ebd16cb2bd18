"""The plan of a preparation: its subjects, their split, and the digests that identify it."""

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
from metasr.data.find import find_subjects
from metasr.data.given import GivenPatients, patients_by_regex, patients_by_table
from metasr.data.photos import find_photos
from metasr.data.split import doubtful_pairs, split_subjects
from metasr.data.subjects import Found, Subject, some
from metasr.errors import ConfigError, DataError

MIN_SHARDS = 4
GIVEN = "given"  # in an index, instead of a table's path or an expression, which may contain names


@dataclass(frozen=True)
class SplitPlan:
    """The subjects of each split, in the order of the shards."""

    val: tuple[Subject, ...]
    train: tuple[Subject, ...]

    def subjects(self, split: Split) -> tuple[Subject, ...]:
        """Return the subjects of a split."""
        return self.val if split == "val" else self.train

    def shard_limit(self, split: Split, options: PrepareConfig) -> Limit:
        """Return when a shard is full. Each split gets several shards, so that workers can share them."""
        return Limit(options.shard_mb * 1e6, max(1, len(self.subjects(split)) // MIN_SHARDS))


def find(folder: Path, options: PrepareConfig) -> Found:
    """Return the subjects of a folder, and the files that are left out.

    Raises:
        ConfigError: Patients are given in two ways, or the regular expression is invalid.
        DataError: There are no subjects, or it is ambiguous which files to use or who a patient is.
    """
    if options.kind == "photos":
        return find_photos(folder)
    return find_subjects(folder, options.modality, _given_patients(options))


def _given_patients(options: PrepareConfig) -> GivenPatients | None:
    if options.patient_regex and options.patients:
        raise ConfigError("patient-regex and patients", "both name the patients", "Give one of them")
    if options.patients:
        return patients_by_table(Path(options.patients).expanduser())
    return patients_by_regex(options.patient_regex) if options.patient_regex else None


def doubts(plan: SplitPlan) -> list[str]:
    """Return a warning if a training and a validation subject may be the same person."""
    pairs = [f"{one} (training) and {other} (validation)" for one, other in doubtful_pairs(plan.train, plan.val)]
    if not pairs:
        return []
    return [
        f"warning: these may be the same person, and then validation looks better than it is: {some(pairs)}. "
        "Name the patients with --patient-regex or --patients"
    ]


def make_plan(subjects: Sequence[Subject], options: PrepareConfig, stored: Names = str) -> SplitPlan:
    """Split the subjects into training and validation, deterministically.

    Each split is sorted by the stored names: any other order would reveal who is behind a pseudonym.

    Raises:
        DataError: A chosen subject is missing, a patient would be in both splits, or there are too few subjects.
    """
    names = [subject.name for subject in subjects]
    asked = set(options.val_subjects)
    if unknown := asked - {*names, *(subject.patient for subject in subjects)}:
        raise DataError(f"subject {min(unknown)}", "it is not in the folder", f"Choose from {', '.join(names)}")
    if asked:
        chosen = {subject.name for subject in subjects if asked & {subject.name, subject.patient}}
    else:
        chosen = set(split_subjects(subjects, options.val_fraction, options.seed))
    ordered = sorted(subjects, key=lambda subject: stored(subject.name))
    val = tuple(subject for subject in ordered if subject.name in chosen)
    train = tuple(subject for subject in ordered if subject.name not in chosen)
    if both := {subject.patient for subject in val} & {subject.patient for subject in train}:
        reason = "it is in training and in validation"
        raise DataError(f"subject {min(both)}", reason, "Choose all visits of a patient for validation, or none")
    return SplitPlan(val, train)


def said_options(options: PrepareConfig, names: Names) -> dict[str, Any]:
    """Return the options for the index: without the path of a table, and without names that must stay secret."""
    val_subjects = [names(name) for name in options.val_subjects]
    if options.pseudonymise:
        val_subjects.sort()
    said = options.model_dump(mode="json", exclude={"patient_regex", "patients"}) | {"val_subjects": val_subjects}
    if options.patient_regex:
        said["patient_regex"] = GIVEN if options.pseudonymise else options.patient_regex
    return said | ({"patients": GIVEN} if options.patients else {})


def recipe_sha256(options: dict[str, Any], tool_version: str = __version__) -> str:
    """Return the digest of how data is prepared."""
    return _digest({"tool_version": tool_version, "options": options})


def input_sha256(recipe: str, subjects: Sequence[Subject], names: Names) -> str:
    """Return the digest of how data is prepared, and from which files, by their sizes and modification times."""
    files = [
        (names(subject.name), status.st_size, status.st_mtime_ns)
        for subject in subjects
        for status in [subject.file.stat()]
    ]
    patients = {"patients": [names(subject.patient) for subject in subjects if subject.is_given]}
    return _digest({"recipe": recipe, "files": files} | (patients if patients["patients"] else {}))


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
