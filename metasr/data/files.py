"""Find the files of a data set, tell broken files from unreachable ones, and write files whole or not at all."""

import errno
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from metasr.errors import DataError, UnreachableError

# The `errno` of an OSError that the content of a file causes: none if a decoder raised it, else that of a seek to an
# impossible offset, which a damaged header gave.
OF_CONTENT = (None, errno.EINVAL, errno.EOVERFLOW)
NO_DATA = (".", "lost+found")  # how names of folders without data begin: hidden ones, and a file system's own


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder at any depth, sorted. Links to folders are followed; no folder is visited twice.

    A broken link counts as a file if its name has a suffix; without one it may lead to a disk that is not mounted.

    Raises:
        UnreachableError: A folder in it cannot be read and is not hidden, or a broken link may have led to a folder.
    """
    files: list[Path] = []
    visited: set[tuple[int, int]] = set()
    waiting = deque([folder])  # links are followed after the folder's own content
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
            raise UnreachableError(
                f"link {path}", "its target does not exist", "Mount the target, or remove the link"
            )
    return sorted(files)


def why_unusable(path: Path) -> str:
    """Return why this process cannot read a file, as the end of a sentence; an empty string where it can.

    The file is not opened: a failing disk, or a node without the file, shows when the file is read.
    """
    if path.is_symlink() and not path.exists():
        return "a broken link"
    readable = os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
    return "" if readable else "not readable by this user"


def shown(text: str) -> str:
    """Return text that can be printed and stored: bytes of file names that are not UTF-8 are escaped."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_reached(path: Path, error: Exception) -> None:
    """Raise UnreachableError if reading a file failed because of the file system, not because of its content."""
    if isinstance(error, OSError) and error.errno not in OF_CONTENT:
        reason = error.strerror or type(error).__name__
        raise UnreachableError(str(path), reason, "Check its mount, its disk and its permissions") from error


@contextmanager
def appearing(path: Path, ending: str) -> Iterator[Path]:
    """Give a path beside `path` to write to; what the block wrote there becomes `path` when the block is done.

    Args:
        path: The file to write, or to replace.
        ending: That of the path given, for libraries that choose a format by it.

    Raises:
        DataError: It cannot be written.
    """
    partial = path.with_name(f".partial-{os.getpid()}{ending}")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise DataError(
            f"cannot write {path}", error.strerror or str(error), "Check its folder and the disk"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _refuse(error: OSError) -> None:
    if Path(error.filename).name.startswith(NO_DATA):
        return
    fix = "Give this user permission to read it, or move it elsewhere"
    raise UnreachableError(f"folder {error.filename}", error.strerror or type(error).__name__, fix) from error
