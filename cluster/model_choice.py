"""The model that a command uses: the one asked for, else the champion, else the one that ships with metasr."""

from contextlib import suppress
from pathlib import Path

from cluster.config import TrackingConfig, expand
from metasr.errors import RegistryError
from metasr.sources import DEFAULT, at_hand, released_bundle, released_models

RELEASED = f"released {DEFAULT}"
"""The version that stands for the model that ships with metasr, where nobody asked for another."""
MODEL_HELP = (
    "folder of a bundle, alias, version or run, by name or URL, or a model that ships with metasr:"
    f" {', '.join(released_models())} [champion; else {DEFAULT}]"
)


def choose_bundle(reference: str | None, tracking: TrackingConfig, download_to: Path) -> tuple[Path, str]:
    """Return the folder of a bundle, and the version that it is of a registered or shipped model, if it is one.

    A folder needs no registry, and none of its libraries; nor does the released model where no registry is yet.

    Args:
        reference: Folder of a bundle, name of a model that ships, alias, version or run; None for the champion, or,
            where there is none, the released model.
        tracking: Where the registry is.
        download_to: Empty folder for what must be fetched.

    Raises:
        RegistryError: There is no such model.
        CheckpointError: It is damaged.
        StoreError: The registry cannot be reached, or denies access.
    """
    if reference and (folder := at_hand(reference)):
        return folder, f"released {reference}" if reference in released_models() else ""
    if not reference and _has_no_registry(tracking):
        with suppress(RegistryError):  # none ships: the registry's own error says what to do
            return released_bundle(), RELEASED
    try:
        from cluster.registry import Registry  # takes MLflow, which takes seconds

        located = Registry(tracking).locate(reference or "champion", download_to)
    except (RegistryError, ModuleNotFoundError) as error:
        if reference:
            raise
        try:
            return released_bundle(), RELEASED
        except RegistryError:
            raise error from None
    return located.folder, f"{located.model} {located.version}" if located.model else ""


def _has_no_registry(tracking: TrackingConfig) -> bool:
    database = expand(tracking.uri)
    return database.startswith("sqlite:///") and not Path(database.removeprefix("sqlite:///")).exists()
