"""The model behind the page: it is loaded while the page shows interpolation already."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from metasr.viewer.scene import Scene

if TYPE_CHECKING:
    from metasr.inference.bundle import Bundle
    from metasr.viewer.decoder import Decoder


class Model:
    """A model that is loaded in the background.

    Args:
        load: Loads its bundle.
        scene: What it will be applied to.
    """

    def __init__(self, load: "Callable[[], Bundle]", scene: Scene) -> None:
        self._load, self._scene = load, scene
        self._decoder: Decoder | None = None
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
            from metasr.viewer.decoder import Decoder  # torch, which takes seconds to import

            self._decoder = Decoder(self._load(), self._scene)
        except Exception as error:  # raised again by `serve`, in the main thread
            self._error = error
            on_failure()

    @property
    def error(self) -> Exception | None:
        """Why there is no model."""
        return self._error

    def decoder(self) -> "Decoder":
        """Return what decodes windows.

        Raises:
            RuntimeError: The page asks before the model is there.
        """
        if self._decoder is None:
            raise RuntimeError("the model is not loaded yet")
        return self._decoder

    def description(self) -> dict[str, Any]:
        """Return whether it is there, and what it is, for JSON."""
        self.is_asked_for = True
        if self._error is not None:
            self.is_error_told.set()
            return {"state": "failed", "error": str(self._error)}
        if self._decoder is None:
            return {"state": "loading"}
        bundle = self._decoder.bundle
        return {
            "state": "ready",
            "digest": bundle.digest[:12],
            "num_parameters": bundle.about["num_parameters"],
            "step": bundle.about.get("step"),
            "trained_scales": bundle.trained_scales,
        }
