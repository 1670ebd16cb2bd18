"""The format version in small JSON files, which tells a file of a later version from a damaged one."""

import json
from contextlib import suppress
from typing import Final

from metasr.errors import FormatError

FORMAT_KEY: Final = "format"
FORMAT: Final = 1
"""Newest format that this version writes and reads, and the format of files without a number."""


def require_format(content: object, what: str) -> None:
    """Raise FormatError if a JSON value is of a later format than this version reads.

    Args:
        content: The JSON value.
        what: What it is, for the error.
    """
    found = content.get(FORMAT_KEY, FORMAT) if isinstance(content, dict) else FORMAT
    if found != FORMAT:
        raise FormatError(
            what,
            f"it has format {found!r}, and this version of metasr reads format {FORMAT}",
            "Use the version of metasr that wrote it, or a newer one",
        )


def require_known_format(content: str | bytes, what: str) -> None:
    """Raise FormatError if JSON text is of a later format than this version reads; damaged text passes."""
    with suppress(ValueError):
        require_format(json.loads(content), what)
