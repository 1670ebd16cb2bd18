import pytest
import torch
from torch.nn import functional

from metasr.inference.engine import Engine
from metasr.models import SRGAN, Generator, Window, evaluating

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


@pytest.mark.parametrize("rim", [(9, 12), (3, 0), (0, 1), (1, 14)], ids=str)
def test_a_rim_that_nobody_asks_for_changes_nothing_inside_it(rim):
    network, lr = generator(norm="none", skip="bicubic"), images(2, 1, 34, 38)
    engine, size = Engine(network), (85, 95)
    whole, part = engine(lr, size), engine(lr, size, rim)
    rows, columns = (round(2.5 * side) for side in rim)
    inside = (..., slice(rows, 85 - rows), slice(columns, 95 - columns))
    torch.testing.assert_close(part[inside], whole[inside], rtol=0, atol=1e-6 * float(whole.abs().max()))


def test_of_a_rim_that_nobody_asks_for_less_is_computed(monkeypatch):
    engine, lr, made, convolve = Engine(generator()), images(1, 1, 60, 60), [], functional.conv2d

    def watched(*given, **options):
        result = convolve(*given, **options)
        made.append(result.numel())
        return result

    monkeypatch.setattr(functional, "conv2d", watched)
    engine.encode(lr)
    all_of_it, made[:] = sum(made), []
    engine.encode(lr, (20, 20))
    assert sum(made) < 0.45 * all_of_it


def test_windows_are_parts_of_the_image():
    engine, lr = Engine(generator(norm="none", skip="bicubic")), images(1, 1, 20, 20)
    features = engine.encode(lr)
    part = engine.decode_window(features, (54, 54), Window(7, 20, 30, 25))
    torch.testing.assert_close(part, engine(lr, (54, 54))[..., 7:37, 20:45], rtol=0, atol=1e-6)


def test_networks_of_one_scale_have_no_features():
    with pytest.raises(TypeError, match="one scale"):
        Engine(SRGAN(num_features=4, num_blocks=1)).encode(images(1, 1, 9, 8))


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
