import pytest
import torch
from torch import nn

from metasr.config import ModelConfig
from metasr.models import Discriminator, build_discriminator


@pytest.fixture(scope="module")
def discriminator():
    torch.manual_seed(0)
    return Discriminator().eval()


def random_image(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("channels", "expected"), [(1, 5_214_273), (3, 5_215_425)])
def test_number_of_parameters_is_known(channels, expected):
    config = ModelConfig(channels=channels)
    assert sum(p.numel() for p in build_discriminator(config).parameters()) == expected


@pytest.mark.parametrize("size", [(96, 96), (81, 81), (33, 17), (16, 50), (5, 7), (1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_any_size_gives_one_logit_per_image(discriminator, size, batch):
    logits = discriminator(random_image(batch, 1, *size))
    assert logits.shape == (batch,)
    assert logits.isfinite().all()


def test_logits_are_not_squashed(discriminator):
    with torch.no_grad():
        bias = discriminator.score[-1].bias
        before = discriminator(random_image(1, 1, 20, 20))
        bias.add_(5.0)
        after = discriminator(random_image(1, 1, 20, 20))
        bias.sub_(5.0)
    torch.testing.assert_close(after - before, torch.full((1,), 5.0), rtol=0, atol=1e-5)


def test_layers_are_those_of_the_paper(discriminator):
    convolutions = [m for m in discriminator.features if isinstance(m, nn.Conv2d)]
    shape = [(c.in_channels, c.out_channels, c.stride[0]) for c in convolutions]
    assert shape == [
        (1, 64, 1),
        (64, 64, 2),
        (64, 128, 1),
        (128, 128, 2),
        (128, 256, 1),
        (256, 256, 2),
        (256, 512, 1),
        (512, 512, 2),
    ]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in discriminator.features) == 7
    slopes = {m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)}
    assert slopes == {0.2}


def test_images_are_told_apart_in_their_order(discriminator):
    images = random_image(3, 1, 24, 24)
    logits = discriminator(images)
    torch.testing.assert_close(discriminator(images.flip(0)), logits.flip(0), rtol=1e-5, atol=1e-6)
    assert logits.unique().numel() == 3


def test_logits_are_float32_under_autocast(discriminator):
    image = random_image(2, 1, 20, 20)
    with torch.autocast("cpu", torch.bfloat16):
        logits = discriminator(image)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, discriminator(image), rtol=0, atol=0.02)
