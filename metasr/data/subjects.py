"""Find the volumes of subjects in a folder, and read patient, contrast and collection from their names."""

import re
from dataclasses import dataclass
from pathlib import Path

from metasr.data.files import files_in, is_file
from metasr.errors import DataError

# The names of each contrast in BraTS: until 2021, and since 2023.
CONTRASTS = (("t1", "t1n"), ("t1ce", "t1c"), ("t2", "t2w"), ("flair", "t2f"))
NIFTI = re.compile(r"\.nii(\.gz)?$")
CONTRAST = re.compile(rf"(.+)[_-]({'|'.join(name for names in CONTRASTS for name in names)})", re.IGNORECASE)
SEGMENTATION = re.compile(r".+[_-]seg", re.IGNORECASE)
# A subject may be a visit: BraTS-GLI-<patient>-<visit>, Brats18_<patient>_<visit>, brats_tcia_pat105_<visit>, or the
# pseudonym of one: <16 hexadecimal digits>-<16 more>.
VISIT = re.compile(
    r"(BraTS(?:-[A-Z]+)+-\d+)-\d+|(Brats1[789]_.+)_\d+|(brats_(?:2013|tcia)_pat\d+)_\d+|([0-9a-f]{16})-[0-9a-f]{16}",
    re.IGNORECASE,
)
# Hospitals and collections, and since 2023 kinds of tumour, that BraTS names in its subjects.
COLLECTION = re.compile(r"(?:BraTS\d*_)?(2013|CBICA|TCIA|TCGA|TMC)|BraTS-([A-Z]+(?:-[A-Z]+)*)-", re.IGNORECASE)
GRADES = ("HGG", "LGG")


@dataclass(frozen=True)
class Subject:
    """A subject and the file of its volume; a photograph is a subject of its own.

    Attributes:
        name: Unique in its folder.
        file: Volume or photograph.
        stratum: The group by which the split into training and validation is stratified.
    """

    name: str
    file: Path
    stratum: str = ""


def patient_of(subject: str) -> str:
    """Return the patient that a subject is a visit of, as BraTS names them, else the subject itself."""
    contrast = CONTRAST.fullmatch(subject)
    name = contrast[1] if contrast else subject
    visit = VISIT.fullmatch(name)
    return next(filter(None, visit.groups())) if visit else name


def find_subjects(folder: Path, modality: str) -> list[Subject]:
    """Return the subjects of a folder, sorted by name.

    Files are looked for at any depth, also behind links, and named `<subject>_<modality>.nii.gz` (BraTS; also `-` and
    `.nii`). A file in a folder that is itself named so has the folder's name. Without a modality every NIfTI file
    that is not a segmentation is a subject of its own.

    Raises:
        UnreachableError: A folder in it cannot be read.
        DataError: The folder is missing, holds no such file, or holds two for one subject.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder}", "there is no such folder", "Give the folder that holds the subjects")
    files = [path for path in files_in(folder) if _is_volume(path)]
    names = {path: _name(path.relative_to(folder)) for path in files}
    if modality:
        found = {path: match[1] for path, name in names.items() if (match := _pattern(modality).fullmatch(name))}
    else:
        found = {path: name for path, name in names.items() if not SEGMENTATION.fullmatch(name)}
        _require_one_contrast(found)
    subjects: dict[str, Subject] = {}
    for path, name in found.items():
        if name in subjects:
            raise DataError(
                f"subject {name}", f"it has two volumes, {subjects[name].file} and {path}", "Leave one out"
            )
        subjects[name] = Subject(name, path, _stratum(path.relative_to(folder), name))
    if not subjects:
        looked_for = f"*_{modality}.nii.gz" if modality else "*.nii.gz"
        others = f"it has {len(files)} NIfTI files, such as {files[0].name}" if files else "it has no NIfTI file"
        photos = "" if files else "; photographs need --kind photos"
        raise DataError(f"no {looked_for} in {folder}", others, f"Check the folder and --modality{photos}")
    return [subject for _, subject in sorted(subjects.items())]


def _is_volume(path: Path) -> bool:
    return NIFTI.search(path.name) is not None and not path.name.startswith(".") and is_file(path)


def _name(path: Path) -> str:
    """Return the name of a volume without its ending: that of the file, or of a folder named like a volume."""
    named = next(part for part in path.parts if NIFTI.search(part))
    return NIFTI.sub("", named)


def _pattern(modality: str) -> re.Pattern[str]:
    same = next((names for names in CONTRASTS if modality.lower() in names), (modality,))
    return re.compile(rf"(.+)[_-](?:{'|'.join(map(re.escape, same))})", re.IGNORECASE)


def _require_one_contrast(found: dict[Path, str]) -> None:
    """Refuse contrasts of one patient as subjects of their own: they could end up in both splits."""
    contrasts: dict[str, list[str]] = {}
    for match in filter(None, map(CONTRAST.fullmatch, found.values())):
        contrasts.setdefault(match[1], []).append(match[2])
    for subject, names in contrasts.items():
        if len({name.lower() for name in names}) > 1:
            choice = next((name for name in names if name.lower() in CONTRASTS[1]), names[0])
            raise DataError(
                f"subject {subject}",
                f"it has {len(names)} contrasts, found: {', '.join(names)}",
                f"Choose one, such as --modality {choice}",
            )


def _stratum(path: Path, name: str) -> str:
    """Return the grade that a folder is named after, else the collection in the subject's name, else nothing."""
    grade = next((part.upper() for part in path.parts[:-1] if part.upper() in GRADES), "")
    collection = COLLECTION.match(name)
    return grade or (next(filter(None, collection.groups())).upper() if collection else "")
