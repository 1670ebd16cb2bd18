"""An image computed in tiles is the image computed at once."""

import math

import numpy as np
import pytest
import torch

from metasr.inference import tiles
from metasr.inference.target import Target
from metasr.inference.tiles import Tiled, fitting, slice_bytes
from metasr.inference.upscale import upscale_volume
from metasr.models import SRGAN, Generator, evaluating
from tests.unit.nifti import in_memory

pytestmark = pytest.mark.usefixtures("one_thread")


def network(norm="none", skip="bicubic"):
    """A small network whose weights let every pixel that it sees count."""
    torch.manual_seed(0)
    generator = Generator(norm=norm, skip=skip, num_features=6, num_blocks=2, mean=0.3, std=0.2)
    with torch.no_grad():
        for parameter in generator.parameters():
            if parameter.ndim > 1:
                torch.nn.init.kaiming_normal_(parameter)
    return generator.eval()


@pytest.mark.parametrize("size", [(100, 74), (127, 99), (round(50 * math.pi), 60), (50, 37)])
@pytest.mark.parametrize(("norm", "skip"), [("none", "bicubic"), ("batch", "none")])
def test_tiles_have_no_seams(size, norm, skip):
    generator, lr = network(norm, skip), torch.rand(2, 1, 50, 37)
    with evaluating(generator):
        whole = generator(lr, size)
        tiled = Tiled(generator, tile_px=16)(lr, size)
    assert whole.std() > 0.01
    assert (tiled - whole).abs().max() <= 1e-6 * whole.abs().max()


def test_a_volume_through_tiles_is_the_volume(monkeypatch):
    volume = in_memory(np.random.default_rng(0).uniform(0, 900, (33, 30, 4)), np.diag([1.0, 1.0, 3.0, 1.0]))
    target, generator = Target.of_spacing(volume, (0.6, 0.6, 1.5)), network()
    whole = upscale_volume(volume, generator, target)
    tiled = upscale_volume(volume, Tiled(generator, tile_px=12), target)
    np.testing.assert_allclose(tiled, whole, atol=2e-3)  # of 900: float32's rounding


def test_tiles_are_for_short_memory_alone_and_are_said_once(monkeypatch):
    volume = in_memory(np.zeros((40, 50, 6)))
    target, generator, lines = Target.of_scale(volume, (2, 2)), network(), []
    needed = slice_bytes(generator, volume, target)
    assert needed == 40 * 50 * 6 * 4 * tiles.MAPS_AT_ONCE
    monkeypatch.setattr(tiles, "available_bytes", lambda: 3 * needed)
    assert fitting(generator, volume, target, lines.append) is generator
    assert lines == []
    monkeypatch.setattr(tiles, "available_bytes", lambda: needed)
    assert isinstance(fitting(generator, volume, target, lines.append), Tiled)
    assert len(lines) == 1
    assert "memory is short" in lines[0]
    monkeypatch.setattr(tiles, "available_bytes", lambda: None)
    assert fitting(generator, volume, target, lines.append) is generator
    other = SRGAN(scale=2, norm="none", num_features=4, num_blocks=1)
    monkeypatch.setattr(tiles, "available_bytes", lambda: 1)
    assert fitting(other, volume, target, lines.append) is other
