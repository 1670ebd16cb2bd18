"""A record: one thing that a run tells MLflow, as a line of JSON."""

import json
from dataclasses import dataclass
from typing import Any, Self

from metasr.formats import FORMAT, FORMAT_KEY

DAMAGED, LATER = "damaged", "of a later format"


@dataclass(frozen=True)
class Record:
    """One thing to tell MLflow.

    Attributes:
        kind: start, metrics, picture, text, tag, status or register.
        time_ms: When it was made, in milliseconds since 1970: sent twice, it is still the same point.
        payload: What it says, as JSON values.
        end: Byte of `records.jsonl` after it; 0 if it is in memory alone.
        format: Version of the line's format.
    """

    kind: str
    time_ms: int
    payload: dict[str, Any]
    end: int = 0
    format: int = FORMAT

    @property
    def is_light(self) -> bool:
        """Whether it gives way to others when there is no room."""
        return self.kind in ("metrics", "picture")

    def to_line(self) -> bytes:
        """Return it as a line of JSON."""
        content = {FORMAT_KEY: self.format, "kind": self.kind, "time_ms": self.time_ms, "payload": self.payload}
        return json.dumps(content).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes, end: int) -> Self:
        """Return the record of a line; one that cannot be read is of kind `DAMAGED` or `LATER`."""
        try:
            found = json.loads(line)
            version = int(found.get(FORMAT_KEY, FORMAT))
            if version > FORMAT:
                return cls(LATER, 0, {}, end, version)
            return cls(str(found["kind"]), int(found["time_ms"]), dict(found["payload"]), end)
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls(DAMAGED, 0, {"line": line.decode(errors="replace")}, end)
