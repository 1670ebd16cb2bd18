"""The browser that is installed here."""

import os
import shutil

from playwright.sync_api import Browser, Playwright

from tests.patience import PATIENCE_S

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find() -> str | None:
    """Return where it is; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def launch(playwright: Playwright) -> Browser:
    """Start it, without a window."""
    # As root, as in a container, Chromium does not start with its sandbox.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=find(), args=options, timeout=1000 * PATIENCE_S)
