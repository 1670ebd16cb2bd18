"""Send MLflow what the outboxes on this machine still hold: `metasr sync`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from cluster.config import TrackingConfig, expand
from cluster.outbox.delivery import MlflowDelivery, deliver_to
from cluster.outbox.head import HEAD, Head
from cluster.outbox.outbox import Outbox, SendingError
from cluster.outbox.record_log import REFUSED, REMOVED
from cluster.outbox.run_log import folder_of
from cluster.outbox.sender import send_all
from cluster.redaction import one_line
from cluster.store import open_store
from cluster.store.lease import is_driven
from metasr.errors import StoreError


class Synced(NamedTuple):
    """What came of sending what was left."""

    failure: str
    """Why not all could be sent; empty if all was."""
    num_skipped: int
    """Runs that were left to another process, which is sending their records."""
    runs: dict[str, str]
    """What there is to say about each run that had something."""


def sync(config: TrackingConfig, tell: Callable[[str], None], uri_is_given: bool) -> Synced:
    """Send what the outboxes of all runs still hold, and remove those that are empty and not in use.

    Args:
        config: Where the outboxes are, and MLflow.
        tell: Called with a line for each run.
        uri_is_given: Send to `config.uri`, and not to where each run was tracked.
    """
    failure, num_skipped, place = "", 0, Path(expand(config.spool))
    runs: dict[str, str] = {}
    for folder in place.glob(f"*{REMOVED}"):  # left by a process that was killed
        shutil.rmtree(folder, ignore_errors=True)
    for folder in sorted(path.parent for path in place.glob(f"*/{HEAD}")):
        name = unquote(folder.name)
        with Outbox(folder) as outbox:
            try:
                said = _sync_run(config, outbox, uri_is_given, tell)
            except SendingError as error:
                num_skipped += 1
                said = f"skipped, {error}"
            except Exception as error:
                failure = one_line(error)
                said = f"{outbox.remaining()} records are still to be sent, which wait in {folder}"
        if said:
            runs[name] = said
            tell(f"run {name}: {said}")
    return Synced(failure, num_skipped, runs)


def _sync_run(config: TrackingConfig, outbox: Outbox, uri_is_given: bool, tell: Callable[[str], None]) -> str:
    """Send the records of one run; return what there is to say about it, empty if nothing.

    Raises:
        SendingError: Another process sends them.
        Exception: MLflow does not take them, or they cannot be read.
    """
    said = []
    head, has_records = Head.read(outbox.folder), outbox.remaining() > 0
    storage = head.params.get("storage.url", "")
    if has_records or storage:
        try:
            with outbox.sending():
                delivery = deliver_to(head.config(config, uri_is_given), outbox.folder, head)
                sent, is_abandoned = send_all(outbox, delivery), _end_abandoned(delivery, head.name, storage, tell)
        except SendingError:
            if has_records:
                raise
            return ""
        if sent:
            kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(sent.items()))
            said.append(f"{sent.total()} records sent ({kinds})")
        if is_abandoned:
            said.append("its driver has ended without a word: it is KILLED in MLflow")
    if refusals := outbox.refusals():
        reasons = "; ".join(dict.fromkeys(refusals))
        said.append(f"{len(refusals)} that MLflow refused are kept in {outbox.folder / REFUSED}: {reasons}")
    return ", ".join(said)


def _end_abandoned(delivery: MlflowDelivery, run_name: str, storage: str, tell: Callable[[str], None]) -> bool:
    """Say in MLflow that a run was killed whose driver has gone without saying so; return whether that was so."""
    if not storage or delivery.status() != "RUNNING":
        return False
    try:
        if is_driven(open_store(storage), run_name, tell) is not False:
            return False
    except StoreError as error:
        tell(f"run {run_name}: whether it still runs is not known: {error}")
        return False
    delivery.finish("KILLED")
    return True


def send_waiting(config: TrackingConfig, run_name: str) -> tuple[int, bool, str]:
    """Send what waits in the outbox of a run; return how many records still do, whether a model is one, and why."""
    folder = folder_of(config, run_name)
    if not (folder / HEAD).is_file():
        return 0, False, ""
    with Outbox(folder) as outbox:
        why = ""
        try:
            if outbox.remaining():
                with outbox.sending():
                    send_all(outbox, deliver_to(config, folder, Head.read(folder)))
        except Exception as error:
            why = one_line(error)
        return outbox.remaining(), outbox.holds("register"), why
