"""What a run tells MLflow, by way of a spool: no training step waits for it, and no outage loses it."""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from cluster.config import TrackingConfig, expand
from cluster.outbox.delivery import MlflowDelivery
from cluster.outbox.records import BusyError, Spool
from cluster.outbox.sender import Sender, send_all
from cluster.redaction import one_line, without_password
from cluster.tracking import Run, connect, explained, now_ms

PARENT_TAG = "mlflow.parentRunId"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """What a spool says of its run: enough to find it in MLflow, or to make it there."""

    name: str
    params: dict[str, Any]
    time_ms: int
    uri: str
    experiment: str
    artifacts: str
    model: str
    parent: str = ""

    def config(self, config: TrackingConfig, uri_is_given: bool) -> TrackingConfig:
        """Return the settings that this run was tracked with; the URI in `config` is taken if it is to be."""
        uri_is_given = uri_is_given or without_password(config.uri) == self.uri
        own = {"experiment": self.experiment, "artifacts": self.artifacts, "model": self.model}
        return config.model_copy(update=own | ({} if uri_is_given else {"uri": self.uri}))


class RunLog:
    """What a run tells MLflow, by way of a spool: no call waits for MLflow or fails because of it.

    Args:
        config: Where MLflow and the spool are.
        run_name: The same name is the same run.
        params: Settings, kept when the run is first made.
        tags: Set each time.
        parent: Name of the run that it belongs to, such as that of a sweep; empty for none.
    """

    def __init__(
        self,
        config: TrackingConfig,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        *,
        parent: str = "",
    ) -> None:
        shown = json.loads(without_password(json.dumps(dict(params))))
        own = (without_password(config.uri), config.experiment, config.artifacts, config.model)
        head = Head(run_name, shown, now_ms(), *own, parent)
        self._spool = Spool(Path(expand(config.spool)) / quote(run_name, safe=" "))
        try:
            _write_head(self._spool.folder, head)
        except OSError as error:
            log.warning("cannot write to %s: %s", self._spool.folder, error.strerror)
        self._spool.add("start", {"tags": {name: without_password(value) for name, value in tags.items()}})
        self._sender = Sender(self._spool, lambda: _deliver_to(config, self._spool.folder, head))

    def metrics(self, step: int, values: Mapping[str, float], pictures: Mapping[str, bytes] | None = None) -> None:
        """Record numbers and PNG pictures of a step."""
        points = {name: float(value) for name, value in values.items() if name != "step"}
        self._spool.add("metrics", {"step": step, "values": points})
        for name, png in (pictures or {}).items():
            self._spool.add_picture(step, name, png)
        self._sender.wake()

    def text(self, name: str, content: str) -> None:
        """Keep a text as an artifact."""
        self._add("text", {"name": name, "content": without_password(content)})

    def tag(self, name: str, value: str) -> None:
        """Set a tag."""
        self._add("tag", {"name": name, "value": without_password(value)})

    def status(self, status: str) -> None:
        """Say how the run is: RUNNING, FINISHED, FAILED or KILLED."""
        self._add("status", {"status": status})

    def register(self, bundle: Path) -> None:
        """Make a bundle a version of the registered model and its challenger. It is copied: its folder may go.

        Raises:
            CheckpointError: It has no manifest.
        """
        self._spool.add_bundle(bundle)
        self._sender.wake()

    @property
    def remaining(self) -> int:
        """Number of records that MLflow has not got."""
        return self._spool.remaining()

    @property
    def dropped(self) -> int:
        """Number of records that a full disk lost."""
        return self._spool.dropped

    @property
    def refused(self) -> int:
        """Number of records that MLflow will never take."""
        return self._spool.refused

    @property
    def last_error(self) -> str:
        """Why MLflow does not take records; empty if it does."""
        return self._sender.last_error

    def drain(self, timeout_s: float) -> int:
        """Wait until MLflow has all, as long as it takes one every `timeout_s`; return how many it has not got."""
        return self._sender.drain(timeout_s)

    def close(self) -> None:
        """Stop sending. What remains stays in the spool, for the next start of the run or `metasr sync`."""
        self._sender.close()
        self._spool.compact()
        if remaining := self._spool.remaining():
            log.warning("%d records for MLflow are still to be sent: `metasr sync` sends them", remaining)
        if self._spool.dropped:
            log.warning("%d records for MLflow were lost, as there was no room for them", self._spool.dropped)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, kind: str, payload: dict[str, Any]) -> None:
        self._spool.add(kind, payload)
        self._sender.wake()


class Synced(NamedTuple):
    """What came of sending what was left."""

    failure: str
    """Why not all could be sent; empty if all was."""
    num_skipped: int
    """Runs that were left to another process, which is sending their records."""


def sync(config: TrackingConfig, tell: Callable[[str], None], uri_is_given: bool) -> Synced:
    """Send what the spools of all runs still hold.

    Args:
        config: Where the spools are, and MLflow.
        tell: Called with a line for each run.
        uri_is_given: Send to `config.uri`, and not to where each run was tracked.
    """
    failure, num_skipped = "", 0
    for path in sorted(Path(expand(config.spool)).glob("*/head.json")):
        head, spool = Head(**json.loads(path.read_text())), Spool(path.parent)
        if not spool.remaining():
            continue
        try:
            with spool.sending():
                delivery = _deliver_to(head.config(config, uri_is_given), spool.folder, head)
                sent = send_all(spool, delivery)
                spool.compact()
            refused = f", {spool.refused} of them refused, see {spool.folder}/refused.jsonl" if spool.refused else ""
            tell(f"run {head.name}: {sent} records sent{refused}")
        except BusyError as error:
            num_skipped += 1
            tell(f"run {head.name}: skipped, {error}")
        except Exception as error:
            failure = one_line(error)
            tell(f"run {head.name}: {spool.remaining()} records are still to be sent")
    return Synced(failure, num_skipped)


def ids_of_children(config: TrackingConfig, run_name: str) -> dict[str, str]:
    """Return the ids in MLflow of the runs that belong to a run, by their names.

    Raises:
        StoreError: MLflow does not answer.
    """
    parent = Run.find_or_make(config, run_name, {}, now_ms()).run_id
    client = connect(config)
    with explained(config.uri):
        experiment = client.get_run(parent).info.experiment_id
        found = client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent}'")
        return {str(run.info.run_name): run.info.run_id for run in found}


def _deliver_to(config: TrackingConfig, folder: Path, head: Head) -> MlflowDelivery:
    run = Run.find_or_make(config, head.name, head.params, head.time_ms)
    if head.parent:  # by name: its id is not known before MLflow has it
        run.tag(PARENT_TAG, Run.find_or_make(config, head.parent, {}, head.time_ms).run_id)
    return MlflowDelivery(config, folder, run)


def _write_head(folder: Path, head: Head) -> None:
    partial = folder / ".head.json"
    partial.write_text(json.dumps(asdict(head)))
    os.replace(partial, folder / "head.json")
