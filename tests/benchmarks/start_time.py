"""Measure the start of a training: from the command to its first step, in seconds and in seconds of CPU.

`.venv/bin/python -m tests.benchmarks.start_time` starts `metasr train` with one worker a few times, on a Ray of its
own, and prints the medians. CPU seconds are those of all its processes that live when the first step is told: on a
machine with other work they say more than seconds. METASR_ROOT=FOLDER measures the code of another checkout.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cluster.store import open_store
from tests.cluster.patients import OPTIONS, make_volumes, run_prepare
from tests.cluster.training import ROOT, TINY, flags, places

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PARTS = ("connected", "fit", "group", "data", "first_step")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a prepared data set [made up]")
    parser.add_argument("--times", type=int, default=3, help="how often [3]")
    options = parser.parse_args()
    root = Path(os.environ.get("METASR_ROOT", ROOT))
    load = os.getloadavg()[0]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load before {load:.1f}; seconds, medians")
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if not data:
            data = f"{folder}/data"
            run_prepare(make_volumes(Path(folder) / "patients"), open_store(data), OPTIONS)
        rows = [start(root, Path(folder) / str(number), data) for number in range(options.times)]
    names = list(rows[0])
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    print(f"| {' | '.join(f'{statistics.median(row[name] for row in rows):.1f}' for name in names)} |", flush=True)


def start(root: Path, home: Path, data: str) -> Mapping[str, float]:
    """Train until the first step was told, stop, and return what it took."""
    home.mkdir()
    (home / "tiny.yaml").write_text("train:\n  steps: 100000\n")
    own = {"resources.num_workers": 1, "train.log_every_steps": 1, "loss.adversarial": 0, "data.url": data}
    settings = {**TINY, **places(home), **own}
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, root / "jobs" / "train.py", "--recipe", home / "tiny.yaml", *flags(settings)],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if "  loss " in line:
            break
    took_s, processes = time.monotonic() - began, below(process.pid)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate()
    reports = list((home / "runs").glob("*/run-report.json"))
    if not reports:
        raise RuntimeError("".join(told) + output)
    parts = json.loads(reports[0].read_text())["first_step"]["parts_s"]
    return {
        "first step": took_s,
        "CPU": sum(processes.values()),
        "processes": len(processes),
        **{name: parts.get(name, 0.0) for name in PARTS},
    }


def below(pid: int) -> dict[int, float]:
    """Return the CPU seconds of a process and of all below it, by number; what has ended counts in its parent."""
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for about in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = about.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        number = int(about.parent.name)
        children.setdefault(int(fields[1]), []).append(number)
        seconds[number] = TICK_S * sum(map(int, fields[11:15]))
    found, left = {}, [pid]
    while left:
        number = left.pop()
        found[number] = seconds.get(number, 0.0)
        left += children.get(number, [])
    return found


if __name__ == "__main__":
    main()
