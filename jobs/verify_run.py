"""metasr verify-run: compare two training runs bit for bit, and explain the first difference."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings

if TYPE_CHECKING:
    from cluster.compare.runs import Verification
    from cluster.compare.states import Check

DESCRIPTION = """Compare two training runs bit for bit, and explain the first difference.

The same settings on the same data give the same bits, whatever the number of workers and faults. A and B are each
the URL or folder of a run, the folder of a checkpoint, or the name of a run under --storage.url. They are compared at
the newest step for which both still have a checkpoint: first the causes (code, settings, data, start, arithmetic; if
code or arithmetic changed during a run, after which step), then the results (metric log, networks, optimisers).
Exit code 0: equal bits. 1: different bits. 2: they cannot be compared.

  metasr verify-run smoke-0a1b2c3d4e ~/elsewhere/runs/smoke-0a1b2c3d4e
  metasr verify-run s3://bucket/runs/paper-5d1fa2b3c4 s3://copy/runs/paper-5d1fa2b3c4 --json"""
MOST_SHOWN = 5
WIDTH = 25


def main(arguments: Sequence[str]) -> int:
    """Compare; return the exit code."""
    parser = Parser(prog="metasr verify-run", description=DESCRIPTION)
    parser.add_argument("a", metavar="A", help="a run or a checkpoint")
    parser.add_argument("b", metavar="B", help="another")
    parser.add_argument("--json", action="store_true", help="print the results as JSON, with all differences")
    add_settings(parser, JobConfig, "storage.url")
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known).config

    from cluster.compare.runs import verify_run

    found = verify_run(known.a, known.b, config.storage.url)
    if known.json:
        say(json.dumps(_as_json(found), indent=1))
    else:
        _print(found)
    return 0 if found.identical else 1


def _as_json(found: "Verification") -> dict[str, object]:
    content = asdict(found) | {"identical": found.identical, "verdict": found.verdict}
    for kind in ("causes", "effects"):
        for check in content[kind]:
            check["differences"] = [{"name": name, **about} for name, about in check["differences"]]
    return content


def _print(found: "Verification") -> None:
    for label, side in (("A", found.a), ("B", found.b)):
        newest = "" if side.newest_step == found.step else f" (its newest is step {side.newest_step})"
        say(f"{label}  {side.where}, step {found.step}{newest}")
        say(f"   {side.digest}")
    for check in (*found.causes, *found.effects):
        _print_check(check)
    say(found.verdict)


def _print_check(check: "Check") -> None:
    if check.equal:
        say(f"equal    {check.name:<{WIDTH}}{check.value}".rstrip())
        return
    shown = [str(difference) for difference in check.differences[:MOST_SHOWN]]
    if left := len(check.differences) - len(shown):
        shown.append(f"and {left} more, see --json")
    say(f"DIFFERS  {check.name:<{WIDTH}}{shown[0]}")
    for line in shown[1:]:
        say(f"{'':<9}{'':<{WIDTH}}{line}")


if __name__ == "__main__":
    run(main)
