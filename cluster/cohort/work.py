"""What a worker does with one volume: see whether its result is there, else make it and put it there."""

import json
import logging
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from cluster.cohort.places import Item
from cluster.redaction import one_line
from cluster.store import AlreadyThereError, NotThereError, Store, WaitingStore, open_store
from metasr.arithmetic import Precision, half_precision
from metasr.data import bids
from metasr.errors import ConfigError, MetaSRError
from metasr.inference.files import Told, upscale_file
from metasr.inference.plan import ModelInUse, Options, Task
from metasr.manifest import digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A bundle to send to other processes.

    Attributes:
        files: Content of each file, by name.
        digest: Of the bundle.
        version: Of the registered model; empty where it is none.
    """

    files: dict[str, bytes]
    digest: str
    version: str

    @classmethod
    def of(cls, folder: Path, version: str) -> Self:
        """Return the bundle in a folder."""
        files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        return cls(files, digest(folder), version)

    def load(self, device_name: str | None, precision: Precision) -> ModelInUse:
        """Return the model on this machine's device.

        Raises:
            ConfigError: There is no such device here.
            CheckpointError: It is damaged.
        """
        from metasr.api import device_named
        from metasr.inference.bundle import load_bundle

        device = device_named(device_name)
        with tempfile.TemporaryDirectory() as name:
            for file, content in self.files.items():
                Path(name, file).write_bytes(content)
            bundle = load_bundle(Path(name), device)
        return ModelInUse(bundle, self.version, half_precision(precision, device))


@dataclass(frozen=True)
class Setup:
    """What all volumes of a cohort share.

    Attributes:
        source: Store of the inputs; empty where they are files.
        options: What is done to each.
        weights: The model; None for label maps.
        device: Where to compute; None for the first GPU that a worker has, else its CPU.
        precision: Of the convolutions.
        leaves_others: Results that are there and were made otherwise are left, and are no errors.
    """

    source: str
    options: Options
    weights: Weights | None
    device: str | None = None
    precision: Precision = "auto"
    leaves_others: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a volume.

    Attributes:
        description: Of the result, if one was made.
        lines: What there was to tell.
        error: Why there is none; empty where there is one.
        was_there: Whether it was there before.
    """

    description: dict[str, Any] | None = None
    lines: tuple[str, ...] = ()
    error: str = ""
    was_there: bool = False


def make(setup: Setup, item: Item) -> Outcome:
    """Make the result of one volume, on any node. What goes wrong is part of the outcome: the others go on."""
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="metasr-") as scratch:
        desk = _Desk(setup, item, Path(scratch))
        try:
            return desk.work(lines)
        except MetaSRError as error:
            text = str(error)
        except Exception as error:  # of a file that nobody has foreseen: the others go on
            text = f"{item.name}: {type(error).__name__}: {one_line(error)}"
        return Outcome(None, tuple(map(desk.as_named, lines)), desk.as_named(text))


class _Desk:
    """A place to work on one volume: a folder of this node, from which a result leaves when it is complete."""

    def __init__(self, setup: Setup, item: Item, scratch: Path) -> None:
        self._setup, self._item, self._in, self._out = setup, item, scratch / "in", scratch / "out"
        self._results = WaitingStore(open_store(item.output_url), log.warning)
        self._source = WaitingStore(open_store(setup.source), log.warning) if setup.source else None
        self._input = item.input
        if setup.source:
            place = self._in if item.input.dataset else None
            self._input = replace(item.input, path=self._in / item.input.below, dataset=place)
        self._task = Task(self._input, self._out / item.key)
        self._sidecar = self._task.sidecar.relative_to(self._out).as_posix()

    def work(self, lines: list[str]) -> Outcome:
        """Make the result, unless it is there; add what there is to tell to `lines`.

        Raises:
            MetaSRError: It cannot be made, or another is there.
        """
        if self._is_made():
            return Outcome(was_there=True)
        options = self._setup.options
        if not options.force and self._results.exists(self._item.key):
            if self._setup.leaves_others:
                return Outcome(was_there=True)
            raise self._other()
        self._fetch()
        weights = self._setup.weights

        def model() -> ModelInUse:
            assert weights is not None  # not asked for where there is none
            return weights.load(self._setup.device, self._setup.precision)

        description = upscale_file(self._task, options, model, Told(lines.append, lambda done, total: None))
        self._deliver()
        return Outcome(description, tuple(map(self.as_named, lines)))

    def as_named(self, text: str) -> str:
        """Return a text with the places that a person knows in place of those of this node."""
        text = text.replace(f"{self._in}{os.sep}", f"{self._setup.source}/")
        return text.replace(f"{self._out}{os.sep}", f"{self._item.output_url}/")

    def _is_made(self) -> bool:
        """Return whether the result is there: made by this model of this input, as asked for, and whole."""
        try:
            said = json.loads(self._results.get(self._sidecar))
            kept, of = said["output"], said["input"]
            wanted = json.loads(json.dumps(_asked(self._setup)))
            if {name: said.get(name) for name in wanted} != wanted or _made_by(said) != self._made_by():
                return False
            if self._setup.options.trust and not self._has_trust():
                return False
            is_whole = self._results.holds(self._item.key, kept["sha256"], kept["bytes"])
            return is_whole and self._is_input(of["sha256"], of["bytes"])
        except (NotThereError, ValueError, KeyError, TypeError, AttributeError):  # there is none, or it is no sidecar
            return False

    def _has_trust(self) -> bool:
        from metasr.inference.trust import trust_path

        name = trust_path(Path(self._item.key)).as_posix() if self._item.input.kind == "volume" else ""
        return bool(name) and self._results.exists(name)

    def _made_by(self) -> str | None:
        return self._setup.weights.digest if self._setup.weights else None

    def _is_input(self, sha256: str, num_bytes: int) -> bool:
        if self._source and self._source.holds(self._item.name, sha256, num_bytes):
            return True
        from metasr.inference.sidecar import fingerprint

        self._fetch()  # other tools note no SHA-256 in a bucket
        here = fingerprint(self._input.path)
        return (here["sha256"], here["bytes"]) == (sha256, num_bytes)

    def _fetch(self) -> None:
        """Bring the input here, if it is elsewhere."""
        if self._source is None or self._input.path.exists():
            return
        names = [self._item.name, *([bids.DESCRIPTION] if self._input.dataset else [])]
        for name in names:
            path = self._in / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._source.get(name))

    def _deliver(self) -> None:
        """Put the result where it belongs, after its description: one that is there has a description for certain."""
        for path in self._out.rglob("*"):
            key = path.relative_to(self._out).as_posix()
            if path.is_file() and key not in (self._item.key, self._sidecar) and not self._is_shared(key):
                self._results.put(key, path)
        self._results.put(self._sidecar, self._task.sidecar)
        if self._setup.options.force:
            self._results.put(self._item.key, self._task.output)
        else:
            _put_new(self._results, self._item.key, self._task.output, self._other())

    def _is_shared(self, key: str) -> bool:
        """Return whether a file is that of all results of a data set, and is there."""
        return Path(key).name == bids.DESCRIPTION and self._results.exists(key)

    def _other(self) -> ConfigError:
        what = f"output {self._item.output_url}/{self._item.key}"
        why = "it exists, and was not made as asked for, by this model of this input"
        return ConfigError(what, why, "Give another place, or --force to replace it")


def _asked(setup: Setup) -> dict[str, Any]:
    from metasr.inference.sidecar import asked

    return asked(setup.options)


def _made_by(said: dict[str, Any]) -> str | None:
    model = said["model"]
    return None if model is None else str(model["bundle_sha256"])


def _put_new(store: Store, key: str, file: Path, other: ConfigError) -> None:
    """Put a file where there is none; one with the same bytes is our own, from a try whose answer was lost."""
    try:
        store.put_new(key, file)
    except AlreadyThereError:
        if store.get(key) != file.read_bytes():
            raise other from None
