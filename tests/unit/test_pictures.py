"""Panels: every image in its place, and nothing brighter than white."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from metasr.evaluation import Comparison, HeldOutSlice
from metasr.evaluation.pictures import CAPTION_PX, ERROR_GAIN, GAP_PX, comparison_panel, png_bytes, scales_panel
from metasr.scale import Scale

TILE = 60
LR, BICUBIC, SR, HR, ERROR = range(5)


def comparison(*, lr=0.0, bicubic=0.0, sr=0.0, hr=0.0, shape=(20, 30), scale=2.0):
    """Fill each image with a value, or take the image."""

    def image(value, size):
        return torch.full((1, 1, *size), value) if isinstance(value, float) else value

    small = tuple(round(n / scale) for n in shape)
    whole = image(hr, shape)
    held_out = HeldOutSlice("anna", 4, whole)
    images = {"bicubic": image(bicubic, shape), "lanczos": torch.rand(1, 1, *shape), "model": image(sr, shape)}
    return Comparison(held_out, Scale(scale, scale), image(lr, small), whole, images, {})


def tile(panel, column, *, height=40, row_top=0):
    """Cut a tile out of the panel, without its caption."""
    left, top = column * (TILE + GAP_PX), row_top + CAPTION_PX
    return np.asarray(panel)[top : top + height, left : left + TILE]


@pytest.mark.parametrize(("shape", "height"), [((20, 30), 40), ((30, 30), 60), ((30, 20), 90), ((21, 30), 42)])
def test_a_row_has_five_tiles_with_captions(shape, height):
    panel = comparison_panel([comparison(shape=shape)], tile_px=TILE)
    assert panel.mode == "L"
    assert panel.size == (5 * TILE + 4 * GAP_PX, 2 * (height + CAPTION_PX))


def test_rows_of_different_heights_are_stacked_with_gaps():
    comparisons = [comparison(hr=1.0), comparison(shape=(30, 30), hr=1.0, scale=3.0), comparison(hr=1.0)]
    panel = comparison_panel(comparisons, tile_px=TILE)
    assert panel.size == (5 * TILE + 4 * GAP_PX, 2 * (40 + 60 + 40) + 6 * CAPTION_PX + 2 * GAP_PX)
    tops = (0, 80 + 2 * CAPTION_PX + GAP_PX, 200 + 4 * CAPTION_PX + 2 * GAP_PX)
    for top, height in zip(tops, (40, 60, 40), strict=True):
        assert (tile(panel, HR, height=height, row_top=top) == 255).all()


def test_tiles_come_in_the_order_lr_bicubic_sr_hr_error():
    panel = comparison_panel([comparison(lr=0.2, bicubic=0.4, sr=0.6, hr=0.7)], tile_px=TILE)
    shades = [np.unique(tile(panel, column)).tolist() for column in range(5)]
    error = round(0.1 * ERROR_GAIN * 255)
    assert shades[:4] == [[51], [102], [153], [178]] or shades[:4] == [[51], [102], [153], [179]]
    assert shades[ERROR][0] in (error - 1, error, error + 1)


@pytest.mark.parametrize(("value", "shade"), [(1.5, 255), (1.004, 255), (258 / 255, 255), (100.0, 255), (1.0, 255)])
def test_what_is_brighter_than_one_is_white(value, shade):
    panel = comparison_panel([comparison(lr=value, bicubic=value, sr=value, hr=value)], tile_px=TILE)
    assert all((tile(panel, column) == shade).all() for column in (LR, BICUBIC, SR, HR))


@pytest.mark.parametrize("value", [-0.004, -0.5, -1.0, -100.0])
def test_what_is_darker_than_zero_is_black(value):
    panel = comparison_panel([comparison(lr=value, bicubic=value, sr=value, hr=value)], tile_px=TILE)
    assert all((tile(panel, column) == 0).all() for column in range(5))


def test_the_error_is_amplified_and_has_no_sign():
    panel = comparison_panel([comparison(sr=0.5, hr=0.4)], tile_px=TILE)
    other = comparison_panel([comparison(sr=0.4, hr=0.5)], tile_px=TILE)
    assert np.array_equal(tile(panel, ERROR), tile(other, ERROR))
    assert abs(int(tile(panel, ERROR)[0, 0]) - 0.5 * 255) <= 1
    large = comparison_panel([comparison(sr=1.0, hr=0.2)], tile_px=TILE)
    assert (tile(large, ERROR) == 255).all()


def test_lr_pixels_are_shown_as_squares():
    lr = torch.arange(150, dtype=torch.float32).view(1, 1, 10, 15) / 255
    shown = tile(comparison_panel([comparison(lr=lr)], tile_px=TILE), LR)
    squares = shown.reshape(10, 4, 15, 4)
    assert (squares == squares[:, :1, :, :1]).all()
    assert np.array_equal(squares[:, 0, :, 0], np.arange(150).reshape(10, 15))


def test_below_each_tile_is_the_part_where_the_errors_differ_most_enlarged():
    hr = torch.full((1, 1, 40, 40), 0.5)
    sr, bicubic = hr.clone(), hr.clone()
    sr[..., 20:30, 10:20] = 0.7
    bicubic[..., 0:10, 30:40] = sr[..., 0:10, 30:40] = 0.1  # wrong alike, so that it tells nothing
    panel = comparison_panel([comparison(bicubic=bicubic, sr=sr, hr=hr, shape=(40, 40))], tile_px=TILE)
    zoomed = [tile(panel, column, height=TILE, row_top=TILE + CAPTION_PX) for column in range(5)]
    assert [np.unique(zoomed[column]).tolist() for column in (BICUBIC, SR, HR)] == [[128], [178], [128]]
    assert (tile(panel, SR, height=TILE) == 26).any()


def test_images_are_upright():
    image = torch.zeros(1, 1, 20, 30)
    image[..., :10, :15] = 1
    shown = tile(comparison_panel([comparison(hr=image)], tile_px=TILE), HR)
    assert (shown[:20, :30] == 255).all()
    assert shown[20:].max() == shown[:, 30:].max() == 0


def test_captions_are_written_above_the_tiles():
    panel = np.asarray(comparison_panel([comparison(sr=0.1)], tile_px=TILE))
    for column in range(5):
        left = column * (TILE + GAP_PX)
        assert panel[:CAPTION_PX, left : left + TILE].max() > 128


def test_the_score_in_the_caption_follows_the_image():
    def caption(**images):
        left = SR * (320 + GAP_PX)
        return np.asarray(comparison_panel([comparison(**images)]))[:CAPTION_PX, left : left + 320]

    assert np.array_equal(caption(sr=0.1), caption(sr=-0.1))
    assert not np.array_equal(caption(sr=0.1), caption(sr=0.2))


def test_growing_images_are_shown_pixel_for_pixel_a_row_for_each_method():
    def grown(scale, shape):
        images = {name: torch.rand(1, 1, *shape) for name in ("bicubic", "model")}
        hr = torch.rand(1, 1, *shape)
        return Comparison(HeldOutSlice("anna", 4, hr), Scale(scale, scale), hr, hr, images, {})

    small, large = grown(1.1, (22, 33)), grown(4.0, (200, 300))
    panel = np.asarray(scales_panel([small, large]))
    height = 200 + CAPTION_PX + GAP_PX
    left = panel.shape[1] - 300 - GAP_PX
    for row, name in enumerate(("bicubic", "model")):
        top = row * height + CAPTION_PX
        expected = [(image.images[name][0, 0] * 255).round().byte().numpy() for image in (small, large)]
        assert np.array_equal(panel[top : top + 22, :33], expected[0])
        assert np.array_equal(panel[top : top + 200, left : left + 300], expected[1])
        assert panel[row * height : top, :left].max() > 128
    assert panel.shape[0] == 2 * height


def test_a_png_opens_in_pillow_with_the_same_pixels():
    panel = comparison_panel([comparison(lr=0.2, bicubic=0.4, sr=1.5, hr=0.7)], tile_px=TILE)
    content = png_bytes(panel)
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    with Image.open(BytesIO(content)) as opened:
        assert opened.format == "PNG"
        assert np.array_equal(np.asarray(opened), np.asarray(panel))
