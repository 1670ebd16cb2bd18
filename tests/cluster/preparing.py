"""`metasr prepare` as a person or a scheduler runs it: a process, whose lines are read while it works."""

import subprocess
import sys
from pathlib import Path

from tests.cluster.patients import brain, write_volume
from tests.patience import PATIENCE_S

PREPARE = Path(__file__).parents[2] / "jobs" / "prepare.py"
CROP_PX = 128
VAL = ("patient-00", "patient-01")
NAMES = [f"patient-{number:02}" for number in range(10)]
BROKEN = "patient-05"


def make_patients(folder):
    """Make ten patients, of whom each takes some time, and one cannot be used; return their folder."""
    for seed, name in enumerate(NAMES):
        write_volume(folder / f"{name}.nii.gz", brain(seed, (140, 160, 48)))
    (folder / f"{BROKEN}.nii.gz").write_text("a text file")
    return folder


def command(folder, store, *more):
    return [
        *map(str, (sys.executable, PREPARE, "-i", folder, "-o", store)),
        *("--crop-px", str(CROP_PX), "--val-subjects", f"[{','.join(VAL)}]", *more),
    ]


def start(folder, store, *more, **options):
    """Start preparing; the lines come through a pipe."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(folder, store, *more), **pipes, **options)


def finish(process):
    """Return what else it said, on both ways out, and its exit code."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return out, err, process.returncode


def contents(folder):
    """Return `{file: bytes}` of a store, without the journal."""
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.is_file()}
