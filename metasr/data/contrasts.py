"""Names of MRI contrasts in file names: in BraTS, BIDS and other public collections."""

import re
from typing import NamedTuple

# By canonical name, in the order of matching: T1 after contrast agent before T1, FLAIR before T2.
_AFTER = r"(?:ce|c|\+c|gd|gad|gado|gadolinium|km|ks|contrast|post(?:[_-]?(?:contrast|gd|gad|gadolinium))?)"
_T1 = r"t1[_-]?w?"
_SEQUENCE = r"(?:mp-?rage|mpr|f?spgr)"
CONTRASTS = {
    "t1ce": rf"{_T1}[_-]?{_AFTER}|ct1w?|(?:ce|post|gd)[_-]?{_T1}|{_SEQUENCE}[_-]?{_AFTER}",
    "flair": r"(?:t2[_-]?w?[_-]?)?flair|t2f",
    "t1": rf"{_T1}(?:[_-]?(?:n|native|pre(?:[_-]?(?:contrast|gd))?|{_SEQUENCE}))?|{_SEQUENCE}",
    "t2": r"t2[_-]?w?(?:[_-]?(?:tse|fse))?",
}
PROCESSED = r"(?:[_-](?:pp|preproc|preprocessed|defaced))?"
SEPARATOR = r"[_\-. ]"
_END = {
    name: re.compile(rf"(?:(.*){SEPARATOR})?({words}){PROCESSED}", re.IGNORECASE) for name, words in CONTRASTS.items()
}
# What follows a contrast at the front must name a patient or a visit: T2_star, T1_map_01 and T1_mprage_sag_3 do not.
_WHO = (
    r"(?:sub|subj|subject|pat|patient|case|control|volunteer)[_-]?[a-z]*\d"
    r"|(?:time|time[_-]?point|tp|visit|ses|session|week|wk|month|year|fu|follow[_-]?up|scan|study)[_-]?\d"
    r"|(?!(?:te|tr|ti|fa|b|map)\d)[a-z]+\d\d"
)
_SPACE = rf"(?:{SEPARATOR}(?:on|in|to){SEPARATOR}.+{SEPARATOR}space)?"  # what a volume was registered to
_REST = rf"{PROCESSED}{SEPARATOR}((?:{_WHO}).*?){_SPACE}"
_FRONT = {name: re.compile(rf"({words}){_REST}", re.IGNORECASE) for name, words in CONTRASTS.items()}
# In BIDS the contrast follows the last underscore. An entity marks a T1w after contrast agent: ce-gadolinium,
# acq-postcontrast.
_BIDS = re.compile(r"(sub-[a-z0-9]+(?:_[a-z]+-[a-z0-9.+]+)*)_([a-z0-9]+)", re.IGNORECASE)
_BIDS_AGENT = re.compile(r"(?<=_)ce-(?!none(?:_|$)|no(?:_|$)|pre)[a-z0-9]+(?:_|$)", re.IGNORECASE)
_BIDS_ACQUISITION = re.compile(
    r"_acq-(?:(?!pre|no)[a-z0-9]*(?:post|gado|contrast)[a-z0-9]*|ce|t1ce|[a-z0-9]*gd)(?:_|$)", re.IGNORECASE
)
# The names of each contrast in BraTS: until 2021, and since 2023.
BRATS = (("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f"))


class Name(NamedTuple):
    """The parts of the name of a volume.

    Attributes:
        subject: The part before the contrast; empty if the name is a contrast alone.
        word: The contrast, as the file is named.
        contrast: Canonical name of the contrast: t1ce, flair, t1 or t2.
    """

    subject: str
    word: str
    contrast: str


def split_name(name: str) -> Name | None:
    """Split the name of a volume, without suffix, into subject and contrast; None if it names no contrast.

    The contrast is at the end of the name, or else at its front: `flair_time01`, `T1c_sub-01`.
    """
    if found := split_end(name):
        return found
    for contrast, front in _FRONT.items():
        if match := front.fullmatch(name):
            return Name(match[2], match[1], contrast)
    return None


def split_end(name: str) -> Name | None:
    """Split a name as `split_name` does, by a contrast at its end alone."""
    if bids := _BIDS.fullmatch(name):
        subject, suffix = bids.groups()
        found = next((contrast for contrast, end in _END.items() if end.fullmatch(suffix)), "")
        if found == "t1" and (_BIDS_AGENT.search(f"{subject}_") or _BIDS_ACQUISITION.search(subject)):
            return Name(_BIDS_AGENT.sub("", f"{subject}_").rstrip("_"), suffix, "t1ce")
        return Name(subject, suffix, found) if found else None
    for contrast, end in _END.items():
        if match := end.fullmatch(name):
            return Name(match[1] or "", match[2], contrast)
    return None


def canonical(modality: str) -> str:
    """Return the canonical name of a contrast; other names are returned as they are."""
    found = split_name(modality)
    return found.contrast if found and not found.subject else modality


def find_contrast(name: str, modality: str) -> Name | None:
    """Return the parts of the name of a volume if it is of a contrast, under any name of the contrast; else None.

    Args:
        name: Name of a file, without suffix.
        modality: Any name of a contrast. Other text is matched literally, ignoring case.
    """
    wanted = canonical(modality)
    if wanted in CONTRASTS:
        found = split_name(name)
        return found if found and found.contrast == wanted else None
    word = re.escape(modality)
    if match := re.fullmatch(rf"(?:(.*){SEPARATOR})?({word})", name, re.IGNORECASE):
        return Name(match[1] or "", match[2], modality)
    match = re.fullmatch(rf"({word}){_REST}", name, re.IGNORECASE)
    return Name(match[2], match[1], modality) if match else None


def is_called(word: str, modality: str) -> bool:
    """Return whether a file names its contrast as the user did, or by the other name that BraTS has for it."""
    same = next((names for names in BRATS if modality.lower() in names), (modality.lower(),))
    return word.lower() in same
