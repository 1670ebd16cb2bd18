"""ONNX: ONNX Runtime computes the images that PyTorch does, at any size, from two files."""

import numpy as np
import pytest
import torch

from metasr.models import Generator, evaluating

pytest.importorskip("onnx", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from metasr.errors import ConfigError  # noqa: E402
from metasr.export.decoder import decoder  # noqa: E402
from metasr.export.encoder import encoder  # noqa: E402
from metasr.export.write import export_bundle, largest_difference  # noqa: E402
from metasr.inference.bundle import Bundle, load_bundle  # noqa: E402
from metasr.models.baselines import SRGAN  # noqa: E402
from metasr.sources import released_bundle  # noqa: E402

SIZES = {
    "2": ((12, 9), (24, 18)),
    "1.1": ((40, 20), (44, 22)),
    "2.7": ((10, 20), (27, 54)),
    "4": ((9, 7), (36, 28)),
    "no period": ((13, 11), (41, 29)),
    "1 x 3.1": ((10, 10), (10, 31)),
    "12": ((3, 4), (36, 48)),
}


def made(**options):
    """Return a generator none of whose numbers are those that it began with."""
    torch.manual_seed(0)
    generator = Generator(num_features=8, num_blocks=2, mean=0.37, std=0.117, **options)
    with torch.no_grad():
        generator(torch.rand(2, generator.upscale.out_channels, 8, 8), (12, 12))  # moves running statistics
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return generator.eval()


def run(graph, **inputs):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


@pytest.fixture(scope="module", params=["batch", "none", "colours"])
def exported(request):
    """A generator in the paper's form, in the default's or for colours, and its two files."""
    options = {"batch": {}, "none": {"norm": "none", "skip": "bicubic"}, "colours": {"channels": 3}}
    generator = made(**options[request.param])
    return generator, encoder(generator, {}), decoder(generator, {})


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_two_files_give_the_image_of_pytorch_at_every_size(exported, sizes):
    generator, encoding, decoding = exported
    lr_size, size = sizes
    lr = torch.rand(2, generator.upscale.out_channels, *lr_size)
    maps = run(encoding, lr=lr.numpy())
    sr = run(decoding, maps=maps, lr=lr.numpy(), size=np.array(size))
    with evaluating(generator):
        expected = generator(lr, size).numpy()
    assert sr.shape == expected.shape
    np.testing.assert_allclose(sr, expected, atol=1e-4)


def test_the_model_that_ships_is_written_with_what_a_program_needs(tmp_path):
    bundle = load_bundle(released_bundle(), torch.device("cpu"))
    assert export_bundle(bundle, tmp_path) <= 1e-4
    note = (tmp_path / "README.md").read_text()
    code = note.partition("\n\n    import")[2].partition("\n\n`low`")[0]
    program = "\n".join(line.strip() for line in f"import{code}".splitlines())
    program = program.replace('f"{name}.onnx"', f'f"{tmp_path}/{{name}}.onnx"')
    image = np.random.default_rng(0).uniform(0, 900, (100, 80))
    known = {"image": image, "low": 0.0, "high": 900.0}
    exec(program, known)  # noqa: S102
    with evaluating(bundle.generator):
        expected = bundle.generator(torch.tensor(image / 900, dtype=torch.float32)[None, None], (259, 216))[0, 0]
    np.testing.assert_allclose(known["result"] / 900, expected, atol=1e-4)


def test_a_difference_is_found_and_nothing_is_written(tmp_path, monkeypatch):
    generator, other = made(), made(skip="bicubic")
    files = encoder(generator, {}), decoder(generator, {})
    assert largest_difference(other, *files) > 0.1
    about = {"config": {"train": {"scale_min": 1.1, "scale_max": 4.0}}}
    monkeypatch.setattr("metasr.export.write.decoder", lambda *_: files[1])
    with pytest.raises(ConfigError, match="differs"):
        export_bundle(Bundle(other, about, "0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_of_one_scale_is_refused_by_name(tmp_path):
    generator = SRGAN(scale=2, num_features=8, num_blocks=1, mean=0.0, std=1.0)
    about = {"config": {"model": {"architecture": "srgan"}}}
    with pytest.raises(ConfigError, match="srgan"):
        export_bundle(Bundle(generator, about, "0" * 64), tmp_path)
