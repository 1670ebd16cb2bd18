"""The model that an alias names now: loaded, and loaded anew when the alias moves."""

import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cluster.config import TrackingConfig
from cluster.model_choice import choose_bundle
from cluster.registry import Registry
from metasr.arithmetic import half_precision
from metasr.errors import MetaSRError
from metasr.inference.bundle import default_device, load_bundle
from metasr.inference.plan import ModelInUse

log = logging.getLogger(__name__)


class Followed(NamedTuple):
    """What is asked of the registry again and again.

    Attributes:
        reference: Alias, version, bundle or run; empty for the champion, else the model that ships.
        tracking: Where the registry is.
        every_s: Time between two looks.
    """

    reference: str
    tracking: TrackingConfig
    every_s: float = 10.0


class CurrentModel:
    """A model that follows its alias. A registry that is away changes nothing: the model stays.

    Args:
        followed: Which model.
        on_change: Called when another model has taken the place of one.

    Raises:
        MetaSRError: There is no such model at the start.
    """

    def __init__(self, followed: Followed, on_change: Callable[[], None]) -> None:
        self._followed, self._on_change = followed, on_change
        self._seen = self._look()
        self.model = self._load()
        self._ended = threading.Event()
        threading.Thread(target=self._follow, name="follow", daemon=True).start()

    def _look(self) -> str:
        """Return what changes with the version; empty where there is no registry, or no version of that name."""
        try:
            version = Registry(self._followed.tracking).version(self._followed.reference or "champion")
        except MetaSRError as error:
            log.debug("%s", error)
            return ""
        return f"{version.name} {version.version}"

    def _load(self) -> ModelInUse:
        device = default_device()
        with tempfile.TemporaryDirectory() as download:
            folder, version = choose_bundle(self._followed.reference or None, self._followed.tracking, Path(download))
            return ModelInUse(load_bundle(folder, device), version, half_precision("auto", device))

    def _follow(self) -> None:
        while not self._ended.wait(self._followed.every_s):
            try:
                self.refresh()
            except Exception as error:  # a damaged version must not end the service: the model stays
                log.warning("the model stays as it is: %s", error)

    def refresh(self) -> None:
        """Look once, and load the model anew where the alias has moved.

        Raises:
            MetaSRError: What it names cannot be loaded. The former model stays.
        """
        seen = self._look()
        if not seen or seen == self._seen:
            return
        self.model, self._seen = self._load(), seen
        log.warning("the model is now %s", seen)
        self._on_change()
