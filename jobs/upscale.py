"""metasr upscale: super-resolve a NIfTI volume."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings
from metasr.data.planes import PLANES
from metasr.errors import ConfigError
from metasr.scale import parse_factors

if TYPE_CHECKING:
    from metasr.data.volume import Volume
    from metasr.inference.target import Target

DESCRIPTION = """Super-resolve a NIfTI volume: its slices at any scale from 1 to 16, or all axes to a voxel size.

The output covers the same field of view: affine, orientation, units and data type are kept, the voxels get smaller.
With --spacing the axis across the slices may get finer too; the slices along the two other planes are then
super-resolved and averaged. Research software, not a medical device.

  metasr upscale -i in.nii.gz -o out.nii.gz --scale 2.5
  metasr upscale -i in.nii.gz -o out.nii.gz --scale 2x3.3 --plane sagittal
  metasr upscale -i thick.nii.gz -o out.nii.gz --spacing 1 1 1"""


def main(arguments: Sequence[str]) -> None:
    """Super-resolve a volume."""
    known = _parser().parse_known(arguments)
    config = settings(JobConfig, known).config
    if not known.output.name.endswith((".nii", ".nii.gz")):
        raise ConfigError(f"output {known.output}", "a NIfTI file ends in .nii or .nii.gz", "Give such a name")

    from metasr.data.volume import load_volume, save_volume

    volume = load_volume(known.input)  # a missing file need not wait for torch

    from cluster.registry import Registry
    from metasr.inference.bundle import default_device, load_bundle
    from metasr.inference.target import Target
    from metasr.inference.upscale import upscale_volume

    if known.scale:
        target = Target.of_scale(volume, known.scale, known.plane or "axial")
    else:
        target = Target.of_spacing(volume, known.spacing, known.plane)
    with tempfile.TemporaryDirectory() as download:
        located = Registry(config.tracking).locate(known.model, Path(download))
        bundle = load_bundle(located.folder, default_device())
    low, high = bundle.trained_scales
    scales = dict.fromkeys(round(scale, 3) for scale in target.scales)
    outside = ", ".join(f"{scale:g}" for scale in scales if scale != 1 and not low <= scale <= high)
    if outside:
        say(f"warning: outside the scales that the model was trained on, {low} to {high}: {outside}")
    result = upscale_volume(volume, bundle.generator, target, _progress)
    save_volume(known.output, result, volume)
    say(f"{known.output}: {_summary(volume, target)}")


def _parser() -> Parser:
    parser = Parser(prog="metasr upscale", description=DESCRIPTION)
    parser.add_argument("-i", "--input", required=True, type=Path, metavar="FILE", help="NIfTI volume")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="result, .nii or .nii.gz")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--scale", type=_scale, metavar="R", help="HR size / LR size within the slices, 1 to 16, or ROWSxCOLUMNS"
    )
    how.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        metavar=("I", "J", "K"),
        help="voxel size in mm along the axes i, j, k of the file's array",
    )
    parser.add_argument(
        "--plane",
        choices=PLANES,
        help="plane of the slices [axial; with --spacing across the axis with the largest voxels]",
    )
    parser.add_argument(
        "--model", default="champion", help="alias, version, bundle or run, by folder or URL [champion]"
    )
    add_settings(parser, JobConfig, "tracking")
    return parser


def _scale(text: str) -> tuple[float, float]:
    """Return the scales of rows and columns; 1 leaves the volume as it is."""
    try:
        return parse_factors(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


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


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} slices", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
