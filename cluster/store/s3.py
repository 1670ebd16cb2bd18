"""A store in a bucket of any S3 server."""

import hashlib
import io
import os
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from botocore.exceptions import ClientError, IncompleteReadError

from cluster.store.connect import connect, host_of
from cluster.store.errors import ConditionFailedError, Reason, WrongBodyError
from cluster.store.interface import Stat, Store, Version, check_length, check_sha256, checked_key
from cluster.store.retry import RetryPolicy
from cluster.store.s3_reasons import code_of, explain, status_of
from cluster.store.s3_upload import upload
from cluster.store.source import Source

PART_BYTES = 16 << 20
_RECEIVE_BYTES = 256 << 10
T = TypeVar("T")


class S3Store(Store):
    """A store in a bucket, under a prefix. A version is the object's ETag.

    Every object carries its SHA-256 and the number of the write that made it as metadata. The first verifies objects
    that were stored in parts, for which S3 keeps no checksum of the whole. The second tells a conditional write whose
    answer was lost, and which is therefore tried again, that it is itself the one who was faster.
    """

    def __init__(self, bucket: str, prefix: str, policy: RetryPolicy, part_bytes: int = PART_BYTES) -> None:
        super().__init__(policy)
        self._bucket, self._prefix = bucket, prefix and checked_key(prefix)
        self._part_bytes = part_bytes
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._clients: dict[int, Any] = {}

    @property
    def is_local(self) -> bool:
        """False: every read goes over the network."""
        return False

    @property
    def _client(self) -> Any:
        # One for each process: a forked data loader must not share the connections of its parent.
        if (process := os.getpid()) not in self._clients:
            self._clients[process] = connect(self.retries.policy)
        return self._clients[process]

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{key}".lstrip("/")}

    def _ask(self, request: Callable[[Callable[[], None]], T]) -> T:
        return self.retries.run(request, self._reason)

    def _put(self, key: str, data: bytes | Path, sha256: str) -> Version:
        return self._write(key, data, sha256)

    def _put_new(self, key: str, data: bytes | Path) -> Version:
        return self._write(key, data, IfNoneMatch="*")

    def _replace(self, key: str, data: bytes | Path, version: Version) -> Version:
        return self._write(key, data, IfMatch=version)

    def _write(self, key: str, data: bytes | Path, sha256: str = "", **condition: str) -> Version:
        source, write = Source(data, self._part_bytes, sha256), uuid.uuid4().hex
        metadata = {"sha256": source.sha256, "write": write}
        try:
            return Version(upload(self._client, self._ask, self._object(key), source, metadata, condition))
        except ClientError as error:
            # Also when the upload in parts is not there any more: the first try may have completed it.
            if status_of(error) not in (404, 412):
                raise
            head = self._head(key)
            if head and head["Metadata"].get("write") == write:
                return Version(head["ETag"])
            if status_of(error) == 412 or (condition and code_of(error) == "NoSuchKey"):
                raise ConditionFailedError from None
            raise

    def _get(self, key: str, sha256: str, num_bytes: int | None) -> tuple[bytes, Version]:
        def request(check: Callable[[], None]) -> tuple[bytes, Version]:
            answer = self._client.get_object(**self._object(key), ChecksumMode="ENABLED")
            stored = _stored_sha256(answer)
            # What was stored as another will not be the right one when it is fetched again.
            again = stored in ("", sha256.lower())
            data = _receive(answer, check, num_bytes, again=again)
            digest = hashlib.sha256(data).hexdigest()
            if stored and digest != stored:
                raise WrongBodyError("the bytes that arrived are not those that were stored", again=True)
            check_sha256(data, digest, sha256, again=again)
            return data, Version(answer["ETag"])

        return self._ask(request)

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        wanted = f"bytes={start}-{start + length - 1}"

        def request(check: Callable[[], None]) -> bytes:
            answer = self._client.get_object(**self._object(key), Range=wanted)
            given, _, whole = answer.get("ContentRange", "").replace(" ", "=").partition("/")
            if given != wanted:
                if whole.isdigit() and int(whole) < start + length:
                    raise WrongBodyError("it ends before that", again=False)
                raise WrongBodyError("the server sent another part of it", again=True)
            return _receive(answer, check, length)

        return self._ask(request)

    def _exists(self, key: str) -> bool:
        return self._head(key) is not None

    def _stat(self, key: str) -> Stat | None:
        head = self._head(key)
        return None if head is None else Stat(head["ContentLength"], Version(head["ETag"]))

    def _holds(self, key: str, sha256: str, num_bytes: int) -> bool:
        head = self._head(key)
        return head is not None and (head["ContentLength"], _stored_sha256(head)) == (num_bytes, sha256)

    def _head(self, key: str) -> dict[str, Any] | None:
        try:
            head: dict[str, Any] = self._ask(lambda _: self._client.head_object(**self._object(key)))
            return head
        except ClientError as error:
            if code_of(error) == "404":
                return None
            raise

    def _names(self) -> Iterable[str]:
        pages = list(self._pages(Delimiter="/"))
        found = [part["Prefix"] for page in pages for part in page.get("CommonPrefixes", ())]
        found += [part["Key"] for page in pages for part in page.get("Contents", ())]
        return {self._below(key).rstrip("/") for key in found} - {""}

    def _keys(self) -> Iterable[str]:
        found = [part["Key"] for page in self._pages() for part in page.get("Contents", ())]
        return [self._below(key) for key in found if not key.endswith("/")]  # which other tools write for a folder

    def _below(self, key: str) -> str:
        return key.removeprefix(f"{self._prefix}/" if self._prefix else "")

    def _pages(self, **how: str) -> Iterator[dict[str, Any]]:
        """Yield what lies below the prefix, a page of a listing at a time."""
        where = {"Bucket": self._bucket, "Prefix": f"{self._prefix}/" if self._prefix else "", **how}
        while True:
            page: dict[str, Any] = self._ask(lambda _: self._client.list_objects_v2(**where))
            yield page
            if not page.get("IsTruncated"):
                return
            where["ContinuationToken"] = page["NextContinuationToken"]

    def _written(self, key: str) -> datetime | None:
        head = self._head(key)
        return head["LastModified"] if head else None

    def _delete(self, key: str) -> None:
        self._ask(lambda _: self._client.delete_object(**self._object(key)))

    def _require(self) -> None:
        self._ask(lambda _: self._client.head_bucket(Bucket=self._bucket))

    def __reduce__(self) -> tuple[Any, ...]:
        return S3Store, (self._bucket, self._prefix, self.retries.policy, self._part_bytes)

    def _free_bytes(self) -> None:
        return None

    def _remove_all(self, prefix: str, keys: Iterable[str]) -> None:
        for key in keys:
            self._delete(key)

    def _reason(self, error: Exception) -> Reason | None:
        client = self._clients.get(os.getpid())
        return explain(error, host_of(client) if client else "S3")


def _receive(
    answer: dict[str, Any], check: Callable[[], None], num_bytes: int | None, *, again: bool = True
) -> bytes:
    """Return the whole body of an answer, which is in memory once; it is not read if it has another length."""
    data, promised = io.BytesIO(), answer["ContentLength"]
    # The bare stream, of which `read1` returns what one receive gives: a trickle does not outlast the deadline.
    with answer["Body"] as stream:
        check_length(promised, num_bytes, again=again)
        while piece := stream.read1(_RECEIVE_BYTES):
            data.write(piece)
            check()
    if data.tell() != promised:
        raise IncompleteReadError(actual_bytes=data.tell(), expected_bytes=promised)
    return data.getvalue()  # no copy


def _stored_sha256(answer: dict[str, Any]) -> str:
    """Return the SHA-256 that was stored with an object, in hexadecimal; empty for what other tools wrote without."""
    checksum = answer.get("ChecksumSHA256", "")
    if checksum and "-" not in checksum:  # with one, it is that of the checksums of its parts
        return b64decode(checksum).hex()
    return str(answer["Metadata"].get("sha256", ""))
