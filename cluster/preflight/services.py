"""The services of a run: the store of its data, the store of its checkpoints, MLflow."""

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
from cluster.shards import Index
from cluster.store import AlreadyThereError, ChangedError, RetryPolicy, Store, open_store
from cluster.stream import read_index
from cluster.tracking import connect
from metasr.errors import ConfigError, StoreError

# A check tells what is wrong now; a run is more patient.
PATIENCE = RetryPolicy(attempts=4, connect_s=3.0, stall_s=5.0, deadline_s=10.0)
MIN_MLFLOW = (3, 17)
"""Oldest MLflow that is not warned about: below are, among others, CVE-2026-2652 (basic authentication is passed by,
fixed in 3.10), CVE-2026-2033 (code execution through artifact paths, 3.8) and CVE-2026-96804 (the pickle switch is
ignored, 3.15); 3.17 is the one that this project is tested with."""
ANSWER_S = 5.0


@dataclass(frozen=True)
class Data:
    """A data set: where it is and what it holds."""

    store: Store
    index: Index


def look_at_data(config: JobConfig) -> Data:
    """Return the data set of `data.url`, whose index was checked: no patient trains and validates.

    Raises:
        MetaSRError: It cannot be used.
    """
    if not config.data.url:
        raise ConfigError(
            "data.url is not set", "there is nothing to train on", "Give --data.url, see `metasr prepare`"
        )
    store = open_store(config.data.url, PATIENCE)
    return Data(store, read_index(store))


def look_at_shards(data: Data) -> str:
    """Read the first and the last shard and say so.

    Raises:
        StoreError: One is missing, or its length or SHA-256 is not that of the index.
    """
    shards = data.index.shards
    for shard in (shards[0], shards[-1]):
        data.store.get(shard.name, sha256=shard.sha256, num_bytes=shard.num_bytes)
    return f"{shards[0].name} and {shards[-1].name} have the length and the SHA-256 of the index"


def try_store(url: str) -> Store:
    """Write, read, replace and delete a small object, and try what must be refused.

    Raises:
        StoreError: The store refuses, or lets through what it must not.
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
                raise StoreError(f"store {store.url}", "it returned other bytes than were written") from None
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
    """Say what `try_store` has shown."""
    return ok(f"{store.url} can be written and read, and conditional writes are kept")


@dataclass(frozen=True)
class MLflow:
    """An MLflow that was reached.

    Attributes:
        where: Its host; empty for a database of our own.
        version: Of the server, or of the library that opens the database.
        asks_who: Whether it refuses who does not say who they are.
    """

    where: str
    version: str
    asks_who: bool = False


def look_at_mlflow(config: TrackingConfig) -> MLflow:
    """Return what can be seen of MLflow.

    Raises:
        StoreError: It cannot be reached, or refuses.
    """
    uri = expand(config.uri)
    if not uri.startswith(("http://", "https://")):
        connect(config)
        return MLflow("", importlib.metadata.version("mlflow"))
    parts = urlsplit(uri)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    host = parts.hostname or ""
    try:
        asks_who = _ask(f"{bare}/api/2.0/mlflow/experiments/search?max_results=1")[0] in (401, 403)
        status, version = _ask(f"{bare}/version", _credentials(uri))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise StoreError(f"MLflow at {bare}", f"{reason}", "Check tracking.uri and that the server is up") from None
    connect(config)
    return MLflow(host, version.strip() if status == 200 else "", asks_who)


def _ask(url: str, authorization: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"Authorization": authorization} if authorization else {})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as answer:
            return answer.status, answer.read(200).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def _credentials(uri: str) -> str:
    """Return the header with what MLflow's client would say who we are."""
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
    if mlflow.where and not mlflow.asks_who and not is_loopback(mlflow.where):
        return warning(
            f"{at}, to everybody: it has no authentication",
            "Start the server with --app-name basic-auth, or let nobody else reach it",
        )
    if numbers < MIN_MLFLOW:
        return warning(
            f"{at}, version {mlflow.version or 'unknown'}: below {least} are known vulnerabilities",
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
    """Say what the index holds."""
    return ok(f"{data.store.url}: {data.index.summary()}")
