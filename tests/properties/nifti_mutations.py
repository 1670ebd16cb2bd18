"""NIfTI files damaged at random, by seed: in any bit, in any field of the header, in the compression around them."""

import gzip
import struct
import zlib
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel import nifti1, nifti2

SHAPE = (4, 5, 6)
# By their codes in the NIfTI standard, in the byte order of the file.
DATATYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
FIELDS = {348: nifti1.header_dtype, 540: nifti2.header_dtype}
NUMBERS = (0, 1, -1, 2, 3, 4, 7, 8, 15, 16, 64, 127, 255, 256, 352, 512, 544, 1000, 3001, 27307, 32767, -32768, 2**20)
LARGE = (2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
REALS = (np.nan, np.inf, -np.inf, 1e-45, 1e-30, 0.5, 352.5, 1e30, 3e38, -1e30, 1e300, 1e-300)


@dataclass(frozen=True)
class Hostile:
    """A damaged file.

    Attributes:
        kind: What was done to it.
        name: Of the file, whose ending says whether it is compressed.
        content: Its bytes.
        raw: What was compressed, or the bytes again: whoever reads the file must read this.
        cut: Whether no program can read it, because its end or its checksum is gone.
    """

    kind: str
    name: str
    content: bytes
    raw: bytes
    cut: bool = False


def originals():
    """Small volumes of both formats and byte orders, with slopes, extensions and every way to state an affine."""
    whole = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    oblique = np.array([[0.9, 0.3, 0, -20], [-0.3, 0.9, 0.1, 31], [0, -0.1, 2.5, 7], [0, 0, 0, 1.0]])
    notes = nifti1.Nifti1Extension("comment", b"made to be damaged")
    return [
        _bytes(nib.Nifti1Image, whole.astype("i2"), "<", np.diag([1, 1.5, 2.5, 1])),
        _bytes(nib.Nifti1Image, whole.astype("f4") / 7, ">", oblique, qcode=1),
        _bytes(nib.Nifti1Image, whole.astype("u1"), "<", oblique, slope=(0.5, 3), extensions=[notes, notes]),
        _bytes(nib.Nifti2Image, whole.astype("i4"), "<", oblique, qcode=1, scode=0, extensions=[notes]),
        _bytes(nib.Nifti2Image, whole.astype("f8"), ">", np.eye(4), slope=(2.0, -1.0)),
    ]


def _bytes(kind, data, order, affine, *, qcode=0, scode=1, slope=None, extensions=()):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(data.dtype)
    header.extensions.extend(extensions)
    image = kind(data, affine, header)
    image.set_sform(affine, scode)
    image.set_qform(affine, qcode)
    if slope:
        image.header.set_slope_inter(*slope)
    return image.to_bytes()


def hostile(seed, number):
    """Return the file of this number: always the same."""
    rng = np.random.default_rng([seed, number])
    raw = bytearray(_choice(rng, _ORIGINALS))
    kinds = []
    for _ in range(_choice(rng, (0, 1, 1, 1, 2, 3))):
        damage = _choice(rng, _RAW)
        raw = damage(rng, raw)
        kinds.append(damage.__name__)
    raw = bytes(raw)
    if kinds and rng.random() < 0.6:
        compressed = rng.random() < 0.3
        content = gzip.compress(raw, 1, mtime=0) if compressed else raw
        return Hostile("+".join(kinds), f"{number}.nii{'.gz' if compressed else ''}", content, raw)
    damage = _choice(rng, _GZIP)
    content, cut = damage(rng, bytearray(gzip.compress(raw, 6, mtime=0)))
    return Hostile("+".join([*kinds, damage.__name__]), f"{number}.nii.gz", bytes(content), raw, cut)


def by_hand(raw):
    """Return the shape, the type and the intensities that the header states, read without nibabel, in float64."""
    two = raw[344:348] not in (b"n+1\0", b"ni1\0")
    dim, datatype, offset, slope = ("8q", 12, 168, "dd") if two else ("8h", 70, 108, "ff")
    at = 16 if two else 40
    order = next((o for o in "<>" if 1 <= struct.unpack_from(o + dim, raw, at)[0] <= 7), "<")
    dims = struct.unpack_from(order + dim, raw, at)
    shape = dims[1 : dims[0] + 1]
    code = struct.unpack_from(order + "h", raw, datatype)[0]
    start = int(struct.unpack_from(order + ("q" if two else "f"), raw, offset)[0])
    scale, inter = struct.unpack_from(order + slope, raw, 176 if two else 112)
    dtype = np.dtype(order + DATATYPES[code])
    if not two and shape[:3] == (-1, 1, 1):  # how FreeSurfer stores more vertices than 16 bits can count
        shape = (struct.unpack_from(order + "i", raw, 140)[0], 1, 1)
    shape = (*shape, 1)[:3] if len(shape) < 3 else shape[:3]
    stored = np.frombuffer(raw, dtype, int(np.prod(shape)), start).reshape(shape, order="F").astype(np.float64)
    return shape, dtype, stored * scale + inter if np.isfinite(scale) and scale else stored


# What is done to the bytes before compression


def bit_flips(rng, raw):
    for _ in range(_choice(rng, (1, 1, 2, 8))):
        raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    return raw


def header_bit_flip(rng, raw):
    raw[rng.integers(min(len(raw), 560))] ^= 1 << int(rng.integers(8))
    return raw


def random_bytes(rng, raw):
    start, length = int(rng.integers(len(raw))), int(rng.integers(1, 64))
    raw[start : start + length] = rng.bytes(length)[: len(raw[start : start + length])]
    return raw


def any_field(rng, raw):
    """Set an element of a field to a value that is odd for its type."""
    fields, order = FIELDS[_size_of_header(raw)], _order(raw)
    dtype, start = fields.fields[_choice(rng, fields.names)][:2]
    element = dtype.base
    at = start + element.itemsize * int(rng.integers(dtype.itemsize // element.itemsize))
    return _put(raw, at, _odd(rng, element).astype(element.newbyteorder(order)).tobytes())


def sizes(rng, raw):
    """Change the shape, also to one of as many voxels."""
    two, order = _size_of_header(raw) == 540, _order(raw)
    kind, at = ("q", 16) if two else ("h", 40)
    dims = [3, *rng.permutation(SHAPE).tolist(), 1, 1, 1, 1]
    limit = 2**63 - 1 if two else 2**15 - 1
    for _ in range(_choice(rng, (0, 0, 1, 2, 3))):
        values = (0, 1, -1, 2, 20, 120, 1000, limit, -limit, 2**21 % limit)
        dims[rng.integers(8)] = int(_choice(rng, values))
    return _put(raw, at, struct.pack(f"{order}8{kind}", *dims))


def types(rng, raw):
    two = _size_of_header(raw) == 540
    code = _choice(rng, (*DATATYPES, 0, 1, 32, 128, 255, 1536, 1792, 2048, 2304, 7, -1))
    raw = _put(raw, 12 if two else 70, struct.pack(_order(raw) + "h", code))
    bits = _choice(rng, (8, 16, 32, 64, 0, -1))
    return _put(raw, 14 if two else 72, struct.pack(_order(raw) + "h", bits)) if rng.random() < 0.5 else raw


def offsets(rng, raw):
    """Change where the voxels begin, also with that many bytes before them, and what is said of extensions."""
    size, order = _size_of_header(raw), _order(raw)
    inserted = int(_choice(rng, (0, 8, 12, 16, 32, 40, 64, 4096)))
    start = int(by_offset(raw))
    raw[start:start] = rng.bytes(inserted) if rng.random() < 0.5 else bytes(inserted)
    claimed = _choice(rng, (start + inserted, start, 0, 16, 1, 2**24, 2**30, -16))
    at, kind = (168, "q") if size == 540 else (108, "f")
    raw = _put(raw, at, struct.pack(order + kind, claimed))
    return extensions(rng, raw) if rng.random() < 0.7 else raw


def extensions(rng, raw):
    size, order = _size_of_header(raw), _order(raw)
    length = int(_choice(rng, (0, -1, 1, 7, 8, 9, 16, 17, 24, 32, 48, 4096, 2**20, 2**31 - 1, -(2**31), -16)))
    code = int(_choice(rng, (0, 2, 4, 6, 18, 32, 44, -1, 2**31 - 1)))
    return _put(raw, size, b"\1\0\0\0" + struct.pack(f"{order}ii", length, code))


def magic(rng, raw):
    words = (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0", b"\0\0\0\0", b"n+1x")
    return _put(raw, _choice(rng, (344, 4)), _choice(rng, words))


def swapped(rng, raw):
    """Swap the bytes of the whole header, of the header's size or of the voxels, nothing else."""
    part = _choice(rng, ("header", "size", "voxels"))
    size, start = _size_of_header(raw), int(by_offset(raw))
    if part == "size":
        raw[:4] = raw[3::-1]
    elif part == "header" and len(raw) >= size:
        raw[:size] = np.frombuffer(bytes(raw[:size]), FIELDS[size]).byteswap().tobytes()
    elif part == "voxels":
        raw[start:] = raw[start:][::-1]
    return raw


def cut_or_longer(rng, raw):
    if rng.random() < 0.5:
        return raw[: max(1, int(rng.integers(len(raw))))]
    return raw + rng.bytes(int(rng.integers(1, 64)))


# What is done to the compressed bytes


def gzip_whole(rng, data):
    return data, False


def gzip_bit_flip(rng, data):
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return data, False


def gzip_random_bytes(rng, data):
    return random_bytes(rng, data), False


def gzip_header(rng, data):
    data[rng.integers(10)] = int(rng.integers(256))
    return data, False


def gzip_cut(rng, data):
    return data[: max(2, int(rng.integers(len(data))))], True


def gzip_checksum(rng, data):
    data[-8 + int(rng.integers(8))] ^= 1 << int(rng.integers(8))
    return data, True


def gzip_longer(rng, data):
    return data + rng.bytes(int(rng.integers(1, 64))), False


def gzip_bomb(rng, data):
    odd = 2**22 + 1  # for which no header can make room with one bit
    return data + gzip.compress(bytes(odd), 1, mtime=0), True


def gzip_members(rng, data):
    """The same bytes in two members, which is as good as one."""
    raw, middle = zlib.decompress(data, 31), int(rng.integers(1, 400))
    return gzip.compress(raw[:middle], mtime=0) + gzip.compress(raw[middle:], mtime=0), False


_RAW = (
    bit_flips,
    header_bit_flip,
    header_bit_flip,
    random_bytes,
    any_field,
    any_field,
    any_field,
    sizes,
    types,
    offsets,
    extensions,
    magic,
    swapped,
    cut_or_longer,
)
_GZIP = (
    gzip_whole,
    gzip_bit_flip,
    gzip_bit_flip,
    gzip_random_bytes,
    gzip_header,
    gzip_cut,
    gzip_checksum,
    gzip_longer,
    gzip_bomb,
    gzip_members,
)


def _choice(rng, options):
    return options[int(rng.integers(len(options)))]


def _put(raw, start, value):
    raw[start : start + len(value)] = value[: max(0, len(raw) - start)]
    return raw


def _size_of_header(raw):
    return 540 if struct.pack("<i", 540) == raw[:4] or struct.pack(">i", 540) == raw[:4] else 348


def _order(raw):
    return ">" if raw[0:2] == b"\0\0" else "<"


def by_offset(raw):
    """Return where the voxels of an original begin."""
    size = _size_of_header(raw)
    raw = raw.ljust(560, b"\0")
    value = struct.unpack_from(_order(raw) + ("q" if size == 540 else "f"), raw, 168 if size == 540 else 108)[0]
    return value if size <= value <= len(raw) else size + 4


def _odd(rng, element):
    if element.kind == "S":
        return np.array(rng.bytes(element.itemsize), element)
    if element.kind == "f":
        value = _choice(rng, (*NUMBERS, *REALS, float(rng.normal())))
    else:
        value = _choice(rng, (*NUMBERS, *LARGE, int(rng.integers(-(2**31), 2**31))))
    with np.errstate(all="ignore"):
        return np.array(value).astype(element)


_ORIGINALS = originals()
