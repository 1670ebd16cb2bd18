"""Where a model comes from: a folder, the one that ships with metasr, or what an installed part knows to fetch.

Parts that reach further, such as the model registry, announce a function `(reference, empty folder) -> folder of the
bundle` in the entry-point group `metasr.sources`.
"""

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from metasr.errors import CheckpointError, RegistryError
from metasr.extras import missing_extra
from metasr.manifest import MANIFEST

GROUP = "metasr.sources"
RELEASED = Path(__file__).with_name("released")
"""A folder for each model that ships, by its name."""
DEFAULT = "fidelity"
GET_ONE = "Give the folder of a bundle; `metasr demo` trains a small one in some minutes"


def find_bundle(source: str | Path | None, download_to: Path) -> Path:
    """Return the folder of a bundle.

    Args:
        source: The folder of a bundle; the name of a model that ships with metasr, `fidelity`; or a
            reference that an installed part knows, such as `models:/meta-srgan@champion` or `s3://bucket/run`.
            None for `fidelity`.
        download_to: Empty folder for what must be fetched.

    Raises:
        RegistryError: There is no such model, or nothing installed knows the reference.
        CheckpointError: What was found is no bundle.
        ConfigError: A library is missing that the reference needs.
    """
    if source is None:
        return released_bundle()
    if (found := at_hand(source)) is not None:
        return found
    folder = Path(source)
    parts = sorted(entry_points(group=GROUP), key=lambda part: part.name)
    if not parts and folder.is_dir():
        raise CheckpointError(f"model {source}", f"the folder has no {MANIFEST}", "Give the folder of a bundle")
    if not parts:
        raise RegistryError(f"model {source}", "there is no such folder", "Give the folder of a bundle")
    return _fetch(parts[0], str(source), download_to)


def at_hand(source: str | Path) -> Path | None:
    """Return the folder of a bundle that nothing must be fetched for: itself, or a model that ships, by its name."""
    if (Path(source) / MANIFEST).is_file():
        return Path(source)
    return released_bundle(str(source)) if source in released_models() else None


def released_models() -> list[str]:
    """Return the names of the models that ship with metasr."""
    return sorted(manifest.parent.name for manifest in RELEASED.glob(f"*/{MANIFEST}"))


def released_bundle(name: str = DEFAULT) -> Path:
    """Return the folder of a model that ships with metasr.

    Raises:
        RegistryError: It does not.
    """
    if name not in released_models():
        raise RegistryError("metasr.load()", f"this version of metasr ships no model {name}", GET_ONE)
    return RELEASED / name


def _fetch(part: EntryPoint, reference: str, download_to: Path) -> Path:
    try:
        folder: Path = part.load()(reference, download_to)
    except ModuleNotFoundError as error:
        if missing := missing_extra(error, f"model {reference}"):
            raise missing from error
        raise
    return folder
