"""Finding the volumes of subjects in a folder."""

import re
from dataclasses import dataclass
from pathlib import Path

from metasr.errors import DataError

# BraTS wrote t1ce until 2021 and t1c since 2023.
SYNONYMS = {"t1ce": ("t1ce", "t1c"), "t1c": ("t1ce", "t1c")}
# Since 2023 a subject is a visit: BraTS-GLI-<patient>-<visit>.
VISIT = re.compile(r"(BraTS-[A-Z]+-\d+)-\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Subject:
    """A subject and the file of its volume; a photograph is a subject of its own."""

    name: str
    file: Path


def patient_of(subject: str) -> str:
    """Return the patient that a subject is a visit of, as BraTS names them, else the subject itself."""
    match = VISIT.fullmatch(subject)
    return match[1] if match else subject


def find_subjects(folder: Path, modality: str) -> list[Subject]:
    """Return the subjects of a folder, sorted by name.

    Files are looked for at any depth and named `<subject>_<modality>.nii.gz` (BraTS; also `-` and `.nii`). Without a
    modality every NIfTI file is a subject of its own.

    Raises:
        DataError: The folder is missing, holds no such file, or holds two for one subject.
    """
    if not folder.is_dir():
        raise DataError(f"folder {folder}", "there is no such folder", "Give the folder that holds the subjects")
    files = sorted(path for path in folder.rglob("*") if path.name.endswith((".nii", ".nii.gz")) and path.is_file())
    endings = "|".join(SYNONYMS.get(modality.lower(), (re.escape(modality.lower()),)))
    pattern = re.compile(rf"(.+)[_-](?:{endings})" if modality else "(.+)", re.IGNORECASE)
    subjects: dict[str, Path] = {}
    for path in files:
        match = pattern.fullmatch(re.sub(r"\.nii(\.gz)?$", "", path.name))
        if match is None:
            continue
        if match[1] in subjects:
            raise DataError(
                f"subject {match[1]}", f"it has two volumes, {subjects[match[1]]} and {path}", "Leave one out"
            )
        subjects[match[1]] = path
    if not subjects:
        looked_for = f"*_{modality}.nii.gz" if modality else "*.nii.gz"
        found = f"it has {len(files)} NIfTI files, such as {files[0].name}" if files else "it has no NIfTI file"
        raise DataError(f"no {looked_for} in {folder}", found, "Check the folder and --modality")
    return [Subject(name, path) for name, path in sorted(subjects.items())]
