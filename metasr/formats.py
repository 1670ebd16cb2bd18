"""Small files carry the number of their format, by which a later one is told from a damaged one."""

import json
from contextlib import suppress
from typing import Final

from metasr.errors import FormatError

FORMAT: Final = 1
"""Of all files that this version writes and reads. Files without a number are of this format."""


def require_known_format(content: str | bytes, what: str) -> None:
    """Raise FormatError if JSON is of a later format than this version reads.

    Args:
        content: Of the file; one that is damaged passes.
        what: The file, for the error.
    """
    with suppress(ValueError):
        values = json.loads(content)
        found = values.get("format", FORMAT) if isinstance(values, dict) else FORMAT
        if found != FORMAT:
            raise FormatError(
                what,
                f"it is of format {found}, and this version of metasr reads format {FORMAT}",
                "Use the version of metasr that wrote it, or a newer one",
            )
