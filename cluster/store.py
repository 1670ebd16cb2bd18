"""Object storage: whole objects in an S3 bucket or in a folder, behind one interface."""

import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pyarrow.fs import S3FileSystem

from metasr.errors import StoreError

_Reason = tuple[str, str]  # why an operation failed, and what to do about it
_NO_OBJECT = ("there is no such object", "Check the key and the URL of the store")
_NO_FOLDER = ("the folder does not exist", "Create it, mount it, or correct the URL")
_NO_BUCKET = ("the bucket does not exist", "Create it, or correct the URL")
_NO_CREDENTIALS = ("no credentials were found", "Set AWS_ACCESS_KEY_ID and its secret, or give this machine a role")
_DENIED = ("the credentials are wrong or do not allow it", "Check AWS_ACCESS_KEY_ID and its secret, or the role")
# An answer to HEAD has no body: its HTTP status stands in for the code.
_S3_REASONS = {
    **dict.fromkeys(("404", "NoSuchBucket"), _NO_BUCKET),
    "NoSuchKey": _NO_OBJECT,
    **dict.fromkeys(("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"), _DENIED),
}


def open_store(url: str) -> "Store":
    """Return the store at `s3://bucket/prefix`, `file:///folder`, `file:folder` or a plain path.

    Nothing is contacted or made. The store's own `url` is absolute: it means the same in any directory.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", url)
    scheme, rest = (match[1].lower(), url[match.end() :]) if match else ("", url)
    if scheme == "s3" and (match := re.fullmatch(r"//([A-Za-z0-9._-]+)(/.*)?", rest)):
        return S3Store(match[1], (match[2] or "").strip("/"))
    if scheme == "file":
        rest = unquote(re.sub(r"^//(localhost)?(?=/)", "", rest))
    if scheme in ("", "file") and rest and not rest.startswith("//"):
        return FolderStore(Path(os.path.expanduser(rest)).absolute())
    # The rest of the URL is not repeated: it may hold a password.
    why = f"{scheme + ':...' if scheme else 'its URL'} names no folder and no bucket"
    raise StoreError("cannot open the store", why, "Use s3://bucket/prefix, file:///folder or a plain path")


def _checked(key: str) -> str:
    if "\\" in key or not key.isprintable() or not {"", ".", ".."}.isdisjoint(key.split("/")):
        raise StoreError(f"cannot use the key {key!r}", "it is not a plain relative path", "Use one like a/b.tar")
    return key


class Store(ABC):
    """Objects under keys such as `train/000001.tar`. Every method raises StoreError, never the store's own error."""

    url: str

    def put(self, key: str, data: bytes) -> None:
        """Write an object, in place of the one that may be there. Nobody ever sees a part of it."""
        with self._explained(f"cannot write {key!r} to {self.url}"):
            self._put(_checked(key), data)

    def get(self, key: str) -> bytes:
        """Return the bytes of an object."""
        with self._explained(f"cannot read {key!r} from {self.url}"):
            return self._get(_checked(key))

    def exists(self, key: str) -> bool:
        """Return whether there is such an object: False also where the folder or the bucket is missing."""
        with self._explained(f"cannot look for {key!r} in {self.url}"):
            return self._exists(_checked(key))

    def require(self) -> None:
        """Raise StoreError if the folder or the bucket is not there."""
        with self._explained(f"cannot use {self.url}"):
            self._require()

    # Pickled as its URL: a worker finds its own endpoint, credentials and connections.
    def __reduce__(self) -> tuple[Any, ...]:
        return open_store, (self.url,)

    @abstractmethod
    def _put(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def _get(self, key: str) -> bytes: ...

    @abstractmethod
    def _exists(self, key: str) -> bool: ...

    @abstractmethod
    def _require(self) -> None: ...

    @abstractmethod
    def _reason(self, error: Exception) -> _Reason | None:
        """Explain an error; None for one that is none of the store's own."""

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if (reason := self._reason(error)) is None:
                raise
            raise StoreError(what, *reason) from error


class FolderStore(Store):
    """A store in a folder, which the first `put` makes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.url = root.as_uri()

    def _put(self, key: str, data: bytes) -> None:
        path = self._root / key
        # Beside its target, because a rename is atomic only within one file system.
        part = path.parent / f".{uuid.uuid4().hex}.part"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    def _get(self, key: str) -> bytes:
        if not self._exists(key):
            raise FileNotFoundError(key)
        return (self._root / key).read_bytes()

    def _exists(self, key: str) -> bool:
        return (self._root / key).is_file()

    def _require(self) -> None:
        if not self._root.is_dir():
            raise FileNotFoundError(self._root)

    def _reason(self, error: Exception) -> _Reason | None:
        if isinstance(error, FileNotFoundError):
            return _NO_OBJECT if self._root.is_dir() else _NO_FOLDER
        if isinstance(error, OSError):
            return error.strerror or type(error).__name__, "Check the folder's rights, free space and mount"
        return None


class S3Store(Store):
    """A store in a bucket. Endpoint and credentials are what boto3 finds: AWS_*, or the machine's role."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix and _checked(prefix)
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self._clients: dict[int, Any] = {}

    @property
    def _client(self) -> Any:
        # One for each process: a forked data loader must not share the connections of its parent.
        if (process := os.getpid()) not in self._clients:
            self._clients[process] = _connect()
        return self._clients[process]

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}/{key}".lstrip("/")}

    def _put(self, key: str, data: bytes) -> None:
        self._client.put_object(**self._object(key), Body=data, ChecksumAlgorithm="SHA256")

    def _get(self, key: str) -> bytes:
        return self._client.get_object(**self._object(key))["Body"].read()

    def _exists(self, key: str) -> bool:
        try:
            self._client.head_object(**self._object(key))
        except self._client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "404":
                return False
            raise
        return True

    def _require(self) -> None:
        self._client.head_bucket(Bucket=self._bucket)

    def _reason(self, error: Exception) -> _Reason | None:
        from botocore import exceptions as boto

        if isinstance(error, boto.ClientError):
            code = error.response["Error"]["Code"]
            return _S3_REASONS.get(code, (f"the server answered {code}", "See what its manual says of that"))
        if isinstance(error, boto.FlexibleChecksumError | boto.IncompleteReadError):
            return "the bytes that arrived are not those that were stored", "Try again, or write it anew"
        if isinstance(error, boto.ConnectionError | boto.HTTPClientError):
            host = urlsplit(self._client.meta.endpoint_url).netloc.rpartition("@")[2]  # without a password
            return f"no connection to {host}", "Check AWS_ENDPOINT_URL, the network and the server"
        if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
            return _NO_CREDENTIALS
        if isinstance(error, boto.BotoCoreError) or str(error).startswith("Invalid endpoint"):
            return f"boto3 cannot work with its settings ({type(error).__name__})", "Check the AWS_* variables"
        return None


def arrow_filesystem() -> S3FileSystem:
    """Return pyarrow's view of S3, at the endpoint of AWS_ENDPOINT_URL; every node finds its own credentials."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return S3FileSystem(region=os.environ.get("AWS_REGION"), endpoint_override=endpoint)


def _connect() -> Any:
    import boto3  # here, because a run on folders need not wait for it
    from botocore.config import Config

    retries, style = {"mode": "standard"}, {"addressing_style": "path"}
    config = Config(connect_timeout=3, read_timeout=60, retries=retries, s3=style)
    # A session of its own, because the default one is not safe in threads; boto3 does not read AWS_REGION.
    return boto3.session.Session(region_name=os.environ.get("AWS_REGION")).client("s3", config=config)
