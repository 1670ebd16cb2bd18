"""Subjects of a data set, and the report of a search for them: what was found, what is left out and why."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from metasr.data.patients import patient_of

MAX_NAMED = 5
MAX_MISSED = 20  # of names that a person wants to see in full
DICOM = ".dcm"
_CONVERT = "nib-convert in{} out.nii.gz"
_CONVERT3D = "c3d in{} -o out.nii.gz"
CONVERTERS = {
    DICOM: "dcm2niix -z y -o OUT FOLDER",
    ".ima": "dcm2niix -z y -o OUT FOLDER",
    **{ending: _CONVERT.format(ending) for ending in (".mgz", ".mgh", ".img", ".mnc")},
    **{ending: _CONVERT3D.format(ending) for ending in (".mha", ".mhd", ".nrrd", ".nhdr")},
}
MAX_OPENED = 64  # files that are opened to see whether they are DICOM
DICOM_MAGIC_AT = 128


@dataclass(frozen=True)
class Subject:
    """A subject and the file of its volume; a photograph is a subject of its own.

    Attributes:
        name: Unique in its folder.
        file: Volume or photograph.
        stratum: The group by which the split into training and validation is stratified.
        contrast: The contrast of the volume, as the user named it; empty unless several were asked for.
        patient: The patient; by default derived from the name. A patient may have several visits and contrasts.
        is_given: Whether the user named the patient, by a table or a regular expression.
    """

    name: str
    file: Path
    stratum: str = ""
    contrast: str = ""
    patient: str = ""
    is_given: bool = False

    def __post_init__(self) -> None:
        """Derive the patient from the name where it is not given."""
        object.__setattr__(self, "patient", self.patient or patient_of(self.name))


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    Attributes:
        what: The kind of files, in the plural, such as `NIfTI files`.
        subjects: Sorted by name.
        left_out: Files that are not used, by reason, as paths below the folder.
        without: By contrast asked for: subjects that have other contrasts but not this one.
        notes: Further lines, such as how to convert files of other formats.
    """

    what: str
    subjects: list[Subject]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def num_files(self) -> int:
        """Number of files of this kind, used or not."""
        return len(self.subjects) + sum(map(len, self.left_out.values()))

    @property
    def is_partial(self) -> bool:
        """Whether there is anything to say besides the number of files."""
        return bool(self.left_out or self.without or self.notes)

    def lines(self) -> list[str]:
        """Return the counts of files, and a line for each reason to leave some out."""
        lines = [f"{self.num_files} {self.what}, of which {len(self.subjects)} can be used"]
        lines += [f"  left out, {reason}: {some(names)}" for reason, names in self.left_out.items()]
        lines += [f"  without {contrast}: {some(names, most=MAX_MISSED)}" for contrast, names in self.without.items()]
        return [*lines, *(f"  {note}" for note in self.notes)]

    def summary(self, refused: Collection[str]) -> str:
        """Return one line: how many files were used, and how many were left out for which reason.

        Args:
            refused: Subjects that turned out to be unusable when their files were read.
        """
        reasons = [f"{len(names)} {reason}" for reason, names in self.left_out.items()]
        reasons += [f"{some(refused, most=MAX_MISSED)} that could not be used, see above"] if refused else []
        left_out = f"; left out: {'; '.join(reasons)}" if reasons else ""
        for contrast, names in self.without.items():
            left_out += f"; without {contrast}: {some(names, most=MAX_MISSED)}"
        return f"used {len(self.subjects) - len(refused)} of {self.num_files} {self.what}{left_out}"


def some(names: Collection[str], most: int = MAX_NAMED) -> str:
    """Return the number of names, with the names themselves up to `most`, else with the first as an example."""
    shown = sorted(names)[: most if len(names) <= most else 1]
    return f"{len(names)} ({', '.join(shown)})" if len(names) <= most else f"{len(names)}, such as {shown[0]}"


def convertible(files: Sequence[Path]) -> list[str]:
    """Return a line for each other format of volumes among files: how many, and the tool that converts them."""
    endings = [path.suffix.lower() for path in files]
    found = {ending: endings.count(ending) for ending in CONVERTERS if ending in endings}
    if not found:
        unnamed = [path for path in files if path.suffix.lower() not in (".nii", ".gz", ".json")][:MAX_OPENED]
        if count := sum(map(_is_dicom, unnamed)):
            found = {DICOM: count}
    return [
        f"{count} are {_format(ending)}; convert them with `{CONVERTERS[ending]}`" for ending, count in found.items()
    ]


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
