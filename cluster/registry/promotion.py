"""Promote a version to champion: judge it, record the change, then move the alias if nobody else has.

Guarantees, from an entry in the history (see `History`) that is written before the alias moves:

- Of concurrent promotions one wins, and the errors of the others name it. A promotion is judged against the champion
  that it replaces, never against an older one.
- A promotion that is interrupted at any moment either has no effect or is finished by the next command.
- Entries are never removed: a rollback is an entry as well.

Not guaranteed, because MLflow cannot write an alias conditionally: safety against moves of `champion` by hand. The
next command reports such a move and changes nothing, unless it promotes the version that the alias was moved to. If
the alias was deleted, the champion of the history still counts: versions are judged against it, and promoting it
restores the alias. Two windows remain. Between reading and writing the alias (milliseconds), a move by hand is
overwritten. A move back to the previous version, between writing the alias and marking the entry as done, looks like
an interruption and is undone. A process that freezes between reading and writing, and continues after later
promotions, sees them right after its write and sets the alias to the newest; if killed at that moment, it leaves the
old alias, which is reported like a move by hand.
"""

import getpass
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.command import command
from cluster.config import GateConfig, TrackingConfig, expand
from cluster.registry.examination import Candidate, Tell, examine
from cluster.registry.history import Entry, History, Promotion, champions, forced_with
from cluster.registry.verdict import note_verdict
from cluster.registry.versions import CHAMPION, Registry
from cluster.tracking import explained
from metasr import manifest
from metasr.errors import RegistryError

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FORCED = "metasr.promotion_forced"


def promote(
    registry: Registry, reference: str, gate: GateConfig, tell: Tell, *, force: str | None = None
) -> tuple[str, str | None]:
    """Make a version the champion if it passes the gate. Idempotent.

    Args:
        registry: Registry of the version.
        reference: The version, see `Registry.version`.
        gate: Settings of the gate.
        tell: Called with the comparisons and results, line by line, before the alias moves.
        force: Reason for promoting without or against the evidence; recorded only if it was needed.

    Returns:
        The new champion and the previous one.

    Raises:
        RegistryError: A rule of the gate fails, another promotion came first, the alias was moved by hand, or the
            reason is empty.
        CheckpointError: Its bundle is not the one that was registered, or it is damaged.
        StoreError: MLflow cannot be reached.
    """
    _demand_reason(force)
    with explained(expand(registry.config.uri)):
        found = registry.version(reference)
        version = str(found.version)
        champion = _Champion(registry, str(found.name), tell)
        about = champion.require_whole(version)
        entries, alias = champion.settle(version)
        # If the alias was moved by hand to this version, or deleted, the champion is still that of the history.
        incumbent = entries[-1].promotion.to if entries else alias
        if version == alias == incumbent:
            return version, version
        candidate = Candidate(found, about, champion.find(incumbent), entries)
        evidence, reason = _judge(registry, candidate, gate, tell, force)
        champion.move_to(
            Promotion(
                after=entries[-1].number if entries else 0,
                kind="promotion",
                before=incumbent,
                to=version,
                by=_who(),
                reason=reason,
                evidence=evidence,
            )
        )
        return version, incumbent


def rollback(registry: Registry, tell: Tell) -> tuple[str, str]:
    """Return to the previous champion; twice goes back two. The gate is not applied again.

    If a rollback was interrupted, only finish it. Report the reason if that version was promoted against the gate.

    Returns:
        The new champion and the one it replaces.

    Raises:
        RegistryError: There is no previous one, another promotion came first, or the alias was moved by hand.
        CheckpointError: Its bundle is not the one that was registered, or it is damaged.
        StoreError: MLflow cannot be reached.
    """
    with explained(expand(registry.config.uri)):
        champion = _Champion(registry, registry.config.model, tell)
        began = champion.entries()[-1:]
        entries, _ = champion.settle()
        if began and not began[0].is_done and began[0].promotion.kind == "rollback":
            champion.tell_if_forced(began[0].promotion.to)
            return began[0].promotion.to, str(began[0].promotion.before)  # this rollback, interrupted
        *_, to, now = [None, None, *champions(entries)]
        if to is None or now is None:
            lists = command("promote", "--history", tracking=registry.config)
            what = f"model {registry.config.model}"
            raise RegistryError(what, "it has no previous champion", f"`{lists}` lists them")
        champion.require_whole(to)
        champion.tell_if_forced(to)
        change = Promotion(after=entries[-1].number, kind="rollback", before=now, to=to, by=_who())
        champion.move_to(change)
        return to, now


def history(registry: Registry) -> list[str]:
    """Return a line for each change of champion, oldest first, and one if the alias was moved by hand since."""
    with explained(expand(registry.config.uri)):
        champion = _Champion(registry, registry.config.model, lambda line: None)
        entries, alias = champion.entries(), champion.alias()
        lines = [str(entry) for entry in entries]
        for last in entries[-1:]:
            if alias != last.promotion.to and (last.is_done or alias != last.promotion.before):
                lines.append(f"      the alias {CHAMPION} was moved by hand: {_where(alias)}")
        return lines


def against_gate(registry: Registry, version: str) -> str:
    """Return the reason for a version's last promotion if it was against the gate; empty if it passed."""
    with explained(expand(registry.config.uri)):
        return forced_with(History(registry.client, registry.config.model).entries(), version)


def _demand_reason(force: str | None) -> None:
    """Raise RegistryError if the reason is blank."""
    if force is not None and not force.strip():
        raise RegistryError("--force without a reason", "the reason is recorded", 'Give it: --force "REASON"')


class _Champion:
    """The alias and its history."""

    def __init__(self, registry: Registry, model: str, tell: Tell) -> None:
        self._registry, self._model, self._tell = registry, model, tell
        self._history = History(registry.client, model)
        self.entries = self._history.entries

    def alias(self) -> str | None:
        """Return the version that the alias points at."""
        found = self._registry.client.search_registered_models(f"name = '{self._model}'")
        version = found[0].aliases.get(CHAMPION) if found else None
        return None if version is None else str(version)

    def require_whole(self, version: str) -> dict[str, Any]:
        """Fetch the bundle of a version, check every file, and return its manifest."""
        with tempfile.TemporaryDirectory() as download:
            located = self._registry.locate(f"models:/{self._model}/{version}", Path(download))
            return manifest.unseal(located.folder, "bundle")

    def tell_if_forced(self, version: str) -> None:
        """Report the reason if a version was promoted against the gate."""
        if reason := forced_with(self.entries(), version):
            self._tell(f"version {version} was promoted against the gate, with the reason: {reason}")

    def find(self, version: str | None) -> "ModelVersion | None":
        """Return a version; None, and report it, if it was deleted."""
        from mlflow.exceptions import MlflowException

        if version is None:
            return None
        try:
            return self._registry.client.get_model_version(self._model, version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            self._tell(f"version {version}, the {CHAMPION}, was deleted in MLflow: no comparison with it")
            return None

    def settle(self, wanted: str | None = None) -> tuple[list[Entry], str | None]:
        """Finish an interrupted change; return the history, and the version that the alias points at.

        Args:
            wanted: The version to be promoted; the alias may have been moved to it by hand.

        Raises:
            RegistryError: The alias was moved by hand.
        """
        entries, alias = self.entries(), self.alias()
        if not entries:
            return entries, alias
        last = entries[-1].promotion
        unfinished = not entries[-1].is_done and alias in (last.before, last.to, None)
        if unfinished:
            self._tell(f"finishing the change that {last.by} began: version {last.to} becomes the champion")
        elif alias is None:
            self._tell(f"the alias {CHAMPION} was deleted by hand; it was version {last.to}")
        if unfinished or (alias is None and wanted == last.to):
            self._move(entries[-1])
            entries, alias = self.entries(), self.alias()
            last = entries[-1].promotion
        if alias not in (last.to, wanted, None):
            raise _moved_by_hand(alias, last.to, self._registry.config)
        return entries, alias

    def move_to(self, promotion: Promotion) -> None:
        """Record the change, and move the alias if no other change came first."""
        self._move(self._history.append(promotion))

    def _move(self, entry: Entry) -> None:
        """Move the alias from the expected version, unless there is a later change. Idempotent."""
        change, client = entry.promotion, self._registry.client
        if self.entries()[-1].number == entry.number:
            alias = self.alias()
            if alias not in (change.before, change.to, None):
                raise _moved_by_hand(alias, change.before, self._registry.config)
            if alias != change.to:
                client.set_registered_model_alias(self._model, CHAMPION, change.to)
            self._note_reason(change)
            self._history.mark_done(entry)
        newest = self.entries()[-1]
        if newest.number != entry.number and self.alias() == change.to != newest.promotion.to:
            client.set_registered_model_alias(self._model, CHAMPION, newest.promotion.to)

    def _note_reason(self, change: Promotion) -> None:
        """Tag a version with the reason for a forced promotion; remove the tag after one that passed the gate."""
        client = self._registry.client
        if change.reason:
            client.set_model_version_tag(self._model, change.to, FORCED, change.reason)
        elif change.kind == "promotion" and FORCED in client.get_model_version(self._model, change.to).tags:
            client.delete_model_version_tag(self._model, change.to, FORCED)


def _judge(
    registry: Registry, candidate: Candidate, gate: GateConfig, tell: Tell, force: str | None
) -> tuple[str, str]:
    """Return the SHA-256 of the evaluation, and the reason for overriding the gate; empty if it passed.

    Raises:
        RegistryError: A rule of the gate fails, and there is no reason.
    """
    try:
        evidence, failed = examine(registry, candidate, gate, tell)
    except RegistryError as error:
        if force is None:
            raise
        tell(f"not judged: {error}")
        return "", force
    note_verdict(registry, candidate.version, [finding.rule for finding in failed])
    if failed and force is None:
        reasons = "; ".join(f"{finding.rule}: {finding.numbers}" for finding in failed)
        what = f"version {candidate.version.version} is not promoted"
        raise RegistryError(what, f"not {reasons}", 'Train longer, or give a reason with --force "..."')
    if force and not failed:
        tell("every rule passed, so --force was not needed and its reason is not recorded")
    return evidence, force if force and failed else ""


def _moved_by_hand(alias: str | None, expected: str | None, tracking: TrackingConfig) -> RegistryError:
    accept = command("promote", "--model", str(alias), tracking=tracking)
    return RegistryError(
        f"the alias {CHAMPION} was moved by hand",
        f"{_where(alias)}, but the history of promotions says {expected or 'none'}",
        f"Move it back in MLflow, or accept it with `{accept}`",
    )


def _where(alias: str | None) -> str:
    return f"it points at version {alias}" if alias else "it was deleted"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
