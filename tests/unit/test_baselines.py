"""SRGAN and EDSR: the networks of the paper's comparison."""

import pytest
import torch
from torch.nn import functional

from metasr.errors import ScaleError
from metasr.models import EDSR, SRGAN, Generator


def num_parameters(network):
    return sum(p.numel() for p in network.parameters())


def small(kind, **options):
    torch.manual_seed(0)
    return kind(num_features=8, num_blocks=2, **options).eval()


def test_srgan_has_the_papers_number_of_parameters():
    assert num_parameters(SRGAN()) == 565_768


def test_edsr_has_the_papers_number_of_parameters():
    with torch.device("meta"):
        assert num_parameters(EDSR()) == 40_720_385


def test_srgan_has_the_trunk_of_the_generator():
    def shapes(network):
        return {name: value.shape for name, value in network.trunk.state_dict().items()}

    assert shapes(SRGAN()) == shapes(Generator())


@pytest.mark.parametrize("kind", [SRGAN, EDSR])
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_become_scale_times_as_large(kind, scale, channels):
    lr = torch.rand(2, channels, 7, 5)
    sr = small(kind, scale=scale, channels=channels)(lr, (7 * scale, 5 * scale))
    assert sr.shape == (2, channels, 7 * scale, 5 * scale)
    assert torch.isfinite(sr).all()


@pytest.mark.parametrize("kind", [SRGAN, EDSR])
@pytest.mark.parametrize("size", [(15, 10), (14, 11), (21, 15), (7, 5)])
def test_other_sizes_are_refused_with_the_scale_to_ask_for(kind, size):
    with pytest.raises(ScaleError, match=f"{kind.__name__} enlarges 2 times.*Ask for scale 2"):
        small(kind)(torch.rand(1, 1, 7, 5), size)


@pytest.mark.parametrize("kind", [SRGAN, EDSR])
@pytest.mark.parametrize("scale", [1, 5, 8, 2.5])
def test_scales_without_a_tail_are_refused(kind, scale):
    with pytest.raises(ScaleError, match="2, 3 and 4"):
        small(kind, scale=scale)


@pytest.mark.parametrize("kind", [SRGAN, EDSR])
def test_intensities_are_those_of_the_training_data(kind):
    plain, shifted = small(kind), small(kind, mean=0.4, std=0.2)
    lr = torch.rand(1, 1, 6, 6)
    torch.testing.assert_close(shifted(lr * 0.2 + 0.4, (12, 12)), plain(lr, (12, 12)) * 0.2 + 0.4)


@pytest.mark.parametrize("kind", [SRGAN, EDSR])
def test_autocast_ends_at_the_image(kind):
    network, lr = small(kind, mean=0.4, std=0.2), torch.rand(1, 1, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        sr = network(lr, (12, 12))
    assert sr.dtype == torch.float32
    torch.testing.assert_close(sr, network(lr, (12, 12)), rtol=0, atol=0.01)


def test_edsr_computes_its_definition():
    """Lim et al. 2017, Fig. 2 and Fig. 3, written out."""
    network = small(EDSR, residual_scale=0.3)
    weights = network.state_dict()

    def conv(x, name):
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    lr = torch.rand(1, 1, 6, 5)
    features = head = conv(lr, "head")
    for block in range(2):
        inner = conv(conv(features, f"blocks.{block}.branch.0").relu(), f"blocks.{block}.branch.2")
        features = features + 0.3 * inner
    features = head + conv(features, "fuse")
    expected = conv(functional.pixel_shuffle(conv(features, "tail.0"), 2), "tail.2")
    torch.testing.assert_close(network(lr, (12, 10)), expected)
