"""Files super-resolved: read, judged, enlarged and written, with a description of each result beside it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metasr import __version__
from metasr.data import bids, dicom, picture
from metasr.data.inputs import Input, kind_of
from metasr.data.labels import is_label_name, label_reason
from metasr.data.volume import Volume, load_volume, save_volume
from metasr.errors import ConfigError, DataError
from metasr.inference.output import ENDINGS, check_disk, check_output, write_text
from metasr.inference.plan import ModelInUse, NanTo, Options, Task
from metasr.inference.request import Request
from metasr.inference.target import TOLERANCE, Target

if TYPE_CHECKING:
    from metasr.inference.suitability import Finding
    from metasr.trust.conformal import Calibration


@dataclass(frozen=True)
class Told:
    """Where a computation says what it does: a line, and slices done of their total."""

    line: Callable[[str], None]
    on_slice: Callable[[int, int], None]


@dataclass(frozen=True)
class _Opened:
    volume: Volume
    of_picture: picture.Picture | None = None

    def save(self, task: Task, result: NDArray[np.floating]) -> None:
        if self.of_picture:
            picture.save_picture(task.output, result, self.of_picture)
        else:
            save_volume(task.output, result, self.volume)


def upscale_file(task: Task, options: Options, model: Callable[[], ModelInUse], told: Told) -> dict[str, Any]:
    """Super-resolve one file, and write its description beside it. Everything that can be refused early is.

    Args:
        task: The input and the path of its result.
        options: What is done.
        model: Called once everything else was found in order; not for label maps.
        told: Where it says what it does.

    Returns:
        The description.

    Raises:
        MetaSRError: The input cannot be read, the result not written, or the request not met.
    """
    endings = picture.ENDINGS if task.input.kind == "picture" else ENDINGS
    check_output(task.output, task.input.path, force=options.force, endings=endings)
    opened = _open(task.input, options.nan_to)
    volume = opened.volume
    if volume.warnings:
        told.line(f"warning: {task.input.path}: {'; '.join(volume.warnings)}")
    if opened.of_picture:
        _check_picture(task, opened.of_picture, options.request)
    elif options.labels is None:
        _refuse_labels(task.input, volume)
    target = options.request.target(volume)
    _tell_finer(volume, options.request, target, told)
    check_disk(task.output, volume, target)
    if options.trust:
        from metasr.inference.trust import check_trust

        check_trust(task, options, volume, target)

    from metasr.inference.sidecar import Done, describe, write_description

    found: tuple[Finding, ...] = ()
    used = None if options.labels else model()
    calibration = _calibration(options, used, target)
    began = time.monotonic()
    if used is None:
        from metasr.inference.resample import resize_labels

        result = resize_labels(volume, target)
    else:
        found = _judged(task.input, volume, target, used, told)
        result = _super_resolved(volume, target, used, ensemble=options.ensemble, told=told)
    opened.save(task, result)
    done = Done(task, volume, target, result, time.monotonic() - began)
    description = describe(done, options, used, found)
    if calibration:
        from metasr.inference.trust import write_trust

        description["trust"] = write_trust(task, volume, target, result, calibration)
    write_description(task.sidecar, description)
    if task.input.dataset:
        _describe_dataset(task, used)
    told.line(f"{task.output}: {_summary(volume, target)}")
    return description


def _calibration(options: Options, used: ModelInUse | None, target: Target) -> "Calibration | None":
    """Return what tells where the result is to be believed, if that was asked for, and refuse a model without it."""
    if not options.trust or used is None:
        return None
    from metasr.inference.trust import calibration_of

    return calibration_of(used.bundle, target)


def _judged(item: Input, volume: Volume, target: Target, used: ModelInUse, told: Told) -> "tuple[Finding, ...]":
    """Return what the model was not made for, and tell it."""
    from metasr.inference.suitability import findings

    found = findings(volume, item.kind, target.scales, used.bundle.about)
    for each in found:
        told.line(
            f"warning: {each.text}"
            if each.about == "scale"
            else f"warning: {item.path}: unlike what the model was trained on: {each.text}"
        )
    return found


def _super_resolved(
    volume: Volume, target: Target, used: ModelInUse, *, ensemble: bool, told: Told
) -> NDArray[np.floating]:
    from metasr.inference.ensemble import Ensemble
    from metasr.inference.tiles import fitting
    from metasr.inference.upscale import upscale_volume

    generator = fitting(used.bundle.generator, volume, target, told.line)
    averaged = Ensemble(generator) if ensemble else generator
    return upscale_volume(volume, averaged, target, told.on_slice, bfloat16=used.bfloat16)


def _open(item: Input, nan_to: NanTo | None) -> _Opened:
    if item.kind == "picture":
        read = picture.load_picture(item.path)
        return _Opened(read.volume, read)
    if item.kind == "dicom":
        return _Opened(dicom.load_series(item.path))
    return _Opened(load_volume(item.path, nan_to))


def open_volume(path: Path) -> Volume:
    """Read a file, or the series of a folder, as a volume: a picture as one slice, colours as luminance.

    Raises:
        MetaSRError: It cannot be read.
    """
    return _open(Input(path, kind_of(path), Path(path.name)), None).volume


def _check_picture(task: Task, read: picture.Picture, request: Request) -> None:
    if request.spacing_mm or request.like:
        raise ConfigError(str(task.input.path), "a picture has no voxel size", "Give --scale")
    picture.check_holds(task.output, read)


def _refuse_labels(item: Input, volume: Volume) -> None:
    """Refuse what looks like a label map: between labels there are no values."""
    reason = label_reason(volume.data, int(volume.header["intent_code"]))
    if not reason and is_label_name((), item.stem.lower()) and not (volume.data % 1).any():
        reason = "it is named like a mask or a label map, and its values are whole numbers"
    if reason:
        fix = "--labels enlarges it by nearest label; --no-labels takes it as an image"
        raise DataError(str(item.path), reason, f"Give one of two: {fix}")


def _tell_finer(volume: Volume, request: Request, target: Target, told: Told) -> None:
    if request.spacing_mm is None:
        return
    finer = [
        f"{axis} ({old:.4g} mm)"
        for axis, old, new, scale in zip("ijk", volume.spacing_mm, request.spacing_mm, target.scales, strict=True)
        if scale == 1 and old < new * (1 - TOLERANCE)
    ]
    if finer:
        told.line(f"finer than asked for, and left as they are (--resample interpolates them): {', '.join(finer)}")


def _summary(volume: Volume, target: Target) -> str:
    """Return what was made, and along which axes."""
    old, new = (" x ".join(map(str, shape)) for shape in (volume.data.shape, target.shape))
    sizes = [mm * n / m for mm, n, m in zip(volume.spacing_mm, volume.data.shape, target.shape, strict=True)]
    across = volume.axes(target.plane)[0]
    through = ", and through them" if target.shape[across] != volume.data.shape[across] else ""
    return (
        f"{old} -> {new} voxels of {' x '.join(f'{mm:.4g}' for mm in sizes)} mm; "
        f"{target.plane} slices (across {'ijk'[across]}, {volume.spacing_mm[across]:.4g} mm){through}"
    )


def _describe_dataset(task: Task, used: ModelInUse | None) -> None:
    """Write the description of the derived BIDS data set that a result is in, unless it has one."""
    assert task.input.dataset is not None  # only those of data sets come here
    path = task.output.parents[len(task.input.below.parts) - 1] / bids.DESCRIPTION
    if not path.exists():
        model = f"generator {used.bundle.digest}" if used else "nearest labels"
        write_text(path, bids.description(task.input.dataset, __version__, model))
