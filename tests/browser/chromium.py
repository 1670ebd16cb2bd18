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
    options = ["--disable-dev-shm-usage"]  # /dev/shm is small in a container
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # without it Chromium does not start as root
    return playwright.chromium.launch(executable_path=find(), args=options, timeout=1000 * PATIENCE_S)
