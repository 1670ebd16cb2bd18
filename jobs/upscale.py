"""metasr upscale: super-resolve a NIfTI volume."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings
from metasr.errors import ConfigError

DESCRIPTION = """Super-resolve the axial slices of a NIfTI volume at any scale from 1 to 16.

The output covers the same field of view: affine, orientation, units and data type are kept, the voxels get smaller.
Research software, not a medical device.

  metasr upscale -i in.nii.gz -o out.nii.gz --scale 2.5"""


def main(arguments: Sequence[str]) -> None:
    """Super-resolve a volume."""
    parser = Parser(prog="metasr upscale", description=DESCRIPTION)
    parser.add_argument("-i", "--input", required=True, type=Path, metavar="FILE", help="NIfTI volume")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="result, .nii or .nii.gz")
    parser.add_argument("--scale", required=True, type=float, help="HR size / LR size within the slices, 1 to 16")
    parser.add_argument("--model", default="champion", help="alias, version, models:/... or bundle folder [champion]")
    add_settings(parser, JobConfig, "tracking")
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known).config
    if not known.output.name.endswith((".nii", ".nii.gz")):
        raise ConfigError(f"output {known.output}", "a NIfTI file ends in .nii or .nii.gz", "Give such a name")

    from cluster.registry import Registry
    from metasr.data.volume import load_volume, save_volume
    from metasr.inference.bundle import default_device, load_bundle
    from metasr.inference.upscale import check_scale, upscale_volume

    check_scale(known.scale)
    volume = load_volume(known.input)
    with tempfile.TemporaryDirectory() as download:
        is_folder = Path(known.model).is_dir()
        folder = (
            Path(known.model) if is_folder else Registry(config.tracking).locate(known.model, Path(download)).folder
        )
        bundle = load_bundle(folder, default_device())
    low, high = bundle.trained_scales
    if known.scale != 1 and not low <= known.scale <= high:
        say(f"warning: the model was trained on scales {low} to {high}; {known.scale:g} is outside")
    result = upscale_volume(volume, bundle.generator, known.scale, _progress)
    save_volume(known.output, result, volume)
    old, new = (" x ".join(map(str, shape)) for shape in (volume.data.shape, result.shape))
    say(f"{known.output}: {old} -> {new} voxels")


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} slices", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main)
