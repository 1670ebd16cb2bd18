"""Tars into samples: what tarfile and NumPy see, in tars of many programs; anything but samples is refused."""

import gzip
import io
import json
import re
import tarfile

import numpy as np
import pytest
import webdataset
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.stream.decode import MAX_SHOWN, decode, shown

IMAGES = [np.random.default_rng(seed).random((6, 5)).astype(np.float16) for seed in range(3)]
META = json.dumps({"subject": "sub-01", "slice": 7}).encode()


def npy(image, version=(1, 0)):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, image, version=version, allow_pickle=True)
    return buffer.getvalue()


IMAGE = npy(IMAGES[0])


def tar_of(*members, kind=tarfile.REGTYPE, form=tarfile.PAX_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(data), kind, "elsewhere"
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def samples_in(names):
    """A tar with an image and a description for each name."""
    files = []
    for number, (name, image) in enumerate(zip(names, IMAGES, strict=False)):
        meta = json.dumps({"subject": name, "slice": number}).encode()
        files += [(f"{name}.json", meta), (f"{name}.npy", npy(image))]
    return files


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "names", [["a", "b", "c"], ["n" * 95, "m" * 94], ["sub 01", "__sub__"]], ids=["short", "of 100 letters", "odd"]
)
def test_tars_of_every_format_are_read(names, form):
    found = decode(tar_of(*samples_in(names), form=form))
    assert [(sample.subject, sample.slice) for sample in found] == [(name, i) for i, name in enumerate(names)]
    for sample, image in zip(found, IMAGES, strict=False):
        assert sample.image.dtype == np.float16
        np.testing.assert_array_equal(sample.image, image)


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "name", ["été", "s" * 120, "é" * 60, "s" + "é" * 60], ids=["not ASCII", "long", "both", "cut"]
)
def test_names_that_do_not_fit_in_a_header_are_read(name, form):
    found = decode(tar_of(*samples_in(["a", name, "b"]), form=form))
    assert [sample.subject for sample in found] == ["a", name, "b"]
    np.testing.assert_array_equal(found[1].image, IMAGES[1])


@pytest.mark.parametrize("name", ["a", "été", "s" * 120, "patient 1 " * 30, "名" * 1000])
def test_what_webdataset_writes_is_read(name):
    buffer = io.BytesIO()
    with webdataset.TarWriter(buffer, encoder=False, mtime=0) as tar:
        meta = json.dumps({"subject": name, "slice": 2}).encode()
        tar.write({"__key__": name, "npy": npy(IMAGES[1]), "json": meta})
    (sample,) = decode(buffer.getvalue())
    assert (sample.subject, sample.slice) == (name, 2)
    np.testing.assert_array_equal(sample.image, IMAGES[1])


def test_images_are_not_copied():
    data = tar_of(*samples_in(["a", "b", "c"]))
    whole = np.frombuffer(data, np.uint8)
    assert all(np.shares_memory(sample.image, whole) for sample in decode(data))


def with_header(tar, at, value, block=0):
    """The tar with other bytes in a header, whose checksum is right again."""
    header = bytearray(tar[block : block + 512])
    header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return tar[:block] + bytes(header) + tar[block + 512 :]


def with_long_name(kind, content, tar):
    """The tar with a header in front of its first file that brings this name."""
    info = tarfile.TarInfo("././@LongLink")
    info.size, info.type = len(content), kind
    return info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512) + tar


def described(meta):
    return tar_of(("a.npy", IMAGE), ("a.json", meta))


def pictured(*values):
    """A tar with an image that holds these values."""
    return tar_of(("a.npy", npy(np.array([[0.5, *values, 0.5]], np.float16))), ("a.json", META))


def sparse():
    info = tarfile.TarInfo("a.npy")
    info.size = len(IMAGE)
    info.pax_headers = {"GNU.sparse.map": f"0,{len(IMAGE)}", "GNU.sparse.size": str(len(IMAGE))}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(info, io.BytesIO(IMAGE))
        info = tarfile.TarInfo("a.json")
        info.size = len(META)
        tar.addfile(info, io.BytesIO(META))
    return buffer.getvalue()


GOOD = tar_of(("a.npy", IMAGE), ("a.json", META))
SIZE = 124  # where a header says it
END = GOOD.index(META) + 512  # where the files are over


def pax(*records):
    """A tar with a PAX header whose records have the right length."""
    content = b""
    for record in records:
        length = next(n for n in range(len(record), len(record) + 9) if n == len(b"%d " % n) + len(record))
        content += b"%d %s" % (length, record)
    return with_long_name(b"x", content, GOOD)


BAD = {
    "key again": tar_of(*samples_in(["a", "b"]), *samples_in(["a"])),
    "key again, long": tar_of(*samples_in(["a" * 120, "b"]), *samples_in(["a" * 120])),
    "not side by side": tar_of(("a.npy", IMAGE), ("b.npy", IMAGE), ("a.json", META), ("b.json", META)),
    "image twice": tar_of(("a.npy", IMAGE), ("a.npy", IMAGE)),
    "no key": tar_of((".npy", IMAGE), (".json", META)),
    "two dots": tar_of(("a.b.npy", IMAGE), ("a.b.json", META)),
    "in a folder": tar_of(("f/a.npy", IMAGE), ("f/a.json", META)),
    "in a folder, in the prefix": tar_of(
        (f"{'f' * 90}/{'a' * 90}.npy", IMAGE), (f"{'f' * 90}/{'a' * 90}.json", META), form=tarfile.USTAR_FORMAT
    ),
    "parent": tar_of(("../a.npy", IMAGE), ("../a.json", META)),
    "links": tar_of(("a.npy", IMAGE), ("a.json", META), kind=tarfile.LNKTYPE),
    "pipes": tar_of(("a.npy", IMAGE), ("a.json", META), kind=tarfile.FIFOTYPE),
    "devices": tar_of(("a.npy", IMAGE), ("a.json", META), kind=tarfile.CHRTYPE),
    "folders": tar_of(("a.npy", IMAGE), ("a.json", META), kind=tarfile.DIRTYPE),
    "sparse": sparse(),
    "negative size": with_header(GOOD, SIZE, b"-0000001000\0"),
    "size beyond the end": with_header(GOOD, SIZE, b"77777777777\0"),
    "binary size": with_header(GOOD, SIZE, b"\x80" + bytes(10) + b"\x01"),
    "size that is a word": with_header(GOOD, SIZE, b"0x000000010\0"),
    "no size": with_header(GOOD, SIZE, bytes(12)),
    "header that differs from its checksum": GOOD[:265] + b"x" + GOOD[266:],
    "name with a NUL": with_header(GOOD, 0, b"a.npy\0a"),
    "absolute": tar_of(("/a.npy", IMAGE), ("/a.json", META)),
    "no bytes at all": b"",
    "no end": GOOD[:END],
    "half an end": GOOD[: END + 512],
    "something between the blocks of the end": GOOD[: END + 512] + b"x" * 512 + bytes(512),
    "something after the end": GOOD + b"x",
    "another tar after the end": GOOD + GOOD,
    "cut in a header": GOOD[: GOOD.index(b"a.json") + 300],
    "image alone": tar_of(("a.npy", IMAGE)),
    "PAX size": pax(b"path=a.npy\n", b"size=9\n"),
    "PAX size below zero": pax(b"size=-1024\n"),
    "PAX header without a name": pax(b"mtime=1.5\n"),
    "PAX record of another length": with_long_name(b"x", b"99 path=a.npy\n", GOOD),
    "PAX record without a length": with_long_name(b"x", b"path=a.npy\n", GOOD),
    "PAX header for all files": with_long_name(b"g", b"14 path=a.npy\n", GOOD),
    "PAX header of digits": with_long_name(b"x", b"1" * 2**20, GOOD),
    "PAX record of another name": pax(b"path a.npy\n"),
    "PAX record without an end": pax(b"path=a.npyx"),
    "PAX name too long": pax(b"path=" + b"a" * 4096 + b"\n"),
    "PAX name of a sample too long": tar_of(*samples_in(["n" * 4090])),
    "long name of a sample too long": tar_of(*samples_in(["n" * 4092]), form=tarfile.GNU_FORMAT),
    "long name too long": with_long_name(b"L", b"a" * 4096 + b"\0", GOOD),
    "long name with a NUL": with_long_name(b"L", b"a\0.npy\0", GOOD),
    "long name of nothing": with_long_name(b"L", bytes(8), GOOD),
    "long name of a link": with_long_name(b"L", b"a.npy\0", tar_of(("b", b""), kind=tarfile.SYMTYPE) + GOOD),
    "long name after a long name": with_long_name(b"L", b"b.npy\0", with_long_name(b"L", b"a.npy\0", GOOD)),
    "long name of no file": GOOD[:END] + with_long_name(b"L", b"a.npy\0", GOOD[END:]),
    "long target of a link": with_long_name(b"K", b"a.npy\0", GOOD),
    "bytes after the image": tar_of(("a.npy", IMAGE + b"\0\0"), ("a.json", META)),
    "no bytes in the image": tar_of(("a.npy", npy(np.zeros((0, 5), np.float16))), ("a.json", META)),
    "header of another length": tar_of(("a.npy", IMAGE[:8] + b"\x80\0" + IMAGE[10:]), ("a.json", META)),
    "name in no encoding": with_header(GOOD, 0, b"\xff.npy"),
    "float32": tar_of(("a.npy", npy(IMAGES[0].astype(np.float32))), ("a.json", META)),
    "big-endian": tar_of(("a.npy", npy(IMAGES[0].astype(">f2"))), ("a.json", META)),
    "by column": tar_of(("a.npy", npy(np.asfortranarray(IMAGES[0]))), ("a.json", META)),
    "three axes": tar_of(("a.npy", npy(IMAGES[0][None])), ("a.json", META)),
    "later version": tar_of(("a.npy", npy(IMAGES[0], version=(2, 0))), ("a.json", META)),
    "objects": tar_of(("a.npy", npy(np.array([[None]], dtype=object))), ("a.json", META)),
    "deep JSON": described(b"[" * 60_000),
    "JSON with text after it": tar_of(("a.npy", IMAGE), ("a.json", META + META)),
    "JSON in UTF-16": described(META.decode().encode("utf-16")),
    "long JSON": described(META + b" " * 2**16),
    "list": described(b"[]"),
    "no subject": described(b'{"slice": 1}'),
    "subject null": described(b'{"subject": null, "slice": 1}'),
    "subject empty": described(b'{"subject": "", "slice": 1}'),
    "subject a number": described(b'{"subject": 7, "slice": 1}'),
    "no slice": described(b'{"subject": "a"}'),
    "slice a text": described(b'{"subject": "a", "slice": "7"}'),
    "slice a fraction": described(b'{"subject": "a", "slice": 1.9}'),
    "slice 1.0": described(b'{"subject": "a", "slice": 1.0}'),
    "slice true": described(b'{"subject": "a", "slice": true}'),
    "slice below zero": described(b'{"subject": "a", "slice": -5}'),
    "slice of many digits": described(b'{"subject": "a", "slice": %s}' % (b"9" * 5000)),
    "NaN": pictured(np.nan),
    "negative NaN": pictured(-np.nan),
    "infinity": pictured(np.inf),
    "minus infinity": pictured(-np.inf, -1.0),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_shard_is_refused(kind):
    assert len(decode(GOOD)) == 1
    with pytest.raises(ValueError, match=r"\w") as caught:
        decode(BAD[kind])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("PAX name of a sample too long", "a name takes more than 4096 bytes"),
        ("long name of a sample too long", "a name takes more than 4096 bytes"),
        ("size beyond the end", "the file at byte 512 goes on after the end"),
        ("image alone", "a.npy is not beside"),
        ("links", "a member of type '1'"),
        ("JSON with text after it", "the description of a is not JSON: Extra data"),
    ],
)
def test_the_reason_is_given(kind, reason):
    with pytest.raises(ValueError, match=re.escape(reason)):
        decode(BAD[kind])


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_name_may_be_as_long_as_a_path(form):
    assert decode(tar_of(*samples_in(["n" * 4080]), form=form))[0].subject == "n" * 4080


def test_the_bad_tars_are_bad_for_one_reason():
    assert len(decode(with_header(GOOD, SIZE, GOOD[SIZE : SIZE + 12]))) == 1
    for named in (with_long_name(b"L", b"a.npy\0", GOOD), pax(b"path=a.npy\n")):
        assert decode(named)[0].subject == "sub-01"
    assert decode(described(b'{"subject": "a", "slice": 0, "more": [1]}'))[0].slice == 0


def test_every_finite_value_is_read():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    np.testing.assert_array_equal(decode(pictured(*finite))[0].image[0, 1:-1], finite)
    for value in every[~np.isfinite(every)].view(np.uint16):
        file = npy(np.zeros((1, 3), np.float16))[:-6] + np.array([1, value, 0x8000], np.uint16).tobytes()
        with pytest.raises(ValueError, match="NaN or infinite"):
            decode(tar_of(("a.npy", file), ("a.json", META)))


def test_a_compressed_tar_is_not_unpacked():
    with pytest.raises(ValueError, match="no plain header"):
        decode(gzip.compress(GOOD))


def test_a_message_shows_names_in_one_short_line():
    assert shown("sub-01 \u00e9") == "sub-01 \u00e9"
    assert shown("a\n\x1b[2J\u202e\udcff") == r"a\n\x1b[2J\u202e\udcff"
    assert shown("a" * 10_000) == "a" * MAX_SHOWN + "..."
    name = "\x1b]0;\n" * 100
    with pytest.raises(ValueError, match=r"\\x1b\]0;\\n") as caught:
        decode(tar_of((f"{name}.npy", IMAGE), (f"{name}.txt", META)))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 2047), value=st.integers(0, 255))
@example(position=156, value=ord("1"))
def test_no_byte_can_make_it_fail_in_another_way(position, value):
    data = bytearray(GOOD)
    data[position] = value
    try:
        samples = decode(bytes(data))
    except ValueError:
        return
    assert len(samples) == 1
    assert samples[0].image.ndim == 2
