"""Folders that can be trusted: a manifest with the SHA-256 of every file, written last and checked before use."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from metasr.errors import CheckpointError
from metasr.formats import FORMAT, require_known_format

MANIFEST = "manifest.json"


def seal(folder: Path, kind: str, about: dict[str, Any]) -> None:
    """Write the manifest of a folder whose files are complete.

    Args:
        folder: The folder; its subfolders are not part of it.
        kind: What it holds, checked when it is opened.
        about: JSON values that describe it.
    """
    files = {
        path.name: _fingerprint(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST
    }
    manifest = {"format": FORMAT, "kind": kind, "about": about, "files": files}
    content = json.dumps(manifest, indent=2, sort_keys=True)
    partial = folder / f".{MANIFEST}"
    partial.write_text(content + "\n")
    os.replace(partial, folder / MANIFEST)


def unseal(folder: Path, kind: str) -> dict[str, Any]:
    """Check every file of a sealed folder and return what its manifest says about it.

    Raises:
        CheckpointError: The manifest or a file is missing, or a file has changed.
        FormatError: A later version of metasr wrote it.
    """
    manifest = _read(folder, kind)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{kind} {folder}", f"its file {name} is missing", "Use another copy")
        if _fingerprint(path) != expected:
            raise CheckpointError(f"{kind} {folder}", f"{name} differs from its SHA-256", "Use another copy")
    about: dict[str, Any] = manifest["about"]
    return about


def sealed_files(folder: Path) -> dict[str, tuple[str, int]]:
    """Return SHA-256 and length of the files of a sealed folder, as its manifest says them: none is read for that.

    Raises:
        CheckpointError: Its manifest cannot be read.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
        return {name: (known["sha256"], known["bytes"]) for name, known in files.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"folder {folder}", f"its {MANIFEST} cannot be read", "Use another copy") from error


def digest(folder: Path) -> str:
    """Return the SHA-256 of a sealed folder's manifest, which names all it holds.

    Raises:
        CheckpointError: It has no manifest.
    """
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"folder {folder}", f"its {MANIFEST} cannot be read", "Use another copy") from error


def _read(folder: Path, kind: str) -> dict[str, Any]:
    try:
        content = (folder / MANIFEST).read_text()
        manifest: dict[str, Any] = json.loads(content)
    except FileNotFoundError as error:
        reason = f"it has no {MANIFEST}" if folder.is_dir() else "there is no such folder"
        raise CheckpointError(f"{kind} {folder}", reason, f"Give the folder of a {kind}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{kind} {folder}", f"its {MANIFEST} cannot be read", "Use another copy") from error
    require_known_format(content, f"{kind} {folder}")
    whole = isinstance(manifest, dict) and all(isinstance(manifest.get(key), dict) for key in ("about", "files"))
    if not whole or manifest.get("kind") != kind:
        raise CheckpointError(f"{kind} {folder}", f"its {MANIFEST} is not that of a {kind}", f"Give a {kind}")
    return manifest


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
