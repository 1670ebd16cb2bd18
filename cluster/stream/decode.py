"""From the bytes of a tar to samples, without copying an image."""

import io
import json
import re
import tarfile

import numpy as np
from numpy.typing import NDArray

from cluster.shards import TAR_BLOCK_BYTES, Sample

# What decode() raises where the bytes are not a shard's; RecursionError is JSON's, for lists in lists in lists.
NOT_A_SHARD = (tarfile.TarError, KeyError, ValueError, TypeError, OverflowError, OSError, EOFError, RecursionError)

_OCTAL = re.compile(rb"0*([0-7]{1,11})[\0 ]*")
# NumPy's own reader accepts more, and takes longer than copying an image.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f2', 'fortran_order': False, 'shape': \(([1-9]\d*), ([1-9]\d*)\), \} *\n",
    re.DOTALL,
)


def decode(data: bytes) -> list[Sample]:
    """Return the samples of a tar; it is nobody's program, and neither are its members.

    The images are views of `data`, which stays in memory for as long as one of them does.

    Raises:
        *NOT_A_SHARD: It is anything but pairs of `<key>.npy` and `<key>.json` side by side, each key once.
    """
    members, content = _members(data), memoryview(data)
    samples, keys = [], set()
    for (name, start, stop), (other, other_start, other_stop) in zip(members[::2], members[1::2], strict=True):
        key = name.partition(".")[0]
        files = {name: content[start:stop], other: content[other_start:other_stop]}
        if not key or "/" in key or files.keys() != {f"{key}.npy", f"{key}.json"}:
            raise ValueError(f"{name} and {other} are not an image with its description")
        if key in keys:
            raise ValueError(f"{key} is there twice")
        keys.add(key)
        meta = json.loads(bytes(files[f"{key}.json"]))
        samples.append(Sample(str(meta["subject"]), int(meta["slice"]), _image(key, files[f"{key}.npy"])))
    return samples


def _members(data: bytes) -> list[tuple[str, int, int]]:
    """Return name, start and stop of the files in a tar.

    tarfile takes longer for a header than it takes to copy an image. Therefore it is asked only where a header is not
    of the plain kind that `metasr prepare` writes, unless a name is long or not ASCII.
    """
    if (plain := _plain_members(data)) is not None:
        return plain
    found = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for member in tar:
            if not member.isreg() or member.issparse():
                raise ValueError("it holds more than files")
            found.append((member.name, member.offset_data, member.offset_data + member.size))
    return found


def _plain_members(data: bytes) -> list[tuple[str, int, int]] | None:
    """Return what `_members` does if all headers are plain: a short name, an octal size, a regular file."""
    found, offset, end = [], 0, bytes(TAR_BLOCK_BYTES)
    while (header := data[offset : offset + TAR_BLOCK_BYTES]) != end:
        name, size, prefix = header[:100].rstrip(b"\0"), _OCTAL.fullmatch(header[124:136]), header[345:346]
        start = offset + TAR_BLOCK_BYTES
        if not (name and size and header[156:157] in (b"0", b"\0") and prefix == b"\0"):
            return None
        stop = start + int(size[1], 8)
        found.append((name.decode(), start, stop))
        offset = stop + -stop % TAR_BLOCK_BYTES
    return found


def _image(key: str, file: memoryview) -> NDArray[np.float16]:
    header = _NPY_HEADER.match(file)
    if header is None or header.end() != 10 + int.from_bytes(file[8:10], "little"):
        raise ValueError(f"{key} is not a float16 image as NumPy writes it")
    return np.frombuffer(file, np.float16, offset=header.end()).reshape(int(header[1]), int(header[2]))
