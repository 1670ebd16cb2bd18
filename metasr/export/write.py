"""Both graphs and a note on their use in a folder, after ONNX Runtime has computed the same image from them."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from metasr import __version__
from metasr.data.files import appearing
from metasr.errors import ConfigError
from metasr.export.decoder import decoder
from metasr.export.encoder import encoder
from metasr.inference.bundle import Bundle
from metasr.inference.output import write_text
from metasr.models import Generator, evaluating

TOLERANCE = 1e-4  # of the range of the intensities, which is about 1
TRIED = ((24, 19), (48, 38)), ((17, 20), (46, 54)), ((20, 20), (20, 63)), ((13, 11), (41, 29))
"""Sizes of LR and SR compared at: an integer scale, 2.7, one axis alone, and a ratio without a period."""
USE = """\
# Meta-SRGAN as ONNX

`encoder.onnx`: `lr` float32 `[N, C, h, w]` -> `maps` `[N, F, h, w]`. `decoder.onnx`: `maps`, `lr`, `size` int64
`[height, width]` -> `sr` float32 `[N, C, height, width]`. Encode once, decode to any size that is no smaller than
`lr`: height / h and width / w are the scales, any real numbers, trained on {low} to {high}. C is {channels}.

    import numpy as np, onnxruntime

    encoder, decoder = (onnxruntime.InferenceSession(f"{{name}}.onnx") for name in ("encoder", "decoder"))
    lr = ((image - low) / (high - low)).astype(np.float32)[None, None]
    (maps,) = encoder.run(None, {{"lr": lr}})
    (sr,) = decoder.run(None, {{"maps": maps, "lr": lr, "size": np.array([259, 216])}})
    result = sr[0, 0] * (high - low) + low

`low` is the intensity of the constant background (0 after most brain extraction), `high` the 99.9th percentile of the
brain over the whole volume. Slices, background, affine and range are what `metasr upscale` takes care of as well.

Compared with PyTorch when it was written: the largest difference was {difference:.1e} of that range, at scales 2,
2.7, 1 x 3.15 and 3.15 x 2.64. From bundle `{digest}`, metasr {version}. Research software, not a medical device.
"""


def export_bundle(bundle: Bundle, folder: Path) -> float:
    """Write `encoder.onnx`, `decoder.onnx` and `README.md`, and return the largest difference from PyTorch.

    Args:
        bundle: On the CPU.
        folder: Exists; files of these names are replaced.

    Raises:
        ConfigError: It is a network of one scale, or ONNX Runtime computes something else from the graphs.
        DataError: The files cannot be written.
    """
    generator = bundle.generator
    if not isinstance(generator, Generator):
        name = bundle.about["config"]["model"]["architecture"]
        raise ConfigError(f"model {name}", "it has one scale, and no decoder for any size", "Export a meta_srgan")
    low, high = bundle.trained_scales
    about = {"bundle_sha256": bundle.digest, "metasr_version": __version__, "trained_scales": f"{low} to {high}"}
    with evaluating(generator):
        graphs = encoder(generator, about), decoder(generator, about)
    difference = largest_difference(generator, *graphs)
    if not difference <= TOLERANCE:
        raise ConfigError(
            "export", f"ONNX Runtime's image differs by {difference:.1e}", "Report this, with the versions installed"
        )
    for name, graph in zip(("encoder", "decoder"), graphs, strict=True):
        with appearing(folder / f"{name}.onnx", ".onnx") as partial:
            partial.write_bytes(graph)
    told = {"low": low, "high": high, "channels": generator.upscale.out_channels, "difference": difference}
    write_text(folder / "README.md", USE.format(**told, digest=bundle.digest, version=__version__))
    return difference


def largest_difference(generator: Generator, encoding: bytes, decoding: bytes) -> float:
    """Return the largest difference of ONNX Runtime's images from PyTorch's, for noise in [0, 1] of several sizes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    sessions = [
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        for graph in (encoding, decoding)
    ]
    noise, found = np.random.default_rng(0), 0.0
    for lr_size, size in TRIED:
        lr = noise.random((2, generator.upscale.out_channels, *lr_size), dtype=np.float32)
        (maps,) = sessions[0].run(None, {"lr": lr})
        (sr,) = sessions[1].run(None, {"maps": maps, "lr": lr, "size": np.array(size)})
        with evaluating(generator):
            expected = generator(torch.from_numpy(lr), size).numpy()
        found = max(found, float(np.abs(sr - expected).max())) if np.isfinite(sr).all() else np.inf
    return found
