"""The gate applied to a candidate: its evidence against bicubic and against the champion's evidence."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.config import GateConfig
from cluster.registry import gate as rules
from cluster.registry.coverage import require_no_less, require_scales
from cluster.registry.detail import judge_detail, require_detail
from cluster.registry.downstream import judge_downstream, require_comparable_downstream, require_downstream
from cluster.registry.evidence import evaluation_of, reference_to, require_comparable
from cluster.registry.history import Entry, promoted_with
from cluster.registry.records import Evaluated, Evidence
from cluster.registry.versions import Registry
from metasr.config import ModelConfig
from metasr.errors import RegistryError
from metasr.evaluation.methods import BICUBIC_NAME
from metasr.evaluation.tables import comparison_table
from metasr.scale import Scale

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

Tell = Callable[[str], None]


class Candidate(NamedTuple):
    """A version that is to become the champion.

    Attributes:
        version: The version.
        about: Manifest of its bundle.
        champion: The version that it would replace, if there is one to compare with.
        entries: The history, which names the evidence with which the champion was promoted.
    """

    version: "ModelVersion"
    about: Mapping[str, Any]
    champion: "ModelVersion | None"
    entries: Sequence[Entry]


class Examined(NamedTuple):
    """The verdict on a candidate.

    Attributes:
        evidence: SHA-256 of the evaluation that was judged.
        failed: The failed rules, with numbers.
    """

    evidence: str
    failed: list[rules.RuleResult]


def examine(registry: Registry, candidate: Candidate, gate: GateConfig, tell: Tell) -> Examined:
    """Judge a version by its evidence, and report the comparisons and the results of the rules.

    Raises:
        RegistryError: It cannot be judged: evidence is missing, too narrow or not comparable; it says what to run.
    """
    version, champion = candidate.version, candidate.champion
    ours = evaluation_of(registry, version)
    require_scales(ours.evidence, reference_to(version), _only_scale(candidate.about), gate, registry.config)
    require_downstream(ours, reference_to(version), gate, registry.config)
    require_detail(ours, reference_to(version), gate, registry.config)
    scores, theirs = ours.scores, None
    tell(f"version {version.version} against bicubic:\n{comparison_table(scores, BICUBIC_NAME)}")
    if champion is not None and champion.version != version.version:
        theirs = _comparable(registry, candidate, champion, ours, gate)
        scores = rules.side_by_side(scores, theirs.scores)
        table = comparison_table(scores, rules.CHAMPION_NAME)
        tell(f"against version {champion.version}, the champion:\n{table}")
    findings = [
        *rules.judge(scores, gate),
        *judge_detail(ours.scores, gate),
        *judge_downstream(ours.outcomes, theirs.outcomes if theirs else None, gate),
    ]
    tell("\n".join(map(str, findings)))
    return Examined(ours.sha256, [finding for finding in findings if not finding.passed])


def _comparable(
    registry: Registry, candidate: Candidate, champion: "ModelVersion", ours: Evaluated, gate: GateConfig
) -> Evaluated:
    """Return the champion's evaluation, which measured the same, and no less than when it was promoted."""
    theirs = evaluation_of(registry, champion)
    earlier = _promoted_with(registry, candidate.entries, champion, theirs)
    only = _only_scale(candidate.about)
    require_no_less(ours.evidence, earlier, reference_to(candidate.version), only, registry.config)
    require_comparable(registry, ours, theirs, candidate.version, champion)
    require_comparable_downstream(ours, theirs, reference_to(champion), gate, registry.config)
    return theirs


def _promoted_with(
    registry: Registry, entries: Sequence[Entry], champion: "ModelVersion", newest: Evaluated
) -> Evidence:
    """Return the evidence with which the champion was promoted; without any, that of its newest evaluation."""
    sha256 = promoted_with(entries, str(champion.version))
    if sha256 in ("", newest.sha256):
        return newest.evidence
    try:
        return evaluation_of(registry, champion, sha256).evidence
    except RegistryError as error:
        what = f"the evaluation with which version {champion.version} became the champion"
        raise RegistryError(what, error.why, 'Restore it, or give a reason with --force "..."') from error


def _only_scale(about: Mapping[str, Any]) -> Scale | None:
    """Return the single scale that a bundle's network supports; None for any."""
    model = ModelConfig.model_validate(about["config"]["model"])
    return None if model.architecture == "meta_srgan" else Scale.parse(model.fixed_scale)
