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


def assert_one_error(outcome, *words, code=2):
    """Assert that a command ended with this code and one line of error, which has these words."""
    assert outcome.code == code, outcome.err
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.out + outcome.err
    for word in words:
        assert word in lines[0]
