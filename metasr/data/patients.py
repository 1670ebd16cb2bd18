"""Whose a volume is: the patient that the name of a subject tells, whatever its collection calls visits."""

import re
from collections.abc import Sequence
from typing import Protocol

from metasr.data.contrasts import SEPARATOR, split_name

# Collections in which a number without a word is a visit, and the pseudonym of one: 16 hexadecimal digits twice.
COLLECTIONS = re.compile(
    r"(BraTS(?:-[A-Z]+)+-\d+)-\d+"
    r"|(Brats1[789]_.+)_\d+"
    r"|(brats_(?:2013|tcia)_pat\d+)_\d+"
    r"|(UPENN-GBM-\d+)_\d+"
    r"|(UCSD-PTGBM-\d+)_\d+"
    r"|(RHUH-\d+)_\d+"
    r"|((?:training|test)\d\d)_\d\d"  # the ISBI challenge of 2015
    r"|(?:ADNI_)?(\d{3}_S_\d{4})[_-].+"
    r"|(OAS[12]_\d{4}|OAS3\d{4})_MR.*"
    r"|(PPMI_\d+)_.+"
    r"|([0-9a-f]{16})-[0-9a-f]{16}",
    re.IGNORECASE,
)
BIDS = re.compile(r"(sub-[a-z0-9]+)(?:_[a-z]+-[a-z0-9.+]+)+", re.IGNORECASE)
DATE = r"(?:19|20)\d\d[-._]?(?:0[1-9]|1[0-2])[-._]?(?:0[1-9]|[12]\d|3[01])|\d\d-\d\d-(?:19|20)\d\d"
_NUMBER = r"[_-]?\d+[a-z]?(?:-\d)?"
# What follows a patient's name when it is a visit; of the others only after a name that has a number itself.
VISIT = re.compile(
    rf"(?:visit|vis|time[_-]?point|fu|follow[_-]?up|week|wk|month|year|yr){_NUMBER}|ses-[a-z0-9]+|{DATE}"
    r"|baseline|screening|follow[_-]?up|(?:pre|post|intra)[_-]?op(?:erative)?",
    re.IGNORECASE,
)
SHORT_VISIT = re.compile(
    rf"(?:session|ses|time|tp|study|scan|exam|run|mr|day|mo){_NUMBER}|bl|fu|pre|post"
    r"|(?:re)?test|rescan|brain|pp|bias|n4|bet|reg|norm|orig|raw|(?:un|skull[_-]?)?stripped|defaced|preproc(?:essed)?",
    re.IGNORECASE,
)
LETTER_VISIT = re.compile(r"[vmtwdy]\d{1,4}", re.IGNORECASE)
# Words that say of a name only that it is one, and of groups: alone they are no patient's.
GENERIC = re.compile(
    r"(?:study|studies|site|cent(?:er|re)|cohort|group|grp|fold|set|batch|hospital|scanner|dataset|ds)\d*"
    r"|(?:sub|subj|subject|pat|patient|case|scan|exam|img|image|vol|volume|file)s?|patientid|id|no|nr|im|data|brain|head"
    r"|nifti|mri|mr|anat|anatomical|nii|orig|original|raw|norm|reg|registered|bet|stripped|n4|pp|3d|mni|native",
    re.IGNORECASE,
)


def patient_of(subject: str) -> str:
    """Return the patient that a subject is a visit of, as its name says, else the subject itself.

    Of names in BIDS `sub-` decides. Elsewhere the end is taken off for as long as it is a contrast, or a separator
    and a word for a visit: `P07_week-044_t1ce` is of P07. What is left must be a name, not `case` or `patient`.
    """
    name = subject.rpartition("/")[2] if subject.rpartition("/")[2].startswith("sub-") else subject
    found = split_name(name)
    name = found.subject if found and found.subject else name
    while not (match := COLLECTIONS.fullmatch(name) or BIDS.fullmatch(name)) and (shorter := _without_end(name)):
        name = shorter
    return next(filter(None, match.groups())) if match else name


class OfSubject(Protocol):
    """A row about a subject, with its patient where the name does not say it."""

    @property
    def subject(self) -> str:
        """Name of the subject."""

    @property
    def patient(self) -> str:
        """Whose the subject is; empty where the name says it."""


def whose(row: OfSubject) -> str:
    """Return the patient that a row is about: as it was recorded, else as the name says."""
    return row.patient or patient_of(row.subject)


def is_of_collection(subject: str) -> bool:
    """Return whether a subject is named as a collection does it that tells visits by numbers, or BIDS."""
    return bool(COLLECTIONS.fullmatch(subject) or BIDS.fullmatch(subject))


def folder_patient(parts: Sequence[str]) -> tuple[str, str]:
    """Return the patient that a path is of, and the name of the visit.

    `("site", "P07", "2019-01-01", "t1")` is of P07, and P07_2019-01-01. A name that any patient's file could have is
    passed over; where all of them are such, the visits count, or the last.

    Args:
        parts: Names of the folders, from the outermost, and of the file without ending and contrast.
    """
    visits: list[str] = []
    for place in reversed(range(len(parts))):
        part, above = parts[place], parts[place - 1] if place else ""
        is_folder = place < len(parts) - 1
        if _is_visit(part, above, letters=is_folder):
            visits.insert(0, part)
        elif not _is_generic(part):
            return patient_of(part), "_".join([part, *visits])
    rest = "_".join(visits) or parts[-1]
    return rest, rest


def _is_visit(part: str, above: str, *, letters: bool) -> bool:
    """Return whether a part of a path is a visit of the one above it. One letter, or digits alone, say so little."""
    if VISIT.fullmatch(part) and not part.isdigit():
        return True
    short = _has_digit(part) and SHORT_VISIT.fullmatch(part)
    return _is_numbered(above) and bool(VISIT.fullmatch(part) or short or (letters and LETTER_VISIT.fullmatch(part)))


def _is_generic(name: str) -> bool:
    """Return whether a name is one that any patient's file or folder could have."""
    found = split_name(name)
    return not _is_name(found.subject if found else name)


def _without_end(name: str) -> str:
    """Return a name without the visit or contrast at its end; empty where it has none."""
    found = split_name(name)
    if found and _is_numbered(found.subject):
        return found.subject
    for separator in reversed(list(re.finditer(SEPARATOR, name))):
        rest, end = name[: separator.start()].rstrip("_-. "), name[separator.end() :]
        short = SHORT_VISIT.fullmatch(end) or LETTER_VISIT.fullmatch(end)
        if _is_name(rest) and (VISIT.fullmatch(end) or (short and _has_digit(rest))):
            return rest
    return ""


def _is_name(text: str) -> bool:
    return any(word and not GENERIC.fullmatch(word) for word in re.split(SEPARATOR, text))


def _is_numbered(text: str) -> bool:
    return _is_name(text) and _has_digit(text)


def _has_digit(text: str) -> bool:
    return any(map(str.isdigit, text))
