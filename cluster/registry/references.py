"""Models named by location instead of version: a bundle in a folder or a store, or a run (its best checkpoint)."""

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.run import LEDGER
from cluster.registry.flavour import bundle_in
from cluster.store import NotThereError, Store, open_store
from metasr import manifest
from metasr.errors import CheckpointError, RegistryError
from metasr.manifest import MANIFEST

BUNDLE = "bundle"  # kind of a bundle's manifest, and name of its folder in a checkpoint


def names_place(reference: str) -> bool:
    """Return whether a reference is an existing folder, or the URL of a folder or of a place in a store."""
    return reference.startswith(("s3:", "file:")) or Path(reference).is_dir()


def names_run(place: str) -> bool:
    """Return whether the checkpoints of a run are at a place."""
    return open_store(place).exists(LEDGER)


def bundle_at(place: str, download_to: Path) -> Path:
    """Return the local folder of the bundle at a place, downloaded if necessary.

    Args:
        place: Folder or URL of a bundle, or of a run, whose best checkpoint has one.
        download_to: Folder for a bundle that must be downloaded.

    Raises:
        RegistryError: There is neither a bundle nor a run.
        CheckpointError: The run has no checkpoint with a score, or the bundle is damaged.
        StoreError: The store cannot be reached, or denies access.
    """
    if place.startswith("s3:"):
        return _in_store(place, download_to)
    folder = Path(unquote(urlsplit(place).path) if place.startswith("file:") else place)
    if not folder.is_dir():
        raise RegistryError(f"model {place}", "there is no such folder", "Give the folder of a bundle or of a run")
    return _best_of_run(str(folder.resolve()), download_to) if (folder / LEDGER).is_file() else bundle_in(folder)


def _in_store(url: str, download_to: Path) -> Path:
    store = open_store(url)
    if store.exists(MANIFEST):
        return _fetch(store, download_to)
    if store.exists(LEDGER):
        return _best_of_run(store.url, download_to)
    store.require()
    raise RegistryError(
        f"model {url}", f"it has no {MANIFEST} and no {LEDGER}", "Give the URL of a bundle or of a run"
    )


def _fetch(store: Store, folder: Path) -> Path:
    what, content = f"bundle {store.url}", store.get(MANIFEST)
    try:
        sealed = json.loads(content)
        names = [Path(name).name for name in sealed["files"] if sealed["kind"] == BUNDLE]
    except (ValueError, KeyError, TypeError):
        names = []
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in names:
            (folder / name).write_bytes(store.get(name))
        (folder / MANIFEST).write_bytes(content)
        manifest.unseal(folder, BUNDLE)
    except NotThereError:
        raise CheckpointError(what, f"its file {name} is missing", "Use another copy") from None
    except CheckpointError as error:  # its message names the temporary folder
        raise CheckpointError(what, error.why, error.fix) from None
    return folder


def _best_of_run(place: str, folder: Path) -> Path:
    parent, slash, name = place.rpartition("/")
    checkpoints = RunCheckpoints(open_store(parent + slash), name)
    best = checkpoints.best()
    if best is None:
        raise CheckpointError(f"run {place}", "none of its checkpoints has a score", "Train until it has validated")
    files = {path: file for path, file in best.files.items() if path.startswith(f"{BUNDLE}/")}
    try:
        checkpoints.fetch(best.model_copy(update={"files": files}), folder)
    except CheckpointError as error:
        raise CheckpointError(f"run {place}", f"the best {error}", "Give one of its versions") from None
    return folder / BUNDLE
