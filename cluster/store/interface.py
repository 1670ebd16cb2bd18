"""What a store can do: whole objects under keys, behind one interface for buckets and folders."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, NewType

from cluster.store.errors import AlreadyThereError, ChangedError, ConditionFailedError, Reason, WrongBodyError
from cluster.store.retry import Retries, RetryPolicy
from metasr.errors import StoreError

Version = NewType("Version", str)
"""Stands for the content of an object: other bytes, another version. It means something to its own store only."""


class Stat(NamedTuple):
    """What is known of an object without reading it."""

    num_bytes: int
    version: Version


class Store(ABC):
    """Objects under keys such as `train/000001.tar`.

    Every method raises StoreError or one of its kinds in `cluster.store.errors`, never the library's own error. What
    may pass (a server that is busy, a connection that breaks, bytes damaged on the way) is tried again first, as the
    policy says. What this project writes is written down in objects with known names: `names` is
    for people who look around, and `all_keys` for what others have put there.

    Attributes:
        url: Opens this store again, in any directory and on any machine.
        retries: Counts what had to be tried again.
    """

    url: str

    def __init__(self, policy: RetryPolicy) -> None:
        self.retries = Retries(policy)

    def put(self, key: str, data: bytes | Path, *, sha256: str = "") -> Version:
        """Write an object in place of the one that may be there. Nobody ever sees a part of it.

        Args:
            key: Which object.
            data: Its bytes, or a file that holds them.
            sha256: SHA-256 of the data, in hexadecimal, where the caller knows it: it is not computed again.
        """
        with self._explained(f"cannot write {key!r} to {self.url}"):
            return self._put(checked_key(key), _readable(data), sha256)

    def put_new(self, key: str, data: bytes | Path) -> Version:
        """Write an object where there is none: of all who try at once, one succeeds.

        Raises:
            AlreadyThereError: There is one.
        """
        with self._explained(what := f"cannot write {key!r} as a new object to {self.url}"):
            try:
                return self._put_new(checked_key(key), _readable(data))
            except ConditionFailedError:
                raise AlreadyThereError(what, "it is already there", "Choose another key, or replace it") from None

    def replace(self, key: str, data: bytes | Path, version: Version) -> Version:
        """Write an object in place of a version that was read before: nobody else's change is lost.

        A version stands for content, so the contents of an object that is replaced should never repeat (put a number
        into it that only grows), and nobody should `put` it.

        Raises:
            ChangedError: The object is not at that version any more, or gone.
        """
        with self._explained(what := f"cannot replace {key!r} in {self.url}"):
            try:
                return self._replace(checked_key(key), _readable(data), version)
            except ConditionFailedError:
                raise ChangedError(what, "it was changed or deleted by another", "Read it again first") from None

    def swap(self, key: str, data: bytes | Path, version: Version | None) -> Version:
        """Write an object by compare-and-set: as `replace`, or as `put_new` where `version` is None.

        Raises:
            ChangedError: The object is not as it was read, or there is one by now.
        """
        try:
            return self.put_new(key, data) if version is None else self.replace(key, data, version)
        except AlreadyThereError as error:
            raise ChangedError(error.what, error.why, error.fix) from None

    def get(self, key: str, *, sha256: str = "", num_bytes: int | None = None) -> bytes:
        """Return the bytes of an object, verified.

        Args:
            key: Which object.
            sha256: What the SHA-256 of the bytes must be, in hexadecimal.
            num_bytes: How many bytes it must be.

        Raises:
            DamagedError: They are other bytes than were stored or are expected. They are never returned.
        """
        return self.get_with_version(key, sha256=sha256, num_bytes=num_bytes)[0]

    def get_with_version(self, key: str, *, sha256: str = "", num_bytes: int | None = None) -> tuple[bytes, Version]:
        """Return the bytes of an object, verified as by `get`, and the version that `replace` asks for."""
        with self._explained(f"cannot read {key!r} from {self.url}"):
            return self._get(checked_key(key), sha256, num_bytes)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return exactly `length` bytes of an object from `start` on. Nothing but their number is verified."""
        if start < 0 or length < 1:
            raise ValueError(f"no range: {length} bytes from {start} on")
        with self._explained(f"cannot read {length} bytes from byte {start} of {key!r} in {self.url}"):
            return self._get_range(checked_key(key), start, length)

    def exists(self, key: str) -> bool:
        """Return whether there is such an object: False also where the folder or the bucket is missing."""
        with self._explained(f"cannot look for {key!r} in {self.url}"):
            return self._exists(checked_key(key))

    def stat(self, key: str) -> Stat | None:
        """Return the length and version of an object, None if there is none."""
        with self._explained(f"cannot look at {key!r} in {self.url}"):
            return self._stat(checked_key(key))

    def holds(self, key: str, sha256: str, num_bytes: int) -> bool:
        """Return whether an object is of this length and SHA-256: as a bucket noted them, a folder reads it again."""
        with self._explained(f"cannot look at {key!r} in {self.url}"):
            return self._holds(checked_key(key), sha256, num_bytes)

    def names(self) -> tuple[str, ...]:
        """Return the first parts of all keys, in order; none where the folder is missing."""
        with self._explained(f"cannot list {self.url}"):
            return tuple(sorted(self._names()))

    def all_keys(self) -> tuple[str, ...]:
        """Return all keys, at any depth, in order, but those with a hidden part, such as `.lock`."""
        with self._explained(f"cannot list {self.url}"):
            return tuple(sorted(key for key in self._keys() if not key.startswith(".") and "/." not in key))

    def written(self, key: str) -> datetime | None:
        """Return when an object was written, by the clock of its server, None if there is none."""
        with self._explained(f"cannot look at {key!r} in {self.url}"):
            return self._written(checked_key(key))

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        with self._explained(f"cannot delete {key!r} in {self.url}"):
            self._delete(checked_key(key))

    def remove_all(self, prefix: str, keys: Iterable[str]) -> None:
        """Remove what lies below a prefix, such as a run that nobody uses any more.

        Args:
            prefix: A folder with this name is removed with all that is in it.
            keys: Objects below the prefix. In a bucket, which is not listed, these are removed.
        """
        with self._explained(f"cannot remove {prefix!r} from {self.url}"):
            self._remove_all(checked_key(prefix), keys)

    def free_bytes(self) -> int | None:
        """Return the room on the disk of a folder, which need not exist yet; None for a bucket, which has room."""
        with self._explained(f"cannot look at the disk of {self.url}"):
            return self._free_bytes()

    def require(self) -> None:
        """Raise StoreError if the folder or the bucket is not there."""
        with self._explained(f"cannot use {self.url}"):
            self._require()

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether objects are files of this machine, or of a file system that it has mounted."""

    @abstractmethod
    def _put(self, key: str, data: bytes | Path, sha256: str) -> Version: ...

    @abstractmethod
    def _put_new(self, key: str, data: bytes | Path) -> Version: ...

    @abstractmethod
    def _replace(self, key: str, data: bytes | Path, version: Version) -> Version: ...

    @abstractmethod
    def _get(self, key: str, sha256: str, num_bytes: int | None) -> tuple[bytes, Version]: ...

    @abstractmethod
    def _get_range(self, key: str, start: int, length: int) -> bytes: ...

    @abstractmethod
    def _exists(self, key: str) -> bool: ...

    @abstractmethod
    def _stat(self, key: str) -> Stat | None: ...

    @abstractmethod
    def _holds(self, key: str, sha256: str, num_bytes: int) -> bool: ...

    @abstractmethod
    def _names(self) -> Iterable[str]: ...

    @abstractmethod
    def _keys(self) -> Iterable[str]: ...

    @abstractmethod
    def _written(self, key: str) -> datetime | None: ...

    @abstractmethod
    def _delete(self, key: str) -> None: ...

    @abstractmethod
    def _remove_all(self, prefix: str, keys: Iterable[str]) -> None: ...

    @abstractmethod
    def _free_bytes(self) -> int | None: ...

    @abstractmethod
    def _require(self) -> None: ...

    @abstractmethod
    def _reason(self, error: Exception) -> Reason | None:
        """Explain an error; None for one that is none of the store's own."""

    @abstractmethod
    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle where the store is: a worker finds its own endpoint, credentials and connections."""

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            if (reason := self._reason(error)) is None:
                raise
            why = ", ".join([reason.why, *getattr(error, "__notes__", ())])
            # Without its cause, whose text may hold an endpoint's password.
            raise reason.kind(what, why, reason.fix) from None


def checked_key(key: str) -> str:
    """Return a key, or a prefix, that cannot lead out of the store."""
    if "\\" in key or not key.isprintable() or not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise StoreError(f"cannot use the key {key!r}", "it is not a plain relative path", "Use one like a/b.tar")
    return key


def check_length(num_bytes: int, expected: int | None, *, again: bool) -> None:
    """Raise WrongBodyError unless an object, not read yet, is as long as expected: memory may not hold another."""
    if expected is not None and num_bytes != expected:
        raise WrongBodyError(f"its {num_bytes} bytes are not the {expected} bytes expected", again)


def check_sha256(data: bytes, sha256: str, expected: str, *, again: bool) -> None:
    """Raise WrongBodyError unless bytes, whose SHA-256 is given, are those that the caller expects."""
    if expected and sha256 != expected.lower():
        raise WrongBodyError(f"the SHA-256 of its {len(data)} bytes is not the one expected", again)


def _readable(data: bytes | Path) -> bytes | Path:
    if isinstance(data, Path):
        try:
            data.open("rb").close()
        except OSError as error:
            raise StoreError(f"cannot read the file {data}", error.strerror or "", "Check its path") from None
    return data
