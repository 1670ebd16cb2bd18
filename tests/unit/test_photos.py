"""Photographs: luminance as Pillow computes it, but in float; upright, whole, never wrapped; and what is none."""

import contextlib
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from metasr.data.photos import find_photos, load_luminance, photo_shape, tiles
from metasr.errors import DataError, UnreachableError

LOSSLESS = ["png", "tif", "tiff", "bmp", "webp"]


def colours(shape=(40, 56), channels=3):
    return np.random.default_rng(0).integers(0, 256, (*shape, channels), np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".webp":
        options["lossless"] = True
    Image.fromarray(pixels).save(path, **options)
    return path


def assert_refused(path, *words):
    with pytest.raises(DataError) as caught:
        load_luminance(path)
    for word in (path.name, *words):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


# Reading


@pytest.mark.parametrize("ending", [*LOSSLESS, "jpg", "jpeg", "PNG", "JPG"])
def test_luminance_is_that_of_pillow_without_its_rounding(tmp_path, ending):
    path = save(tmp_path / f"photo.{ending}", colours())
    luminance = load_luminance(path)
    assert luminance.dtype == np.float32
    assert 0 <= luminance.min() <= luminance.max() <= 1
    assert np.abs(luminance * 255 - np.asarray(Image.open(path).convert("L"), np.float64)).max() <= 0.51


@pytest.mark.parametrize("ending", LOSSLESS)
def test_luminance_has_the_weights_of_bt_601(tmp_path, ending):
    pixels = colours()
    expected = pixels.astype(np.float64) @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(load_luminance(save(tmp_path / f"photo.{ending}", pixels)), expected, atol=1e-6)


def test_black_is_0_and_white_is_1_exactly(tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:2] = 255
    np.testing.assert_array_equal(load_luminance(save(tmp_path / "photo.png", pixels))[:, 0], [1, 1, 0, 0])


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_gray_keeps_every_value_that_the_file_tells_apart(tmp_path, ending, dtype, top):
    values = np.arange(top + 1).astype(dtype).reshape(16, -1)
    luminance = load_luminance(save(tmp_path / f"ramp.{ending}", values))
    np.testing.assert_allclose(luminance, values.astype(np.float64) / top, atol=1e-7)
    assert (np.diff(luminance.ravel()) > 0).all()


def test_gray_of_16_bits_in_the_other_byte_order_is_the_same(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes()).save(tmp_path / "big.tif")
    np.testing.assert_allclose(load_luminance(tmp_path / "big.tif"), values / 65535.0, atol=1e-7)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_colour_of_16_bits_keeps_its_upper_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (6, 5, 3)).astype(">u2")
    header = struct.pack(">IIBBBBB", 5, 6, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    expected = values.astype(np.float64) @ [0.299, 0.587, 0.114] / 65535
    np.testing.assert_allclose(load_luminance(tmp_path / "deep.png"), expected, atol=1 / 255)


@pytest.mark.parametrize("mode", ["1", "P", "L", "LA", "RGBA", "CMYK", "YCbCr"])
def test_photographs_stored_in_other_ways_are_the_same_photograph(tmp_path, mode):
    image = Image.fromarray(colours()).convert(mode)
    path = tmp_path / ("photo.png" if mode in ("1", "P", "L", "LA", "RGBA") else "photo.tif")
    image.save(path)
    expected = np.asarray(Image.open(path).convert("RGB"), np.float64) @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(load_luminance(path), expected, atol=1e-6)


def test_what_is_transparent_is_black(tmp_path):
    pixels = np.full((2, 3, 4), 255, np.uint8)
    pixels[..., 3] = [0, 51, 255]
    luminance = load_luminance(save(tmp_path / "photo.png", pixels))
    np.testing.assert_allclose(luminance, [[0, 0.2, 1]] * 2, atol=1e-6)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_camera_held_otherwise_gives_an_upright_photograph(tmp_path, orientation, depth):
    stored = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (20, 30)).astype(depth)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "photo.png", stored, exif=exif)
    # What the standard says is to be done to the stored rows and columns.
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].T,
        8: np.rot90(stored),
    }[orientation]
    np.testing.assert_allclose(load_luminance(path), upright / np.iinfo(depth).max, atol=1e-6)


# What is refused


@pytest.mark.parametrize("ending", [*LOSSLESS, "jpg"])
def test_a_photograph_cut_short_is_named(tmp_path, ending):
    path = save(tmp_path / f"photo.{ending}", colours((80, 90)))
    os.truncate(path, path.stat().st_size * 2 // 3)
    assert_refused(path, "not a readable photograph")


@pytest.mark.parametrize("content", [b"", b"a text file", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "photo.png").write_bytes(content)
    assert_refused(tmp_path / "photo.png", "not a readable photograph")


def test_a_disk_that_fails_is_not_taken_for_a_photograph_that_is_damaged(tmp_path):
    (tmp_path / "photo.png").symlink_to("/proc/self/mem")  # its first byte cannot be read
    for read in (load_luminance, photo_shape):
        with pytest.raises(UnreachableError, match=r"photo\.png: Input/output error"):
            read(tmp_path / "photo.png")


def test_a_format_that_was_not_asked_for_is_not_read_under_another_name(tmp_path):
    with (tmp_path / "photo.png").open("wb") as file:
        Image.fromarray(colours()).save(file, "GIF")
    assert_refused(tmp_path / "photo.png", "PNG, JPEG, WEBP, TIFF, BMP")


@pytest.mark.parametrize("side", [9_500, 30_000, 2**31 - 1])
def test_a_decompression_bomb_is_refused_before_it_takes_memory(tmp_path, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    assert_refused(tmp_path / "bomb.png", "more than 89478485 pixels", "smaller")


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_white_are_refused(tmp_path, dtype):
    path = save(tmp_path / "photo.tif", np.ones((8, 8), dtype))
    assert_refused(path, "which value is white")


@pytest.mark.parametrize("ending", [*LOSSLESS, "jpg"])
def test_a_damaged_photograph_is_read_or_refused(tmp_path, ending):
    whole = save(tmp_path / f"photo.{ending}", colours((24, 24))).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        data = np.frombuffer(whole, np.uint8).copy()
        data[random.integers(0, min(len(data), 400), 3)] = random.integers(0, 256, 3)
        (tmp_path / f"damaged.{ending}").write_bytes(data.tobytes())
        with contextlib.suppress(DataError):
            luminance = load_luminance(tmp_path / f"damaged.{ending}")
            assert 0 <= luminance.min() <= luminance.max() <= 1


# Finding


@pytest.fixture
def folder(tmp_path):
    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def test_a_photograph_has_the_name_of_its_place(folder):
    found = find_photos(folder("0801.png", "b/0001.JPG", "a/deep/0001.webp", "a/.0002.png", "a/list.txt")).subjects
    assert [photo.name for photo in found] == ["0801", "a/deep/0001", "b/0001"]
    assert [photo.file.name for photo in found] == ["0801.png", "0001.webp", "0001.JPG"]


def test_two_files_of_one_photograph_are_both_named(folder):
    with pytest.raises(DataError, match=r"photograph a/1: there are two, .*1\.jpg and .*1\.png"):
        find_photos(folder("a/1.png", "a/1.jpg", "b/1.png"))


def test_a_folder_without_photographs_is_named(folder):
    with pytest.raises(DataError, match="it has no photograph") as caught:
        find_photos(folder("scan.nii.gz", "photo.gif"))
    assert str(folder()) in str(caught.value)


@pytest.mark.parametrize("path", ["absent", "photo.png"])
def test_what_is_no_folder_is_named(folder, path):
    with pytest.raises(DataError, match="there is no such folder"):
        find_photos(folder("photo.png") / path)


# Tiles


@pytest.mark.parametrize(("shape", "rows", "columns"), [((8, 8), 1, 1), ((17, 33), 2, 4), ((15, 24), 1, 3)])
def test_tiles_are_a_grid_in_the_middle(shape, rows, columns):
    image = np.arange(shape[0] * shape[1], dtype=np.float32).reshape(shape)
    top, left = (shape[0] - 8 * rows) // 2, (shape[1] - 8 * columns) // 2
    grid = np.block([tiles(image, 8)[row * columns : (row + 1) * columns] for row in range(rows)])
    np.testing.assert_array_equal(grid, image[top : top + 8 * rows, left : left + 8 * columns])
    assert len(tiles(image, 8)) == rows * columns


def test_an_image_smaller_than_a_tile_has_none():
    assert tiles(np.ones((7, 90), np.float32), 8) == []


def test_reading_takes_the_first_of_several_frames(tmp_path):
    frames = [Image.fromarray(np.full((9, 9, 3), value, np.uint8)) for value in (51, 255)]
    frames[0].save(tmp_path / "frames.webp", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_allclose(load_luminance(tmp_path / "frames.webp"), 0.2, atol=1e-6)
