"""The model registry: register a bundle, find one again, judge it, promote it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import TrackingConfig, expand
from cluster.tracking import Run, connect
from metasr import manifest
from metasr.errors import CheckpointError, RegistryError
from metasr.evaluation import Mean, Score, mean_by_scale
from metasr.scale import Scale

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION = "challenger", "champion"
BUNDLE_DIGEST = "metasr.bundle_sha256"
EVALUATION = "metasr.evaluation"


@dataclass(frozen=True)
class Located:
    """A bundle on this machine, and the version of the registered model that it is, if it is one."""

    folder: Path
    model: str | None = None
    version: str | None = None


class Registry:
    """The versions of one registered model."""

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config
        self._client = connect(config)

    def register(self, bundle: Path, run: Run) -> str:
        """Keep a bundle with its run and make it a version, the new challenger. Doing it again changes nothing."""
        from mlflow.exceptions import MlflowException

        digest = manifest.digest(bundle)
        try:
            self._client.create_registered_model(self.config.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        for known in self._client.search_model_versions(f"name = '{self.config.model}'"):
            if known.run_id == run.run_id and known.tags.get(BUNDLE_DIGEST) == digest:
                version = known.version
                break
        else:
            source = run.folder(f"bundle-{digest[:12]}", bundle)
            version = self._client.create_model_version(
                self.config.model, source, run_id=run.run_id, tags={BUNDLE_DIGEST: digest}
            ).version
        challenger = self._client.get_registered_model(self.config.model).aliases.get(CHALLENGER, 0)
        if int(challenger) < int(version):
            self._client.set_registered_model_alias(self.config.model, CHALLENGER, version)
        return str(version)

    def locate(self, reference: str, download_to: Path) -> Located:
        """Return the bundle that a reference names.

        Args:
            reference: A bundle's folder, `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or just an alias or version.
            download_to: Empty folder for a bundle that has to be fetched.

        Raises:
            RegistryError: There is no such version.
            CheckpointError: What was fetched is not what was registered.
        """
        if Path(reference).is_dir():
            return Located(Path(reference))
        version = self.version(reference)
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        what = f"version {version.version} of {version.name}"
        try:
            folder = Path(
                download_artifacts(version.source, dst_path=str(download_to), tracking_uri=expand(self.config.uri))
            )
        except (MlflowException, OSError) as error:
            raise CheckpointError(what, "its bundle cannot be fetched", "Use another version") from error
        if manifest.digest(folder) != version.tags.get(BUNDLE_DIGEST):
            raise CheckpointError(what, "its bundle is not the one that was registered", "Use another version")
        return Located(folder, version.name, str(version.version))

    def version(self, reference: str) -> "ModelVersion":
        """Return the version that `models:/NAME@ALIAS`, `models:/NAME/VERSION`, an alias or a number names."""
        from mlflow.exceptions import MlflowException

        name, wanted, is_alias = self._parse(reference)
        try:
            if is_alias:
                return self._client.get_model_version_by_alias(name, wanted)
            return self._client.get_model_version(name, wanted)
        except MlflowException:
            fix = {
                CHALLENGER: "Train one with `metasr train`",
                CHAMPION: "Promote one with `metasr promote`",
            }.get(wanted, "Give a bundle's folder, an alias or a version")
            where = f"no such version at {expand(self.config.uri)}"
            raise RegistryError(f"model {reference}", where, fix) from None

    def record_evaluation(self, reference: str, scores: Sequence[Score], data_digest: str, results: Path) -> None:
        """Bind an evaluation to a version: means as a tag and as metrics of its run, the folder as its artifact."""
        found = self.version(reference)
        means = mean_by_scale(scores)
        evidence = {
            "bundle_sha256": found.tags[BUNDLE_DIGEST],
            "data_sha256": data_digest,
            "subjects": len({score.subject for score in scores}),
            "psnr": {method: _by_scale(means, method, "psnr") for method in ("bicubic", "model")},
            "ssim": {method: _by_scale(means, method, "ssim") for method in ("bicubic", "model")},
        }
        run = Run(self.config, found.run_id)
        metrics = {
            f"eval_{kind}_{method}_x{scale}": value
            for kind in ("psnr", "ssim")
            for method, values in evidence[kind].items()
            for scale, value in values.items()
        }
        run.log(0, metrics)
        run.folder(f"evaluation-version-{found.version}", results)
        self._client.set_model_version_tag(found.name, found.version, EVALUATION, json.dumps(evidence))

    def promote(self, reference: str, force: str = "") -> tuple[str, str | None]:
        """Make a version the champion if its evaluation says it may be.

        Args:
            reference: The version, see `version`.
            force: Reason for promoting without or against the evidence; it is recorded.

        Returns:
            The new champion and the one before it.

        Raises:
            RegistryError: It was not evaluated, or it is worse than bicubic at some scale.
            CheckpointError: Its bundle is not the one that was registered, or it is damaged.
        """
        found = self.version(reference)
        with tempfile.TemporaryDirectory() as download:
            manifest.unseal(self.locate(f"models:/{found.name}/{found.version}", Path(download)).folder, "bundle")
        if force:
            self._client.set_model_version_tag(found.name, found.version, "metasr.promotion_forced", force)
        else:
            check_gate(str(found.version), found.tags)
        before = self._client.get_registered_model(found.name).aliases.get(CHAMPION)
        self._client.set_registered_model_alias(found.name, CHAMPION, found.version)
        return str(found.version), None if before is None else str(before)

    def _parse(self, reference: str) -> tuple[str, str, bool]:
        path = reference.removeprefix("models:/")
        if path == reference and "/" in path:
            raise RegistryError(f"model {reference}", "there is no such folder", "Give a bundle's folder or an alias")
        name, at, alias = path.rpartition("@")
        if at:
            return name, alias, True
        name, _, version = path.rpartition("/")
        return name or self.config.model, version, not version.isdigit()


def check_gate(version: str, tags: Mapping[str, str]) -> None:
    """Raise RegistryError unless the evaluation in a version's tags is its own and nowhere below bicubic."""
    if EVALUATION not in tags:
        raise RegistryError(
            f"version {version}", "it has not been evaluated", f"Run `metasr evaluate --model {version}` first"
        )
    evidence = json.loads(tags[EVALUATION])
    if evidence["bundle_sha256"] != tags[BUNDLE_DIGEST]:
        raise RegistryError(f"version {version}", "its evaluation is that of another bundle", "Evaluate it again")
    for measure, name, form in (("psnr", "PSNR", ".2f"), ("ssim", "SSIM", ".4f")):
        for scale, model in evidence[measure]["model"].items():
            bicubic = evidence[measure]["bicubic"][scale]
            if not model >= bicubic:  # also where one is NaN
                raise RegistryError(
                    f"version {version} is not promoted",
                    f"at scale {scale} its {name} is {model:{form}} and that of bicubic {bicubic:{form}}",
                    'Train longer, or give a reason with --force "..."',
                )


def _by_scale(means: Mapping[tuple[Scale, str], Mean], method: str, kind: str) -> dict[str, float]:
    return {str(scale): getattr(mean, kind) for (scale, name), mean in means.items() if name == method}
