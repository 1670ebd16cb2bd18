"""Measure the speed of inference beside other methods and beside the least that arithmetic and memory allow.

    make bench                                         all of it, in minutes, on all cores, or on a GPU
    make bench-check                                   a minute, on one core: do the ratios keep their bounds?
    python -m tests.benchmarks.bench --readme          the same as `make bench`, and publishes the figures

The last also where there is neither Ray nor MLflow: it needs what `metasr` needs.

Calls on the same inputs take turns, round after round; ratios are medians over rounds. Networks have random weights,
which take as long as trained ones. Writes `bench.json` and `bench.md`.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from metasr.arithmetic import arithmetic
from tests.benchmarks.bench_bounds import BOUNDS, SLACK
from tests.benchmarks.bench_cases import Group, groups
from tests.benchmarks.bench_clock import Clock, clock, instruction_sets, load
from tests.benchmarks.bench_report import check, markdown, readme_table, with_table

ROOT = Path(__file__).parents[2]
PUBLISHED = Path(__file__).parent


def main() -> int:
    """Measure or read, write, and check; return 1 where a ratio breaks its bound."""
    options = _options()
    result = json.loads(options.read.read_text()) if options.read else measure(options)
    options.output.mkdir(parents=True, exist_ok=True)
    _write(result, options.output)
    if options.readme:
        readme = ROOT / "README.md"
        readme.write_text(with_table(readme.read_text(), readme_table(result)))
        _write(result, PUBLISHED)
    if not options.check:
        return 0
    if result["machine"]["device"] != "cpu":
        print("the bounds are those of CPUs", file=sys.stderr)
        return 0
    verdicts = list(check(result, BOUNDS, SLACK))
    print("\n".join(line for _, line in verdicts))
    return 0 if all(holds for holds, _ in verdicts) else 1


def _options() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=cores, help=f"threads of the CPU [{cores}]")
    parser.add_argument("--quick", action="store_true", help="small images, few scales: about a minute")
    parser.add_argument("--check", action="store_true", help="hold ratios to their bounds; exit code 1 if one breaks")
    parser.add_argument("--readme", action="store_true", help="write README.md's table, and bench.* here too")
    parser.add_argument(
        "--output", type=Path, default=Path("bench"), help="folder for bench.json and bench.md [bench]"
    )
    parser.add_argument("--read", type=Path, metavar="FILE", help="a bench.json to take instead of measuring")
    options = parser.parse_args()
    if options.readme and options.quick:
        parser.error("the README takes its table from a full run: leave --quick away")
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; return what bench.json holds."""
    watch, before = clock(options.device, options.threads), load()
    side, copied = (512, 2**25) if options.quick else (2048, 2**28)
    rates = watch.rates(side, copied, 5)
    with torch.inference_mode():
        found = [_measured(group, watch) for group in groups(watch.device, quick=options.quick)]
    rates_after = watch.rates(side, copied, 5)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": " ".join(["python -m tests.benchmarks.bench", *sys.argv[1:]]),
        "quick": options.quick,
        "clock": watch.kind,
        "machine": {
            "device": watch.device.type,
            "arithmetic": arithmetic(watch.device),
            "cores": os.cpu_count(),
            "instruction_sets": instruction_sets(),
            "load_before": before,
            "load_after": load(),
            "idle_below": 0.5,
        },
        "rates": {name: max(rate, rates_after[name]) for name, rate in rates.items()},
        "groups": found,
    }


def _measured(group: Group, watch: Clock) -> dict[str, Any]:
    print(f"{group.name}: {group.inputs}", file=sys.stderr, flush=True)
    seconds = watch.take_turns(group.calls, group.rounds)
    calls = {
        name: {"work": asdict(work), "seconds": [float(f"{s:.4g}") for s in seconds[name]]}
        for name, work in group.work.items()
    }
    return {"name": group.name, "inputs": group.inputs, "rounds": group.rounds, "calls": calls}


def _write(result: dict[str, Any], folder: Path) -> None:
    (folder / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "bench.md").write_text(markdown(result))


if __name__ == "__main__":
    sys.exit(main())
