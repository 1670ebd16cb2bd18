"""Tars into samples: what tarfile and NumPy see, in tars of any program; anything but samples is refused."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.stream.decode import NOT_A_SHARD, decode

IMAGES = [np.random.default_rng(seed).random((6, 5)).astype(np.float16) for seed in range(3)]
META = json.dumps({"subject": "sub-01", "slice": 7}).encode()


def npy(image, version=(1, 0)):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, image, version=version, allow_pickle=True)
    return buffer.getvalue()


IMAGE = npy(IMAGES[0])


def tar_of(*members, kind=tarfile.REGTYPE, format=tarfile.PAX_FORMAT):  # noqa: A002
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
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


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize(
    "names", [["a", "b", "c"], ["n" * 95, "m" * 94], ["sub 01", "__sub__"]], ids=["short", "of 100 letters", "odd"]
)
def test_tars_of_every_format_are_read(names, format):  # noqa: A002
    found = decode(tar_of(*samples_in(names), format=format))
    assert [(sample.subject, sample.slice) for sample in found] == [(name, i) for i, name in enumerate(names)]
    for sample, image in zip(found, IMAGES, strict=False):
        assert sample.image.dtype == np.float16
        np.testing.assert_array_equal(sample.image, image)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("name", ["été", "s" * 120], ids=["not ASCII", "long"])
def test_names_that_do_not_fit_in_a_header_are_read(name, format):  # noqa: A002
    found = decode(tar_of(*samples_in(["a", name, "b"]), format=format))
    assert [sample.subject for sample in found] == ["a", name, "b"]
    np.testing.assert_array_equal(found[1].image, IMAGES[1])


def test_images_are_not_copied():
    data = tar_of(*samples_in(["a", "b", "c"]))
    whole = np.frombuffer(data, np.uint8)
    assert all(np.shares_memory(sample.image, whole) for sample in decode(data))


def resized(tar, size):
    """The tar with another size in its first header."""
    return tar[:124] + size + tar[136:]


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
BAD = {
    "key again": tar_of(*samples_in(["a", "b"]), *samples_in(["a"])),
    "key again, long": tar_of(*samples_in(["a" * 120, "b"]), *samples_in(["a" * 120])),
    "not side by side": tar_of(("a.npy", IMAGE), ("b.npy", IMAGE), ("a.json", META), ("b.json", META)),
    "image twice": tar_of(("a.npy", IMAGE), ("a.npy", IMAGE)),
    "no key": tar_of((".npy", IMAGE), (".json", META)),
    "two dots": tar_of(("a.b.npy", IMAGE), ("a.b.json", META)),
    "in a folder": tar_of(("f/a.npy", IMAGE), ("f/a.json", META)),
    "in a folder, in the prefix": tar_of(
        (f"{'f' * 90}/{'a' * 90}.npy", IMAGE), (f"{'f' * 90}/{'a' * 90}.json", META), format=tarfile.USTAR_FORMAT
    ),
    "parent": tar_of(("../a.npy", IMAGE), ("../a.json", META)),
    "links": tar_of(("a.npy", IMAGE), ("a.json", META), kind=tarfile.LNKTYPE),
    "pipes": tar_of(("a.npy", IMAGE), ("a.json", META), kind=tarfile.FIFOTYPE),
    "devices": tar_of(("a.npy", IMAGE), ("a.json", META), kind=tarfile.CHRTYPE),
    "folders": tar_of(("a.npy", IMAGE), ("a.json", META), kind=tarfile.DIRTYPE),
    "sparse": sparse(),
    "negative size": resized(GOOD, b"-0000001000\0"),
    "size beyond the end": resized(GOOD, b"77777777777\0"),
    "binary size": resized(GOOD, b"\x80" + bytes(10) + b"\x01"),
    "size that is a word": resized(GOOD, b"0x000000010\0"),
    "bytes after the image": tar_of(("a.npy", IMAGE + b"\0\0"), ("a.json", META)),
    "no bytes in the image": tar_of(("a.npy", npy(np.zeros((0, 5), np.float16))), ("a.json", META)),
    "header of another length": tar_of(("a.npy", IMAGE[:8] + b"\x80\0" + IMAGE[10:]), ("a.json", META)),
    "name in no encoding": GOOD.replace(b"a.npy", b"\xff.npy").replace(b"a.json", b"\xff.json"),
    "float32": tar_of(("a.npy", npy(IMAGES[0].astype(np.float32))), ("a.json", META)),
    "big-endian": tar_of(("a.npy", npy(IMAGES[0].astype(">f2"))), ("a.json", META)),
    "by column": tar_of(("a.npy", npy(np.asfortranarray(IMAGES[0]))), ("a.json", META)),
    "three axes": tar_of(("a.npy", npy(IMAGES[0][None])), ("a.json", META)),
    "later version": tar_of(("a.npy", npy(IMAGES[0], version=(2, 0))), ("a.json", META)),
    "objects": tar_of(("a.npy", npy(np.array([[None]], dtype=object))), ("a.json", META)),
    "deep JSON": tar_of(("a.npy", IMAGE), ("a.json", b"[" * 200_000)),
    "JSON with text after it": tar_of(("a.npy", IMAGE), ("a.json", META + META)),
    "no subject": tar_of(("a.npy", IMAGE), ("a.json", b'{"slice": 1}')),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_shard_is_refused(kind):
    assert len(decode(GOOD)) == 1
    with pytest.raises(NOT_A_SHARD):
        decode(BAD[kind])


def test_a_compressed_tar_is_not_unpacked():
    with pytest.raises(tarfile.ReadError):
        decode(gzip.compress(GOOD))


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 2047), value=st.integers(0, 255))
@example(position=156, value=ord("1"))
def test_no_byte_can_make_it_fail_in_another_way(position, value):
    data = bytearray(GOOD)
    data[position] = value
    try:
        samples = decode(bytes(data))
    except NOT_A_SHARD:
        return
    assert len(samples) == 1
    assert samples[0].image.ndim == 2
