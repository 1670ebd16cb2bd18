import copy
import math
import subprocess
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
import torch

from metasr.models import MetaUpscale, meta_upscale
from metasr.models.meta_upscale_reference import per_pixel
from metasr.models.positions import axis_positions

TRAINED_SCALES = [Fraction(tenths, 10) for tenths in range(11, 41)]
OTHER_SIZES = [
    ((20, 40), (21, 42)),  # x1.05
    ((9, 6), (9, 6)),  # x1
    ((10, 10), (7, 4)),  # shrinking
    ((4, 6), (22, 33)),  # x5.5
    ((3, 2), (48, 32)),  # x16
    ((12, 17), (17, 24)),  # x1.417 and x1.412, close to the root of 2
    ((7, 11), (19, 30)),  # x2.714 and x2.727, close to e
    ((7, 15), (22, 47)),  # x3.143 and x3.133, close to pi
    ((5, 8), (5, 32)),  # x1 and x4
    ((6, 10), (12, 33)),  # x2 and x3.3
    ((10, 4), (37, 6)),  # x3.7 and x1.5
    ((7, 11), (18, 25)),  # primes: one period is the whole axis
    ((1, 1), (3, 5)),  # one cell
    ((1, 13), (4, 29)),  # one row
]
pytestmark = pytest.mark.usefixtures("one_thread")
WEIGHTS = ["position.weight", "position.bias", "kernel.weight", "kernel.bias"]


@pytest.fixture(params=["strided", "blockwise", "swapped"])
def form(request, monkeypatch):
    monkeypatch.setattr(meta_upscale, "MAX_DISTINCT_KERNELS", 0 if request.param == "swapped" else 10**9)
    monkeypatch.setattr(MetaUpscale, "_is_short", lambda *_: request.param == "strided")
    return request.param


@pytest.fixture(params=["whole", "chunks"])
def chunks(request, monkeypatch):
    if request.param == "chunks":
        monkeypatch.setattr(meta_upscale, "CHUNK_BYTES", 5000)
    return request.param


def layer(in_channels=4, out_channels=2, *, hidden=12, kernel_size=3):
    torch.manual_seed(0)
    module = MetaUpscale(in_channels, out_channels, hidden=hidden, kernel_size=kernel_size, output_gain=1.0)
    torch.nn.init.normal_(module.kernel.bias, std=0.2)
    return module


def random_features(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def image_and_gradients(function, layer, features):
    """Return what `function` makes of the features, and the gradients of features and weights."""
    features = features.detach().clone().requires_grad_()
    image = function(layer, features)
    pull = torch.randn(image.shape, generator=torch.Generator().manual_seed(2)).to(image.dtype)
    weights = dict(layer.named_parameters())
    gradients = torch.autograd.grad((image * pull).sum(), [features, *weights.values()])
    return dict(zip(["image", "features", *weights], [image.detach(), *gradients], strict=True))


def assert_matches_definition(layer, features, size):
    """Image and gradients: no element is off by more than 1e-5 of the largest one of the definition in float64."""
    actual = image_and_gradients(lambda layer, f: layer(f, size), layer, features)
    exact = copy.deepcopy(layer).double()
    expected = image_and_gradients(lambda layer, f: per_pixel(layer, f, size), exact, features.double())
    assert list(expected) == ["image", "features", *WEIGHTS]
    for name, value in expected.items():
        assert (actual[name].dtype, value.dtype) == (torch.float32, torch.float64)
        assert actual[name].shape == value.shape, name
        error = (actual[name].double() - value).abs().max() / value.abs().max()
        assert error < 1e-5, f"{name}: relative error {error:.1e}"


def pixel_by_hand(layer, features, size, i, j):
    """Hu et al. 2019 for one output pixel, in exact fractions and plain numbers."""
    (height, width), side = features.shape[2:], layer.kernel_size
    y, x = i * Fraction(height, size[0]), j * Fraction(width, size[1])
    inverse = math.sqrt(Fraction(height, size[0]) * Fraction(width, size[1]))
    v = torch.tensor([float(y - math.floor(y)), float(x - math.floor(x)), inverse], dtype=torch.float64)
    hidden = (layer.position.weight @ v + layer.position.bias).clamp(min=0)
    kernel = layer.output_gain * (layer.kernel.weight @ hidden + layer.kernel.bias)
    kernel = kernel.view(layer.out_channels, layer.in_channels, side, side)
    pixel = torch.zeros(len(features), layer.out_channels, dtype=torch.float64)
    for dy, dx in product(range(side), repeat=2):
        row, column = math.floor(y) + dy - side // 2, math.floor(x) + dx - side // 2
        if 0 <= row < height and 0 <= column < width:
            pixel += features[:, :, row, column] @ kernel[:, :, dy, dx].T
    return pixel


@pytest.mark.parametrize(("lr_size", "size"), [((4, 6), (11, 9)), ((7, 5), (10, 13)), ((5, 3), (4, 12))])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_the_definition_is_that_of_every_single_pixel(lr_size, size, kernel_size):
    module = layer(kernel_size=kernel_size).double().requires_grad_(False)
    module.output_gain = 0.5
    features = random_features(2, 4, *lr_size).double()
    image = per_pixel(module, features, size)
    assert image.shape == (2, 2, *size)
    for i, j in product(range(size[0]), range(size[1])):
        torch.testing.assert_close(image[:, :, i, j], pixel_by_hand(module, features, size, i, j))


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=float)
def test_every_trained_scale_is_exact(scale, form, chunks):
    cells = -(-4 // scale.denominator) * scale.denominator
    lr_size = cells, 2 * cells
    size = int(lr_size[0] * scale), int(lr_size[1] * scale)
    assert_matches_definition(layer(), random_features(2, 4, *lr_size), size)


@pytest.mark.parametrize(("lr_size", "size"), OTHER_SIZES)
def test_every_other_size_is_exact(lr_size, size, form, chunks):
    assert_matches_definition(layer(), random_features(2, 4, *lr_size), size)


@pytest.mark.parametrize("kernel_size", [1, 5])
def test_other_kernel_sizes_are_exact(kernel_size, form, chunks):
    module = layer(3, 1, kernel_size=kernel_size)
    assert_matches_definition(module, random_features(1, 3, 10, 6), (27, 15))


@pytest.mark.parametrize(
    ("lr_size", "size", "taken"),
    [
        ((20, 20), (40, 40), "strided"),  # x2
        ((80, 80), (88, 88), "strided"),  # x1.1
        ((10, 10), (39, 39), "_blockwise"),  # x3.9: 1521 kernels for 100 cells
        ((60, 61), (91, 92), "_swapped"),  # hardly any period
    ],
)
def test_the_cheapest_form_is_taken(monkeypatch, lr_size, size, taken):
    module, features = layer(), random_features(1, 4, *lr_size)
    expected = module(features, size)
    for form in {"strided", "_blockwise", "_swapped"} - {taken}:
        monkeypatch.setattr(MetaUpscale, form, None)
    torch.testing.assert_close(module(features, size), expected, rtol=0, atol=0)
    monkeypatch.setattr(MetaUpscale, taken, None)
    with pytest.raises(TypeError):
        module(features, size)


@pytest.mark.parametrize("size", [(81, 54), (79, 53)])
def test_the_papers_width_is_exact(size):
    assert_matches_definition(MetaUpscale(output_gain=1.0), random_features(1, 64, 30, 20), size)


def test_autocast_changes_nothing(form):
    module, features = layer(8, 1), random_features(1, 8, 10, 10)

    def autocasting(layer, features):
        with torch.autocast("cpu", torch.bfloat16):
            return layer(features, (27, 27))

    expected = image_and_gradients(lambda layer, f: layer(f, (27, 27)), module, features)
    actual = image_and_gradients(autocasting, module, features)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=0)


def test_features_in_bfloat16_give_the_image_of_their_values(form):
    module, features = layer(8, 1), random_features(1, 8, 10, 10).bfloat16()
    torch.testing.assert_close(module(features, (27, 27)), module(features.float(), (27, 27)), rtol=0, atol=0)


def test_enlarging_twice_gives_the_same_image(form):
    module, features = layer(), random_features(1, 4, 10, 10)
    first = module(features, (23, 37))
    module(features, (40, 11))
    torch.testing.assert_close(module(features, (23, 37)), first, rtol=0, atol=0)


@pytest.mark.parametrize("size", [(23, 37), (40, 11)])
def test_predicted_kernels_start_small_and_without_bias(size):
    default, full = MetaUpscale(8, 1), MetaUpscale(8, 1, output_gain=1.0)
    full.load_state_dict(default.state_dict())
    features = torch.randn(1, 8, 10, 11, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(default(features, size), 0.02 * full(features, size))
    assert not default.kernel.bias.any()


@pytest.mark.parametrize("scale", TRAINED_SCALES, ids=float)
def test_positions_are_exact_at_every_trained_scale(scale):
    cells = 24 * scale.denominator
    assert_positions_are_exact(cells, int(cells * scale))


@pytest.mark.parametrize(("lr_size", "hr_size"), [(197, 493), (240, 791), (155, 163), (100, 30), (1, 7), (5, 5)])
def test_positions_are_exact_at_any_size(lr_size, hr_size):
    assert_positions_are_exact(lr_size, hr_size)


def assert_positions_are_exact(lr_size, hr_size):
    axis = axis_positions(lr_size, hr_size)
    assert Fraction(axis.period, axis.cells) == Fraction(hr_size, lr_size)
    assert len(axis.cell) == len(axis.fraction) == axis.period
    for i in range(hr_size):
        position = i * Fraction(lr_size, hr_size)
        period, k = divmod(i, axis.period)
        assert period * axis.cells + axis.cell[k] == math.floor(position)
        assert axis.fraction[k] == float(position - math.floor(position))


@pytest.mark.parametrize("scale", [Fraction(11, 10), Fraction(22, 10), Fraction(27, 10)], ids=float)
def test_positions_are_right_where_floating_point_floors_are_wrong(scale):
    lr_size, hr_size = 240, int(240 * scale)
    axis = axis_positions(lr_size, hr_size)
    wrong = [i for i in range(hr_size) if math.floor(i / float(scale)) != i // scale]
    assert wrong
    for i in wrong:
        assert axis.cells * (i // axis.period) + axis.cell[i % axis.period] == i // scale


MEASURE_PEAK = """
import re
from pathlib import Path
import sys
import torch
from metasr.models import MetaUpscale

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
layer = MetaUpscale(64, 1)
with torch.inference_mode():
    layer(torch.rand(1, 64, 10, 10), (33, 33))
    features = torch.rand(1, 64, 240, 240)
    before = peak_mb()
    layer(features, (int(sys.argv[1]),) * 2)
print(peak_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("side", "limit_mb"), [(792, 250), (791, 300)])  # x3.3, and one with hardly any period
def test_a_whole_slice_takes_little_memory(side, limit_mb):
    run = subprocess.run([sys.executable, "-c", MEASURE_PEAK, str(side)], capture_output=True, text=True, check=True)
    assert 10 < float(run.stdout) < limit_mb
