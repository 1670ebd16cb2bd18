"""What the gate said of a version when it was last judged, kept as a tag of the version for whoever lists them."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.registry.history import Entry, forced_with, promoted_with
from cluster.registry.versions import Registry
from cluster.tracking import explained
from metasr.errors import StoreError
from metasr.formats import FORMAT, FORMAT_KEY

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

GATE = "metasr.gate"
LONGEST = 400
"""Characters of the failed rules that are kept: a tag holds few."""


def note_verdict(registry: Registry, version: "ModelVersion", failed: Sequence[str]) -> None:
    """Note on a version which rules of the gate it failed. Nothing relies on it: MLflow may refuse.

    Args:
        registry: Of the version.
        version: The version that was judged.
        failed: Failed rules; none: it passed.
    """
    text = json.dumps({FORMAT_KEY: FORMAT, "failed": "; ".join(failed)[:LONGEST]})
    try:
        with explained(registry.config.uri):
            registry.client.set_model_version_tag(version.name, version.version, GATE, text)
    except StoreError:
        return


def verdict_of(version: "ModelVersion", entries: Sequence[Entry]) -> str:
    """Return what the gate said of a version, in words; empty if it never judged it.

    Args:
        version: The version.
        entries: The history of champions, which knows of versions that were promoted.
    """
    number = str(version.version)
    if reason := forced_with(entries, number):
        return f"promoted against it: {reason}"
    try:
        failed = json.loads(version.tags[GATE])["failed"]
        return f"failed: {failed}" if failed else "passed"
    except (KeyError, ValueError, TypeError):
        return "passed" if promoted_with(entries, number) else ""
