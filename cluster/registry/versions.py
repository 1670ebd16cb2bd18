"""The versions of a registered model: register a bundle, find a version."""

import re
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.command import command
from cluster.config import TrackingConfig, expand
from cluster.redaction import without_password
from cluster.registry.flavour import bundle_in, save_flavour
from cluster.registry.references import bundle_at, names_place, names_run
from cluster.tracking import WRITABLE, Run, connect, explained, id_of_run
from metasr import manifest
from metasr.errors import CheckpointError, RegistryError, StoreError
from metasr.sources import at_hand

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHALLENGER, CHAMPION = "challenger", "champion"
BUNDLE_DIGEST = "metasr.bundle_sha256"
_REFUSED = ("PERMISSION_DENIED", "UNAUTHENTICATED")
ABOUT = """Generators that super-resolve brain MRI. Research software, not a medical device.

`challenger` is the newest version; `champion` is the one that `metasr promote` has accepted and that `metasr upscale`
uses. The description of an evaluated version is its model card. The history of champions, with reasons, is the
registered model of the same name with the ending `.promotions`."""
RUN = re.compile("(?:runs:/)?([0-9a-f]{32})")
RUN_NAME = re.compile("[^/@]+-[0-9a-f]{10}")


@dataclass(frozen=True)
class Located:
    """A bundle on this machine, and its version of the registered model, if it is registered."""

    folder: Path
    model: str | None = None
    version: str | None = None


class Registry:
    """The versions of one registered model.

    Args:
        storage: Where a run of which no version is registered is looked for by its name; empty for nowhere.

    Attributes:
        config: Address of MLflow, and name of the model.
    """

    def __init__(self, config: TrackingConfig, storage: str = "") -> None:
        self.config, self._storage = config, storage

    @cached_property
    def client(self) -> "MlflowClient":
        """MLflow's client, connected on first use: a bundle in a folder can be used without MLflow."""
        return connect(self.config)

    def register(self, bundle: Path, run: Run) -> str:
        """Log a bundle to its run and register it as a version, the new challenger. Idempotent.

        The logged artifact is a folder that MLflow can load and serve, with the bundle in it.

        Returns:
            The number of the version.

        Raises:
            CheckpointError: It is not a bundle, or it is damaged.
        """
        digest = manifest.digest(bundle)
        self._make_model()
        for known in self.client.search_model_versions(f"name = '{self.config.model}'"):
            if known.run_id == run.run_id and known.tags.get(BUNDLE_DIGEST) == digest:
                version = known.version
                break
        else:
            with tempfile.TemporaryDirectory() as temporary:
                save_flavour(bundle, Path(temporary) / "model")
                source = run.folder(f"model-{digest[:12]}", Path(temporary) / "model")
            version = self.client.create_model_version(
                self.config.model, source, run_id=run.run_id, tags={BUNDLE_DIGEST: digest}
            ).version
        challenger = self.client.get_registered_model(self.config.model).aliases.get(CHALLENGER, 0)
        if int(challenger) < int(version):
            self.client.set_registered_model_alias(self.config.model, CHALLENGER, version)
        return str(version)

    def require_model(self) -> None:
        """Make the model if it is missing, and change it in a way that nobody sees, as who registers must be able to.

        Raises:
            MlflowException: MLflow refuses.
        """
        self._make_model()
        self.client.set_registered_model_tag(self.config.model, WRITABLE, "yes")

    def _make_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.config.model, description=ABOUT)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def locate(self, reference: str, download_to: Path) -> Located:
        """Return the bundle that a reference names.

        Args:
            reference: A reference for `version`, the name of a model that ships, or the folder or URL
                (`file:///...`, `s3://...`) of a bundle, or of a run in its storage: its best checkpoint, as it is for
                the name of a run without a version.
            download_to: Empty folder for a bundle that must be downloaded.

        Raises:
            RegistryError: There is no such version, or no bundle at that place.
            CheckpointError: The downloaded bundle is not the registered one, or it is damaged.
            StoreError: The store cannot be reached, or denies access.
        """
        if (folder := at_hand(reference)) is not None:
            return Located(folder)
        if names_place(reference):
            return Located(bundle_at(reference, download_to))
        try:
            version = self.version(reference)
        except (RegistryError, StoreError):
            run = f"{expand(self._storage)}/{reference}"
            if not (self._storage and RUN_NAME.fullmatch(reference) and names_run(run)):
                raise
            return Located(bundle_at(run, download_to))
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException

        what = f"version {version.version} of {version.name}"
        try:
            fetched = download_artifacts(
                version.source, dst_path=str(download_to), tracking_uri=expand(self.config.uri)
            )
        except (MlflowException, OSError) as error:
            raise CheckpointError(what, "its bundle cannot be downloaded", "Use another version") from error
        folder = bundle_in(Path(fetched))
        if manifest.digest(folder) != version.tags.get(BUNDLE_DIGEST):
            raise CheckpointError(what, "its bundle is not the one that was registered", "Use another version")
        return Located(folder, version.name, str(version.version))

    def version(self, reference: str) -> "ModelVersion":
        """Return the version that a reference names.

        Args:
            reference: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `@ALIAS`, an alias, a number, or the run that
                registered it: its name, its place in its storage, or the ID that MLflow shows, also as `runs:/ID`.

        Raises:
            RegistryError: There is no such version.
            StoreError: MLflow cannot be reached, or denies access.
        """
        from mlflow.exceptions import MlflowException

        if run := RUN.fullmatch(reference):
            return self._registered_by(run[1])
        if names_place(reference):
            return self.of_run(reference.rstrip("/").rpartition("/")[2])
        name, wanted, is_alias = self._parse(reference)
        uri = expand(self.config.uri)
        with explained(uri):
            try:
                if is_alias:
                    return self.client.get_model_version_by_alias(name, wanted)
                return self.client.get_model_version(name, wanted)
            except MlflowException as error:
                if error.error_code in _REFUSED:
                    raise
                if is_alias and RUN_NAME.fullmatch(reference):
                    return self.of_run(reference)
                fix = {
                    CHALLENGER: f"Train one with `{command('train', tracking=self.config)}`",
                    CHAMPION: f"Promote one with `{command('promote', tracking=self.config)}`",
                }.get(wanted, "Give a bundle's folder, an alias or a version")
                raise RegistryError(f"model {reference}", f"no such version at {uri}", fix) from None

    def of_run(self, run_name: str) -> "ModelVersion":
        """Return the version of this model that a run registered, by the name of the run.

        Raises:
            RegistryError: There is none.
            StoreError: MLflow cannot be reached, or refuses.
        """
        uri = expand(self.config.uri)
        with explained(uri):
            run_id = id_of_run(self.client, self.config, run_name)
            found = self.client.search_model_versions(f"run_id = '{run_id}'") if run_id else []
        own = [version for version in found if version.name == self.config.model]
        if not own:
            raise RegistryError(
                f"run {run_name}",
                f"no version of {self.config.model} at {without_password(uri)} was registered by it",
                "If its records wait on the disk of its driver, send them with `metasr sync`",
            )
        return max(own, key=lambda version: int(version.version))

    def _registered_by(self, run_id: str) -> "ModelVersion":
        found = self.client.search_model_versions(f"run_id = '{run_id}'")
        if not found:
            raise RegistryError(
                f"run {run_id}",
                f"it has registered no version at {expand(self.config.uri)}",
                "Give another run; if its records are still on the disk, send them with "
                f"`{command('sync', tracking=self.config)}`",
            )
        return max(found, key=lambda version: (version.creation_timestamp, int(version.version)))

    def _parse(self, reference: str) -> tuple[str, str, bool]:
        path = reference.removeprefix("models:/")
        if path == reference and "/" in path:
            raise RegistryError(f"model {reference}", "there is no such folder", "Give a bundle's folder or an alias")
        name, at, alias = path.rpartition("@")
        if at:
            return name or self.config.model, alias, True
        name, _, version = path.rpartition("/")
        return name or self.config.model, version, not version.isdigit()
