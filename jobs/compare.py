"""metasr compare: print and draw the difference of two volumes or pictures on one grid."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from jobs.cli import Parser, run, say

DESCRIPTION = """Compare two volumes or pictures on one grid: PSNR, SSIM, the largest difference, and a picture of it.

  metasr compare original.nii.gz upscaled.nii.gz
  metasr compare a.nii.gz b.nii.gz -o difference.png --json

A is the reference. The picture has A, B and B - A in three planes, each at the slice where
they differ most: red where B is above A, blue where it is below."""


def main(arguments: Sequence[str]) -> None:
    """Compare two volumes."""
    parser = Parser(prog="metasr compare", description=DESCRIPTION)
    parser.add_argument("a", type=Path, metavar="A", help="NIfTI volume, picture or DICOM series: the reference")
    parser.add_argument("b", type=Path, metavar="B", help="what is compared with it")
    parser.add_argument("-o", "--output", type=Path, metavar="PNG", help="the picture [difference.png]")
    parser.add_argument("--force", action="store_true", help="replace the picture if it exists")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")
    known = parser.parse_known(arguments)
    output = known.output or Path("difference.png")

    from metasr.inference.files import open_volume
    from metasr.inference.output import check_output

    check_output(output, known.a, force=known.force, endings=(".png",))
    a, b = open_volume(known.a), open_volume(known.b)

    from metasr.data.files import appearing
    from metasr.evaluation.difference import compare, picture

    found = compare(a, b)
    drawn = picture(a, b, (known.a.name, known.b.name))
    with appearing(output, ".png") as partial:
        drawn.save(partial)
    if known.json:
        psnr = found.psnr_db if math.isfinite(found.psnr_db) else None
        print(json.dumps({**asdict(found), "psnr_db": psnr, "picture": str(output)}, indent=2))
        return
    ssim = "slices are smaller than its window" if found.ssim is None else f"{found.ssim:.4f}"
    i, j, k = found.largest_at
    say(f"PSNR                {found.psnr_db:.2f} dB")
    say(f"SSIM                {ssim}")
    say(f"largest difference  {found.largest:.6g} at voxel ({i}, {j}, {k})")
    say(f"mean difference     {found.mean:.6g}; {found.differing:.1%} of the voxels differ")
    say(f"picture             {output}")


if __name__ == "__main__":
    run(main)
