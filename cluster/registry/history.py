"""The history of champions: an append-only log in MLflow that also decides between concurrent promotions."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from metasr.config import Section
from metasr.errors import RegistryError
from metasr.formats import FORMAT, require_format

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PROMOTION = "metasr.promotion"
DONE = "metasr.promotion_done"
log = logging.getLogger(__name__)


class Promotion(Section):
    """A change of champion."""

    format: int = FORMAT
    """Of this JSON."""
    after: int
    """Number of the preceding change, as its author saw it; 0 for none."""
    kind: Literal["promotion", "rollback"]
    before: str | None
    """The previous champion's version."""
    to: str
    """The new champion's version."""
    by: str
    reason: str = ""
    """Reason for promoting it against the gate."""
    evidence: str = ""
    """SHA-256 of the evaluation that the gate judged."""


@dataclass(frozen=True)
class Entry:
    """A change in the log.

    Attributes:
        number: Increasing number; may have gaps.
        when: Time by MLflow's clock, for display only.
        promotion: The change.
        is_done: Whether the alias is known to have moved.
    """

    number: int
    when: datetime
    promotion: Promotion
    is_done: bool

    def __str__(self) -> str:
        change = self.promotion
        instead = f"instead of {change.before}" if change.before else "as the first"
        parts = [f"{self.number:>4}  {self.when:%Y-%m-%d %H:%M} UTC  version {change.to} {instead}, by {change.by}"]
        if change.kind == "rollback":
            parts.append("rolled back")
        if change.reason:
            parts.append(f"forced: {change.reason}")
        if change.evidence:
            parts.append(f"evaluation {change.evidence[:12]}")
        return ", ".join(parts if self.is_done else [*parts, "not finished"])


class History:
    """The changes of a registered model's champion, as versions of the registered model `NAME.promotions`.

    MLflow can neither write an alias conditionally nor append to a tag. But it gives each version number of a
    registered model to one writer only: the number is a key of its database, and numbers of deleted versions are not
    reused. So each change is a version that names the change it follows, and it counts only if that is the last
    change that counts. All readers find the same winner, without locks or clocks, and a losing change has no effect.
    """

    def __init__(self, client: "MlflowClient", model: str) -> None:
        self._client, self._model, self._name = client, model, f"{model}.promotions"

    def entries(self) -> list[Entry]:
        """Return the valid changes, oldest first.

        Raises:
            FormatError: A later version of the program wrote one.
        """
        counted: list[Entry] = []
        # Without the registered model, there are no versions either.
        found = self._client.search_model_versions(f"name = '{self._name}'")
        for entry in sorted(filter(None, map(_parse, found)), key=lambda entry: entry.number):
            if entry.promotion.after == (counted[-1].number if counted else 0):
                counted.append(entry)
        return counted

    def append(self, promotion: Promotion) -> Entry:
        """Add a change.

        Raises:
            RegistryError: Another change came first.
        """
        self._make()
        created = self._client.create_model_version(
            self._name, f"models:/{self._model}/{promotion.to}", tags={PROMOTION: promotion.model_dump_json()}
        )
        entries = self.entries()
        for entry in entries:
            if entry.number == int(created.version):
                return entry
        winner = next((entry for entry in entries if entry.promotion.after == promotion.after), None)
        first = f"{winner.promotion.by} made version {winner.promotion.to} the champion meanwhile" if winner else ""
        raise RegistryError(
            f"version {promotion.to} is not promoted",
            first or "the history of promotions was changed meanwhile",
            "Run the same command again to compare with the current champion",
        )

    def mark_done(self, entry: Entry) -> None:
        """Note that the alias has moved."""
        self._client.set_model_version_tag(self._name, str(entry.number), DONE, "true")

    def _make(self) -> None:
        from mlflow.exceptions import MlflowException

        about = f"Who made which version of {self._model} its champion, and why. Written by `metasr promote`."
        try:
            self._client.create_registered_model(self._name, description=about)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def champions(entries: Sequence[Entry]) -> list[str]:
    """Return the stack of champions for rollbacks, the current champion last."""
    stack: list[str] = [entries[0].promotion.before] if entries and entries[0].promotion.before else []
    for entry in entries:
        if not entry.is_done:
            continue  # never took effect, because the alias was moved by hand
        if entry.promotion.kind == "rollback":
            del stack[-1:]
        elif stack[-1:] != [entry.promotion.to]:
            stack.append(entry.promotion.to)
    return stack


def forced_with(entries: Sequence[Entry], version: str) -> str:
    """Return the reason for a version's last promotion if it was against the gate; empty if it passed."""
    promotions = (
        entry.promotion.reason
        for entry in reversed(entries)
        if entry.is_done and entry.promotion.kind == "promotion" and entry.promotion.to == version
    )
    return next(promotions, "")


def promoted_with(entries: Sequence[Entry], version: str) -> str:
    """Return the SHA-256 of the evaluation with which a version last became the champion; empty if none."""
    found = (
        entry.promotion.evidence for entry in reversed(entries) if entry.is_done and entry.promotion.to == version
    )
    return next(filter(None, found), "")


def _parse(version: "ModelVersion") -> Entry | None:
    """Return the entry of a version of the log; None if it is not a promotion.

    Raises:
        FormatError: A later version of the program wrote it, so its effect is unknown.
    """
    try:
        content = json.loads(version.tags.get(PROMOTION, ""))
        require_format(content, f"version {version.version} of {version.name}")
        promotion = Promotion.model_validate_json(version.tags[PROMOTION])
    except ValueError:
        log.warning("version %s of %s is not a promotion; ignored", version.version, version.name)
        return None
    when = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    return Entry(int(version.version), when, promotion, DONE in version.tags)
