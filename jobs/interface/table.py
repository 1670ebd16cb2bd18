"""Tables and times for a person, and the same values for a script."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under headings, in columns as wide as their widest cell; the last one is not filled up."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def ago(time: datetime | None) -> str:
    """Return how long ago something was, in its largest unit; empty if that is unknown."""
    if time is None:
        return ""
    seconds = max(0.0, (datetime.now(UTC) - time).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def gain(value_db: float | None) -> str:
    """Return a gain in dB; empty if it is unknown."""
    return "" if value_db is None else f"{value_db:+.2f} dB"


def as_json(content: Any) -> Any:
    """Return a dataclass as a JSON value, with times as ISO 8601."""

    def plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in pairs}

    return asdict(content, dict_factory=plain)
