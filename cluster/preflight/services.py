"""Check the services of a run: the store of its data, the store of its checkpoints, MLflow."""

import base64
import importlib.metadata
import ipaddress
import os
import socket
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from cluster.config import JobConfig, TrackingConfig, expand
from cluster.preflight.results import Judgement, ok, warning
from cluster.shards import Index, data_store
from cluster.store import AlreadyThereError, ChangedError, RetryPolicy, Store, open_store
from cluster.stream import read_index
from cluster.tracking import connect
from metasr.errors import StoreError

# Shorter than in a run: a check reports the present state.
PATIENCE = RetryPolicy(attempts=4, connect_s=3.0, stall_s=5.0, deadline_s=10.0)
MIN_MLFLOW = (3, 17)
"""Oldest MLflow without a warning. Older ones have, among others, CVE-2026-2652 (bypass of basic authentication,
fixed in 3.10), CVE-2026-2033 (code execution through artifact paths, 3.8) and CVE-2026-96804 (the pickle switch is
ignored, 3.15). This project is tested with 3.17."""
ANSWER_S = 5.0


@dataclass(frozen=True)
class Data:
    """A data set: where it is and what it holds."""

    store: Store
    index: Index


def inspect_data(config: JobConfig) -> Data:
    """Return the data set of `data.url`. Its index is checked: no patient is in both splits.

    Raises:
        MetaSRError: It cannot be used.
    """
    store = data_store(config.data.url, PATIENCE)
    return Data(store, read_index(store))


def inspect_shards(data: Data) -> str:
    """Read and verify the first and the last shard; return the finding.

    Raises:
        StoreError: One is missing, or its length or SHA-256 differs from the index.
    """
    shards = data.index.shards
    for shard in (shards[0], shards[-1]):
        data.store.get(shard.name, sha256=shard.sha256, num_bytes=shard.num_bytes)
    return f"{shards[0].name} and {shards[-1].name} match the length and SHA-256 in the index"


def try_store(url: str) -> Store:
    """Write, read, replace and delete a small object, and try conditional writes that must fail.

    Raises:
        StoreError: The store denies access, or ignores the condition of a write.
    """
    store, key = open_store(url, PATIENCE), f"doctor/{uuid.uuid4().hex}"
    first = store.put_new(key, b"1")
    try:
        try:
            store.put_new(key, b"another")
        except AlreadyThereError:
            second = store.replace(key, b"2", first)
        else:
            raise _unconditional(store, "If-None-Match")
        try:
            store.replace(key, b"another", first)
        except ChangedError:
            if store.get_with_version(key) != (b"2", second):
                raise StoreError(f"store {store.url}", "it returned different bytes than were written") from None
        else:
            raise _unconditional(store, "If-Match")
    finally:
        store.delete(key)
    return store


def _unconditional(store: Store, condition: str) -> StoreError:
    return StoreError(
        f"store {store.url}",
        f"it ignores {condition}: two drivers could write one run",
        "Use an S3 server with conditional writes, or a newer version of it",
    )


def store_found(store: Store) -> Judgement:
    """Judge a store that passed `try_store`."""
    return ok(f"{store.url} can be written and read, and supports conditional writes")


@dataclass(frozen=True)
class MLflow:
    """A reachable MLflow.

    Attributes:
        where: Host of the server; empty for a local database.
        version: Version of the server, or of the library that opens the database.
        requires_login: Whether the server requires authentication.
    """

    where: str
    version: str
    requires_login: bool = False


def inspect_mlflow(config: TrackingConfig) -> MLflow:
    """Connect to MLflow; return its host, version and whether it requires authentication.

    Raises:
        StoreError: It cannot be reached, or denies access.
    """
    uri = expand(config.uri)
    if not uri.startswith(("http://", "https://")):
        connect(config)
        return MLflow("", importlib.metadata.version("mlflow"))
    parts = urlsplit(uri)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    host = parts.hostname or ""
    try:
        requires_login = _ask(f"{bare}/api/2.0/mlflow/experiments/search?max_results=1")[0] in (401, 403)
        status, version = _ask(f"{bare}/version", _credentials(uri))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StoreError(f"MLflow at {bare}", f"{reason}", "Check tracking.uri and that the server is up") from None
    connect(config)
    return MLflow(host, version.strip() if status == 200 else "", requires_login)


def _ask(url: str, authorization: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return answer.status, answer.read(200).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def _credentials(uri: str) -> str:
    """Return the Authorization header that MLflow's client would send."""
    parts = urlsplit(uri)
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN", "") if not user else "":
        return f"Bearer {token}"
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}" if user else ""


def mlflow_found(mlflow: MLflow) -> Judgement:
    """Judge version and authentication."""
    at = f"{mlflow.where} answers" if mlflow.where else "the database can be opened"
    least = ".".join(map(str, MIN_MLFLOW))
    numbers = tuple(int(part) for part in mlflow.version.split(".")[:2] if part.isdigit())
    if mlflow.where and not mlflow.requires_login and not is_loopback(mlflow.where):
        return warning(
            f"{at}, to everybody: it has no authentication",
            "Start the server with --app-name basic-auth, or restrict its network",
        )
    if numbers < MIN_MLFLOW:
        return warning(
            f"{at}, version {mlflow.version or 'unknown'}: versions below {least} have known vulnerabilities",
            f"Install mlflow {least} or newer there",
        )
    return ok(f"{at}, version {mlflow.version}")


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host."""
    try:
        found = {address[4][0] for address in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in found)


def data_found(data: Data) -> Judgement:
    """Judge a data set that was read: report what its index holds."""
    return ok(f"{data.store.url}: {data.index.summary()}")
