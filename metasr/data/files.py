"""Files of a data set: all that a folder holds, and whether it is they that are at fault when they cannot be read."""

import errno
import os
from collections import deque
from pathlib import Path

from metasr.errors import UnreachableError

# Of an OSError: a decoder's own, or a place beyond all files to which a damaged header leads.
OF_CONTENT = (None, errno.EINVAL, errno.EOVERFLOW)
NO_DATA = (".", "lost+found")  # how the names of folders begin that file systems keep for themselves


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder at any depth, sorted. Links to folders are followed; no folder is visited twice.

    A link that leads nowhere counts as a file, if it has an ending.

    Raises:
        UnreachableError: A folder in it cannot be read and is not hidden, or a link that may have led to one leads
            nowhere.
    """
    files: list[Path] = []
    visited: set[tuple[int, int]] = set()
    waiting = deque([folder])  # links come after all that lies in the folder itself
    while waiting:
        for place, folders, names in os.walk(waiting.popleft(), onerror=_refuse):
            status = os.stat(place)
            if (status.st_dev, status.st_ino) in visited:
                folders.clear()
                continue
            visited.add((status.st_dev, status.st_ino))
            folders.sort()
            links = [Path(place, name) for name in folders if Path(place, name).is_symlink()]
            waiting += [link for link in links if not link.parent.resolve().is_relative_to(link.resolve())]
            files += [Path(place, name) for name in names]
    for path in files:
        if not path.suffix and not path.name.startswith(".") and path.is_symlink() and not path.exists():
            raise UnreachableError(f"link {path}", "it leads nowhere", "Mount what it leads to, or remove it")
    return sorted(files)


def is_file(path: Path) -> bool:
    """Return whether a path is that of a file, or a link that leads nowhere: who reads it will say so."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def check_reached(path: Path, error: Exception) -> None:
    """Raise UnreachableError if an error in reading a file comes from the file system and not from what it holds."""
    if isinstance(error, OSError) and error.errno not in OF_CONTENT:
        reason = error.strerror or type(error).__name__
        raise UnreachableError(str(path), reason, "Check its mount, its disk and its rights") from error


def _refuse(error: OSError) -> None:
    if Path(error.filename).name.startswith(NO_DATA):
        return
    fix = "Give this user the right to read it, or move it elsewhere"
    raise UnreachableError(f"folder {error.filename}", error.strerror or type(error).__name__, fix) from error
