"""Where a result goes: everything that would keep it from being written is found before the work."""

import os
import shutil
import tempfile
import zlib
from pathlib import Path

import numpy as np

from metasr.data.files import appearing
from metasr.data.volume import Volume
from metasr.errors import ConfigError, DataError
from metasr.inference.target import Target

SAMPLE_BYTES = 2**20
ENDINGS = (".nii", ".nii.gz")


def check_output(path: Path, source: Path, *, force: bool, endings: tuple[str, ...] = ENDINGS) -> None:
    """Refuse a path that a result cannot or should not be written to; make its folder if it is missing.

    Args:
        path: Of the result.
        source: The volume it is made of, which is never overwritten, by whatever name.
        force: Whether another existing file may be.
        endings: One of which its name has, for the kind of file that it is.

    Raises:
        ConfigError: It has another ending, is the source, exists, or is too long for the file system.
        DataError: Its folder cannot be made or written to.
    """
    if not path.name.lower().endswith(endings):
        kind = "a NIfTI file" if endings == ENDINGS else "a picture"
        *others, last = endings
        named = f"{', '.join(others)} or {last}"
        raise ConfigError(f"output {path}", f"the name of {kind} ends in {named}", "Give such a name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        exists = _is_there(path)
        if path.exists() and source.exists() and os.path.samefile(path, source):
            raise ConfigError(f"output {path}", "it is the input, which is never overwritten", "Give another name")
        if exists and not path.is_file():
            raise ConfigError(f"output {path}", "it is no file that a result could replace", "Give another name")
        if exists and not force:
            raise ConfigError(f"output {path}", "it exists", "Give another name, or --force to replace it")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise DataError(
            f"cannot write {path}", error.strerror or str(error), "Give a name in a folder that you may write to"
        ) from error


def _is_there(path: Path) -> bool:
    """Return whether a name is taken, be it by a link that leads nowhere; OSError where no file can have it."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    return True


def check_disk(path: Path, volume: Volume, target: Target) -> None:
    """Refuse a result that does not fit on the disk; how far .nii.gz compresses is measured on the volume.

    Raises:
        DataError: With what it needs and what is free.
    """
    kind = volume.header.get_data_dtype()
    needed = float(np.prod(target.shape, dtype=np.float64)) * kind.itemsize
    if path.name.lower().endswith(".gz"):
        start = max(0, volume.data.size // 2 - SAMPLE_BYTES // kind.itemsize // 2)
        sample = volume.data.ravel(order="K")[start : start + SAMPLE_BYTES // kind.itemsize].astype(kind).tobytes()
        needed *= len(zlib.compress(sample, 1)) / len(sample)
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise DataError(
            f"output {path}",
            f"it needs {needed / 1e9:.2g} GB, and {free / 1e9:.2g} GB of the disk are free",
            "Free some, or write it elsewhere",
        )


def write_text(path: Path, text: str) -> None:
    """Write a small file in UTF-8; it appears when it is complete.

    Raises:
        DataError: It cannot be written.
    """
    with appearing(path, path.suffix) as partial:
        partial.write_text(text, encoding="utf-8")
