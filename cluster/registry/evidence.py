"""Evaluations as evidence: sealed with all they depend on, and bound to one version by hash."""

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
from metasr.formats import FORMAT, FORMAT_KEY, require_format
from metasr.scale import Scale

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

EVALUATION = "metasr.evaluation"
GAINS: dict[str, Measure] = {"psnr_db": "psnr", "ssim": "ssim"}
KIND = "evaluation"


def record_evaluation(
    registry: Registry, reference: str, about: Mapping[str, Any], evidence: Evidence, results: Path
) -> None:
    """Seal the folder of an evaluation and bind it to a version: an artifact of its run, with its SHA-256 as a tag.

    The tag is what counts: if interrupted before it is set, the earlier evaluation stays valid. The description, set
    last, is a copy of the card for people; the card that is sealed with the scores is authoritative.

    Args:
        registry: Registry of the version.
        reference: The version, see `Registry.version`.
        about: Manifest of the bundle.
        evidence: What the results depend on.
        results: Folder with `scores.csv`; a card and a manifest are added.

    Raises:
        RegistryError: The evaluated bundle is not that of the version.
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
    tag = json.dumps({FORMAT_KEY: FORMAT, "sha256": digest, "artifact": name})
    registry.client.set_model_version_tag(found.name, found.version, EVALUATION, tag)
    registry.client.update_model_version(found.name, found.version, description(card, name))


def evaluation_of(registry: Registry, version: "ModelVersion", sha256: str = "") -> Evaluated:
    """Return the newest evaluation of a version, or an earlier one, verified.

    Args:
        registry: Registry of the version.
        version: The version.
        sha256: SHA-256 of an earlier evaluation's manifest; empty: the newest evaluation.

    Raises:
        RegistryError: There is none, it belongs to another version, or it was changed.
        FormatError: A later version of the program recorded it.
    """
    with tempfile.TemporaryDirectory() as temporary:
        return fetch_evaluation(registry, version, Path(temporary), sha256)[0]


def fetch_evaluation(
    registry: Registry, version: "ModelVersion", to: Path, sha256: str = ""
) -> tuple[Evaluated, Path]:
    """Download an evaluation of a version and verify it; return it, and the folder of its files.

    The tag holds the SHA-256 of the manifest; the manifest holds that of every file and of the bundle. So changed
    files and evaluations of other versions are detected. Whoever may write to MLflow and to its artifacts can forge
    evidence: MLflow's permissions must prevent that.

    Raises:
        RegistryError, FormatError: As for `evaluation_of`.
    """
    what, again = f"the evaluation of version {version.version}", evaluate_again(registry, version)
    if EVALUATION not in version.tags:
        raise RegistryError(f"version {version.version}", "it has not been evaluated", again)
    tagged = _tag(version.tags[EVALUATION], what, again)
    digest, artifact = (sha256, _artifact(version, sha256)) if sha256 else tagged
    folder = _download(registry, str(version.run_id), artifact, to, what, again)
    try:
        if manifest.digest(folder) != digest:
            raise RegistryError(what, "its manifest is not the one that was recorded", again)
        about = manifest.unseal(folder, KIND)
    except CheckpointError as error:
        raise RegistryError(what, error.why, again) from error
    require_format(about, what)
    try:
        evidence = Evidence.model_validate(about)
        scores = from_csv((folder / SCORES).read_text())
        outcomes = outcomes_from_csv((folder / OUTCOMES).read_text()) if evidence.downstream else []
    except (ValidationError, ValueError, KeyError, TypeError, OSError, csv.Error) as error:
        raise RegistryError(what, "another version of the program made it", again) from error
    if evidence.bundle_sha256 != version.tags.get(BUNDLE_DIGEST):
        raise RegistryError(what, "it belongs to another bundle", again)
    if {str(score.scale) for score in scores} != set(evidence.scales):
        raise RegistryError(what, "its scores are not at the scales that its manifest names", again)
    return Evaluated(evidence, digest, scores, outcomes), folder


def require_comparable(
    registry: Registry, ours: Evaluated, theirs: Evaluated, version: "ModelVersion", champion: "ModelVersion"
) -> None:
    """Raise RegistryError, with what to run, unless two evaluations measured the same on the same data."""
    what = f"versions {version.version} and {champion.version} (the champion) cannot be compared"
    mine, other = ours.evidence, theirs.evidence
    if (mine.degradation, mine.noise) != (other.degradation, other.noise):
        raise RegistryError(
            what,
            f"their LR is made differently: {mine.degradation}, noise {mine.noise:g}, and "
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
    """Return the instruction for a version without evidence."""
    return f"Run `{command('evaluate', '--model', reference_to(version), tracking=registry.config)}`"


def reference_to(version: "ModelVersion") -> str:
    """Return a reference to a version that does not depend on tracking.model."""
    return f"models:/{version.name}/{version.version}"


def _artifact(version: "ModelVersion", sha256: str) -> str:
    return f"evaluation-version-{version.version}-{sha256[:12]}"


def _tag(text: str, what: str, again: str) -> tuple[str, str]:
    try:
        content = json.loads(text)
        require_format(content, what)
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
    """Return the subjects, slices, scales and regions that the model was scored on."""
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
