"""What a run tells MLflow, by way of an outbox: no training step waits for it, and no outage loses it."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from cluster.command import command
from cluster.config import TrackingConfig, expand
from cluster.outbox.delivery import PARENT_TAG, deliver_to
from cluster.outbox.head import Head
from cluster.outbox.outbox import Outbox
from cluster.outbox.sender import Sender
from cluster.redaction import without_password
from cluster.tracking import Run, connect, explained, now_ms

log = logging.getLogger(__name__)


def folder_of(config: TrackingConfig, run_name: str) -> Path:
    """Return the folder of a run's outbox."""
    return Path(expand(config.spool)) / quote(run_name, safe=" ")


class RunLog:
    """What a run tells MLflow, by way of an outbox: no call waits for MLflow or fails because of it.

    Args:
        config: Where MLflow and the outboxes are.
        run_name: The same name is the same run.
        params: Settings, kept when the run is first made.
        tags: Set each time.
        parent: Name of the run that it belongs to, such as that of a sweep; empty for none.

    Attributes:
        run_name: See above.
        parent: See above.
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
        self.run_name, self.parent = run_name, parent
        shown = json.loads(without_password(json.dumps(dict(params))))
        self._keeps_pictures = config.pictures
        own = (without_password(config.uri), config.experiment, config.artifacts, config.model)
        head = Head(run_name, shown, now_ms(), *own, parent)
        self._sync = command("sync", tracking=config)
        self._outbox = Outbox(folder_of(config, run_name))
        try:
            head.write(self._outbox.folder)
        except OSError as error:
            log.warning("cannot write to %s: %s", self._outbox.folder, error.strerror)
        self._outbox.add("start", {"tags": {name: without_password(value) for name, value in tags.items()}})
        self._sender = Sender(self._outbox, lambda: deliver_to(config, self._outbox.folder, head))

    def metrics(self, step: int, values: Mapping[str, float], pictures: Mapping[str, bytes] | None = None) -> None:
        """Record numbers and, unless `tracking.pictures` is false, PNG pictures of a step."""
        points = {name: float(value) for name, value in values.items() if name != "step"}
        self._outbox.add("metrics", {"step": step, "values": points})
        for name, png in (pictures if pictures and self._keeps_pictures else {}).items():
            self._outbox.add_picture(step, name, png)
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
        self._outbox.add_bundle(bundle)
        self._sender.wake()

    @property
    def remaining(self) -> int:
        """Number of records that MLflow has not got."""
        return self._outbox.remaining()

    @property
    def holds_model(self) -> bool:
        """Whether MLflow has yet to register a bundle."""
        return self._outbox.holds("register")

    @property
    def refusals(self) -> list[str]:
        """Why MLflow will never take records that were set aside."""
        return self._outbox.refusals()

    @property
    def last_error(self) -> str:
        """Why MLflow does not take records; empty if it does."""
        return self._sender.last_error

    def drain(self, timeout_s: float) -> int:
        """Wait until MLflow has all, as long as it takes one every `timeout_s`; return how many it has not got."""
        return self._sender.drain(timeout_s)

    def close(self) -> None:
        """Stop sending. What remains stays in the outbox, for the next start of the run or `metasr sync`."""
        self._sender.close()
        if remaining := self._outbox.remaining():
            log.warning("%d records for MLflow are still to be sent: `%s` sends them", remaining, self._sync)
        if self._outbox.dropped:
            log.warning("%d records for MLflow were lost, as there was no room for them", self._outbox.dropped)
        self._outbox.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, kind: str, payload: dict[str, Any]) -> None:
        self._outbox.add(kind, payload)
        self._sender.wake()


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
