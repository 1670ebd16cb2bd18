"""The champion beside an evaluation: its scores, where both measured the same, and in words what it is otherwise."""

from typing import TYPE_CHECKING, NamedTuple

from cluster.redaction import without_password
from cluster.registry.evidence import evaluation_of, require_comparable
from cluster.registry.gate import CHAMPION_NAME, side_by_side
from cluster.registry.records import Evaluated
from cluster.registry.versions import CHAMPION, Registry
from metasr.errors import MetaSRError, RegistryError
from metasr.evaluation import Score

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


class Beside(NamedTuple):
    """An evaluation with the champion.

    Attributes:
        scores: Of the evaluation, with the champion's as the method `champion` if it can be compared.
        method: That name; empty if it cannot.
        text: Which version it is, or why it is not compared, as a sentence.
        reference: Of the champion, if its scores were added.
    """

    scores: list[Score]
    method: str = ""
    text: str = ""
    reference: str = ""


def beside_champion(registry: Registry, version: "ModelVersion | None", ours: Evaluated) -> Beside:
    """Return the scores of an evaluation with those of the champion.

    Args:
        registry: Registry of the version.
        version: What was evaluated; None for a bundle that is not registered.
        ours: Its evaluation.
    """
    if any(score.method == CHAMPION_NAME for score in ours.scores):
        return Beside(ours.scores, CHAMPION_NAME, "The champion was evaluated beside it.")
    if version is None:
        return Beside(ours.scores)
    reference = f"models:/{version.name}@{CHAMPION}"
    try:
        champion = registry.version(reference)
    except RegistryError:
        return Beside(ours.scores, text="There is no champion to compare with yet.")
    if champion.version == version.version:
        return Beside(ours.scores, text="It is the champion.")
    named = f"version {champion.version}, the champion"
    try:
        theirs = evaluation_of(registry, champion)
        require_comparable(registry, ours, theirs, version, champion)
    except MetaSRError as error:
        return Beside(ours.scores, text=f"It is not compared with {named}: {without_password(str(error))}.")
    scores = [*ours.scores, *side_by_side([], theirs.scores)]
    return Beside(scores, CHAMPION_NAME, f"Compared with {named}.", reference)
