"""metasr upscale: super-resolve a NIfTI volume."""

import argparse
import math
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings
from metasr.data.planes import PLANES
from metasr.errors import ConfigError, DataError
from metasr.manifest import MANIFEST
from metasr.scale import parse_factors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from metasr.data.volume import Volume
    from metasr.inference.target import Target

DESCRIPTION = """Super-resolve a NIfTI volume: its slices at any scale from 1 to 16, or all axes to a voxel size.

The output covers the same field of view: affine, orientation, units and data type are kept, the voxels get smaller.
A constant background stays exactly that constant. With --spacing the axis across the slices may get finer too; the
slices along the two other planes are then super-resolved and averaged. Research software, not a medical device.

  metasr upscale -i in.nii.gz -o out.nii.gz --scale 2.5
  metasr upscale -i in.nii.gz -o out.nii.gz --scale 2x3.3 --plane sagittal
  metasr upscale -i thick.nii.gz -o out.nii.gz --spacing 1        # finer axes stay as they are
  metasr upscale -i seg.nii.gz -o out.nii.gz --scale 2 --labels   # by nearest label, without a model"""


def main(arguments: Sequence[str]) -> None:
    """Super-resolve a volume."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that files begun are removed on the way out
    known = _parser().parse_known(arguments)
    config = settings(JobConfig, known).config
    if len(known.input) > 1:
        raise ConfigError(f"{len(known.input)} inputs", "several files are not taken yet", "Give one at a time")
    [source] = known.input
    factors = _factors(known.scale) if known.scale else None
    spacing = _spacing(known.spacing) if known.spacing else None

    from metasr.data.volume import load_volume, save_volume
    from metasr.inference.output import check_disk, check_output

    check_output(known.output, source, force=known.force)
    volume = load_volume(source, known.nan_to)  # a missing file need not wait for torch
    if volume.warnings:
        say(f"warning: {source}: {'; '.join(volume.warnings)}")
    if known.labels is None:
        _refuse_labels(volume)
    target = _target(volume, factors, spacing, known)
    check_disk(known.output, volume, target)

    from metasr.inference.resample import resize_labels

    result = resize_labels(volume, target) if known.labels else _upscaled(volume, target, known, config)
    save_volume(known.output, result, volume)
    say(f"{known.output}: {_summary(volume, target)}")


def _parser() -> Parser:
    parser = Parser(prog="metasr upscale", description=DESCRIPTION)
    parser.add_argument("-i", "--input", required=True, type=Path, nargs="+", metavar="FILE", help="NIfTI volume")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="result, .nii or .nii.gz")
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--scale",
        nargs="+",
        metavar="R",
        help="HR size / LR size within the slices, 1 to 16; ROWSxCOLUMNS; or IxJxK along the axes of the array",
    )
    how.add_argument(
        "--spacing",
        type=float,
        nargs="+",
        metavar="MM",
        help="voxel size in mm: one for all axes, or one each for i, j, k of the array; finer axes stay as they are",
    )
    parser.add_argument(
        "--resample", action="store_true", help="bring axes that are finer than --spacing to it, by interpolation"
    )
    parser.add_argument(
        "--plane",
        choices=PLANES,
        help="plane of the slices [axial; with --spacing across the axis with the largest voxels]",
    )
    parser.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="the volume is a label map or mask: enlarge it by nearest label; or it is none, whatever it looks like",
    )
    parser.add_argument(
        "--nan-to", type=_nan_to, metavar="X", help="replace NaN and infinity by a number, or by `background`"
    )
    parser.add_argument(
        "--model", default="champion", help="alias, version, bundle or run, by folder or URL [champion]"
    )
    add_settings(parser, JobConfig, "tracking")
    return parser


def _factors(words: Sequence[str]) -> tuple[float, ...]:
    """Return the scales of rows and columns, or of the three axes; 1 leaves an axis as it is.

    Raises:
        ConfigError: They are no such numbers.
    """
    text = "x".join(words).lower()
    parts = text.split("x")
    try:
        return tuple(parse_factors(part)[0] for part in parts) if len(parts) == 3 else parse_factors(text)
    except ValueError as error:
        message = f"argument --scale: {error}, or i x j x k along the axes of the array, such as 2x2x1"
        raise ConfigError("metasr upscale", message, "`metasr upscale --help` explains the arguments") from error


def _spacing(numbers: Sequence[float]) -> tuple[float, float, float]:
    """Return the voxel size along i, j and k; one number is that of all axes."""
    if len(numbers) not in (1, 3):
        raise ConfigError(
            f"--spacing of {len(numbers)} numbers", "", "Give one for all axes, or one each for i, j, k"
        )
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]


def _nan_to(text: str) -> "float | Literal['background']":
    if text == "background":
        return "background"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a finite number nor `background`")
    return number


def _refuse_labels(volume: "Volume") -> None:
    """Refuse what looks like a label map: between labels there are no values."""
    from metasr.data.labels import is_label_name, label_reason

    reason = label_reason(volume.data, int(volume.header["intent_code"]))
    name = (
        volume.source.name.lower().removesuffix(".gz").removesuffix(".nii").removesuffix(".hdr").removesuffix(".img")
    )
    if not reason and is_label_name((), name) and not (volume.data % 1).any():
        reason = "it is named like a mask or a label map, and its values are whole numbers"
    if reason:
        fix = "--labels enlarges it by nearest label; --no-labels takes it as an image"
        raise DataError(str(volume.source), reason, f"Give one of two: {fix}")


def _target(
    volume: "Volume",
    factors: tuple[float, ...] | None,
    spacing: tuple[float, float, float] | None,
    known: argparse.Namespace,
) -> "Target":
    """Return the shape to make; axes that are finer already are told."""
    from metasr.inference.target import TOLERANCE, Target

    if factors and len(factors) == 2:
        return Target.of_scale(volume, (factors[0], factors[1]), known.plane or "axial")
    if factors:
        return Target.of_axes(volume, (factors[0], factors[1], factors[2]), known.plane)
    assert spacing is not None  # argparse requires one of the two
    target = Target.of_spacing(volume, spacing, known.plane, resample=known.resample)
    finer = [
        f"{axis} ({old:.4g} mm)"
        for axis, old, new, scale in zip("ijk", volume.spacing_mm, spacing, target.scales, strict=True)
        if scale == 1 and old < new * (1 - TOLERANCE)
    ]
    if finer:
        say(f"finer than asked for, and left as they are (--resample interpolates them): {', '.join(finer)}")
    return target


def _upscaled(
    volume: "Volume", target: "Target", known: argparse.Namespace, config: JobConfig
) -> "NDArray[np.floating]":
    """Return the volume super-resolved by the model asked for."""
    from metasr.inference.bundle import default_device, load_bundle
    from metasr.inference.progress import Progress
    from metasr.inference.suitability import untrained_scales
    from metasr.inference.upscale import upscale_volume

    with tempfile.TemporaryDirectory() as download:
        bundle = load_bundle(_bundle_folder(known.model, config, Path(download)), default_device())
    if warning := untrained_scales(bundle, target):
        say(f"warning: {warning}")
    return upscale_volume(volume, bundle.generator, target, Progress(sys.stderr))


def _bundle_folder(reference: str, config: JobConfig, download_to: Path) -> Path:
    """Return the folder of a bundle; one that is a folder already needs no registry, and none of its libraries."""
    folder = Path(reference)
    if (folder / MANIFEST).is_file():
        return folder
    from cluster.registry import Registry

    return Registry(config.tracking).locate(reference, download_to).folder


def _summary(volume: "Volume", target: "Target") -> str:
    """Return what was made, and along which axes."""
    old, new = (" x ".join(map(str, shape)) for shape in (volume.data.shape, target.shape))
    sizes = [mm * n / m for mm, n, m in zip(volume.spacing_mm, volume.data.shape, target.shape, strict=True)]
    across = volume.axes(target.plane)[0]
    through = ", and through them" if target.shape[across] != volume.data.shape[across] else ""
    return (
        f"{old} -> {new} voxels of {' x '.join(f'{mm:.4g}' for mm in sizes)} mm; "
        f"{target.plane} slices (across {'ijk'[across]}, {volume.spacing_mm[across]:.4g} mm){through}"
    )


if __name__ == "__main__":
    run(main)
