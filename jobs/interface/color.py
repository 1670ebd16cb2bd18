"""A little colour, on terminals alone. Source of the rules: no-color.org."""

import os
from typing import Literal, TextIO

Style = Literal["bold", "red", "yellow", "green"]
_CODES: dict[Style, str] = {"bold": "1", "red": "31", "yellow": "33", "green": "32"}


def paint(text: str, style: Style, stream: TextIO) -> str:
    """Return text in a style where `stream` is a terminal that shows it, and NO_COLOR is not set."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if shows_color(stream) else text


def shows_color(stream: TextIO) -> bool:
    """Return whether colour is welcome on a stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
