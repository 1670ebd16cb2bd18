"""metasr runs: what runs there are, in the storage and in MLflow."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, json_output, run, say, settings
from jobs.interface.table import ago, as_json, gain, table

if TYPE_CHECKING:
    from cluster.catalogue.runs import ListedRun

DESCRIPTION = """List the runs in the storage and in MLflow: state, steps, gain, version, last checkpoint.

  metasr runs
  metasr runs --state running --state stopped
  metasr runs --storage.url s3://bucket/runs --tracking.uri http://mlflow:5000
  metasr runs --json | jq -r '.runs[] | select(.state == "stopped") | .name'

The gain is that of PSNR in dB over bicubic interpolation, at the best validation, on a few slices: `metasr evaluate`
measures it well. If MLflow or the storage does not answer, a warning says so, and the other's runs are shown.
`metasr train --resume RUN` goes on with one."""
STATES = "running", "finished", "stopped", "failed", "damaged"


def main(arguments: Sequence[str]) -> int:
    """List the runs; return the exit code."""
    parser = Parser(prog="metasr runs", description=DESCRIPTION)
    parser.add_argument(
        "--state", action="append", default=[], choices=STATES, help="only runs in this state; can be repeated"
    )
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")
    add_settings(parser, JobConfig, "storage.url", "tracking")
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known).config

    from cluster.catalogue.runs import list_runs

    with json_output(known.json) as show:
        listing = list_runs(config.storage, config.tracking)
        runs = [one for one in listing.runs if not known.state or one.state in known.state]
        for problem in listing.problems:
            print(f"warning: {problem}", file=sys.stderr)
        if known.json:
            show({"runs": [as_json(one) for one in runs], "problems": listing.problems})
            return 0
    if not runs:
        what = f" {' or '.join(known.state)}" if known.state else ""
        say(f"there is no{what} run in {config.storage.url}; train one: metasr train --recipe smoke --data.url DATA")
        return 0
    heads = "run", "state", "steps", "gain", "version", "last checkpoint"
    say(table(heads, [_row(one) for one in runs]))
    for one in runs:
        if one.problem:
            say(f"{one.name}: {one.problem}")
    if any(not one.where for one in runs):
        say(f"* only in MLflow: its checkpoints are not in {config.storage.url}")
    return 0


def _row(one: "ListedRun") -> tuple[str, ...]:
    steps = "/".join("?" if number is None else str(number) for number in (one.step, one.num_steps))
    name = one.name if one.where else f"{one.name} *"
    when = f"{ago(one.checkpoint_time)} ago" if one.checkpoint_time else ""
    return name, one.state, steps, gain(one.gain_db), one.version, when


if __name__ == "__main__":
    run(main)
