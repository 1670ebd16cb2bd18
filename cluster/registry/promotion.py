"""Move the champion: judged first, written down, and then moved only from where it was.

What is guaranteed, by an entry in the history (see `History`) that is written before the alias moves:

- Of promotions at once one wins, and the others are told which. A promotion is judged against the champion that it
  replaces, never against an older one.
- A promotion that was interrupted, at any moment, has no effect or is finished by the next one, whoever runs it.
- What was written down stays: rolling back is an entry as well.

What is not, because MLflow writes an alias without a condition: someone who moves `champion` by hand in MLflow. That
is found and told by the next command, which changes nothing unless it is to promote the version to which the alias
was moved. Two moments remain: between our look at the alias and our write (milliseconds), a move by hand is
overwritten; and a move back to the version before, between our write and the note that it is done, looks like an
interruption and is undone. A promoter that was frozen between its look and its write, and wakes up after later
promotions, sees them right after its write and puts the alias to the newest; killed just then it leaves the alias
behind, which is told like a move by hand.
"""

import getpass
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import GateConfig, expand
from cluster.registry import gate as rules
from cluster.registry.downstream import judge_downstream, require_comparable_downstream, require_downstream
from cluster.registry.evidence import evaluation_of, reference_to, require_comparable
from cluster.registry.history import Entry, History, Promotion, champions
from cluster.registry.versions import CHAMPION, Registry
from cluster.tracking import explained
from metasr import manifest
from metasr.errors import RegistryError
from metasr.evaluation.methods import BICUBIC_NAME
from metasr.evaluation.tables import comparison_table

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FORCED = "metasr.promotion_forced"
Tell = Callable[[str], None]


def promote(
    registry: Registry, reference: str, gate: GateConfig, tell: Tell, *, force: str | None = None
) -> tuple[str, str | None]:
    """Make a version the champion if its evaluation says it may be. Running it again is safe.

    Args:
        registry: Where the version is.
        reference: The version, see `Registry.version`.
        gate: What it must show.
        tell: Told what was compared and found, line by line, before anything moves.
        force: Reason for promoting without or against the evidence; it is recorded.

    Returns:
        The new champion and the one before it.

    Raises:
        RegistryError: The gate does not let it through, another promotion came first, the alias was moved by hand, or
            the reason is empty.
        CheckpointError: Its bundle is not the one that was registered, or it is damaged.
        StoreError: MLflow cannot be reached.
    """
    _demand_reason(force)
    with explained(expand(registry.config.uri)):
        found = registry.version(reference)
        version = str(found.version)
        champion = _Champion(registry, str(found.name), tell)
        champion.require_whole(version)
        entries, alias = champion.settle(version)
        # Where the alias was moved by hand to this version, the champion is still the one of the history.
        incumbent = entries[-1].promotion.to if entries and alias is not None else alias
        if version == alias == incumbent:
            return version, version
        evidence = _examine(registry, found, incumbent, gate, tell, force)
        champion.move_to(
            Promotion(
                after=entries[-1].number if entries else 0,
                kind="promotion",
                before=incumbent,
                to=version,
                by=_who(),
                reason=force or "",
                evidence=evidence,
            )
        )
        return version, incumbent


def rollback(registry: Registry, tell: Tell) -> tuple[str, str]:
    """Return to the champion before; twice goes back two. It was let through once, and the gate is not asked again.

    A rollback that was interrupted is finished, and that is all.

    Returns:
        The new champion and the one it replaces.

    Raises:
        RegistryError: There was none before, another promotion came first, or the alias was moved by hand.
        CheckpointError: Its bundle is not the one that was registered, or it is damaged.
        StoreError: MLflow cannot be reached.
    """
    with explained(expand(registry.config.uri)):
        champion = _Champion(registry, registry.config.model, tell)
        began = champion.entries()[-1:]
        entries, alias = champion.settle()
        if began and not began[0].is_done and began[0].promotion.kind == "rollback":
            return began[0].promotion.to, str(began[0].promotion.before)  # it was this one, interrupted
        *_, to, now = [None, None, *champions(entries)]
        if to is None or now is None:
            raise RegistryError(
                f"model {registry.config.model}", "it had no champion before", "`metasr promote --history` lists them"
            )
        champion.require_whole(to)
        change = Promotion(after=entries[-1].number, kind="rollback", before=alias, to=to, by=_who())
        champion.move_to(change)
        return to, now


def history(registry: Registry) -> list[str]:
    """Return a line for each change of champion, oldest first; one more if the alias was moved by hand since."""
    with explained(expand(registry.config.uri)):
        champion = _Champion(registry, registry.config.model, lambda line: None)
        entries, alias = champion.entries(), champion.alias()
        lines = [str(entry) for entry in entries]
        for last in entries[-1:]:
            if alias != last.promotion.to and (last.is_done or alias != last.promotion.before):
                lines.append(f"      the alias {CHAMPION} was moved by hand: {_where(alias)}")
        return lines


def _demand_reason(force: str | None) -> None:
    """Raise RegistryError if a reason was given and says nothing."""
    if force is not None and not force.strip():
        raise RegistryError("--force without a reason", "it is recorded", "Say why, in words")


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

    def require_whole(self, version: str) -> None:
        """Fetch the bundle of a version and check every file."""
        with tempfile.TemporaryDirectory() as download:
            located = self._registry.locate(f"models:/{self._model}/{version}", Path(download))
            manifest.unseal(located.folder, "bundle")

    def settle(self, wanted: str | None = None) -> tuple[list[Entry], str | None]:
        """Finish what was interrupted; return the history, and where the alias is.

        Args:
            wanted: A version to which the alias may have been moved by hand, as it is to be promoted.

        Raises:
            RegistryError: The alias was moved by hand.
        """
        entries, alias = self.entries(), self.alias()
        if not entries:
            return entries, alias
        last = entries[-1].promotion
        if not entries[-1].is_done and alias in (last.before, last.to):
            self._tell(f"finishing what {last.by} began: version {last.to} becomes the champion")
            self._move(entries[-1])
            entries, alias = self.entries(), self.alias()
            last = entries[-1].promotion
        if alias is None:
            self._tell(f"the alias {CHAMPION} was deleted by hand; it was version {last.to}")
        elif alias not in (last.to, wanted):
            raise _moved_by_hand(alias, last.to)
        return entries, alias

    def move_to(self, promotion: Promotion) -> None:
        """Write the change down, and move the alias if no other came first."""
        self._move(self._history.append(promotion))

    def _move(self, entry: Entry) -> None:
        """Move the alias from where it was, unless a later change has come; doing it again changes nothing."""
        change, client = entry.promotion, self._registry.client
        if self.entries()[-1].number == entry.number:
            if change.reason:
                client.set_model_version_tag(self._model, change.to, FORCED, change.reason)
            alias = self.alias()
            if alias not in (change.before, change.to):
                raise _moved_by_hand(alias, change.before)
            if alias != change.to:
                client.set_registered_model_alias(self._model, CHAMPION, change.to)
            self._history.mark_done(entry)
        newest = self.entries()[-1]
        if newest.number != entry.number and self.alias() == change.to != newest.promotion.to:
            client.set_registered_model_alias(self._model, CHAMPION, newest.promotion.to)


def _examine(
    registry: Registry, found: "ModelVersion", incumbent: str | None, gate: GateConfig, tell: Tell, force: str | None
) -> str:
    """Tell what the gate finds; return the SHA-256 of the evaluation. Raise RegistryError if it may not pass."""
    what = f"version {found.version} is not promoted"
    try:
        ours = evaluation_of(registry, found)
        require_downstream(ours, reference_to(found), gate)
        scores, champions_outcomes = ours.scores, None
        tell(f"version {found.version} against bicubic:\n{comparison_table(scores, BICUBIC_NAME)}")
        if incumbent is not None and incumbent != str(found.version):
            champion = registry.client.get_model_version(found.name, incumbent)
            theirs = evaluation_of(registry, champion)
            require_comparable(ours, theirs, found, champion)
            require_comparable_downstream(ours, theirs, reference_to(champion), gate)
            champions_outcomes = theirs.outcomes
            scores = rules.side_by_side(scores, theirs.scores)
            table = comparison_table(scores, rules.CHAMPION_NAME)
            tell(f"against version {incumbent}, the champion:\n{table}")
    except RegistryError as error:
        if force is None:
            raise
        tell(f"not judged: {error}")
        return ""
    findings = [*rules.judge(scores, gate), *judge_downstream(ours.outcomes, champions_outcomes, gate)]
    tell("\n".join(map(str, findings)))
    failed = [finding for finding in findings if not finding.passed]
    if failed and force is None:
        reasons = "; ".join(f"{finding.rule}: {finding.numbers}" for finding in failed)
        raise RegistryError(what, f"not {reasons}", 'Train longer, or give a reason with --force "..."')
    return ours.sha256


def _moved_by_hand(alias: str | None, expected: str | None) -> RegistryError:
    return RegistryError(
        f"the alias {CHAMPION} was moved by hand",
        f"{_where(alias)}, and the history of promotions says {expected or 'none'}",
        f"Put it back in MLflow, or accept it with `metasr promote --model {alias}`",
    )


def _where(alias: str | None) -> str:
    return f"it points at version {alias}" if alias else "it is gone"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        user = f"user {os.getuid()}"
    return f"{user} on {socket.gethostname()}"
