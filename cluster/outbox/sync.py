"""Send MLflow what the outboxes on this machine still hold: `metasr sync`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from cluster.config import TrackingConfig, expand
from cluster.outbox.delivery import deliver_to
from cluster.outbox.head import HEAD, Head
from cluster.outbox.outbox import BusyError, Outbox
from cluster.outbox.record_log import REFUSED, REMOVED
from cluster.outbox.sender import send_all
from cluster.redaction import one_line


class Synced(NamedTuple):
    """What came of sending what was left."""

    failure: str
    """Why not all could be sent; empty if all was."""
    num_skipped: int
    """Runs that were left to another process, which is sending their records."""


def sync(config: TrackingConfig, tell: Callable[[str], None], uri_is_given: bool) -> Synced:
    """Send what the outboxes of all runs still hold, and remove those that are empty and not in use.

    Args:
        config: Where the outboxes are, and MLflow.
        tell: Called with a line for each run.
        uri_is_given: Send to `config.uri`, and not to where each run was tracked.
    """
    failure, num_skipped, place = "", 0, Path(expand(config.spool))
    for folder in place.glob(f"*{REMOVED}"):  # left by a process that was killed
        shutil.rmtree(folder, ignore_errors=True)
    for folder in sorted(path.parent for path in place.glob(f"*/{HEAD}")):
        name = unquote(folder.name)
        with Outbox(folder) as outbox:
            try:
                said = _sync_run(config, outbox, uri_is_given)
            except BusyError as error:
                num_skipped += 1
                said = f"skipped, {error}"
            except Exception as error:
                failure = one_line(error)
                said = f"{outbox.remaining()} records are still to be sent"
        if said:
            tell(f"run {name}: {said}")
    return Synced(failure, num_skipped)


def _sync_run(config: TrackingConfig, outbox: Outbox, uri_is_given: bool) -> str:
    """Send the records of one run; return what there is to say about it, empty if nothing.

    Raises:
        BusyError: Another process sends them.
        Exception: MLflow does not take them, or they cannot be read.
    """
    said = []
    if outbox.remaining():
        head = Head.read(outbox.folder)
        with outbox.sending():
            sent = send_all(outbox, deliver_to(head.config(config, uri_is_given), outbox.folder, head))
        said.append(f"{sent} records sent")
    if refused := outbox.num_refused():
        said.append(f"{refused} that MLflow refused are kept in {outbox.folder / REFUSED}")
    return ", ".join(said)
