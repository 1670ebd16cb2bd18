"""What a model was made for, and where a request or an input departs from that."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metasr.data.contrasts import split_name
from metasr.data.inputs import Kind
from metasr.data.intensity import IntensityScale
from metasr.data.labels import label_reason
from metasr.data.volume import Volume

AIR_HU = -900  # CT: air is -1000 HU, and nothing is below but padding
CT_SPAN = 1500
SATURATED = 0.01  # of the brain's voxels at its highest value
FEW_VALUES = 64
ENOUGH = 2**12  # voxels, to judge their values
FINER, COARSER = 0.5, 1.25  # than the voxels of the training
Aspect = Literal["scale", "kind", "skull", "spacing", "intensity", "contrast", "header"]


@dataclass(frozen=True)
class TrainedOn:
    """What the volumes that a model was trained on were like.

    Attributes:
        spacing_mm: Smallest and largest HR pixel within the slices.
        skull_stripped: Whether a constant surrounds the brain.
        contrasts: Their contrasts by name, such as t1ce; empty where that is not known.
        kind: Whether they were volumes or photographs.
    """

    spacing_mm: tuple[float, float] = (0.8, 1.2)
    skull_stripped: bool = True
    contrasts: tuple[str, ...] = ()
    kind: Literal["volumes", "photos"] = "volumes"

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "TrainedOn":
        """Return what a bundle's manifest says under `trained_on`; where it does not, what BraTS is like."""
        said, usual = about.get("trained_on", {}), cls()
        low, high = said.get("spacing_mm", usual.spacing_mm)
        contrasts, kind = tuple(said.get("contrasts", ())), said.get("kind", usual.kind)
        return cls((low, high), said.get("skull_stripped", True), contrasts, kind)


@dataclass(frozen=True)
class Finding:
    """Something about an input or a request that a model was not made for.

    Attributes:
        about: What it concerns.
        text: What was found, as a clause.
    """

    about: Aspect
    text: str


def untrained_scales(trained: tuple[float, float], scales: tuple[float, ...]) -> str:
    """Return a warning that names the scales that a model was not trained on; empty if there are none."""
    low, high = trained
    given = dict.fromkeys(round(scale, 3) for scale in scales)
    outside = ", ".join(f"{scale:g}" for scale in given if scale > 1 and not low <= scale <= high)
    return f"outside the scales that the model was trained on, {low} to {high}: {outside}" if outside else ""


def findings(volume: Volume, kind: Kind, scales: tuple[float, ...], about: Mapping[str, Any]) -> tuple[Finding, ...]:
    """Return what an input, and what is wanted of it, differ in from what a model was trained on.

    Kind (CT, label map, photograph), skull, spacing and intensities are judged from voxels and header, the contrast
    by the name of the file alone.

    Args:
        volume: The input.
        kind: Of its file.
        scales: Wanted along its axes.
        about: Of the model's bundle.
    """
    trained, train = TrainedOn.of(about), about["config"]["train"]
    found = [*_kind(volume, kind, trained), *_intensity(volume)]
    if kind != "picture" and trained.kind != "photos":
        found += _skull(volume, trained, found) + _spacing(volume, trained, train["scale_max"])
    name = volume.source.name.lower()
    named = split_name(name.split(".")[0])
    contrast = named.contrast if named else ""
    if contrast and trained.contrasts and contrast not in trained.contrasts:
        found.append(
            Finding("contrast", f"its name says {contrast}, and the training had {_list(trained.contrasts)}")
        )
    outside = untrained_scales((train["scale_min"], train["scale_max"]), scales)
    return (*([Finding("scale", outside)] if outside else []), *found)


def _kind(volume: Volume, kind: Kind, trained: TrainedOn) -> list[Finding]:
    data = volume.data
    if trained.kind == "photos":
        return [] if kind == "picture" else [Finding("kind", "a volume; the model was trained on photographs")]
    if kind == "picture":
        return [Finding("kind", "a picture or photograph; the model was trained on slices of brain MRI")]
    if reason := label_reason(data, int(volume.header["intent_code"])):
        return [Finding("kind", f"{reason}; between labels there are no values")]
    if data.min() <= AIR_HU and data.max() - data.min() >= CT_SPAN:
        return [Finding("kind", f"values from {data.min():g} to {data.max():g}, as in CT; the model knows MRI")]
    return []


def _skull(volume: Volume, trained: TrainedOn, found: list[Finding]) -> list[Finding]:
    intensities = IntensityScale.fit(volume.data)
    if not trained.skull_stripped or (found and found[0].about == "kind"):
        return []
    if intensities is None or intensities.background is not None:
        return []
    text = "no constant surrounds the brain: the head was not cut out, and the model was trained on brains alone"
    return [Finding("skull", text)]


def _spacing(volume: Volume, trained: TrainedOn, largest_scale: float) -> list[Finding]:
    """Judge the two finest axes: LR pixels of the training are those of HR times a scale."""
    finest, coarsest = sorted(volume.spacing_mm)[:2]
    low, high = trained.spacing_mm[0] * FINER, trained.spacing_mm[1] * largest_scale * COARSER
    if low <= finest and coarsest <= high:
        return []
    pixel = f"pixels of {finest:.3g} x {coarsest:.3g} mm"
    return [Finding("spacing", f"{pixel}; the model was trained on {trained.spacing_mm[0]:g} mm to {high:.3g} mm")]


def _intensity(volume: Volume) -> list[Finding]:
    intensities = IntensityScale.fit(volume.data)
    if intensities is None:
        return [Finding("intensity", "all its voxels have one value")]
    brain = volume.data if intensities.background is None else volume.data[volume.data != intensities.background]
    if brain.size < ENOUGH:
        return []
    share = float((brain == brain.max()).mean())
    if share > SATURATED and len(np.unique(brain)) > 2:
        return [Finding("intensity", f"{share:.0%} of its voxels have the highest value: it is saturated")]
    few = len(np.unique(brain[:: max(1, brain.size // 2**16)]))
    if few < FEW_VALUES:
        return [Finding("intensity", f"it has few distinct values ({few}), as after rounding or segmentation")]
    return []


def _list(words: tuple[str, ...]) -> str:
    return " and ".join(words)
