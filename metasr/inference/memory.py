"""The memory that an upscaled volume needs, and the memory that is available."""

import math
from pathlib import Path

import numpy as np

from metasr.data.volume import Volume
from metasr.errors import ScaleError
from metasr.inference.target import Target


def float_type(volume: Volume) -> np.dtype:
    """Return the smaller of float32 and float64 that holds every value of the volume's file exactly."""
    return np.dtype(np.float32 if np.can_cast(volume.header.get_data_dtype(), np.float32) else np.float64)


def needed_bytes(volume: Volume, target: Target) -> int:
    """Return the memory for the result, and for the larger of the first pass's volume and the copy to write."""
    kind = float_type(volume)
    stored = np.dtype(volume.header.get_data_dtype())
    across = volume.axes(target.plane)[0]
    voxels = math.prod(target.shape)
    first_pass = voxels // target.shape[across] * volume.data.shape[across] * kind.itemsize
    copy = 0 if stored == kind else voxels * stored.itemsize
    return int(voxels * kind.itemsize + max(first_pass, copy))


def available_bytes() -> int | None:
    """Return the memory available without swapping; None where the system does not report it.

    Linux does. POSIX has only the free memory (SC_AVPHYS_PAGES), which excludes what caches of files would give up.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def check_memory(volume: Volume, target: Target, memory_bytes: int | None) -> None:
    """Refuse a result that does not fit; where `memory_bytes` is None, unknown, nothing is refused.

    Raises:
        ScaleError: It needs more than `memory_bytes`.
    """
    needed = needed_bytes(volume, target)
    if memory_bytes is not None and needed > memory_bytes:
        size = " x ".join(map(str, target.shape))
        raise ScaleError(
            f"{size} voxels",
            f"they need {needed / 1e9:.1f} GB of memory, and {memory_bytes / 1e9:.1f} GB are available",
            "Give a smaller scale, or use a machine with more memory",
        )
