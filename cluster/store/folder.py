"""A store in a folder: on this machine, or on a file system that the machines share."""

import errno
import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.store.errors import (
    NO_OBJECT,
    ConditionFailedError,
    NotThereError,
    Reason,
    UnavailableError,
    WrongBodyError,
    wrong_body,
)
from cluster.store.folder_lock import LockHeldError, folder_lock
from cluster.store.interface import Stat, Store, Version, check_length, check_sha256
from cluster.store.retry import RetryPolicy
from metasr.errors import StoreError

LOCK_LIMIT_S = 10.0  # a holder compares an object with a version and renames a file, which takes milliseconds
_OLD_S = 86400.0
_FROZEN = "See whether that process is frozen: continue it (kill -CONT) or end it"
_RIGHTS = "Give this user the right to it, or choose another folder"
_ROOM = "Free some space, or choose another folder"
_REASONS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), _RIGHTS),
    errno.EROFS: "Mount it for writing, or choose another folder",
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _ROOM),
    errno.EOPNOTSUPP: "Choose a folder on a file system that has hard links and locks",
}

_AWAY = (errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENODEV)
"""What file systems answer whose server is away."""


class UnmountedError(Exception):
    """The folder of a store that was there has gone."""


class FolderStore(Store):
    """A store in a folder, which the first write makes.

    A version is the SHA-256 of the content. Nothing is tried again: a file system does that itself.

    Args:
        root: The folder.
        policy: How long pauses are.
        has_begun: See `open_store`.
    """

    def __init__(self, root: Path, policy: RetryPolicy | None = None, has_begun: bool = False) -> None:
        super().__init__(policy or RetryPolicy())
        self._root, self._has_begun = root, has_begun
        self._cleaned: set[Path] = set()
        self.url = root.as_uri()

    @property
    def is_local(self) -> bool:
        """True: a folder is read like the files of this machine."""
        return True

    def _put(self, key: str, data: bytes | Path, sha256: str) -> Version:
        path = self._root / key
        with self._complete(path, data, sha256) as (part, version):
            os.replace(part, path)
        return version

    def _put_new(self, key: str, data: bytes | Path) -> Version:
        path = self._root / key
        with self._complete(path, data) as (part, version):
            try:
                os.link(part, path)  # unlike a rename, it fails where there is a file
            except FileExistsError:
                raise ConditionFailedError from None
        return version

    def _replace(self, key: str, data: bytes | Path, version: Version) -> Version:
        path = self._root / key
        if not self._exists(key):
            raise ConditionFailedError
        with self._complete(path, data) as (part, new_version), folder_lock(path.parent, LOCK_LIMIT_S):
            stat = self._stat(key)
            if stat is None or stat.version != version:
                raise ConditionFailedError
            os.replace(part, path)
        return new_version

    def _get(self, key: str, sha256: str, num_bytes: int | None) -> tuple[bytes, Version]:
        file = self._file(key)
        check_length(file.stat().st_size, num_bytes, again=False)
        data = file.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        check_sha256(data, digest, sha256, again=False)
        return data, Version(digest)

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        with self._file(key).open("rb") as file:
            file.seek(start)
            data = file.read(length)
        if len(data) != length:
            raise WrongBodyError("it ends before that", again=False)
        return data

    def _exists(self, key: str) -> bool:
        if (self._root / key).is_file():
            return True
        self._require_mount()
        return False

    def _require_mount(self) -> None:
        """Raise UnmountedError if what has begun finds its folder gone."""
        if self._has_gone():
            raise UnmountedError

    def _has_gone(self) -> bool:
        """Return whether what has begun finds its folder missing, or empty as a mount point is."""
        try:
            return self._has_begun and not any(self._root.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return True

    def _stat(self, key: str) -> Stat | None:
        if not self._exists(key):
            return None
        with (self._root / key).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return Stat(os.fstat(file.fileno()).st_size, Version(digest))

    def _holds(self, key: str, sha256: str, num_bytes: int) -> bool:
        return self._stat(key) == (num_bytes, sha256)

    def _names(self) -> Iterable[str]:
        self._require_mount()
        if not self._root.is_dir():
            return []
        return [path.name for path in self._root.iterdir() if not path.name.startswith(".")]

    def _keys(self) -> Iterable[str]:
        self._require()
        return [path.relative_to(self._root).as_posix() for path in self._root.rglob("*") if path.is_file()]

    def _written(self, key: str) -> datetime | None:
        return datetime.fromtimestamp((self._root / key).stat().st_mtime, UTC) if self._exists(key) else None

    def _delete(self, key: str) -> None:
        if self._exists(key):
            (self._root / key).unlink(missing_ok=True)

    def _require(self) -> None:
        self._require_mount()
        if not self._root.is_dir():
            raise FileNotFoundError(self._root)

    def _free_bytes(self) -> int:
        return free_bytes(self._root)

    def _remove_all(self, prefix: str, keys: Iterable[str]) -> None:
        folder = self._root / prefix
        shutil.rmtree(folder, ignore_errors=True)  # others may remove files of it meanwhile
        if folder.exists():
            shutil.rmtree(folder)  # says why it cannot be removed
        for parent in folder.relative_to(self._root).parents[:-1]:
            with suppress(OSError):  # it is not empty
                (self._root / parent).rmdir()

    def __reduce__(self) -> tuple[Any, ...]:
        return FolderStore, (self._root, self.retries.policy, self._has_begun)

    def _file(self, key: str) -> Path:
        if not self._exists(key):
            raise FileNotFoundError(key)
        return self._root / key

    @contextmanager
    def _complete(self, path: Path, data: bytes | Path, sha256: str = "") -> Iterator[tuple[Path, Version]]:
        """Yield a file with the whole content, safe on the disk, and its version. It is gone afterwards."""
        # Beside its target, because a rename is atomic only within one file system.
        self._require_mount()  # or the folder would be made on the disk below
        part = path.parent / f".{uuid.uuid4().hex}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in self._cleaned:
            self._cleaned.add(path.parent)
            _remove_old_parts(path.parent)
        try:
            with part.open("xb+") as file:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                sha256 = sha256 or hashlib.file_digest(file, "sha256").hexdigest()
            yield part, Version(sha256)
            with suppress(OSError):  # some file systems cannot; then the new name is safe a little later
                sync(path.parent)
        finally:
            part.unlink(missing_ok=True)

    def _reason(self, error: Exception) -> Reason | None:
        if isinstance(error, WrongBodyError):
            return wrong_body(error)
        if isinstance(error, LockHeldError):
            return Reason(str(error), _FROZEN, UnavailableError)
        if isinstance(error, UnmountedError) or (isinstance(error, FileNotFoundError) and self._has_gone()):
            return Reason("the folder is missing or empty", "Mount it again, or put it back", UnavailableError)
        if isinstance(error, FileNotFoundError) and not self._root.is_dir():
            return Reason("the folder does not exist", "Create it, mount it, or correct the URL", NotThereError)
        if isinstance(error, FileNotFoundError):
            return NO_OBJECT
        if isinstance(error, OSError):
            fix = _REASONS.get(error.errno or 0, "Check the folder's rights, free space and mount")
            is_away = self._has_begun and error.errno in _AWAY
            return Reason(error.strerror or type(error).__name__, fix, UnavailableError if is_away else StoreError)
        return None


def free_bytes(folder: Path) -> int:
    """Return the free bytes on the disk of a folder, which need not exist yet."""
    while True:
        try:
            status = os.statvfs(folder)
        except FileNotFoundError:
            folder = folder.parent
        else:
            return status.f_bavail * status.f_frsize


def _remove_old_parts(folder: Path) -> None:
    """Remove what processes have left that were killed while they wrote: no write takes a day."""
    for part in folder.glob(f".{'[0-9a-f]' * 32}.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _OLD_S:
                part.unlink()


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are safe on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
