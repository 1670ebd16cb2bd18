"""A run with many machines, simulated on this one, and what it costs those that all of them share.

    .venv/bin/python -m tests.simulation --workers 64 --seed 0          # minutes

Workers that train nothing join, leave and fail by a schedule that follows from the seed. All else is real: the
mailbox, the lease, the ledger of checkpoints and their uploads, the order of samples, the outbox and the observers of
a run, an S3 server or a folder, an MLflow server. It prints what it cost the head, the store and MLflow, and whether
all held that must (`invariants.py`). Exit code 0 if so, else 1.

What it leaves out: Ray, its messages (`post.py`) and its work for as many processes; tensors that workers exchange;
the size of checkpoints (64 KB here) and shards. `--workers 64 512` does one after the other.
"""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from cluster.config import TrackingConfig
from cluster.store import open_store
from metasr.errors import StoreError
from tests.simulation.counting import Tally, count_tracking, cpu_and_peak
from tests.simulation.data import Data
from tests.simulation.head import Head, Run
from tests.simulation.invariants import check
from tests.simulation.post import deliver_without_ray, office
from tests.simulation.schedule import schedule
from tests.simulation.table import rows_of, table

ROOT = Path(__file__).parents[2]
BUCKET = "simulation"
START_S = 180


def main() -> int:
    """Simulate; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[64], help="workers at most, powers of two [64]")
    parser.add_argument("--seed", type=int, default=0, help="decides what happens, and when [0]")
    parser.add_argument("--epochs", type=int, default=10, help="length of the run, in epochs of 32 steps [10]")
    parser.add_argument("--store", choices=("s3", "folder"), default="s3", help="of data and checkpoints [s3]")
    parser.add_argument("--tracking", default="", help="URI of MLflow; without one, a server is started")
    parser.add_argument("--json", type=Path, help="file for all counts")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends all that was started
    logging.getLogger("cluster").setLevel(logging.ERROR)  # what it warns of is what is simulated
    load, all_held, tables, found = os.getloadavg()[0], True, [], {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="simulation-")))
        place = stack.enter_context(_s3(folder)) if options.store == "s3" else str(folder / "store")
        uri = options.tracking or stack.enter_context(_mlflow(folder))
        mailbox_pid = stack.enter_context(office())
        deliver_without_ray()
        tally = Tally()
        count_tracking(uri, tally)
        for workers in options.workers:
            run = _run(workers, options, folder / str(workers), place, uri)
            counts, seen, held = _simulate(run, schedule(options.seed, run.steps), tally, mailbox_pid)
            tables.append(rows_of(run, seen, counts))
            found[workers] = {"counts": counts, "held": held, "seen": asdict(seen)}
            for name, is_so in held.items():
                print(f"{workers} workers, {'holds' if is_so else 'BROKEN'}: {name}", flush=True)
                all_held = all_held and is_so
    print(f"\n{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load before {load:.0f}; {options.store}\n")
    print("\n".join(table(tables)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0 if all_held else 1


def _run(workers, options, folder, place, uri):
    folder.mkdir()
    data = Data(workers, 32, options.seed)
    run = Run(
        name=f"simulation-{workers}-{options.seed}",
        data=data,
        num_workers=workers,
        steps=options.epochs * data.steps_an_epoch,
        checkpoint_every=16,
        checkpoint_bytes=64_000,
        step_s=0.05,
        storage_url=f"{place}/{workers}/runs",
        data_url=f"{place}/{workers}/data",
        folder=folder,
        tracking=TrackingConfig(
            uri=uri,
            experiment=f"simulation-{workers}-{time.time_ns()}",
            artifacts=str(folder / "artifacts"),
            spool=str(folder / "records"),
        ),
    )
    data.write(open_store(run.data_url))
    return run


def _simulate(run, happenings, tally, mailbox_pid):
    """Return what a run has cost, what was seen of it, and what held."""
    tally.counts.clear()
    head = Head(run, happenings, tally)
    cpu_s, mailbox_s, began = time.process_time(), cpu_and_peak(mailbox_pid)[0], time.monotonic()
    head.drive()
    tally.add("mailbox CPU s", cpu_and_peak(mailbox_pid)[0] - mailbox_s)
    tally.add("mailbox peak MB", cpu_and_peak(mailbox_pid)[1])
    tally.add("driver CPU s", time.process_time() - cpu_s)
    tally.add("wall s", time.monotonic() - began)
    counts, peaks = Counter(tally.counts), []
    for path in run.folder.glob("counts-*.json"):
        group = Counter(json.loads(path.read_text()))
        peaks.append(group.pop("workers peak MB", 0))
        counts += group
    counts["driver peak MB"], counts["workers peak MB"] = cpu_and_peak(os.getpid())[1], max(peaks)
    return counts, head.seen, check(run, head.seen)


@contextmanager
def _s3(folder):
    """Serve a bucket, and yield its URL; AWS_* lead to it."""
    command = [sys.executable, ROOT / "infra" / "storage" / "s3.py", "--port=0", f"--bucket={BUCKET}"]
    with subprocess.Popen([*command, f"--folder={folder}/s3"], stdout=subprocess.PIPE) as server:
        try:
            server.stdout.readline()  # it has then written how to reach it
            for line in (folder / "s3" / "env").read_text().splitlines():
                os.environ.update([line.removeprefix("export ").split("=", 1)])
            store, until = open_store(f"s3://{BUCKET}"), time.monotonic() + START_S
            while not _is_there(store):
                assert time.monotonic() < until, "the S3 server did not start"
            yield f"s3://{BUCKET}"
        finally:
            server.terminate()


def _is_there(store):
    try:
        store.require()
    except StoreError:
        return False
    return True


@contextmanager
def _mlflow(folder):
    from tests.cluster.tracked import MlflowServer

    (folder / "mlflow").mkdir()
    server = MlflowServer(folder / "mlflow")
    try:
        yield server.uri
    finally:
        server.kill()


if __name__ == "__main__":
    sys.exit(main())
