"""Format versions of the JSON that is written by one version of the program and read by another."""

from metasr.errors import MetaSRError

KEY = "format"
FIRST = 1
"""That of JSON which names none."""


class FormatError(MetaSRError):
    """JSON that a later version of the program wrote."""


def require_format(what: str, content: object, newest: int = FIRST) -> None:
    """Raise FormatError if JSON is of a later format than this program knows.

    Args:
        what: What the JSON is, for the message.
        content: The JSON value; without `format` it is of format 1.
        newest: The latest format that can be read.
    """
    found = content.get(KEY, FIRST) if isinstance(content, dict) else FIRST
    if found not in range(FIRST, newest + 1):
        raise FormatError(
            what, f"it has format {found!r}, and this version reads up to {newest}", "Update metasr on this machine"
        )
