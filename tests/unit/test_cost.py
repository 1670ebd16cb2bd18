"""What a method costs, counted by hand."""

import pytest
import torch

from metasr.evaluation import BICUBIC, Evaluation, Method
from metasr.evaluation.cost import costs, count_macs
from metasr.models import EDSR, SRGAN, Generator
from metasr.scale import Scale

TWO = Scale(2, 2)


def convolutions(network, size):
    """Multiplications of all 2-D convolutions for outputs of the given sizes, from hooks on the modules."""
    total = 0

    def count(module, _inputs, output):
        nonlocal total
        total += output[0, 0].numel() * module.weight.numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 1, *size), (2 * size[0], 2 * size[1]))
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("network", [SRGAN(num_features=4, num_blocks=1), EDSR(num_features=6, num_blocks=2)])
def test_macs_are_the_multiplications_of_the_convolutions_for_a_240_x_240_slice(network):
    assert count_macs(network, TWO) == convolutions(network, (120, 120))


def test_meta_upscale_adds_the_prediction_of_kernels_and_their_use():
    network = Generator(num_features=4, num_blocks=1)
    trunk = convolutions(network, (120, 120))
    used = 240 * 240 * 9 * 4
    predicted = 4 * (3 * 256 + 256 * 9 * 4)
    assert count_macs(network, TWO) == pytest.approx(trunk + used + predicted, rel=0.01)


def test_larger_scales_have_smaller_lr_images_and_cost_less():
    network = Generator(num_features=4, num_blocks=1)
    macs = [count_macs(network, Scale.parse(scale)) for scale in ("1x2", "2", "2x4", "4")]
    assert macs == sorted(macs, reverse=True)


def test_every_method_and_scale_has_its_cost():
    network = Method("model", Generator(num_features=4, num_blocks=1))
    seconds = {(TWO, "bicubic"): [0.1, 0.1, 5.0], (TWO, "model"): [0.4, 0.2, 9.0], (Scale(1, 4), "model"): [0.5]}
    found = {(cost.scale, cost.method): cost for cost in costs([BICUBIC, network], Evaluation([], [], seconds))}
    assert set(found) == set(seconds)
    bicubic, model = found[TWO, "bicubic"], found[TWO, "model"]
    assert (bicubic.parameters, bicubic.macs) == (None, None)
    assert model.parameters == sum(p.numel() for p in network.network.parameters())
    assert (model.seconds_per_slice, model.seconds_per_volume) == pytest.approx((0.4, 155 * 0.4))
