"""Generators in the layout of the authors' public code, computed here pixel by pixel from their names."""

import math

import pytest
import safetensors.torch
import torch
from torch.nn import functional

from metasr.errors import CheckpointError
from metasr.models.convert import convert_public_weights, load_public_weights

FEATURES, HIDDEN = 6, 256
PREDICTION = "MetaUpscaleModule.weight_prediction_network.wpn"


def public_weights(channels=1, seed=0):
    random = torch.Generator().manual_seed(seed)
    weights = {}

    def draw(name, *shape, around=0.0, spread=0.2):
        weights[name] = around + spread * torch.randn(shape, generator=random)

    def convolution(name, out_channels, in_channels, side):
        draw(f"{name}.weight", out_channels, in_channels, side, side, spread=1 / (side * math.sqrt(in_channels)))
        draw(f"{name}.bias", out_channels)

    def batch_norm(name):
        draw(f"{name}.weight", FEATURES, around=1.0)
        draw(f"{name}.bias", FEATURES)
        draw(f"{name}.running_mean", FEATURES)
        weights[f"{name}.running_var"] = 0.5 + torch.rand(FEATURES, generator=random)
        weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("block1.0", FEATURES, channels, 9)
    draw("block1.1.weight", 1, around=0.25)
    for block in (f"block{number}.block1" for number in range(2, 7)):
        convolution(f"{block}.0", FEATURES, FEATURES, 3)
        batch_norm(f"{block}.1")
        draw(f"{block}.2.weight", 1, around=0.25)
        convolution(f"{block}.3", FEATURES, FEATURES, 3)
        batch_norm(f"{block}.4")
    convolution("block7.0", FEATURES, FEATURES, 3)
    batch_norm("block7.1")
    draw(f"{PREDICTION}.0.weight", HIDDEN, 3, spread=1.0)
    draw(f"{PREDICTION}.0.bias", HIDDEN)
    draw(f"{PREDICTION}.2.weight", FEATURES * 9 * channels, HIDDEN, spread=0.05)
    draw(f"{PREDICTION}.2.bias", FEATURES * 9 * channels)
    return weights


def public_features(weights, image):
    def convolve(x, name):
        kernel = weights[f"{name}.weight"]
        return functional.conv2d(x, kernel, weights[f"{name}.bias"], padding=kernel.shape[-1] // 2)

    def normalise(x, name):
        part = {key: weights[f"{name}.{key}"].view(1, -1, 1, 1) for key in ("running_mean", "running_var", "weight")}
        x = (x - part["running_mean"]) / torch.sqrt(part["running_var"] + 1e-5)
        return x * part["weight"] + weights[f"{name}.bias"].view(1, -1, 1, 1)

    def prelu(x, name):
        return torch.where(x > 0, x, weights[f"{name}.weight"] * x)

    first = x = prelu(convolve(image, "block1.0"), "block1.1")
    for block in (f"block{number}.block1" for number in range(2, 7)):
        inner = prelu(normalise(convolve(x, f"{block}.0"), f"{block}.1"), f"{block}.2")
        x = x + normalise(convolve(inner, f"{block}.3"), f"{block}.4")
    return first + normalise(convolve(x, "block7.0"), "block7.1")


def public_image(weights, lr, scale):
    """One predicted kernel `[in * 3 * 3, out]` for every output pixel, its window multiplied from the left."""
    weights = {name: value.double() for name, value in weights.items()}
    padded = functional.pad(public_features(weights, lr.double()), (1, 1, 1, 1))
    channels = lr.shape[1]
    height, width = (int(n * scale) for n in lr.shape[2:])
    image = torch.zeros(len(lr), channels, height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            row, column = math.floor(i / scale), math.floor(j / scale)
            position = torch.tensor([i / scale - row, j / scale - column, 1 / scale], dtype=torch.float64)
            hidden = (weights[f"{PREDICTION}.0.weight"] @ position + weights[f"{PREDICTION}.0.bias"]).clamp(min=0)
            kernel = weights[f"{PREDICTION}.2.weight"] @ hidden + weights[f"{PREDICTION}.2.bias"]
            window = padded[:, :, row : row + 3, column : column + 3].flatten(1)
            image[:, :, i, j] = window @ kernel.view(-1, channels)
    return image


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1.5, 2.0, 2.5, 3.2])
def test_the_converted_generator_gives_the_image_of_the_public_one(scale, channels):
    weights = public_weights(channels)
    lr = torch.rand(2, channels, 10, 10, generator=torch.Generator().manual_seed(1))
    expected = public_image(weights, lr, scale)
    sr = convert_public_weights(weights)(lr, tuple(expected.shape[2:]))
    assert (sr.double() - expected).abs().max() < 1e-5 * expected.abs().max()


def test_intensities_of_the_training_data_are_taken_along():
    weights = public_weights()
    lr = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    plain, shifted = convert_public_weights(weights), convert_public_weights(weights, mean=0.37, std=0.117)
    torch.testing.assert_close(shifted(lr * 0.117 + 0.37, (16, 16)), plain(lr, (16, 16)) * 0.117 + 0.37)


def test_a_file_is_read_like_its_weights(tmp_path):
    weights = public_weights()
    before = {name: value.clone() for name, value in weights.items()}
    safetensors.torch.save_file(weights, tmp_path / "public.safetensors")
    loaded = load_public_weights(tmp_path / "public.safetensors", mean=0.2, std=0.3)
    expected = convert_public_weights(weights, mean=0.2, std=0.3)
    assert not loaded.training
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    for name, value in weights.items():
        assert torch.equal(value, before[name]), name


def change(weights, name, value):
    changed = weights | {name: value}
    return {key: value for key, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("block1.0.weight", None, "no convolution named block1.0"),
        ("block1.0.weight", torch.zeros(5), "no convolution named block1.0"),
        ("block4.block1.3.bias", None, r"trunk\.blocks\.2\.branch\.3\.bias"),
        ("block8.0.weight", torch.zeros(3), r"block8\.0\.weight is not one of their names"),
        (f"{PREDICTION}.2.bias", torch.zeros(55), r"upscale\.kernel\.bias"),
        (f"{PREDICTION}.2.weight", None, r"upscale\.kernel\.weight"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_of_another_network_are_refused_by_name(name, value, complaint, channels):
    with pytest.raises(CheckpointError, match=complaint):
        convert_public_weights(change(public_weights(channels), name, value))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    pickled = tmp_path / "public.pth"
    pickled.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(CheckpointError, match=r"public\.pth"):
        load_public_weights(pickled)
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        load_public_weights(tmp_path / "absent.safetensors")
