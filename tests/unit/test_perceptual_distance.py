import pytest
import safetensors.torch
import torch
from torch.nn import functional

from metasr.data.degrade import resize_bicubic
from metasr.errors import ConfigError
from metasr.perceptual_distance import load_perceptual_distance

WIDTHS = {
    "vgg16": [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3],
    "vgg19": [[64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4],
}


@pytest.fixture(scope="module", params=["vgg16", "vgg19"])
def network(request):
    return request.param


@pytest.fixture(scope="module")
def stored(network):
    """Random weights in the order and under the names that torchvision gives them."""
    random = torch.Generator().manual_seed(0)
    weights, channels, index = {}, 3, 0
    for stage in WIDTHS[network]:
        for width in stage:
            spread = (2 / (9 * channels)) ** 0.5
            weights[f"features.{index}.weight"] = spread * torch.randn((width, channels, 3, 3), generator=random)
            weights[f"features.{index}.bias"] = 0.1 * torch.randn(width, generator=random)
            channels, index = width, index + 2
        index += 1
    return weights


@pytest.fixture(scope="module")
def distance(network, stored, tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "vgg.safetensors"
    safetensors.torch.save_file(stored, file)
    return load_perceptual_distance(network, file)


def random_image(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def distance_by_hand(network, stored, one, other):
    """Zhang et al. 2018, Eq. 1 without learned weights, in float64, an image at a time."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]

    def stages(image):
        x, index, kept = (image.double().expand(3, -1, -1) - mean) / std, 0, []
        for number, stage in enumerate(WIDTHS[network]):
            if number:
                x, index = functional.max_pool2d(x, 2), index + 1
            for _ in stage:
                weight, bias = (stored[f"features.{index}.{kind}"].double() for kind in ("weight", "bias"))
                x, index = functional.conv2d(x[None], weight, bias, padding=1)[0].clamp(min=0), index + 2
            kept.append(x / (x**2).sum(0).sqrt())
        return kept

    layers = [((a - b) ** 2).sum(0).mean() for a, b in zip(stages(one), stages(other), strict=True)]
    return sum(layers) / len(layers)


@pytest.mark.parametrize("channels", [1, 3])
def test_distance_is_its_formula(network, stored, distance, channels):
    image, reference = random_image(2, channels, 33, 20), random_image(2, channels, 33, 20, seed=2)
    expected = [distance_by_hand(network, stored, a, b) for a, b in zip(image, reference, strict=True)]
    actual = distance(image, reference)
    assert actual.shape == (2,)
    assert actual.tolist() == pytest.approx([value.item() for value in expected], rel=1e-4)


def test_equal_images_have_no_distance_and_order_does_not_matter(distance):
    image, reference = random_image(1, 1, 16, 16), random_image(1, 1, 16, 16, seed=2)
    assert distance(image, image).item() == 0
    assert distance(image, reference).item() == pytest.approx(distance(reference, image).item(), rel=1e-5)


def test_more_blur_is_farther_away(distance):
    y, x = torch.meshgrid(torch.linspace(0, 30, 48), torch.linspace(0, 40, 48), indexing="ij")
    image = (0.5 + 0.25 * torch.sin(y) + 0.25 * torch.cos(x + y / 2))[None, None]
    blurred = [resize_bicubic(resize_bicubic(image, (side, side)), (48, 48)) for side in (40, 24, 12, 6)]
    distances = [distance(image, other).item() for other in blurred]
    assert distances == sorted(distances)
    assert distances[0] < 0.5 * distances[-1]


def test_pixels_without_features_are_equal(network, stored, tmp_path):
    silent = {name: torch.full_like(value, -100.0) if "bias" in name else value for name, value in stored.items()}
    safetensors.torch.save_file(silent, tmp_path / "vgg.safetensors")
    distance = load_perceptual_distance(network, tmp_path / "vgg.safetensors")
    assert distance(torch.zeros(1, 1, 16, 16), random_image(1, 1, 16, 16)).item() == 0


def test_weights_of_another_network_are_refused(network, stored, tmp_path):
    safetensors.torch.save_file(stored, tmp_path / "vgg.safetensors")
    other = {"vgg16": "vgg19", "vgg19": "vgg16"}[network]
    with pytest.raises(ConfigError, match=f"it does not hold {other}"):
        load_perceptual_distance(other, tmp_path / "vgg.safetensors")
