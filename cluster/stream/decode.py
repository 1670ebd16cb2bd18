"""From the bytes of a tar to samples, without copying an image."""

import json
import re
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cluster.shards import TAR_BLOCK_BYTES, Sample

MAX_NAME_BYTES = 4096  # of a name with a header of its own, that header included
MAX_DESCRIPTION_BYTES = 2**16
MAX_SHOWN = 100  # characters of a name in a message

_FILE, _PAX, _GNU = (b"0", b"\0"), b"x", b"L"
_END_BLOCK = bytes(TAR_BLOCK_BYTES)
# A header from its byte 100 on: mode, owner and group, size, time, checksum, type, names of link and owners, device,
# and the first byte of a prefix, which would be a folder.
_NUMBER = rb"(?:[0-7]{6}[0-7 \0][ \0]|\0{8})"
_HEADER = re.compile(
    rb"%b{3}([0-7]{11})[ \0](?:[0-7]{11}[ \0]|\0{12})([0-7]{6})[ \0]{2}(.).{172}%b{2}\0" % (_NUMBER, _NUMBER),
    re.DOTALL,
)
# NumPy's own reader accepts more, and takes longer than copying an image.
_NPY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f2', 'fortran_order': False, "
    rb"'shape': \(([1-9]\d{0,8}), ([1-9]\d{0,8})\), \} *\n",
    re.DOTALL,
)


def decode(data: bytes) -> list[Sample]:
    """Return the samples of a tar; it is nobody's program, and neither are its members.

    The images are views of `data`, which stays in memory for as long as one of them does.

    Raises:
        ValueError: It is anything but pairs of `<key>.npy` and `<key>.json` side by side, each key once.
    """
    members = list(_members(data))
    if len(members) % 2:
        raise ValueError(f"{shown(members[-1][0])} is not beside an image or its description")
    samples, keys = [], set()
    for (name, file), (other, other_file) in zip(members[::2], members[1::2], strict=True):
        key, files = name.partition(".")[0], {name: file, other: other_file}
        if not key or "/" in key or files.keys() != {f"{key}.npy", f"{key}.json"}:
            raise ValueError(f"{shown(name)} and {shown(other)} are not an image with its description")
        if key in keys:
            raise ValueError(f"{shown(key)} is there twice")
        keys.add(key)
        subject, number, contrast = _description(key, files[f"{key}.json"])
        samples.append(Sample(subject, number, _image(key, files[f"{key}.npy"]), contrast))
    return samples


def shown(text: str) -> str:
    """Return text from an input as a message may show it: in one line, escaped where it does not print, and short."""
    start = text[: MAX_SHOWN + 1]
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in start)
    return line if len(line) <= MAX_SHOWN else f"{line[:MAX_SHOWN]}..."


def _members(data: bytes) -> Iterator[tuple[str, memoryview]]:
    """Yield name and content of each file of a tar, which must hold nothing else and end where it says.

    tarfile is not asked: it takes longer for a header than it takes to copy an image, some headers keep it busy for
    hours, and it reads on where a tar is cut.
    """
    content, offset, long_name = memoryview(data), 0, b""
    while (header := data[offset : offset + TAR_BLOCK_BYTES]) != _END_BLOCK:
        name, size, kind = _header(header, offset)
        start = offset + TAR_BLOCK_BYTES
        stop = start + size
        if stop > len(data):
            raise ValueError(f"the file at byte {start} goes on after the end of the tar")
        if kind in _FILE:
            yield (long_name or name).decode(), content[start:stop]
            long_name = b""
        elif not long_name:
            long_name = _long_name(kind, data[start : min(stop, start + MAX_NAME_BYTES + 1)])
        else:
            raise ValueError(f"the long name before byte {offset} is not that of a file")
        offset = stop + -stop % TAR_BLOCK_BYTES
    end = np.frombuffer(data, np.uint8)[offset:]
    if long_name or end.size < 2 * TAR_BLOCK_BYTES or end.any():
        raise ValueError("the tar has no end, or something after it")


def _header(header: bytes, offset: int) -> tuple[bytes, int, bytes]:
    """Return name, size and type of a member."""
    fields = _HEADER.match(header, 100)
    if fields is None or len(header) < TAR_BLOCK_BYTES:
        raise ValueError(f"there is no plain header at byte {offset}")
    size, checksum, kind = fields.groups()
    # Adler-32 holds a sum of bytes, exact where it is below 65521. The checksum itself counts as eight spaces.
    low, high = zlib.adler32(header[:256]) & 0xFFFF, zlib.adler32(header[256:]) & 0xFFFF
    if low - 1 + high - 1 - sum(header[148:156]) + 8 * ord(" ") != int(checksum, 8):
        raise ValueError(f"the header at byte {offset} differs from its checksum")
    return header[:100].rstrip(b"\0"), int(size, 8), kind


def _long_name(kind: bytes, content: bytes) -> bytes:
    """Return the name of the member that comes next, which did not fit in its header."""
    if kind not in (_PAX, _GNU):
        raise ValueError(f"it holds more than files: a member of type {ascii(kind)[1:]}")
    if len(content) > MAX_NAME_BYTES:
        raise ValueError(f"a name takes more than {MAX_NAME_BYTES} bytes")
    name = content.rstrip(b"\0")
    if kind == _PAX:  # a single record, whose length is in front of it
        length, _, record = content.partition(b" ")
        if length != b"%d" % len(content) or record[:5] != b"path=" or record[-1:] != b"\n":
            raise ValueError("a PAX header holds more than a name")
        name = record[5:-1]
    if not name or b"\0" in name:
        raise ValueError("a long name is empty or holds a NUL")
    return name


def _description(key: str, file: memoryview) -> tuple[str, int, str]:
    """Return the subject, the number of the slice, and the contrast, where the data set has several."""
    if len(file) > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"the description of {shown(key)} is too long")
    try:
        meta = json.loads(str(file, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the description of {shown(key)} is not JSON: {error}") from error
    if not isinstance(meta, dict):
        meta = {}
    subject, number, contrast = meta.get("subject"), meta.get("slice"), meta.get("contrast", "")
    if not isinstance(contrast, str):
        raise ValueError(f"the description of {shown(key)} has a contrast that is no text")
    if not isinstance(subject, str) or not subject or type(number) is not int or number < 0:
        raise ValueError(f"the description of {shown(key)} has no subject or no slice")
    return subject, number, contrast


def _image(key: str, file: memoryview) -> NDArray[np.float16]:
    header = _NPY_HEADER.match(file)
    if header is None or header.end() != 10 + int.from_bytes(file[8:10], "little"):
        raise ValueError(f"{shown(key)} is not a float16 image as NumPy writes it")
    image = np.frombuffer(file, np.float16, offset=header.end()).reshape(int(header[1]), int(header[2]))
    # NaN and infinity have the largest bit patterns of either sign. isfinite() takes ten times as long.
    largest = image.view(np.uint16).max()
    if largest >= 0xFC00 or (largest >= 0x7C00 and image.view(np.int16).max() >= 0x7C00):
        raise ValueError(f"{shown(key)} has pixels that are NaN or infinite")
    return image
