"""metasr doctor: check everything that a training run needs, before GPUs are spent."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.config import JobConfig
from jobs.cli import Parser, add_recipe, add_settings, json_output, run, say, settings
from jobs.interface.color import Style, paint

if TYPE_CHECKING:
    from cluster.preflight import CheckResult

DESCRIPTION = """Check everything that `metasr train` with the same settings needs: the data and its index, the
stores, MLflow, Ray and its access control, and on each node versions, disks, memory and GPUs.

One line per check: ok, warning, PROBLEM or skipped, and what to do. Exit code 0 without a problem, 2 with one. Small
objects under doctor/ in storage.url are written and deleted. With RAY_ADDRESS set it checks that cluster; without, it
starts Ray on this machine, as training would.

  metasr doctor --data.url ~/data/t1ce
  metasr doctor --recipe paper --data.url s3://bucket/t1ce --resources.num-workers 4 --resources.gpu true"""
WIDTH = 14
STYLES: dict[str, Style] = {"ok": "green", "warning": "yellow", "problem": "red"}


def main(arguments: Sequence[str]) -> int:
    """Run the checks; return the exit code."""
    parser = Parser(prog="metasr doctor", description=DESCRIPTION)
    add_recipe(parser)
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_settings(parser, JobConfig)
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known, known.recipe).config

    from cluster.preflight import run_checks

    with json_output(known.json) as show:
        results = run_checks(config, (lambda result: None) if known.json else _print)
        if known.json:
            show([asdict(result) for result in results])
    return 2 if any(result.state == "problem" for result in results) else 0


def _print(result: "CheckResult") -> None:
    state = result.state.upper() if result.state == "problem" else result.state
    style = STYLES.get(result.state)
    shown = paint(f"{state:<8}", style, sys.stdout) if style else f"{state:<8}"
    say(f"{shown} {result.name:<{WIDTH}}{result.found}")
    if result.fix:
        say(f"{'':<9}{'':<{WIDTH}}-> {result.fix}")


if __name__ == "__main__":
    run(main)
