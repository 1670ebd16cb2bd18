"""Measure how well `metasr estimate` predicts: its estimate, beside what the same training then takes and stores.

`.venv/bin/python -m tests.benchmarks.estimate_accuracy` prints a table for one worker and one for two, in minutes. It
runs the real commands on synthetic patients of the size of a head, with an MLflow database of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.checkpoints import RunCheckpoints
from cluster.config import PrepareConfig
from cluster.store import open_store
from tests.cluster.patients import SUBJECTS, brain, run_prepare, volume_file, write_volume
from tests.cluster.training import ROOT, flags, places

SHAPE = (160, 192, 24)  # slices of a head, at 1 mm
OPTIONS = PrepareConfig(modality="t1ce", crop_px=96, shard_mb=2)
MB = 1e6


def main() -> None:
    """Estimate and train, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="smoke", help="name of a recipe, or a YAML file [smoke]")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of workers [1 2]")
    parser.add_argument("--steps", type=int, default=20, help="steps that an estimate measures of each kind [20]")
    options, settings = parser.parse_known_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, recipe {options.recipe} {' '.join(settings)}")
    with tempfile.TemporaryDirectory() as folder:
        for seed, subject in enumerate(SUBJECTS):
            write_volume(volume_file(Path(folder) / "patients", subject), brain(seed, SHAPE))
        run_prepare(Path(folder) / "patients", open_store(f"{folder}/data"), OPTIONS)
        for workers in options.workers:
            home = Path(folder) / f"workers-{workers}"
            home.mkdir()
            own = {"data.url": f"{folder}/data", **places(home), "resources.num_workers": workers}
            arguments = ["--recipe", options.recipe, *flags(own), *settings]
            compare(workers, home, arguments, options.steps)


def compare(num_workers: int, home: Path, arguments: list[str], steps: int) -> None:
    """Print the table of one number of workers."""
    said, took_s = command("estimate", home, [*arguments, "--json", "--steps", str(steps)])
    estimate = json.loads(said)
    _, whole_s = command("train", home, arguments)
    (ledger,) = (home / "runs").glob("*/checkpoints.json")
    report = json.loads((ledger.parent / "run-report.json").read_text())
    kept = RunCheckpoints(open_store(str(home / "runs")), ledger.parent.name).entries()
    print(f"\n{num_workers} workers: `metasr estimate` took {took_s:.0f} s in all, `metasr train` {whole_s:.0f} s")
    print("| | estimated | real | off |\n|---|---|---|---|")
    for name, expected, real in rows(estimate, report, [entry.num_bytes for entry in kept]):
        print(f"| {name} | {expected:.3g} | {real:.3g} | {expected / real - 1:+.0%} |", flush=True)


def command(verb: str, home: Path, arguments: list[str]) -> tuple[str, float]:
    """Run a verb as a user does; return its output and its seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, ROOT / "jobs" / f"{verb}.py", *arguments],
        cwd=home,
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, time.monotonic() - began


def rows(estimate: dict[str, Any], report: dict[str, Any], kept: list[int]) -> list[tuple[str, float, float]]:
    """Return name, estimated and measured value of each row.

    Args:
        estimate: As `metasr estimate --json` prints it.
        report: Of the run.
        kept: Bytes of the checkpoints in its storage, the newest first.
    """
    validated, written = report["validated"], report["kept"]
    return [
        ("first step, s after the start", estimate["first_step_s"], report["first_step"]["seconds"]),
        (
            "all steps, s",
            sum(phase["steps"] * phase["step_s"] for phase in estimate["phases"]),
            report["useful_s"] + report["waiting"]["seconds"],
        ),
        ("a validation, s", estimate["validation_s"], validated["seconds"] / validated["count"]),
        ("a checkpoint, s", estimate["checkpoint_s"], written["seconds"] / written["count"]),
        ("total, s", estimate["total_s"], report["wall_s"]),
        ("a checkpoint, MB", estimate["checkpoint_bytes"] / MB, kept[0] / MB),
        ("all checkpoints kept, MB", estimate["storage_bytes"] / MB, sum(kept) / MB),
    ]


if __name__ == "__main__":
    main()
