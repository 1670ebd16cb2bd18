"""metasr models: what versions of the model there are."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, json_output, run, say, settings
from jobs.interface.table import as_json, gain, table
from metasr.sources import released_models

if TYPE_CHECKING:
    from cluster.catalogue.models import ListedVersion

DESCRIPTION = """List the versions of the registered model: alias, run, gain over bicubic, the gate's verdict, date.

  metasr models
  metasr models --tracking.model edsr-x2
  metasr models --tracking.uri http://mlflow:5000 --json

The gain is that of PSNR in dB over bicubic interpolation, as `metasr evaluate` measured it, or, in brackets, at the
last validation of its training. The verdict is that of the last `metasr promote`. If MLflow does not answer, a
warning says so, and the runs are shown whose storage says that they became versions."""


def main(arguments: Sequence[str]) -> int:
    """List the versions; return the exit code."""
    parser = Parser(prog="metasr models", description=DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print the versions as JSON")
    add_settings(parser, JobConfig, "storage.url", "tracking")
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known).config

    from cluster.catalogue.models import list_models

    with json_output(known.json) as show:
        listing = list_models(config.storage, config.tracking)
        for problem in listing.problems:
            print(f"warning: {problem}", file=sys.stderr)
        if known.json:
            show(as_json(listing))
            return 0
    if listing.versions:
        say(table(("version", "alias", "run", "gain", "gate", "created"), [_row(one) for one in listing.versions]))
    else:
        say(f"{listing.model} has no version; train one: metasr train --recipe smoke --data.url DATA")
    if listing.others:
        say(f"other models, for --tracking.model: {', '.join(listing.others)}")
    say(f"with metasr come, for --model: {', '.join(released_models())}")
    return 0


def _row(one: "ListedVersion") -> tuple[str, ...]:
    measured = gain(one.gain_db) if one.is_evaluated or one.gain_db is None else f"({gain(one.gain_db)})"
    created = one.created.astimezone().strftime("%Y-%m-%d %H:%M") if one.created else ""
    return one.version or "?", ", ".join(one.aliases), one.run, measured, one.gate, created


if __name__ == "__main__":
    run(main)
