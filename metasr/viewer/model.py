"""The model behind the page: it is loaded while the page shows interpolation already."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from metasr.inference.bundle import Bundle


class Model(Protocol):
    """What super-resolves. Which it is may change from one window to the next."""

    def bundle(self) -> "Bundle":
        """Return the bundle to use now."""

    def description(self) -> dict[str, Any]:
        """Return whether it is there, and what it is, for JSON."""


class LoadedModel:
    """A model that is loaded in the background.

    Args:
        load: Loads its bundle.
    """

    def __init__(self, load: "Callable[[], Bundle]") -> None:
        self._load = load
        self._bundle: Bundle | None = None
        self._error: Exception | None = None
        self.is_asked_for = False
        """Whether a page has asked for it."""
        self.is_error_told = threading.Event()
        """Set when a page knows that there will be no model."""

    def start(self, on_failure: Callable[[], None]) -> None:
        """Begin to load it; `on_failure` is called where that fails."""
        threading.Thread(target=self._run, args=(on_failure,), name="load", daemon=True).start()

    def _run(self, on_failure: Callable[[], None]) -> None:
        try:
            from metasr.viewer.decoder import check_zooms  # torch, which takes seconds to import

            bundle = self._load()
            check_zooms(bundle)
            self._bundle = bundle
        except Exception as error:  # raised again by `serve`, in the main thread
            self._error = error
            on_failure()

    @property
    def error(self) -> Exception | None:
        """Why there is no model."""
        return self._error

    def bundle(self) -> "Bundle":
        """Return the bundle.

        Raises:
            RuntimeError: The page asks before the model is there.
        """
        if self._bundle is None:
            raise RuntimeError("the model is not loaded yet")
        return self._bundle

    def description(self) -> dict[str, Any]:
        """Return whether it is there, and what it is, for JSON."""
        self.is_asked_for = True
        if self._error is not None:
            self.is_error_told.set()
            return {"state": "failed", "error": str(self._error)}
        return {"state": "loading"} if self._bundle is None else ready(self._bundle)


def ready(bundle: "Bundle") -> dict[str, Any]:
    """Return the description of a model that is there."""
    return {
        "state": "ready",
        "digest": short(bundle),
        "num_parameters": bundle.about["num_parameters"],
        "step": bundle.about.get("step"),
        "trained_scales": bundle.trained_scales,
    }


def short(bundle: "Bundle") -> str:
    """Return the first digits of a bundle's SHA-256, by which the page knows it."""
    return bundle.digest[:12]
