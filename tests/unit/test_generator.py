import pytest
import torch

from metasr.config import ModelConfig
from metasr.data.degrade import resize_bicubic
from metasr.models import Generator, build_generator, evaluating


def small_generator(**settings):
    torch.manual_seed(0)
    return Generator(**({"num_features": 6, "num_blocks": 1, "norm": "none"} | settings))


def random_image(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def with_lively_kernels(generator):
    """Undo the small initial gain, so that the network's part of the image is far above rounding."""
    with torch.no_grad():
        generator.upscale.kernel.weight.mul_(50)
        generator.upscale.kernel.bias.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(2))
    return generator


@pytest.mark.parametrize(("channels", "expected"), [(1, 561_926), (3, 868_358)])
def test_default_generator_has_the_papers_number_of_parameters(channels, expected):
    assert Generator(channels=channels).num_parameters == expected


def test_generator_without_normalisation_loses_only_the_norm_parameters():
    assert Generator(norm="none").num_parameters == 561_926 - (5 * 2 + 1) * 2 * 64 == 560_518


@pytest.mark.parametrize("skip", ["none", "bicubic"])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_decoding_what_was_encoded_equals_forward(skip, norm):
    generator = small_generator(skip=skip, norm=norm, mean=0.3, std=0.2).eval()
    lr = random_image(2, 1, 9, 7)
    features = generator.encode(lr)
    for size in [(18, 14), (10, 8), (31, 20)]:
        torch.testing.assert_close(generator.decode(features, size), generator(lr, size), rtol=0, atol=0)


def test_decoding_twice_gives_the_same_image():
    generator = small_generator(skip="bicubic")
    features = generator.encode(random_image(1, 1, 8, 8))
    first = generator.decode(features, (13, 17))
    generator.decode(features, (32, 9))
    torch.testing.assert_close(generator.decode(features, (13, 17)), first, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("lr_size", "size"),
    [
        ((8, 8), (16, 16)),
        ((7, 13), (15, 26)),  # odd, another scale for each axis
        ((5, 40), (20, 44)),  # narrow
        ((40, 3), (41, 12)),  # tall
        ((1, 1), (4, 3)),  # one pixel
        ((11, 10), (33, 10)),  # one axis keeps its size
        ((30, 20), (81, 54)),  # x2.7
        ((6, 6), (60, 60)),  # x10
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_and_any_scale_of_each_axis(lr_size, size, channels):
    generator = small_generator(channels=channels, skip="bicubic")
    for batch in (1, 3):
        sr = generator(random_image(batch, channels, *lr_size), size)
        assert sr.shape == (batch, channels, *size)
        assert sr.isfinite().all()


def test_images_of_a_batch_do_not_influence_each_other():
    generator = with_lively_kernels(small_generator(skip="bicubic"))
    lr = random_image(3, 1, 10, 12)
    together = generator(lr, (23, 31))
    alone = torch.cat([generator(image[None], (23, 31)) for image in lr])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(20, 26), (27, 14), (10, 13)])
def test_bicubic_skip_with_a_silent_network_is_exactly_bicubic(size):
    generator = small_generator(skip="bicubic", mean=0.4, std=0.1)
    torch.nn.init.zeros_(generator.upscale.kernel.weight)
    lr = random_image(2, 1, 10, 13)
    torch.testing.assert_close(generator(lr, size), resize_bicubic(lr, size), rtol=0, atol=0)


def test_without_skip_a_silent_network_gives_the_mean():
    generator = small_generator(skip="none", mean=0.4, std=0.1)
    torch.nn.init.zeros_(generator.upscale.kernel.weight)
    sr = generator(random_image(1, 1, 5, 5), (12, 12))
    torch.testing.assert_close(sr, torch.full_like(sr, 0.4), rtol=0, atol=0)


def test_bicubic_skip_adds_to_what_the_network_makes():
    plain, skipping = (with_lively_kernels(small_generator(skip=skip)) for skip in ("none", "bicubic"))
    lr = random_image(1, 1, 8, 9)
    torch.testing.assert_close(
        skipping(lr, (20, 18)) - plain(lr, (20, 18)), resize_bicubic(lr, (20, 18)), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_intensities_come_back_in_the_units_of_the_input(skip):
    unit = with_lively_kernels(small_generator(skip=skip))
    scanner = with_lively_kernels(small_generator(skip=skip, mean=700.0, std=250.0))
    lr = random_image(1, 1, 9, 8)
    expected = unit(lr, (20, 17)) * 250 + 700
    torch.testing.assert_close(scanner(lr * 250 + 700, (20, 17)), expected, rtol=1e-4, atol=0.05)


def test_mean_and_standard_deviation_travel_with_the_weights():
    trained = small_generator(mean=0.37, std=0.117)
    other = small_generator()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(trained.state_dict())
    assert (other.mean.item(), other.std.item()) == pytest.approx((0.37, 0.117))
    lr = random_image(1, 1, 8, 8)
    torch.testing.assert_close(other(lr, (19, 16)), trained(lr, (19, 16)), rtol=0, atol=0)


def test_the_factory_passes_every_setting_on():
    config = ModelConfig(channels=3, num_features=5, num_blocks=2, norm="none", skip="bicubic", residual_scale=0.07)
    generator = build_generator(config, mean=0.25, std=0.5)
    assert (generator.trunk.head[0].in_channels, generator.trunk.head[0].out_channels) == (3, 5)
    assert generator.upscale.out_channels == 3
    assert [block.residual_scale for block in generator.trunk.blocks] == [0.07, 0.07]
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in generator.modules())
    assert generator.skip == "bicubic"
    assert (generator.mean.item(), generator.std.item()) == (0.25, 0.5)


def test_residual_scale_weighs_the_branches_only_without_batch_norm():
    assert [block.residual_scale for block in small_generator(residual_scale=0.3).trunk.blocks] == [0.3]
    assert [block.residual_scale for block in small_generator(norm="batch", residual_scale=0.3).trunk.blocks] == [1.0]
    block = small_generator(residual_scale=0.3).trunk.blocks[0]
    features = random_image(1, 6, 5, 5)
    torch.testing.assert_close(block(features), features + 0.3 * block.branch(features))


def test_initial_image_is_not_too_large():
    torch.manual_seed(0)
    lr = random_image(1, 1, 24, 24)
    with torch.no_grad():
        sr = Generator(norm="none")((lr - 0.5) / 0.3, (48, 48))
    assert sr.abs().mean() < 0.5


@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_under_autocast_the_image_is_float32_and_close(skip):
    generator = with_lively_kernels(small_generator(skip=skip, mean=0.3, std=0.2))
    lr = random_image(1, 1, 10, 10)
    with torch.autocast("cpu", torch.bfloat16):
        sr = generator(lr, (27, 27))
    assert sr.dtype == torch.float32
    torch.testing.assert_close(sr, generator(lr, (27, 27)), rtol=0, atol=0.02)


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_restores_the_mode(training):
    generator = small_generator(norm="batch").train(training)
    with evaluating(generator):
        assert not any(module.training for module in generator.modules())
    assert all(module.training is training for module in generator.modules())


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_restores_the_mode_after_an_error(training):
    generator = small_generator(norm="batch").train(training)
    with pytest.raises(KeyError), evaluating(generator):
        raise KeyError
    assert all(module.training is training for module in generator.modules())
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_evaluating_leaves_running_statistics_and_gradients_alone():
    generator = small_generator(norm="batch").train()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    with evaluating(generator):
        sr = generator(random_image(2, 1, 8, 8), (16, 16))
    assert not sr.requires_grad
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_in_evaluation_mode_an_image_does_not_depend_on_its_batch():
    generator = small_generator(norm="batch").eval()
    lr = random_image(2, 1, 8, 8)
    torch.testing.assert_close(generator(lr, (17, 12))[:1], generator(lr[:1], (17, 12)), rtol=1e-5, atol=1e-6)
