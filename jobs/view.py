"""metasr view: a local page to zoom into a volume at any real scale."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import JobConfig
from cluster.model_choice import MODEL_HELP, RELEASED, choose_bundle
from jobs.cli import Parser, add_settings, run, say, settings

if TYPE_CHECKING:
    from metasr.inference.bundle import Bundle

PORT = 8765
DESCRIPTION = """Open a local page that shows a volume in three planes and zooms into it, at scales from 1 to 8.

Each slice is encoded once; as the hand moves, only what is visible is decoded. Side by side, wipe and blink compare
it with bicubic and nearest. The page is for this machine alone, and nothing leaves it. Ctrl-C ends it.
Research software, not a medical device.

  metasr view in.nii.gz
  metasr view in.nii.gz --model models/bundle
  metasr view in.nii.gz --no-open --port 9000   # over ssh -L 9000:localhost:9000"""


def main(arguments: Sequence[str]) -> None:
    """Show a volume until Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    known = _parser().parse_known(arguments)
    config = settings(JobConfig, known).config

    from metasr.data.volume import load_volume

    volume = load_volume(known.input)
    if volume.warnings:
        say(f"warning: {known.input}: {'; '.join(volume.warnings)}")
    from metasr.viewer.serve import view

    def load() -> "Bundle":
        return _bundle(known.model, config)

    with suppress(KeyboardInterrupt):  # the way to end it
        view(volume, load, port=known.port, say=say, opens=known.open)
    say("ended")


def _parser() -> Parser:
    parser = Parser(prog="metasr view", description=DESCRIPTION)
    parser.add_argument("input", type=Path, metavar="FILE", help="NIfTI volume")
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument("--port", type=_port, default=PORT, help=f"port, or the next that is free [{PORT}]")
    parser.add_argument("--no-open", dest="open", action="store_false", help="print the address, open no browser")
    add_settings(parser, JobConfig, "tracking")
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 (any free one) to 65535")
    return int(text)


def _bundle(reference: str | None, config: JobConfig) -> "Bundle":
    """Return the model asked for; without a wish the champion, and where there is none the released one."""
    from metasr.inference.bundle import default_device, load_bundle

    with tempfile.TemporaryDirectory() as download:
        folder, version = choose_bundle(reference, config.tracking, Path(download))
        if version == RELEASED:
            say("model: the one that ships with metasr")
        return load_bundle(folder, default_device())


if __name__ == "__main__":
    run(main)
