"""The split into training and validation: whole patients, chosen by seed and name, stratified by group."""

import hashlib
from collections.abc import Iterable, Sequence
from operator import attrgetter

from metasr.data.subjects import Subject, patient_of
from metasr.errors import DataError


def split_subjects(subjects: Sequence[Subject], val_fraction: float, seed: int) -> list[str]:
    """Return the names of the validation subjects, sorted: a seeded choice of whole patients, at least one.

    A patient's rank within the stratum depends on the seed and the name alone, so that adding patients changes
    no other rank.

    Args:
        subjects: All there are; a patient's stratum is that of the first of its subjects.
        val_fraction: Fraction of the patients to validate on, overall and, to within one patient, in each stratum.
        seed: Another seed is another choice.

    Raises:
        DataError: There are fewer than two patients.
    """
    strata: dict[str, str] = {}
    for subject in sorted(subjects, key=attrgetter("name")):
        strata.setdefault(patient_of(subject.name), subject.stratum)
    if len(strata) < 2:
        raise DataError(
            f"{len(strata)} subject to split",
            "training and validation must not share a patient",
            "Give a folder with at least two subjects",
        )
    ranked: dict[str, list[str]] = {}
    for patient in sorted(strata, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()):
        ranked.setdefault(strata[patient], []).append(patient)
    count = min(max(1, round(len(strata) * val_fraction)), len(strata) - 1)
    seats = _largest_remainder({stratum: len(patients) for stratum, patients in ranked.items()}, count)
    chosen = {patient for stratum, patients in ranked.items() for patient in patients[: seats[stratum]]}
    return sorted(subject.name for subject in subjects if patient_of(subject.name) in chosen)


def _largest_remainder(sizes: dict[str, int], count: int) -> dict[str, int]:
    """Divide `count` seats in proportion to sizes: the whole parts, then one each to the largest remainders."""
    total = sum(sizes.values())
    seats = {stratum: count * size // total for stratum, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda stratum: (-(count * sizes[stratum] % total), stratum))
    for stratum in by_remainder[: count - sum(seats.values())]:
        seats[stratum] += 1
    return seats


def digest_of_names(names: Iterable[str]) -> str:
    """Return the SHA-256 of sorted names, a line each: two splits with the same digest are the same."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(names)).encode()).hexdigest()
