"""Small sweeps, as a person runs them: a process of its own, which can be killed and started again."""

import os
import signal
import subprocess
import sys

from cluster.sweep.ledger import LEDGER, StoredTrials
from cluster.sweep.record import from_document
from tests.cluster.training import ROOT, TINY, flags, line_with, places, with_database
from tests.patience import PATIENCE_S

STEPS = 60
GOOD, BETTER, IDLE, WILD = 0.0005, 0.001, 1e-7, 1e30  # learning rates; the last gives NaN, the one before nothing
RATES = f"space: {{optim.generator_lr: {{choice: [{GOOD}, {BETTER}, {IDLE}, {WILD}]}}}}\n"


def arguments_of(home, store_url, space, settings):
    """Return a sweep's arguments; None among the settings takes out one that small sweeps have, to be searched."""
    (home / "tiny.yaml").write_text("train:\n  steps: 1\n")
    (home / "rates.yaml").write_text(space)
    short = {"train.steps": STEPS, "train.checkpoint_every_steps": 20, "train.pixel_only_steps": STEPS}
    one = {"resources.num_workers": 1, "search.concurrent": 2, "search.searcher": "random"}
    given = {"data.url": store_url, **places(home), **TINY, **short, **one, **settings}
    set_here = {name: value for name, value in given.items() if value is not None}
    return ["--sweep", home / "rates.yaml", "--recipe", home / "tiny.yaml", *flags(set_here)]


def start_sweep(home, store_url, space, settings, *more):
    with_database(home, settings)
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.Popen(
        [sys.executable, ROOT / "jobs" / "tune.py", *arguments_of(home, store_url, space, settings), *map(str, more)],
        cwd=home,
        env=inherited,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_sweep_at(text, home, store_url, space, settings):
    """Start a sweep, and kill its driver at the first line that has `text`."""
    process = start_sweep(home, store_url, space, settings)
    try:
        line_with(process, text)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def sweep_to_end(home, store_url, space, settings, *more):
    process = start_sweep(home, store_url, space, settings, *more)
    output, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode, output


def ledger_of(home):
    """What the store says of the one sweep."""
    (ledger,) = (home / "runs" / "sweeps").glob(f"*/{LEDGER}")
    return from_document(StoredTrials, ledger.read_bytes(), LEDGER).record
