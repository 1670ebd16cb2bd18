"""A volume that is sent: stored while it arrives, checked by its header, and opened, one at a time."""

import asyncio
import math
import tempfile
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from metasr.data.volume import load_volume, slices_shape
from metasr.errors import DataError
from metasr.viewer.session import Sessions

GZIP = b"\x1f\x8b"
VOXEL_BYTES = 8  # of a loaded volume
MAX_SLICE_PX = 2**20
"""The features of a slice of so many pixels, 64 of 4 bytes each, are what a session may keep."""


class TooLargeError(DataError):
    """More than the server takes."""


class Uploads:
    """Where volumes are sent to.

    Args:
        sessions: Where they are opened.
        max_bytes: Of a volume, as it is sent.
    """

    def __init__(self, sessions: Sessions, max_bytes: int) -> None:
        self._sessions, self._max_bytes = sessions, max_bytes
        self._reader = ThreadPoolExecutor(1, "read")

    async def open(self, chunks: AsyncIterator[bytes]) -> str:
        """Open a NIfTI volume, compressed or not, and return the secret that leads to it.

        Raises:
            FullError: There is no room for it.
            TooLargeError: It is larger than the limit.
            DataError: It cannot be read.
        """
        self._sessions.check_room()  # before it is sent for nothing
        with tempfile.TemporaryDirectory(prefix="metasr-") as folder:
            path = await self._store(chunks, Path(folder))
            return await asyncio.get_running_loop().run_in_executor(self._reader, self._open, path)

    async def _store(self, chunks: AsyncIterator[bytes], folder: Path) -> Path:
        arriving, size = folder / "arriving", 0
        with arriving.open("w+b") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes:
                    raise TooLargeError(
                        "the volume", f"it has more than {self._max_bytes / 1e6:g} MB", "Cut it in parts"
                    )
                file.write(chunk)
            file.seek(0)
            ending = ".nii.gz" if file.read(2) == GZIP else ".nii"
        return arriving.rename(folder / f"volume{ending}")

    def _open(self, path: Path) -> str:
        try:
            *_, shorter, longer = shape = sorted(slices_shape(path))
            if shorter * longer > MAX_SLICE_PX:
                raise TooLargeError(
                    "the volume", f"its slices have more than {MAX_SLICE_PX:,} pixels", "Cut it in parts"
                )
            self._sessions.check_room(VOXEL_BYTES * math.prod(shape))
            return self._sessions.open(load_volume(path))
        except TooLargeError:
            raise
        except DataError as error:  # without the path of our own
            raise DataError("the volume", error.why or error.what, error.fix) from None
