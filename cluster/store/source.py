"""What is to be stored, bytes or a file: hashed at most once, then read in parts as often as needed."""

import hashlib
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

MAX_PARTS = 10_000  # of S3


@dataclass(frozen=True)
class Part:
    """A part of what is stored.

    Attributes:
        number: Counted from 1.
        start: Its first byte.
        num_bytes: Its length.
        sha256: Its SHA-256 in base64, as S3 wants it.
    """

    number: int
    start: int
    num_bytes: int
    sha256: str


class Source:
    """Bytes or a file, of which one part at a time is in memory.

    Args:
        data: Which.
        part_bytes: How long its parts are, more where they would be too many for S3.
        sha256: SHA-256 of the data, where it is known: it is computed where it is not.

    Attributes:
        sha256: SHA-256 of all, in hexadecimal.
        parts: One at least.
    """

    def __init__(self, data: bytes | Path, part_bytes: int, sha256: str = "") -> None:
        self._data = data
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        part_bytes = max(part_bytes, -(-size // MAX_PARTS))
        if size <= part_bytes:
            self.sha256 = sha256 or hashlib.sha256(self._bytes(0, size)).hexdigest()
            self.parts = [Part(1, 0, size, b64encode(bytes.fromhex(self.sha256)).decode())]
            return
        whole, self.parts = hashlib.sha256(), []
        for number, start in enumerate(range(0, size, part_bytes), 1):
            content = self._bytes(start, min(part_bytes, size - start))
            if not sha256:
                whole.update(content)
            of_part = b64encode(hashlib.sha256(content).digest()).decode()
            self.parts.append(Part(number, start, len(content), of_part))
        self.sha256 = sha256 or whole.hexdigest()

    def read(self, part: Part) -> bytes | memoryview:
        """Return the bytes of a part."""
        return self._bytes(part.start, part.num_bytes)

    def _bytes(self, start: int, num_bytes: int) -> bytes | memoryview:
        if isinstance(self._data, Path):
            with self._data.open("rb") as file:
                file.seek(start)
                return file.read(num_bytes)
        return memoryview(self._data)[start : start + num_bytes]
