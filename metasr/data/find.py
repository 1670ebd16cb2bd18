"""Find the volumes of subjects in a folder of any layout, and report what is left out."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from metasr.data.contrasts import Name, find_contrast, is_called, split_name
from metasr.data.files import files_in, shown, why_unusable
from metasr.data.given import NIFTI, GivenPatients
from metasr.data.labels import is_label_name
from metasr.data.patients import folder_patient
from metasr.data.subjects import Found, Subject, convertible
from metasr.errors import ConfigError, DataError

# Hospitals and collections in the subject names of BraTS; kinds of tumour since 2023.
COLLECTION = re.compile(r"(?:BraTS\d*_)?(2013|CBICA|TCIA|TCGA|TMC)|BraTS-([A-Z]+(?:-[A-Z]+)*)-", re.IGNORECASE)
GRADES = ("HGG", "LGG")
CHANNEL = re.compile(r"(.+)_(\d{4})")  # as nnU-Net names the contrasts of a case
MAX_CHANNELS = 8
SAY_WHO = "Leave one out, or say who is who with --patient-regex or --patients"


@dataclass(frozen=True)
class _Volume:
    """A NIfTI file: path, path below the folder, names of the folders on the way, and name without suffix."""

    path: Path
    below: str
    folders: tuple[str, ...]
    name: str

    @classmethod
    def of(cls, path: Path, folder: Path) -> "_Volume":
        """Parse a path. A file in a folder that is named like a volume takes the name of the folder."""
        below = shown(path.relative_to(folder).as_posix())
        parts = below.split("/")
        place = next(place for place, part in enumerate(parts) if NIFTI.search(part))
        return cls(path, below, tuple(parts[:place]), NIFTI.sub("", parts[place]))

    def whose(self, name: str) -> tuple[str, str]:
        """Return patient and visit, given the part of the file's own name that identifies them."""
        return folder_patient((*self.folders, name or self.name))


@dataclass(frozen=True)
class _Candidate:
    """A volume of a contrast that was asked for.

    Attributes:
        visit: Name of the patient's visit: that of the subject, without contrast.
        asked: The contrast, as the user named it.
        word: The contrast, as the file is named.
    """

    volume: _Volume
    patient: str
    visit: str
    asked: str = ""
    word: str = ""


def find_subjects(folder: Path, modality: str = "", given: GivenPatients | None = None) -> Found:
    """Return the subjects of a folder, sorted by name, and what is left out.

    Files are found at any depth, also behind links: `<subject>_<modality>.nii.gz`, with any name of the contrast, or
    `<modality>.nii.gz` in a folder of the patient, also with subject or visit after it: `t1_sub-01.nii.gz`.
    A file in a folder that is itself named like a volume takes the folder's name. Without a modality every volume is
    a subject. Masks and label maps are left out.

    Args:
        folder: The folder to search.
        modality: A contrast, or several separated by commas: then each volume is a subject of its own.
        given: The user's rule for patients, where names do not tell them.

    Raises:
        UnreachableError: A folder in it cannot be read.
        ConfigError: A contrast is asked for twice.
        DataError: The folder is missing, has no such file or two for one subject, or `given` lacks a patient.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder}", "there is no such folder", "Give the folder that holds the subjects")
    asked = _asked(modality)
    files = [path for path in files_in(folder) if not path.name.startswith(".")]
    named = [path for path in files if NIFTI.search(path.name) and (path.is_file() or why_unusable(path))]
    notes = convertible([path for path in files if not NIFTI.search(path.name)])
    left_out: dict[str, list[str]] = defaultdict(list)
    images = []
    for volume in (_Volume.of(path, folder) for path in named):
        if is_label_name(volume.folders, volume.name):
            left_out["named as masks or label maps"].append(volume.below)
        elif reason := why_unusable(volume.path):
            left_out[reason].append(volume.below)
        else:
            images.append(volume)
    if asked:
        candidates = list(_of_contrasts(images, asked, left_out))
    else:
        candidates = [_Candidate(volume, *volume.whose(volume.name)) for volume in images]
        if not given:
            _require_one_contrast(candidates)
    chosen = _one_each(candidates, several=len(asked) > 1, given=given, left_out=left_out)
    subjects = sorted(_subjects(chosen, folder, given, several=len(asked) > 1), key=lambda subject: subject.name)
    _require_all(subjects, asked, folder, named, [*_reasons(left_out), *notes])
    return Found("NIfTI files", subjects, left_out, _without(images, candidates, asked), notes)


def _asked(modality: str) -> tuple[str, ...]:
    """Return the contrasts in a list separated by commas."""
    asked = tuple(filter(None, (one.strip() for one in modality.split(","))))
    for place, one in enumerate(asked):
        if any(find_contrast(one, other) for other in asked[:place]):
            raise ConfigError(f"modality {modality}", f"{one} is asked for twice", "Name each contrast once")
    return asked


def _of_contrasts(
    images: Iterable[_Volume], asked: Sequence[str], left_out: dict[str, list[str]]
) -> Iterable[_Candidate]:
    """Yield the volumes of the contrasts asked for; add the others to `left_out`."""
    for volume in images:
        for modality in asked:
            if found := find_contrast(volume.name, modality):
                yield _Candidate(volume, *volume.whose(found.subject), modality, found.word)
                break
        else:
            named = split_name(volume.name)
            reason = (
                f"of contrast {named.contrast}"
                if named
                else f"without {' or '.join(asked)} at either end of the name"
            )
            left_out[reason].append(volume.below)


def _one_each(
    candidates: Iterable[_Candidate], *, several: bool, given: GivenPatients | None, left_out: dict[str, list[str]]
) -> dict[str, _Candidate]:
    """Return a volume for each subject, by its name.

    Of two volumes of one contrast the one that is named as the user named the contrast is taken. With patients given,
    files of equal names are subjects of their own, named after their paths.

    Raises:
        DataError: There are two for one subject.
    """
    alike: dict[str, list[_Candidate]] = defaultdict(list)
    for one in candidates:
        alike[f"{one.visit}_{one.asked}" if several else one.visit].append(one)
    chosen: dict[str, _Candidate] = {}
    for name, group in alike.items():
        exact = [one for one in group if is_called(one.word, one.asked)] or group
        for one in group:
            if one not in exact:
                left_out[f"a second volume of the contrast, besides *_{exact[0].word}"].append(one.volume.below)
        if given and len(exact) > 1:
            chosen |= {NIFTI.sub("", one.volume.below).replace("/", "_"): one for one in exact}
            continue
        if len(exact) > 1:
            both = f"{exact[0].volume.path} and {exact[1].volume.path}"
            raise DataError(f"subject {name}", f"it has two volumes, {both}", SAY_WHO)
        chosen[name] = exact[0]
    return chosen


def _subjects(
    chosen: dict[str, _Candidate], folder: Path, given: GivenPatients | None, *, several: bool
) -> list[Subject]:
    subjects, unknown = [], []
    for name, one in chosen.items():
        path = one.volume.path
        patient = given.find(one.volume.below, (name, one.visit)) if given else one.patient
        unknown += [] if patient else [one.volume.below]
        stratum = _stratum(path.relative_to(folder), one.visit)
        subjects.append(Subject(name, path, stratum, one.asked if several else "", patient, given is not None))
    if given and unknown:
        reason = f"it gives no patient for {len(unknown)} of {len(chosen)} files, such as {unknown[0]}"
        raise DataError(given.source, reason, "Make it cover every file, or move the others elsewhere")
    return subjects


def _require_all(
    subjects: Sequence[Subject], asked: Sequence[str], folder: Path, named: Sequence[Path], why: Sequence[str]
) -> None:
    """Raise DataError if there is no subject, or none of one of several contrasts."""
    found = {subject.contrast for subject in subjects}
    missing = [one for one in asked if one not in found] if len(asked) > 1 else []
    if subjects and not missing:
        return
    modality = missing[0] if missing else ",".join(asked)
    looked_for = f"*_{modality}.nii.gz" if modality else "*.nii.gz"
    others = f"it has {len(named)} NIfTI files, such as {shown(named[0].name)}" if named else "it has no NIfTI file"
    photos = "" if named else "; photographs need --kind photos"
    reason = "; ".join([others, *why])
    raise DataError(f"no {looked_for} in {folder}", reason, f"Check the folder and --modality{photos}")


def _reasons(left_out: dict[str, list[str]]) -> list[str]:
    return [f"{len(names)} left out, {reason}" for reason, names in left_out.items()]


def _without(
    images: Iterable[_Volume], candidates: Sequence[_Candidate], asked: Sequence[str]
) -> dict[str, list[str]]:
    """Return for each contrast asked for the visits that have volumes of other contrasts only."""
    named: list[tuple[_Volume, Name]] = [
        (volume, name) for volume in images if (name := split_name(volume.name)) is not None
    ]
    visits = {volume.whose(name.subject)[1] for volume, name in named} | {one.visit for one in candidates}
    found = {one: visits - {other.visit for other in candidates if other.asked == one} for one in asked}
    return {one: sorted(names) for one, names in found.items() if names}


def _require_one_contrast(candidates: Sequence[_Candidate]) -> None:
    """Refuse several contrasts of one patient: without --modality it is unclear which are wanted."""
    contrasts: dict[str, dict[str, str]] = defaultdict(dict)
    for one in candidates:
        if name := split_name(one.volume.name):
            visit = one.volume.whose(name.subject)[1]
            contrasts[visit].setdefault(name.contrast, name.word)
    for visit, channel in _channels(candidates):
        contrasts[visit][channel] = channel
    for subject, words in contrasts.items():
        if len(words) > 1:
            choice = words.get("t1ce", next(iter(words.values())))
            raise DataError(
                f"subject {subject}",
                f"it has {len(words)} contrasts, found: {', '.join(words.values())}",
                f"Choose one, such as --modality {choice}",
            )


def _channels(candidates: Iterable[_Candidate]) -> Iterable[tuple[str, str]]:
    """Yield case and channel of volumes named as in nnU-Net: several cases with the same channels, 0000 and up."""
    folders: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in candidates:
        if match := CHANNEL.fullmatch(one.volume.name):
            folders[one.volume.folders][match[1]].append(match[2])
    for cases in folders.values():
        expected = [f"{number:04d}" for number in range(max(map(len, cases.values())))]
        if len(cases) > 1 and len(expected) <= MAX_CHANNELS and all(found == expected for found in cases.values()):
            yield from ((case, channel) for case in cases for channel in expected)


def _stratum(path: Path, name: str) -> str:
    """Return the grade that a folder is named after, else the collection in the subject's name, else nothing."""
    grade = next((part.upper() for part in path.parts[:-1] if part.upper() in GRADES), "")
    collection = COLLECTION.match(name)
    return grade or (next(filter(None, collection.groups())).upper() if collection else "")
