"""Models for `metasr.load`: versions, runs and buckets. Announced in pyproject.toml, group `metasr.sources`."""

import os
from pathlib import Path

from cluster.config import StorageConfig, TrackingConfig
from cluster.registry.versions import Registry


def fetch(reference: str, folder: Path) -> Path:
    """Return the folder of the bundle that a reference names.

    Versions are those of MLflow at MLFLOW_TRACKING_URI, or of the database that the commands use by default; runs are
    looked for in `storage.url`'s default.

    Args:
        reference: As for `Registry.locate`.
        folder: Empty folder for a bundle that must be downloaded.

    Raises:
        RegistryError: There is no such version, or no bundle at that place.
        CheckpointError: The bundle is not the registered one, or it is damaged.
        StoreError: MLflow or the store cannot be reached, or denies access.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    tracking = TrackingConfig(uri=uri) if uri else TrackingConfig()
    return Registry(tracking, StorageConfig().url).locate(reference, folder).folder
