"""Derive the patient from the name of a subject or the path of a file, in the namings of public collections."""

import re
from collections.abc import Sequence
from typing import Protocol

from metasr.data.contrasts import SEPARATOR, split_end

# Collections where a bare number marks a visit; and pseudonyms of visits: 16 hexadecimal digits twice.
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
# Suffixes of visits. The short and ambiguous ones count only after a name that has a digit.
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
# Words that identify nobody: any patient's file or folder may have them, or they name a group.
GENERIC = re.compile(
    r"(?:study|studies|site|cent(?:er|re)|cohort|group|grp|fold|set|batch|hospital|scanner|dataset|ds)\d*"
    r"|(?:sub|subj|subject|pat|patient|case|scan|exam|img|image|vol|volume|file)s?|patientid|id|no|nr|im|data|brain|head"
    r"|nifti|mri|mr|anat|anatomical|nii|orig|original|raw|norm|reg|registered|bet|stripped|n4|pp|3d|mni|native",
    re.IGNORECASE,
)


def patient_of(subject: str) -> str:
    """Return the patient of a subject, derived from the name; the name itself if it has no suffix of a visit.

    In BIDS the `sub-` entity is the patient. In other names suffixes of contrasts and visits are removed:
    `P07_week-044_t1ce` gives P07. The rest must identify somebody: `case_visit1` stays as it is.
    """
    name = subject.rpartition("/")[2] if subject.rpartition("/")[2].startswith("sub-") else subject
    found = split_end(name)
    name = found.subject if found and found.subject else name
    while not (match := COLLECTIONS.fullmatch(name) or BIDS.fullmatch(name)) and (shorter := _without_end(name)):
        name = shorter
    return next(filter(None, match.groups())) if match else name


class SubjectRow(Protocol):
    """A row of results of a subject, with the patient where the name does not tell it."""

    @property
    def subject(self) -> str:
        """Name of the subject."""

    @property
    def patient(self) -> str:
        """The patient; empty where the name of the subject tells it."""


def patient_of_row(row: SubjectRow) -> str:
    """Return the patient of a row: the recorded one, else the one that the name of the subject tells."""
    return row.patient or patient_of(row.subject)


def is_of_collection(subject: str) -> bool:
    """Return whether a subject is named as in BIDS or in a collection whose visits are known."""
    return bool(COLLECTIONS.fullmatch(subject) or BIDS.fullmatch(subject))


def folder_patient(parts: Sequence[str]) -> tuple[str, str]:
    """Return the patient of a path, and the name of the visit.

    `("site", "P07", "2019-01-01", "t1")` gives P07 and P07_2019-01-01. Generic names are skipped; if nothing else is
    left, the visits or the last name are taken for the patient.

    Args:
        parts: Names of the folders, outermost first, and of the file without suffix and contrast.
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
    """Return whether a part of a path names a visit of the patient above it."""
    if VISIT.fullmatch(part) and not part.isdigit():
        return True
    short = _has_digit(part) and SHORT_VISIT.fullmatch(part)
    return _is_numbered(above) and bool(VISIT.fullmatch(part) or short or (letters and LETTER_VISIT.fullmatch(part)))


def _is_generic(name: str) -> bool:
    """Return whether any patient's file or folder could have this name."""
    found = split_end(name)
    return not _is_name(found.subject if found else name)


def _without_end(name: str) -> str:
    """Return a name without the visit or contrast at its end; empty if there is none."""
    found = split_end(name)
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
