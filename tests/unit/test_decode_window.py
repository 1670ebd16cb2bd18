import copy

import pytest
import torch

from metasr.models import Generator, MetaUpscale
from metasr.models.meta_upscale_kernels import Kept
from metasr.models.meta_upscale_reference import per_pixel
from metasr.models.meta_upscale_window import Window, upscale_window

pytestmark = pytest.mark.usefixtures("one_thread")
SIZES = [
    ((20, 20), (22, 22)),  # x1.1
    ((12, 14), (24, 28)),  # x2
    ((20, 10), (54, 27)),  # x2.7
    ((10, 30), (39, 99)),  # x3.9 and x3.3
    ((9, 6), (9, 6)),  # x1
    ((10, 10), (7, 4)),  # shrinking
    ((9, 11), (72, 88)),  # x8
    ((37, 41), (153, 91)),  # hardly any period
    ((67, 10), (421, 20)),  # one axis without, x6.3
    ((33, 27), (104, 85)),  # near pi
    ((1, 1), (3, 5)),  # one cell
]


def generator(**options):
    torch.manual_seed(0)
    network = Generator(num_features=8, num_blocks=1, mean=0.3, std=0.2, **options).eval().requires_grad_(False)
    network.upscale.output_gain = 1.0
    torch.nn.init.normal_(network.upscale.kernel.bias, std=0.2)
    return network


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def windows(size):
    height, width = size
    yield Window(0, 0, height, width)
    yield Window(height - 1, width - 1, 1, 1)
    yield Window(height // 3, width // 4, max(1, height // 2), max(1, width // 3))


@pytest.mark.parametrize(("lr_size", "size"), SIZES)
@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_a_window_is_the_crop_of_the_whole(lr_size, size, skip):
    network, kept = generator(skip=skip), Kept()
    features = network.encode(images(2, 1, *lr_size))
    whole = network.decode(features, size)
    for top, left, height, width in windows(size):
        part = network.decode_window(features, size, (top, left, height, width), kept)
        expected = whole[:, :, top : top + height, left : left + width]
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-6 * float(whole.abs().max()))


@pytest.mark.parametrize(("lr_size", "size"), SIZES)
@pytest.mark.parametrize(("kernel_size", "max_kernels"), [(1, 4096), (3, 4096), (3, 0), (3, 10**9), (5, 4096)])
def test_a_window_is_that_of_the_definition(lr_size, size, kernel_size, max_kernels):
    torch.manual_seed(0)
    layer = MetaUpscale(4, 2, hidden=12, kernel_size=kernel_size, output_gain=1.0)
    torch.nn.init.normal_(layer.kernel.bias, std=0.2)
    features = torch.randn(2, 4, *lr_size, generator=torch.Generator().manual_seed(1))
    expected = per_pixel(copy.deepcopy(layer).double(), features.double(), size)
    for top, left, height, width in windows(size):
        part = upscale_window(layer, features, size, Window(top, left, height, width), Kept(max_kernels))
        error = (part - expected[:, :, top : top + height, left : left + width]).abs().max() / expected.abs().max()
        assert error < 1e-5


@pytest.mark.parametrize("size", [(60, 60), (66, 54), (67, 61)])
@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_only_the_features_under_a_window_are_read(size, skip):
    network = generator(skip=skip)
    features = network.encode(images(1, 1, 20, 20))
    window = Window(size[0] // 2, size[1] // 2, 5, 5)
    expected = network.decode_window(features, size, window)
    for part in features:
        part[:, :, :4] = part[:, :, :, :4] = part[:, :, -4:] = part[:, :, :, -4:] = torch.nan
    torch.testing.assert_close(network.decode_window(features, size, window), expected, rtol=0, atol=0)


def test_kernels_of_a_scale_are_predicted_once(monkeypatch):
    network, kept = generator(), Kept()
    features = network.encode(images(1, 1, 20, 20))
    expected = network.decode_window(features, (54, 54), (3, 4, 20, 21), kept)
    monkeypatch.setattr(network.upscale.kernel, "forward", None)  # what predicts them
    torch.testing.assert_close(network.decode_window(features, (54, 54), (3, 4, 20, 21), kept), expected)
    assert network.decode_window(features, (54, 54), (30, 14, 20, 21), kept).shape == (1, 1, 20, 21)
    with pytest.raises(TypeError):
        network.decode_window(features, (54, 54), (3, 4, 20, 21))


@pytest.mark.parametrize("window", [(0, 0, 0, 5), (-1, 0, 5, 5), (0, 0, 5, 41), (36, 0, 5, 5)])
def test_a_window_lies_inside_the_image(window):
    network = generator()
    with pytest.raises(ValueError, match="window"):
        network.decode_window(network.encode(images(1, 1, 20, 20)), (40, 40), window)
