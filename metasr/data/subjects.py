"""Subjects of a data set, and what the search of a folder says: who is there, and what is left out and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metasr.data.patients import patient_of

MAX_NAMED = 5
MAX_MISSED = 20  # names that somebody will want to see, all of them
DICOM = ".dcm"
_CONVERT = "nib-convert in{} out.nii.gz (comes with nibabel)"
_CONVERT3D = "c3d in{} -o out.nii.gz (Convert3D)"
CONVERTERS = {
    DICOM: "dcm2niix -z y -o OUT FOLDER",
    ".ima": "dcm2niix -z y -o OUT FOLDER",
    **{ending: _CONVERT.format(ending) for ending in (".mgz", ".mgh", ".img", ".mnc")},
    **{ending: _CONVERT3D.format(ending) for ending in (".mha", ".mhd", ".nrrd", ".nhdr")},
}
LOOKED_AT = 64  # files without an ending that DICOM would have
DICOM_MAGIC_AT = 128


@dataclass(frozen=True)
class Subject:
    """A subject and the file of its volume; a photograph is a subject of its own.

    Attributes:
        name: Unique in its folder.
        file: Volume or photograph.
        stratum: The group it belongs to, each of which gives its share of those who validate.
        contrast: As it was asked for; empty where none was.
        patient: Who it is of; by default as the name says. Those of one patient are visits, or contrasts.
        is_given: Whether a person said who the patient is.
    """

    name: str
    file: Path
    stratum: str = ""
    contrast: str = ""
    patient: str = ""
    is_given: bool = False

    def __post_init__(self) -> None:
        """Ask the name for the patient."""
        object.__setattr__(self, "patient", self.patient or patient_of(self.name))


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        what: What was looked for, in the plural, such as `NIfTI files`.
        subjects: Sorted by name.
        left_out: Files that are not used, by the reason, as paths below the folder.
        without: Subjects that have other contrasts but not the one asked for, by that one.
        notes: What else is to be said, a line each.
    """

    what: str
    subjects: list[Subject]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def num_files(self) -> int:
        """How many files there are of the kind that was looked for."""
        return len(self.subjects) + sum(map(len, self.left_out.values()))

    def lines(self) -> list[str]:
        """Return what there is and what is left out: a line for each reason, after one with how many there are."""
        lines = [f"{self.num_files} {self.what}, of which {len(self.subjects)} can be used"]
        lines += [f"  left out, {reason}: {some(names)}" for reason, names in self.left_out.items()]
        lines += [f"  without {contrast}: {some(names, most=MAX_MISSED)}" for contrast, names in self.without.items()]
        return [*lines, *(f"  {note}" for note in self.notes)]

    def summary(self, refused: Collection[str]) -> str:
        """Return in one line how many files were used, and how many not for which reason.

        Args:
            refused: Subjects that could not be used once they were read.
        """
        reasons = [f"{len(names)} {reason}" for reason, names in self.left_out.items()]
        reasons += [f"{some(refused, most=MAX_MISSED)} that could not be used, see above"] if refused else []
        left_out = f"; left out: {'; '.join(reasons)}" if reasons else ""
        return f"used {len(self.subjects) - len(refused)} of {self.num_files} {self.what}{left_out}"


def some(names: Collection[str], most: int = MAX_NAMED) -> str:
    """Return how many names there are, and all of them where they are few."""
    shown = sorted(names)[: most if len(names) <= most else 1]
    return f"{len(names)} ({', '.join(shown)})" if len(names) <= most else f"{len(names)}, such as {shown[0]}"


def convertible(files: Sequence[Path]) -> list[str]:
    """Return how files of other formats of volumes become NIfTI, a line for each format."""
    endings = [path.suffix.lower() for path in files]
    found = {ending: endings.count(ending) for ending in CONVERTERS if ending in endings}
    if not found:
        unnamed = [path for path in files if path.suffix.lower() not in (".nii", ".gz", ".json")][:LOOKED_AT]
        if count := sum(map(_is_dicom, unnamed)):
            found = {DICOM: count}
    return [f"{count} are {_format(ending)}; convert: {CONVERTERS[ending]}" for ending, count in found.items()]


def _format(ending: str) -> str:
    return "DICOM" if ending in (DICOM, ".ima") else f"*{ending}"


def _is_dicom(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(DICOM_MAGIC_AT + 4)[DICOM_MAGIC_AT:] == b"DICM"
    except OSError:
        return False
