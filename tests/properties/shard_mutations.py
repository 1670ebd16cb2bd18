"""Shards damaged at random, by seed: in any bit, in a field of a header, in the order of files, in what they hold."""

import io
import json
import tarfile
from dataclasses import dataclass

import numpy as np
import webdataset

BLOCK = 512
SHAPE = (3, 4)
# Where the fields of a header are, in bytes.
FIELDS = {
    "name": (0, 100),
    "mode": (100, 8),
    "size": (124, 12),
    "mtime": (136, 12),
    "checksum": (148, 8),
    "type": (156, 1),
    "link": (157, 100),
    "magic": (257, 8),
    "user": (265, 32),
    "prefix": (345, 155),
}
TYPES = b"\0001234567LKSxgXDVNMA\xff"
NUMBERS = (
    b"",
    b"0",
    b"1",
    b"777",
    b"-1",
    b"-1000",
    b"77777777777",
    b"0x10",
    b" 12",
    b"1_0",
    b"12\0 9",
    b"\x80\0\0\x01",
)
NAMES = (b"a.npy", b"a.json", b"../a.npy", b"/a.npy", b"f/a.npy", b"a", b".npy", b"a.b.npy", b"a\0b.npy", b"\xff.npy")
SUBJECTS = ("null", "7", '""', '"a"', '"\\u0000\\n"', '"\\udc80"', "[]", "{}", "true", "NaN", '"' + "s" * 300 + '"')
SLICES = ("1.9", '"7"', "-5", "null", "true", "1e3", "1e999", "-0", "0", "9" * 30, "9" * 5000, "[1]", "NaN")
TEXTS = (b"", b"[]", b"{", b"null", b"[" * 3000, b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b'{"subject": "a"}', b"80")
DTYPES = ("<f2", ">f2", "<f4", "<i2", "|O", "<U4", "<M8[s]", "|V2")
PIXELS = (np.nan, -np.nan, np.inf, -np.inf, 65504.0, -65504.0, -0.0, 6e-8)
RECORDS = (
    b"path=a.npy\n",
    b"path=\n",
    b"path=/a.npy\n",
    b"size=0\n",
    b"size=-512\n",
    b"size=99999999999\n",
    b"mtime=1.5\n",
    b"hdrcharset=BINARY\n",
    b"GNU.sparse.size=4\n",
    b"GNU.sparse.map=0,4\n",
    b"linkpath=/etc/passwd\n",
    b"\n",
)


@dataclass(frozen=True)
class Hostile:
    """A damaged tar, and what was done to it."""

    kind: str
    content: bytes


def hostile(seed, number):
    """Return the tar of this number: always the same."""
    rng = np.random.default_rng([seed, number])
    tar = bytearray(_choice(rng, _ORIGINALS))
    kinds = []
    for _ in range(_choice(rng, (0, 1, 1, 1, 1, 2, 3))):
        damage = _choice(rng, _DAMAGES if tar else (longer,))
        tar = bytearray(damage(rng, tar))
        kinds.append(damage.__name__)
    return Hostile("+".join(kinds) or "whole", bytes(tar))


def originals():
    """Small shards as `metasr prepare` writes them, and as tarfile does in its other formats."""
    rng = np.random.default_rng(0)
    names = (["p1-0003", "p2-0004"], ["é" * 3, "p", "long" * 40])
    shards = []
    for subjects in names:
        members = []
        for number, subject in enumerate(subjects):
            image, buffer = rng.normal(size=SHAPE).astype(np.float16), io.BytesIO()
            np.save(buffer, image, allow_pickle=False)
            meta = json.dumps({"subject": subject, "slice": number}).encode()
            members.append({"__key__": subject, "json": meta, "npy": buffer.getvalue()})
        buffer = io.BytesIO()
        with webdataset.TarWriter(buffer, encoder=False, mtime=0) as writer:
            for member in members:
                writer.write(member)
        shards += [buffer.getvalue(), _by_tarfile(members, tarfile.GNU_FORMAT)]
    return shards


def _by_tarfile(members, form):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member in members:
            for ending in ("npy", "json"):
                info = tarfile.TarInfo(f"{member['__key__']}.{ending}")
                info.size = len(member[ending])
                tar.addfile(info, io.BytesIO(member[ending]))
    return buffer.getvalue()


# What is done to any bytes


def bit_flips(rng, tar):
    for _ in range(_choice(rng, (1, 1, 2, 8))):
        tar[rng.integers(_used(tar))] ^= 1 << int(rng.integers(8))
    return tar


def random_bytes(rng, tar):
    start, length = int(rng.integers(_used(tar))), int(rng.integers(1, 64))
    tar[start : start + length] = rng.bytes(length)
    return tar


def cut(rng, tar):
    at = int(rng.integers(len(tar)))
    return tar[: at - at % BLOCK if rng.random() < 0.5 else at]


def longer(rng, tar):
    return tar + _choice(rng, (rng.bytes(3), bytes(1), bytes(BLOCK), tar, b"x" * BLOCK))


def zero_block(rng, tar):
    at = _choice(rng, [start for start, _ in members(tar)] or [0])
    tar[at:at] = bytes(BLOCK * int(rng.integers(1, 3)))
    return tar


def end_gone(rng, tar):
    return tar[: _used(tar) + int(_choice(rng, (0, 1, BLOCK, BLOCK + 1, 2 * BLOCK)))]


# What is done to a header, whose checksum is right again


def field(rng, tar):
    name = _choice(rng, list(FIELDS))
    at, width = FIELDS[name]
    values = {"size": NUMBERS, "checksum": NUMBERS, "name": NAMES, "prefix": (b"f", b"\0f")}
    value = _choice(rng, (*values.get(name, ()), rng.bytes(width)))
    if name == "type":
        value = bytes([_choice(rng, TYPES)])
    elif name == "size" and rng.random() < 0.5:
        value = b"%011o" % int(_choice(rng, (0, 1, 16, 127, 128, 512, 513, 1024, 2**20, 2**32)))
    return _in_header(rng, tar, at, value.ljust(width, b"\0")[:width], fixed=name != "checksum")


def any_byte_of_a_header(rng, tar):
    return _in_header(rng, tar, int(rng.integers(BLOCK)), rng.bytes(1), fixed=True)


def _in_header(rng, tar, at, value, *, fixed):
    start = _choice(rng, [start for start, _ in members(tar)] or [0])
    header = tar[start : start + BLOCK].ljust(BLOCK, b"\0")
    header[at : at + len(value)] = value
    tar[start : start + BLOCK] = with_checksum(header) if fixed else header
    return tar


# What is done to the order of members


def member_gone(rng, tar):
    start, stop = _member(rng, tar)
    return tar[:start] + tar[stop:]


def member_twice(rng, tar):
    (start, stop), (at, _) = _member(rng, tar), _member(rng, tar)
    return tar[:at] + tar[start:stop] + tar[at:]


def members_swapped(rng, tar):
    start, middle = _member(rng, tar)
    stop = next((stop for at, stop in members(tar) if at == middle), middle)
    return tar[:start] + tar[middle:stop] + tar[start:middle] + tar[stop:]


def pax_header(rng, tar):
    records = [_choice(rng, RECORDS) for _ in range(_choice(rng, (1, 1, 2)))]
    content = b"".join(b"%d %s" % (len(record) + 3 + (len(record) > 96), record) for record in records)
    odd = (b"1" * 3000, b"-5 path=a\n", b"0 path=a\n", b"99999999999999999999 path=a\n", b"a.npy", b"")
    return _inserted(rng, tar, _choice(rng, b"xxxxg"), content if rng.random() < 0.7 else _choice(rng, odd))


def long_name(rng, tar):
    content = _choice(rng, (*NAMES, b"a" * 200, b"a" * 4095, b"a" * 5000, b"")) + _choice(rng, (b"\0", b"", b"\0x"))
    return _inserted(rng, tar, _choice(rng, b"LLLK"), content)


def _inserted(rng, tar, kind, content):
    info = tarfile.TarInfo("././@LongLink")
    info.size, info.type = len(content), bytes([kind])
    at, _ = _member(rng, tar)
    return tar[:at] + info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % BLOCK) + tar[at:]


# What is done to what the files hold


def description(rng, tar):
    good = {"subject": '"p1"', "slice": "3"}
    good[_choice(rng, ("subject", "slice"))] = _choice(rng, SUBJECTS if rng.random() < 0.5 else SLICES)
    text = "{" + ", ".join(f'"{key}": {value}' for key, value in good.items()) + "}"
    return _replaced(rng, tar, b"{", text.encode() if rng.random() < 0.8 else _choice(rng, TEXTS))


def image(rng, tar):
    array = np.zeros(_choice(rng, (SHAPE, (1, 1), (0, 3), (3,), (2, 2, 2), ())))
    buffer = io.BytesIO()
    with np.errstate(all="ignore"):
        array = array.astype(_choice(rng, DTYPES), order=_choice(rng, "CF"))
    np.lib.format.write_array(buffer, array, version=_choice(rng, ((1, 0), (2, 0), (3, 0))), allow_pickle=True)
    return _replaced(rng, tar, b"\x93NUMPY", buffer.getvalue())


def image_header(rng, tar):
    shapes = (b"(3, 4)", b"(4, 3)", b"(12, 1)", b"(0, 4)", b"(-3, -4)", b"(99999, 99999)", b"(3, 04)", b"(3, 4, 1)")
    buffer = io.BytesIO()
    np.save(buffer, np.ones(SHAPE, np.float16))
    return _replaced(rng, tar, b"\x93NUMPY", buffer.getvalue().replace(b"(3, 4)", _choice(rng, shapes)))


def pixels(rng, tar):
    buffer, values = io.BytesIO(), rng.normal(size=SHAPE).astype(np.float16)
    values.flat[rng.integers(values.size)] = _choice(rng, PIXELS)
    np.save(buffer, values)
    return _replaced(rng, tar, b"\x93NUMPY", buffer.getvalue())


def _replaced(rng, tar, beginning, content):
    """Return the tar with another content in one of its files that begin like this."""
    found = [(start, stop) for start, stop in members(tar) if tar.startswith(beginning, start + BLOCK)]
    start, stop = _choice(rng, found) if found else _member(rng, tar)
    header = tar[start : start + BLOCK].ljust(BLOCK, b"\0")
    header[124:136] = b"%011o\0" % len(content)
    return tar[:start] + with_checksum(header) + content + bytes(-len(content) % BLOCK) + tar[stop:]


def with_checksum(header):
    """Return a header with the checksum that it should have."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return header


def members(tar):
    """Return start and stop of all members with their headers, as far as sizes are plain."""
    found, at = [], 0
    while at + BLOCK <= len(tar) and any(tar[at : at + BLOCK]):
        digits = bytes(tar[at + 124 : at + 136]).rstrip(b"\0 ")
        size = int(digits, 8) if digits.isdigit() and not digits.strip(b"01234567") else 0
        stop = min(len(tar), at + BLOCK + size + -size % BLOCK)
        found.append((at, stop))
        at = stop
    return found


_DAMAGES = (
    bit_flips,
    bit_flips,
    random_bytes,
    cut,
    longer,
    zero_block,
    end_gone,
    field,
    field,
    field,
    any_byte_of_a_header,
    any_byte_of_a_header,
    member_gone,
    member_twice,
    members_swapped,
    pax_header,
    pax_header,
    long_name,
    description,
    description,
    image,
    image_header,
    pixels,
    pixels,
)


def _choice(rng, options):
    return options[int(rng.integers(len(options)))]


def _member(rng, tar):
    return _choice(rng, members(tar) or [(0, len(tar))])


def _used(tar):
    """Return where the last member ends."""
    return max((stop for _, stop in members(tar)), default=len(tar)) or 1


_ORIGINALS = originals()
