"""Counts what a process asks of stores, of MLflow and of the mailbox, without being seen by those who ask."""

import json
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import requests

from cluster.outbox.outbox import Outbox
from cluster.store import ChangedError, Store
from cluster.store.errors import ConditionFailedError

STORE_KINDS = ("_put", "_put_new", "_replace", "_get", "_get_range", "_exists", "_stat", "_delete")


class Tally:
    """Counts of one process, by name.

    Attributes:
        counts: `store get`, `store get bytes`, `store conflicts`, `message put`, `mlflow POST log-batch`, ...
    """

    def __init__(self):
        self.counts, self._lock = Counter(), threading.Lock()

    def add(self, name, number=1):
        with self._lock:
            self.counts[name] += number

    def write(self, path: Path):
        with self._lock:
            path.write_text(json.dumps(self.counts))


def counted_store(store: Store, tally: Tally, at_once: int = 32) -> Store:
    """Have a store count its requests, of which so many are under way at a time, and return it."""
    room = threading.BoundedSemaphore(at_once)
    for name in STORE_KINDS:
        setattr(store, name, _counted(getattr(store, name), name.lstrip("_"), tally, room))
    return store


def _counted(act, name, tally, room):
    def counted(key, *arguments, **options):
        tally.add(f"store {name}")
        try:
            with room:
                answer = act(key, *arguments, **options)
        except (ConditionFailedError, ChangedError):
            tally.add("store conflicts")
            raise
        if name == "get":
            tally.add("store bytes read", len(answer[0]))
        elif name == "get_range":
            tally.add("store bytes read", len(answer))
        elif name in ("put", "put_new", "replace"):
            data = arguments[0]
            tally.add("store bytes written", data.stat().st_size if isinstance(data, Path) else len(data))
        return answer

    return counted


class CountedActor:
    """A handle of an actor that counts the messages to it."""

    def __init__(self, actor, tally: Tally):
        self._actor, self._tally = actor, tally

    def __getattr__(self, name):
        method, tally = getattr(self._actor, name), self._tally

        class Method:
            @staticmethod
            def remote(*arguments):
                tally.add(f"message {name}")
                return method.remote(*arguments)

        return Method


def count_tracking(uri: str, tally: Tally) -> None:
    """Have this process count its requests to the MLflow server of a URI, and the records of its outboxes."""
    send, add = requests.Session.send, Outbox.add

    def counted_send(session, request, **options):
        if request.url.startswith(uri):
            tally.add(f"mlflow {_name(request)}")
        return send(session, request, **options)

    def counted_add(outbox, kind, payload):
        tally.add(f"record {kind}")
        tally.add("points", len(payload.get("values", ())))
        return add(outbox, kind, payload)

    requests.Session.send, Outbox.add = counted_send, counted_add


def _name(request):
    """Return method and kind of a request, without what it is about."""
    path = urlsplit(request.url).path
    return f"{request.method} {'artifact' if '/artifacts/' in path else path.rpartition('/')[2]}"


def cpu_and_peak(pid) -> tuple[float, float]:
    """Return the CPU seconds that a process has used, and its peak of memory in MB."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    status = Path(f"/proc/{pid}/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    return ticks / 100, peak_kb / 1000
