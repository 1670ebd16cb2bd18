"""What is to be read, from what a person names: files, folders, globs, DICOM series and BIDS data sets."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from metasr.data import bids, dicom, picture
from metasr.data.files import files_in
from metasr.data.foreign import is_dicom
from metasr.data.labels import is_label_name
from metasr.errors import ConfigError, DataError

Kind = Literal["volume", "picture", "dicom"]
VOLUMES = (".nii", ".nii.gz", ".hdr", ".hdr.gz")
ALL = (*VOLUMES, *picture.ENDINGS)


@dataclass(frozen=True)
class Input:
    """One image or volume to read.

    Attributes:
        path: Of the file; of a DICOM series, its folder.
        kind: How it is read.
        below: Its path below the folder that was named; of a file, its name.
        dataset: The BIDS data set that it is of.
    """

    path: Path
    kind: Kind
    below: Path
    dataset: Path | None = None

    @property
    def stem(self) -> str:
        """Its name without the endings of its format."""
        name = self.path.name
        if self.kind == "dicom" and self.path.is_dir():
            return name
        return next((name[: -len(end)] for end in (*ALL, ".dcm") if name.lower().endswith(end)), name)


def find_inputs(named: Sequence[Path]) -> tuple[list[Input], list[str]]:
    """Return what is to be read, in the order in which it was named, and what was left out and why.

    Masks and label maps in a folder are left out by their names; one that is named itself is not.

    Raises:
        ConfigError: Nothing matches a pattern, or a folder has nothing that can be read.
        UnreachableError: A folder cannot be read.
    """
    inputs: list[Input] = []
    notes: list[str] = []
    for path in named:
        for each in _matches(path):
            if not each.is_dir() or dicom.is_series(each):
                inputs.append(Input(each, kind_of(each), Path(each.name)))
            elif bids.is_dataset(each):
                inputs += [_of_dataset(file, each) for file in bids.anatomical_images(each)]
            else:
                found, masks = _in_folder(each)
                inputs += found
                notes += [f"{each}: {masks} masks and label maps are left out (name one to enlarge it)"] * (masks > 0)
            if not inputs:
                raise DataError(
                    f"folder {each}", "it holds no image that can be read", f"These can: {', '.join(ALL)}"
                )
    return list({item.path: item for item in inputs}.values()), notes


def kind_of(path: Path) -> Kind:
    """Return how a file, or the folder of a series, is read; what is unknown as a volume, whose reader explains."""
    if path.name.lower().endswith(picture.ENDINGS):
        return "picture"
    return "dicom" if dicom.is_series(path) else "volume"


def _matches(path: Path) -> list[Path]:
    """Return the paths of a pattern that no shell has expanded; a path that is there, or no pattern, is itself."""
    if path.exists() or not set("*?[") & set(str(path)):
        return [path]
    found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    if not found:
        raise ConfigError(f"pattern {path}", "nothing matches it", "Check the path")
    return found


def _of_dataset(path: Path, dataset: Path) -> Input:
    return Input(path, "volume", path.relative_to(dataset), dataset)


def _in_folder(folder: Path) -> tuple[list[Input], int]:
    """Return the images of a folder, at any depth, and the number of masks."""
    inputs, masks, series = [], 0, {}
    for path in files_in(folder):
        below = path.relative_to(folder)
        if any(part.startswith(".") for part in below.parts):
            continue
        name = path.name.lower()
        if name.endswith(ALL):
            item = Input(path, kind_of(path), below)
            masks += _is_mask(item)
            inputs += [] if _is_mask(item) else [item]
        elif is_dicom(path):
            series[path.parent] = Input(path.parent, "dicom", path.parent.relative_to(folder))
    return inputs + list(series.values()), masks


def _is_mask(item: Input) -> bool:
    return item.kind == "volume" and is_label_name(item.below.parts[:-1], item.stem)


def listed_inputs(names: Sequence[str], place: Path) -> tuple[list[Input], list[str]]:
    """Return what is to be read among files that are elsewhere, and what was left out and why.

    Single files alone: NIfTI, pictures, and the anatomical images of a BIDS data set.

    Args:
        names: Of all files there, such as `p1/t1.nii.gz`.
        place: Where they will be; the path of an input is below it.
    """
    paths = [Path(name) for name in names if Path(name).as_posix() == name]
    if bids.DESCRIPTION in names and any(path.parts[0].startswith("sub-") for path in paths):
        return [Input(place / path, "volume", path, place) for path in paths if bids.is_anatomical(path)], []
    images = [
        Input(place / path, "picture" if path.name.lower().endswith(picture.ENDINGS) else "volume", path)
        for path in paths
        if path.name.lower().endswith((".nii", ".nii.gz", *picture.ENDINGS))
    ]
    inputs = [item for item in images if not _is_mask(item)]
    masks = len(images) - len(inputs)
    return inputs, [f"{masks} masks and label maps are left out (name one to enlarge it)"] * (masks > 0)
