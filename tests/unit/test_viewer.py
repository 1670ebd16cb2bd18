"""What the page is given: windows that are parts of the upscaled slice, and where in the head they lie."""

import math

import numpy as np
import pytest
import torch

from metasr.data.planes import PLANES
from metasr.errors import ConfigError
from metasr.inference.bundle import Bundle
from metasr.inference.engine import Engine
from metasr.inference.target import Target
from metasr.inference.trunk import FoldedTrunk
from metasr.inference.upscale import upscale_volume
from metasr.models import SRGAN, Generator
from metasr.viewer.decoder import Decoder
from metasr.viewer.encoder import Encoder
from metasr.viewer.scene import CODES, Scene
from metasr.viewer.window import Span
from tests.unit.nifti import ORIENTATIONS, in_memory, oriented_affine
from tests.unit.test_upscale import brain

SHAPE = (30, 36, 24)
THIN = (30, 36, 5)


@pytest.fixture(scope="module")
def generator():
    torch.manual_seed(0)
    made = Generator(skip="bicubic", norm="none", num_features=8, num_blocks=1)
    made.upscale.output_gain = 0.2  # so that it differs from bicubic by much
    return made.eval()


def decoder(volume, generator):
    return Decoder(Bundle(generator, {}, "digest"), Scene.of(volume))


def decoded(volume, generator, plane, index, rows, columns):
    height, width = Scene.of(volume).image(plane, index).shape
    codes = (
        decoder(volume, generator).decode(plane, index, Span.parse(rows, height), Span.parse(columns, width)).codes
    )
    scene = Scene.of(volume)
    return scene.low + codes / CODES * (scene.high - scene.low)


def upscaled_slice(volume, generator, scale, plane, index):
    return volume.slices(plane, upscale_volume(volume, generator, Target.of_scale(volume, (scale, scale), plane)))[
        index
    ]


def two_codes(volume):
    return 2 * (volume.data.max() - volume.data.min()) / CODES


@pytest.mark.parametrize("background", [0.0, -900.0, 350.0])
@pytest.mark.parametrize("scale", [2.0, 2.5, 3.7, 8.0])
def test_a_window_is_that_part_of_the_upscaled_slice(generator, scale, background):
    volume = in_memory(brain((5, 22, 24), background=background), oriented_affine((1, 0, 2), (1, -1, 1)))
    whole = upscaled_slice(volume, generator, scale, "coronal", 2)
    height, width = Scene.of(volume).image("coronal", 2).shape
    rows, columns = whole.shape
    top, bottom, left, right = rows // 4, rows // 4 + rows // 2, 0, columns - 3
    window = decoded(
        volume, generator, "coronal", 2, f"{rows}/{height}:{top}:{bottom}", f"{columns}/{width}:{left}:{right}"
    )
    np.testing.assert_allclose(window, whole[top:bottom, left:right], rtol=0, atol=two_codes(volume))


@pytest.mark.parametrize("fraction", [(7, 3), (32, 11), (29, 13)])
def test_a_scale_that_does_not_divide_the_slice_is_that_of_a_larger_slice(generator, fraction):
    numerator, denominator = fraction
    volume = in_memory(brain(THIN))
    height, width = (-(-n // denominator) * denominator for n in Scene.of(volume).image("axial", 0).shape)
    larger = np.zeros((width, height, THIN[2]))
    larger[: THIN[0], height - THIN[1] :] = volume.data  # rows run from the front to the back
    larger = in_memory(larger)
    whole = upscale_volume(larger, generator, Target.of_scale(larger, (numerator / denominator,) * 2))
    whole = larger.slices("axial", whole)[2]
    spans = (f"{numerator}/{denominator}:5:{math.ceil(n * numerator / denominator)}" for n in (THIN[1], THIN[0]))
    window = decoded(volume, generator, "axial", 2, *spans)
    part = tuple(slice(5, 5 + n) for n in window.shape)
    np.testing.assert_allclose(window, whole[part], rtol=0, atol=two_codes(volume))


@pytest.fixture
def encoded(monkeypatch):
    """A list that gets longer with each slice that is encoded."""
    slices, compute = [], FoldedTrunk.__call__

    def call(trunk, image, rim=(0, 0)):
        slices.append(None)
        return compute(trunk, image, rim)

    monkeypatch.setattr(FoldedTrunk, "__call__", call)
    return slices


def test_a_slice_is_encoded_once_however_often_it_is_decoded(generator, encoded):
    volume = in_memory(brain(SHAPE))
    of = decoder(volume, generator)
    for scale in range(1, 9):
        of.decode("axial", 12, Span(scale, 1, 0, 20), Span(scale, 1, 3, 30))
    assert len(encoded) == 1


def test_features_that_were_used_last_are_kept_as_long_as_there_is_room(generator, encoded):
    scene = Scene.of(in_memory(brain(SHAPE)))
    room_for_two = 2 * 8 * 4 * SHAPE[0] * SHAPE[1]
    encoder = Encoder(Engine(generator), scene, kept_bytes=room_for_two)
    with torch.inference_mode():
        for index in (10, 11, 10, 12, 10, 11):
            encoder.encoded("axial", index, scene.intensities)
    assert len(encoded) == 4  # 10, 11, 12, and 11 again


def test_a_volume_of_one_value_is_shown_as_that(generator):
    volume = in_memory(np.full(SHAPE, 7.0))
    assert (decoded(volume, generator, "axial", 0, "72/36:0:9", "60/30:0:9") == 7).all()
    assert Scene.of(volume).description()["start"] == [15, 18, 12]


def test_a_network_for_one_scale_is_refused():
    with pytest.raises(ConfigError, match="it has one scale"):
        decoder(in_memory(brain(SHAPE)), SRGAN(scale=2))


@pytest.mark.parametrize(
    "text", ["72/36:0:73", "72/36:-1:5", "72/36:5:5", "35/36:0:9", "577/36:0:9", "1/0:0:1", "x", "72/36:0"]
)
def test_pixels_that_are_none_of_the_slice_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        Span.parse(text, 36)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS[::5])
@pytest.mark.parametrize("plane", PLANES)
def test_a_pixel_of_a_slice_is_traced_back_to_its_voxel(axes, signs, plane):
    volume = in_memory(np.random.default_rng(0).random((4, 5, 6)), oriented_affine(axes, signs))
    matrix = np.array(Scene.of(volume).description()["planes"][plane]["to_voxel"])
    for at, value in np.ndenumerate(volume.slices(plane)):
        assert volume.data[tuple(matrix @ [*at, 1])] == value


def test_the_page_begins_where_the_brain_is_widest():
    data = np.zeros((20, 20, 20))
    data[3:9, 5:8, 11:15] = 100.0
    data[6, 4:10, 10:18] = 90.0
    assert Scene.of(in_memory(data)).description()["start"][0] == 6
