"""What an evaluation proves: sealed with all it depends on, and bound to one version by hash."""

import csv
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cluster.command import command
from cluster.config import expand
from cluster.formats import FIRST, KEY, require_format
from cluster.registry.card import CARD, description, model_card
from cluster.registry.records import Evaluated, Evidence
from cluster.registry.versions import BUNDLE_DIGEST, Registry
from cluster.tracking import Run
from metasr import manifest
from metasr.errors import CheckpointError, RegistryError
from metasr.evaluation import Mean, Score, differences, mean_by_scale
from metasr.evaluation.folder import OUTCOMES, SCORES
from metasr.evaluation.methods import BICUBIC_NAME
from metasr.evaluation.outcomes import from_csv as outcomes_from_csv
from metasr.evaluation.statistics import Measure
from metasr.evaluation.tables import from_csv
from metasr.scale import Scale

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

EVALUATION = "metasr.evaluation"
GAINS: dict[str, Measure] = {"psnr_db": "psnr", "ssim": "ssim"}
KIND = "evaluation"


def record_evaluation(
    registry: Registry, reference: str, about: Mapping[str, Any], evidence: Evidence, results: Path
) -> None:
    """Seal the folder of an evaluation and bind it to a version: as an artifact of its run, its SHA-256 as a tag.

    The tag decides: an interruption before it leaves the evaluation before. The version's description comes after it,
    a copy of the card for people; the card that is sealed with the scores is the one that counts.

    Args:
        registry: Where the version is.
        reference: The version, see `Registry.version`.
        about: What the manifest of the bundle says.
        evidence: What the results depend on.
        results: Folder with `scores.csv`; it gets a card and a manifest.

    Raises:
        RegistryError: The version's bundle is not the one that was evaluated.
    """
    found = registry.version(reference)
    if evidence.bundle_sha256 != found.tags.get(BUNDLE_DIGEST):
        raise RegistryError(f"version {found.version}", "another bundle was evaluated", "Evaluate it again")
    scores = from_csv((results / SCORES).read_text())
    outcomes = outcomes_from_csv((results / OUTCOMES).read_text()) if evidence.downstream else []
    card = model_card(reference_to(found), about, evidence, scores, outcomes)
    (results / CARD).write_text(card)
    manifest.seal(results, KIND, evidence.model_dump(mode="json"))
    digest = manifest.digest(results)
    name = _artifact(found, digest)
    run = Run(registry.config, str(found.run_id))
    run.log(0, _metrics(scores))
    run.folder(name, results)
    tag = json.dumps({KEY: FIRST, "sha256": digest, "artifact": name})
    registry.client.set_model_version_tag(found.name, found.version, EVALUATION, tag)
    registry.client.update_model_version(found.name, found.version, description(card, name))


def evaluation_of(registry: Registry, version: "ModelVersion", sha256: str = "") -> Evaluated:
    """Return the newest evaluation of a version, which its tag names, or an earlier one, verified.

    The tag names the SHA-256 of the manifest, the manifest that of every file, and the bundle: what was changed
    afterwards, or belongs to another version, is found. Someone who may write to MLflow and to its artifacts can
    make evidence that was never measured; MLflow's permissions are what keeps them from it.

    Args:
        registry: Where the version is.
        version: Whose.
        sha256: Of the manifest of an earlier evaluation; empty: the newest.

    Raises:
        RegistryError: There is none, or it is not that of this version, or it was changed.
        FormatError: A later version of the program recorded it.
    """
    what, again = f"the evaluation of version {version.version}", evaluate_again(registry, version)
    if EVALUATION not in version.tags:
        raise RegistryError(f"version {version.version}", "it has not been evaluated", again)
    tagged = _tag(version.tags[EVALUATION], what, again)
    digest, artifact = (sha256, _artifact(version, sha256)) if sha256 else tagged
    with tempfile.TemporaryDirectory() as temporary:
        folder = _download(registry, str(version.run_id), artifact, Path(temporary), what, again)
        try:
            if manifest.digest(folder) != digest:
                raise RegistryError(what, "its manifest is not the one that was recorded", again)
            about = manifest.unseal(folder, KIND)
        except CheckpointError as error:
            raise RegistryError(what, error.why, again) from error
        require_format(what, about)
        try:
            evidence = Evidence.model_validate(about)
            scores = from_csv((folder / SCORES).read_text())
            outcomes = outcomes_from_csv((folder / OUTCOMES).read_text()) if evidence.downstream else []
        except (ValidationError, ValueError, KeyError, TypeError, OSError, csv.Error) as error:
            raise RegistryError(what, "another version of the program made it", again) from error
    if evidence.bundle_sha256 != version.tags.get(BUNDLE_DIGEST):
        raise RegistryError(what, "it is that of another bundle", again)
    if {str(score.scale) for score in scores} != set(evidence.scales):
        raise RegistryError(what, "its scores are not at the scales that it names", again)
    return Evaluated(evidence, digest, scores, outcomes)


def require_comparable(
    registry: Registry, ours: Evaluated, theirs: Evaluated, version: "ModelVersion", champion: "ModelVersion"
) -> None:
    """Raise RegistryError, with what to run, unless two evaluations measured the same on the same data."""
    what = f"versions {version.version} and {champion.version} (the champion) cannot be compared"
    mine, other = ours.evidence, theirs.evidence
    if (mine.degradation, mine.noise) != (other.degradation, other.noise):
        raise RegistryError(
            what,
            f"they are for LR that is made differently: {mine.degradation}, noise {mine.noise:g}, and "
            f"{other.degradation}, noise {other.noise:g}",
            "Promote it under another tracking.model, or give a reason with --force",
        )
    names = {
        "data_sha256": "data",
        "scales": "scales",
        "slices_per_subject": "slices of each subject",
        "regions": "regions",
    }
    differing = [name for field, name in names.items() if getattr(mine, field) != getattr(other, field)]
    if not differing and _cells(ours.scores) != _cells(theirs.scores):
        differing = ["slices"]
    if differing:
        again = mine.evaluate(reference_to(champion), registry.config)
        raise RegistryError(
            what,
            f"they were evaluated on different {' and '.join(differing)}",
            f"Run `{again}`, and promote again",
        )


def evaluate_again(registry: Registry, version: "ModelVersion") -> str:
    """Return what to do about a version without evidence."""
    return f"Run `{command('evaluate', '--model', reference_to(version), tracking=registry.config)}`"


def reference_to(version: "ModelVersion") -> str:
    """Return a reference that means a version whatever tracking.model is."""
    return f"models:/{version.name}/{version.version}"


def _artifact(version: "ModelVersion", sha256: str) -> str:
    return f"evaluation-version-{version.version}-{sha256[:12]}"


def _tag(text: str, what: str, again: str) -> tuple[str, str]:
    try:
        content = json.loads(text)
        require_format(what, content)
        return str(content["sha256"]), str(content["artifact"])
    except (ValueError, KeyError, TypeError):
        raise RegistryError(what, "another version of the program recorded it, without its SHA-256", again) from None


def _download(registry: Registry, run_id: str, artifact: str, to: Path, what: str, again: str) -> Path:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = expand(registry.config.uri)
    try:
        return Path(download_artifacts(run_id=run_id, artifact_path=artifact, dst_path=str(to), tracking_uri=uri))
    except (MlflowException, OSError) as error:
        raise RegistryError(what, f"its artifact {artifact} cannot be fetched", again) from error


def _cells(scores: Sequence[Score]) -> set[tuple[str, int, Scale, str]]:
    """Return what the model was scored on."""
    return {(score.subject, score.slice, score.scale, score.region) for score in scores if score.method == "model"}


def _metrics(scores: Sequence[Score]) -> dict[str, float]:
    means = mean_by_scale(scores)
    gains = {
        f"evaluation/gain_{name}": fmean(gain.mean for gain in differences(scores, BICUBIC_NAME, measure))
        for name, measure in GAINS.items()
    }
    return gains | {
        f"evaluation/{kind}_{method}_x{scale}": value
        for method in ("bicubic", "model")
        for kind in ("psnr", "ssim")
        for scale, value in _by_scale(means, method, kind).items()
    }


def _by_scale(means: Mapping[tuple[Scale, str], Mean], method: str, kind: str) -> dict[str, float]:
    return {str(scale): getattr(mean, kind) for (scale, name), mean in means.items() if name == method}
