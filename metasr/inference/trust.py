"""The second volume of `upscale --trust`: 1 where the result is to be believed, else 0."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from metasr.data.intensity import IntensityScale
from metasr.data.volume import Volume, save_volume
from metasr.errors import ConfigError
from metasr.inference.background import nearest
from metasr.inference.output import ENDINGS, check_output
from metasr.inference.plan import Options, Task
from metasr.inference.target import Target
from metasr.trust.conformal import Calibration
from metasr.trust.doubt import doubt

if TYPE_CHECKING:
    from metasr.inference.bundle import Bundle


def trust_path(output: Path) -> Path:
    """Return where the mask of a result goes: beside it, with `_trust` in its name."""
    ending = next(end for end in reversed(ENDINGS) if output.name.lower().endswith(end))
    return output.with_name(f"{output.name[: -len(ending)]}_trust{ending}")


def check_trust(task: Task, options: Options, volume: Volume, target: Target) -> None:
    """Refuse what no calibration holds for, before any work.

    Raises:
        ConfigError: Labels, pictures, an ensemble, or a result that is finer across its slices too; or there is a
            file of the mask's name.
    """
    reasons = {
        "labels are enlarged without a model": bool(options.labels),
        "it is for volumes, and this is a picture": task.input.kind == "picture",
        "models are calibrated without --ensemble": options.ensemble,
    }
    if found := [reason for reason, holds in reasons.items() if holds]:
        raise ConfigError("--trust", found[0], "Leave it out")
    check_enlarged(volume, target)
    check_output(trust_path(task.output), task.input.path, force=options.force)


def check_enlarged(volume: Volume, target: Target) -> None:
    """Raise ConfigError unless a result is finer within its slices, and there alone."""
    across = volume.axes(target.plane)[0]
    if target.shape[across] != volume.data.shape[across]:
        reason = "models are calibrated within slices, and the result is finer across them too"
    elif max(target.scales) <= 1:
        reason = "nothing is enlarged within the slices"
    else:
        return
    raise ConfigError("--trust", reason, "Leave it out")


def calibration_of(bundle: "Bundle", target: Target) -> Calibration:
    """Return the calibration of a model, for what is to be made.

    Raises:
        ConfigError: It has none.
        ScaleError: The model was not calibrated for so large a scale.
    """
    if bundle.trust is None:
        raise ConfigError(
            "--trust", "the model has no calibration", "infra/calibrate.py makes one from validation patients"
        )
    bundle.trust.bound(np.zeros(1), max(target.scales))
    return bundle.trust


def write_trust(
    task: Task, volume: Volume, target: Target, result: NDArray[np.floating], calibration: Calibration
) -> dict[str, Any]:
    """Write the mask of a result, and return what its description says of it."""
    mask = trusted(volume, result, target, calibration)
    path = trust_path(task.output)
    save_volume(path, mask.astype(np.float32), of_bytes(volume))
    brain = int(_brain(volume, result).sum())
    return {
        "file": path.name,
        "coverage": calibration.coverage,
        "tolerance": calibration.tolerance,
        "believed": round(float(mask.sum() / brain), 4) if brain else 0.0,
    }


def trusted(
    volume: Volume, result: NDArray[np.floating], target: Target, calibration: Calibration
) -> NDArray[np.bool_]:
    """Return where the bound on the error of a result is within the tolerance, in the brain.

    Args:
        volume: The input.
        result: Of `upscale_volume`, finer within the slices of the target's plane alone.
        target: What was made.
        calibration: Of the model.

    Raises:
        ScaleError: The model was not calibrated for so large a scale.
    """
    intensities = IntensityScale.fit(volume.data)
    bound = np.full(result.shape, np.inf, np.float32)
    if intensities is None:
        return np.zeros(result.shape, np.bool_)
    _, rows, columns = volume.axes(target.plane)
    scale = max(target.scales[rows], target.scales[columns])
    planes = (volume.slices(target.plane, data) for data in (volume.data, result, bound))
    for image, sr, out in zip(*planes, strict=True):
        unit = [torch.from_numpy(np.ascontiguousarray(intensities.to_unit(each)))[None, None] for each in (sr, image)]
        out[...] = calibration.bound(doubt(*unit)[0, 0].numpy(), scale)
    return (bound <= calibration.tolerance) & _brain(volume, result)


def of_bytes(volume: Volume) -> Volume:
    """Return a volume whose like has bytes as voxels."""
    header = volume.header.copy()
    header.set_data_dtype(np.uint8)
    return replace(volume, header=header)


def _brain(volume: Volume, result: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return where the nearest voxel of the input is not background."""
    intensities = IntensityScale.fit(volume.data)
    background = intensities.background if intensities else None
    inside: NDArray[np.bool_] = volume.data != background
    for axis, (old, new) in enumerate(zip(volume.data.shape, result.shape, strict=True)):
        inside = inside.take(nearest(old, new), axis=axis)
    return inside
