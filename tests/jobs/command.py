"""The command in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

METASR = Path(sys.executable).with_name("metasr")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


def start(*command, folder, **environment):
    """Run a command in a process of its own."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
