"""The split into training and validation: whole patients, chosen by seed and name, stratified by group."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from metasr.data.patients import is_of_collection
from metasr.data.subjects import Subject
from metasr.errors import DataError

# Names whose end may be that of a visit: "case7a", "case7 b", "P07_2", "P07-new", "HC_scan2".
VISIT_LIKE = re.compile(
    r"(.*\d)(?:[_\-. ]?[a-z]{1,2}|[_\-. ]\d{1,2}|[_\-. ][a-z]+\d{0,2})"
    r"|(.+)[_\-. ](?:session|ses|time|tp|study|scan|exam|run|mr|day)[_-]?\d+",
    re.IGNORECASE,
)
# What is removed from a name before it is hashed. Frozen: other rules would split the same folder differently.
RANK_CONTRAST = re.compile(r"(.+)[_-](?:t1n?|t1ce|t1c|t2w?|flair|t2f)", re.IGNORECASE)
RANK_VISIT = re.compile(
    r"(BraTS(?:-[A-Z]+)+-\d+)-\d+|(Brats1[789]_.+)_\d+|(brats_(?:2013|tcia)_pat\d+)_\d+|([0-9a-f]{16})-[0-9a-f]{16}",
    re.IGNORECASE,
)
MAX_PER_PATIENT = 4  # more volumes than this in a folder are not taken for those of one patient


def split_subjects(subjects: Sequence[Subject], val_fraction: float, seed: int) -> list[str]:
    """Return the names of the validation subjects, sorted: a seeded choice of whole patients, at least one.

    A patient's rank within the stratum depends on the seed and the name alone, so that adding patients changes
    no other rank.

    Args:
        subjects: All there are; the first of a patient's subjects gives its stratum and the name for its rank.
        val_fraction: Fraction of the patients to validate on, overall and, to within one patient, in each stratum.
        seed: Another seed is another choice.

    Raises:
        DataError: There are fewer than two patients.
    """
    strata: dict[str, str] = {}
    ranks: dict[str, bytes] = {}
    for subject in sorted(subjects, key=attrgetter("name")):
        strata.setdefault(subject.patient, subject.stratum)
        ranks.setdefault(subject.patient, hashlib.sha256(f"{seed}:{_rank_name(subject)}".encode()).digest())
    if len(strata) < 2:
        raise DataError(
            f"{len(strata)} subject to split",
            "training and validation must not share a patient",
            "Give a folder with at least two subjects, or say with --patient-regex or --patients who is who",
        )
    ranked: dict[str, list[str]] = {}
    for patient in sorted(strata, key=ranks.__getitem__):
        ranked.setdefault(strata[patient], []).append(patient)
    count = min(max(1, round(len(strata) * val_fraction)), len(strata) - 1)
    seats = _largest_remainder({stratum: len(patients) for stratum, patients in ranked.items()}, count)
    chosen = {patient for stratum, patients in ranked.items() for patient in patients[: seats[stratum]]}
    return sorted(subject.name for subject in subjects if subject.patient in chosen)


def _rank_name(subject: Subject) -> str:
    """Return the name by which a patient is ranked, given the first of its subjects."""
    if subject.is_given:
        return subject.patient
    contrast = RANK_CONTRAST.fullmatch(subject.name)
    name = contrast[1] if contrast else subject.name
    visit = RANK_VISIT.fullmatch(name)
    return next(filter(None, visit.groups())) if visit else name


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


def doubtful_pairs(train: Sequence[Subject], val: Sequence[Subject]) -> list[tuple[str, str]]:
    """Return pairs of a training and a validation subject that could be one person, though no rule says so.

    Either their names differ only at an end that could be a visit, or their files share a folder, in a data set where
    every folder has few files. Patients given by the user, and names of known collections, are not doubted.
    """
    pairs: dict[str, tuple[str, str]] = {}
    for alike in (_by_name, _by_folder):
        groups: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
        for side, subjects in enumerate((train, val)):
            for key, subject in alike(subjects, [*train, *val]):
                groups[key][side].append(subject.name)
        for in_train, in_val in groups.values():
            if in_train and in_val:
                pairs.setdefault(in_val[0], (in_train[0], in_val[0]))
    return sorted(pairs.values())


def _by_name(subjects: Sequence[Subject], _: Sequence[Subject]) -> Iterator[tuple[str, Subject]]:
    for subject in subjects:
        if not subject.is_given and not is_of_collection(subject.name):
            match = VISIT_LIKE.fullmatch(subject.patient)
            yield (match[1] or match[2] if match else subject.patient).rstrip("_-. ").lower(), subject


def _by_folder(subjects: Sequence[Subject], everybody: Sequence[Subject]) -> Iterator[tuple[str, Subject]]:
    sizes: dict[str, int] = defaultdict(int)
    for subject in everybody:
        sizes[str(subject.file.parent)] += 1
    few = [folder for folder, size in sizes.items() if size <= MAX_PER_PATIENT]
    if len(few) > 1 and len(few) == len(sizes):
        yield from ((str(one.file.parent), one) for one in subjects if not one.is_given)
