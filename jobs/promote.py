"""metasr promote: make an evaluated model the champion."""

from collections.abc import Sequence

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings

DESCRIPTION = """Make an evaluated model the champion, which `metasr upscale` uses.

The model's own evaluation must show that neither its PSNR nor its SSIM is below that of bicubic at any
evaluated scale.

  metasr promote
  metasr promote --model 3
  metasr promote --model 3 --force "sharper, accepted by the readers" """


def main(arguments: Sequence[str]) -> None:
    """Promote."""
    parser = Parser(prog="metasr promote", description=DESCRIPTION)
    parser.add_argument("--model", default="challenger", help="alias, version or models:/... [challenger]")
    parser.add_argument(
        "--force", default="", metavar="REASON", help="promote against the evidence; REASON is recorded"
    )
    add_settings(parser, JobConfig, "tracking")
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known).config

    from cluster.registry import Registry

    version, before = Registry(config.tracking).promote(known.model, known.force)
    change = (
        f"instead of version {before}" if before and before != version else "as it was" if before else "the first"
    )
    say(f"version {version} of {config.tracking.model} is the champion, {change}")
    say("next: metasr upscale -i in.nii.gz -o out.nii.gz --scale 2.5")


if __name__ == "__main__":
    run(main)
