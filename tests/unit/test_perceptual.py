import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional

from metasr.config import LossConfig
from metasr.errors import ConfigError
from metasr.perceptual import check_perceptual, load_perceptual

FIRST_CONVOLUTIONS = {0: (64, 3), 2: (64, 64), 5: (128, 64)}  # index in the network: out and in channels


def first_weights(dtype=torch.float32):
    random = torch.Generator().manual_seed(0)
    stored = {}
    for index, (out_channels, in_channels) in FIRST_CONVOLUTIONS.items():
        weight = torch.randn((out_channels, in_channels, 3, 3), generator=random) * (2 / (9 * in_channels)) ** 0.5
        stored[f"features.{index}.weight"] = weight.to(dtype)
        stored[f"features.{index}.bias"] = (0.1 * torch.randn(out_channels, generator=random)).to(dtype)
    return stored


@pytest.fixture
def weights_file(tmp_path):
    """The first three convolutions of a VGG, which are the same in vgg16 and vgg19, with random values."""
    file = tmp_path / "vgg.safetensors"
    safetensors.torch.save_file(first_weights() | {"classifier.6.bias": torch.zeros(1000)}, file)
    return file


def settings(file, layer="relu2_1", network="vgg19", **others):
    return LossConfig(vgg_weights=file, vgg_layer=layer, vgg_network=network, **others)


def random_image(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def features_by_hand(image, layer):
    """The first layers of a VGG on ImageNet-normalised images, in float64."""
    weights = {name: value.double() for name, value in first_weights().items()}
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
    x = (image.double() - mean) / std  # a gray image becomes three equal channels

    def convolve(x, index):
        return functional.conv2d(x, weights[f"features.{index}.weight"], weights[f"features.{index}.bias"], padding=1)

    x = convolve(x, 0).relu()
    x = convolve(x, 2).relu()
    return x if layer == "relu1_2" else convolve(functional.max_pool2d(x, 2), 5).relu()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
@pytest.mark.parametrize("layer", ["relu1_2", "relu2_1"])
def test_value_is_the_mean_squared_distance_of_vgg_features(weights_file, layer, network, channels):
    perceptual = load_perceptual(settings(weights_file, layer, network))
    sr, hr = random_image(2, channels, 13, 18), random_image(2, channels, 13, 18, seed=2)
    expected = (features_by_hand(sr, layer) - features_by_hand(hr, layer)).square().mean()
    assert perceptual(sr, hr).item() == pytest.approx(expected.item(), rel=1e-5)


def test_equal_images_have_no_distance(weights_file):
    image = random_image(1, 1, 12, 12)
    assert load_perceptual(settings(weights_file))(image, image).item() == 0


def test_images_are_not_changed(weights_file):
    sr, hr = random_image(1, 3, 12, 12), random_image(1, 3, 12, 12, seed=2)
    before = sr.clone(), hr.clone()
    load_perceptual(settings(weights_file))(sr, hr)
    assert torch.equal(sr, before[0])
    assert torch.equal(hr, before[1])


def test_gradient_reaches_the_image_but_neither_the_original_nor_the_weights(weights_file):
    perceptual = load_perceptual(settings(weights_file))
    sr, hr = (random_image(1, 1, 12, 12, seed=seed).requires_grad_() for seed in (1, 2))
    perceptual(sr, hr).backward()
    assert sr.grad.abs().max() > 0
    assert hr.grad is None
    assert len(list(perceptual.parameters())) == 6
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())
    assert all(parameter.grad is None for parameter in perceptual.parameters())


def test_gradient_is_that_of_the_formula(weights_file):
    sr, hr = random_image(1, 1, 8, 8).requires_grad_(), random_image(1, 1, 8, 8, seed=2)
    load_perceptual(settings(weights_file))(sr, hr).backward()
    exact = sr.detach().double().requires_grad_()
    (features_by_hand(exact, "relu2_1") - features_by_hand(hr, "relu2_1")).square().mean().backward()
    torch.testing.assert_close(sr.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)


def test_weight_zero_needs_no_file():
    config = LossConfig(perceptual=0)
    check_perceptual(config)
    assert load_perceptual(config) is None


def test_weights_that_nobody_named_come_from_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept = tmp_path / "metasr" / "vgg19-dcbb9e9d.pth"
    kept.parent.mkdir()
    kept.write_bytes(b"damaged")
    check_perceptual(LossConfig())
    with pytest.raises(ConfigError, match=r"metasr/vgg19-dcbb9e9d\.pth: not the whole .*Download it again"):
        load_perceptual(LossConfig())


def test_the_check_finds_what_is_missing_without_reading_weights(weights_file, tmp_path):
    check_perceptual(settings(weights_file, "relu5_4"))
    with pytest.raises(ConfigError, match="there is no such file"):
        check_perceptual(settings(tmp_path / "absent.safetensors"))
    with pytest.raises(ConfigError, match="vgg16 has no such layer"):
        check_perceptual(settings(weights_file, "relu5_4", "vgg16"))


def test_missing_file_is_named(tmp_path):
    config = settings(tmp_path / "absent.safetensors")
    with pytest.raises(ConfigError, match=r"absent\.safetensors: there is no such file.*--loss\.perceptual 0"):
        load_perceptual(config)


def test_unknown_layer_is_answered_with_those_there_are(weights_file):
    with pytest.raises(ConfigError, match=r"relu9_1: vgg19 has no such layer\. Choose one of relu1_1,.*relu5_4"):
        load_perceptual(settings(weights_file, "relu9_1"))


def test_layer_of_the_deeper_network_is_unknown_to_the_other(weights_file):
    with pytest.raises(ConfigError, match=r"relu5_4: vgg16 has no such layer\. .*relu5_3$"):
        load_perceptual(settings(weights_file, "relu5_4", "vgg16"))


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "other.safetensors"
    stored = first_weights()
    stored["features.2.weight"] = stored["features.2.weight"][:, :32].contiguous()
    safetensors.torch.save_file(stored, file)
    with pytest.raises(ConfigError, match=r"other\.safetensors.*not hold vgg19: features\.2\.weight.*vgg_network"):
        load_perceptual(settings(file))


def test_weights_that_end_before_the_layer_are_refused(weights_file):
    with pytest.raises(ConfigError, match=r"not hold vgg19: features\.7\.weight is missing"):
        load_perceptual(settings(weights_file, "relu2_2"))


def test_a_pickle_that_torchvision_did_not_publish_is_refused(tmp_path):
    file = tmp_path / "vgg.pth"
    file.write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=r"vgg\.pth: not the whole vgg19-dcbb9e9d\.pth"):
        load_perceptual(settings(file))


@pytest.mark.parametrize("channels", [1, 3])
def test_autocast_keeps_the_loss_and_its_gradient_close(weights_file, channels):
    perceptual = load_perceptual(settings(weights_file))
    hr = random_image(1, channels, 16, 16, seed=2)
    values, gradients = [], []
    for enabled in (False, True):
        sr = random_image(1, channels, 16, 16).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = perceptual(sr, hr)
        loss.backward()
        assert loss.dtype == sr.grad.dtype == torch.float32
        values.append(loss.item())
        gradients.append(sr.grad)
    assert values[1] == pytest.approx(values[0], rel=0.02)
    assert (gradients[1] - gradients[0]).norm() < 0.15 * gradients[0].norm()


def test_loading_draws_no_random_numbers(weights_file):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_perceptual(settings(weights_file))
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_after_the_compared_one_are_left_out(weights_file):
    perceptual = load_perceptual(settings(weights_file, "relu1_2"))
    assert len(perceptual.features) == 4
    assert not perceptual.features.training


LAST_LAYERS = {"vgg16": "relu5_3", "vgg19": "relu5_4"}
CONVOLUTIONS = {  # torchvision's keys
    "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
    "vgg19": [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34],
}


@pytest.mark.parametrize("network", ["vgg16", "vgg19"])
def test_the_whole_network_has_torchvisions_layers(network, tmp_path):
    stages = (2, 2, 3, 3, 3) if network == "vgg16" else (2, 2, 4, 4, 4)
    widths = [3, *np.repeat([64, 128, 256, 512, 512], stages).tolist()]
    shapes = zip(CONVOLUTIONS[network], widths[:-1], widths[1:], strict=True)
    stored = {f"features.{i}.weight": torch.zeros(out, channels, 3, 3) for i, channels, out in shapes}
    stored |= {name.replace("weight", "bias"): torch.full((len(value),), 0.25) for name, value in stored.items()}
    file = tmp_path / "vgg.safetensors"
    safetensors.torch.save_file(stored, file)
    features = load_perceptual(settings(file, LAST_LAYERS[network], network)).features
    assert len(features) == CONVOLUTIONS[network][-1] + 2
    maps = features(random_image(1, 3, 34, 50))
    torch.testing.assert_close(maps, torch.full((1, 512, 2, 3), 0.25))
