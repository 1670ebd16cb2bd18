"""What a training step pays to tell MLflow something: with MLflow up, slow and down.

`.venv/bin/python -m tests.benchmarks.tracking_cost` prints the table. A call of `RunLog.metrics` with ten values, and
with a picture of 100 KB every tenth time, is timed at the pace of a fast run, while the records are being sent.
"""

import logging
import statistics
import tempfile
import time
from pathlib import Path

from cluster.config import TrackingConfig
from cluster.run_log import RunLog
from tests.cluster.fault_proxy import FaultProxy, Slow, always
from tests.cluster.tracked import MlflowServer, closed_port

NUM_CALLS = 1000
PAUSE_S = 0.01
VALUES = {f"loss_{number}": 0.5 for number in range(10)}
PICTURE = {"val": bytes(100_000)}


def main() -> None:
    """Measure the three and print a table."""
    logging.disable(logging.WARNING)
    print(f"{'MLflow is':<10}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'not yet sent':>14}")
    with tempfile.TemporaryDirectory() as folder:
        server = MlflowServer(Path(folder))
        try:
            with FaultProxy(server.uri, always(Slow(bytes_per_s=200))) as proxy:
                for name, uri in (
                    ("up", server.uri),
                    ("slow", proxy.url),
                    ("down", f"http://127.0.0.1:{closed_port()}"),
                ):
                    print(f"{name:<10}" + row(uri, Path(folder) / f"spool-{name}"))
        finally:
            server.kill()


def row(uri: str, spool: Path) -> str:
    """Time the calls of a run that is tracked there."""
    log = RunLog(TrackingConfig(uri=uri, spool=str(spool)), spool.name, {}, {})
    taken_ms = []
    for step in range(NUM_CALLS):
        begin = time.perf_counter()
        log.metrics(step, VALUES, PICTURE if step % 10 == 0 else None)
        taken_ms.append(1000 * (time.perf_counter() - begin))
        time.sleep(PAUSE_S)
    remaining = log.remaining
    log.close()
    cuts = statistics.quantiles(taken_ms, n=100)
    return f"{cuts[49]:>9.3f}{cuts[98]:>9.3f}{max(taken_ms):>9.3f}{remaining:>14}"


if __name__ == "__main__":
    main()
