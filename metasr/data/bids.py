"""BIDS data sets: which files are anatomical images, and how what is derived from them is named and described."""

import json
import re
from pathlib import Path, PurePath

from metasr.data.files import files_in

DESCRIPTION = "dataset_description.json"
VERSION = "1.9.0"
SUFFIXES = ("T1w", "T2w", "FLAIR", "PDw", "PDT2", "T2star", "T2starw", "inplaneT1", "inplaneT2", "UNIT1", "angio")
ANATOMICAL = re.compile(rf"sub-[A-Za-z0-9]+(?:_[a-z]+-[A-Za-z0-9+]+)*_(?:{'|'.join(SUFFIXES)})\.nii(?:\.gz)?")
PIPELINE = "metasr"


def is_dataset(folder: Path) -> bool:
    """Return whether a folder is a raw BIDS data set: one with a description, and subjects."""
    return (folder / DESCRIPTION).is_file() and any(folder.glob("sub-*"))


def anatomical_images(folder: Path) -> list[Path]:
    """Return the anatomical images of a data set, not those of its derivatives, sorted.

    Raises:
        UnreachableError: A folder in it cannot be read.
    """
    found = []
    for path in files_in(folder):
        if is_anatomical(path.relative_to(folder)):
            found.append(path)
    return found


def is_anatomical(below: PurePath) -> bool:
    """Return whether a path below a data set is that of an anatomical image."""
    parts = below.parts
    return parts[0].startswith("sub-") and "anat" in parts and ANATOMICAL.fullmatch(below.name) is not None


def derivatives(folder: Path) -> Path:
    """Return where results of a data set go if no other place is named."""
    return folder / "derivatives" / PIPELINE


def derived_name(name: str, label: str) -> str:
    """Return the name of an image made of another: with the entities `res` and `desc` before the suffix.

    Args:
        name: Such as `sub-01_ses-2_T1w.nii.gz`.
        label: Of the resolution, such as `x2.5` or `1mm`; a value has letters and digits only.
    """
    stem, _, ending = name.partition(".")
    entities, _, suffix = stem.rpartition("_")
    kept = [each for each in entities.split("_") if not each.startswith(("res-", "desc-"))]
    value = re.sub(r"[^A-Za-z0-9]", "", label.replace(".", "p"))
    return "_".join([*kept, f"res-{value}", f"desc-{PIPELINE}", suffix]) + f".{ending}"


def description(source: Path, version: str, model: str) -> str:
    """Return the description of a derived data set as JSON.

    Args:
        source: The raw data set.
        version: Of metasr.
        model: What made it.
    """
    raw = json.loads((source / DESCRIPTION).read_text(encoding="utf-8"))
    raw = raw if isinstance(raw, dict) else {}
    about = {
        "Name": f"{raw.get('Name', source.name)}: super-resolved",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": PIPELINE, "Version": version, "Description": model}],
    }
    if "DatasetDOI" in raw:
        about["SourceDatasets"] = [{"DOI": raw["DatasetDOI"]}]
    return json.dumps(about, indent=2) + "\n"
