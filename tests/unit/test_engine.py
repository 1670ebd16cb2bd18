import pytest
import torch

from metasr.inference.engine import Engine
from metasr.models import SRGAN, Generator, evaluating

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(**options):
    torch.manual_seed(0)
    network = Generator(num_features=8, num_blocks=2, mean=0.3, std=0.2, **options)
    network.upscale.output_gain = 1.0
    return network


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(40, 40), (54, 54), (61, 47), (20, 20)])
@pytest.mark.parametrize("options", [{"norm": "batch"}, {"norm": "none", "skip": "bicubic"}], ids=str)
def test_the_engine_makes_the_images_of_its_generator(size, options):
    network, lr = generator(**options), images(3, 1, 20, 20)
    with torch.no_grad():
        network(images(8, 1, 20, 20), (40, 40))  # running statistics
    with evaluating(network):
        expected = network(lr, size)
    engine = Engine(network)
    for _ in range(2):
        torch.testing.assert_close(engine(lr, size), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_generator_stays_as_it_is():
    network = generator().train()
    before = {name: (value.clone(), value.stride()) for name, value in network.state_dict().items()}
    Engine(network)(images(1, 1, 20, 20), (54, 54))
    assert network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name][0], rtol=0, atol=0)
        assert value.stride() == before[name][1]


def test_kernels_of_a_scale_are_predicted_once(monkeypatch):
    network = generator()
    engine, lr = Engine(network), images(1, 1, 20, 20)
    expected = engine(lr, (54, 54))
    monkeypatch.setattr(network.upscale.kernel, "forward", None)  # what predicts them
    torch.testing.assert_close(engine(lr, (54, 54)), expected)


def test_bfloat16_is_for_the_convolutions_alone():
    network, lr = generator(), images(1, 1, 20, 20)
    exact, rounded = Engine(network)(lr, (54, 54)), Engine(network, bfloat16=True)(lr, (54, 54))
    assert rounded.dtype == torch.float32
    assert 1e-5 < float((rounded - exact).abs().max() / exact.abs().max()) < 0.05


def test_networks_of_one_scale_run_too():
    network = SRGAN(num_features=4, num_blocks=1)
    with evaluating(network):
        expected = network(images(1, 1, 9, 8), (18, 16))
    torch.testing.assert_close(Engine(network)(images(1, 1, 9, 8), (18, 16)), expected)
