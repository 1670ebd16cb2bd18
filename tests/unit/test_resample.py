"""Axes that get coarser, and label maps: resized without a network."""

import numpy as np
import pytest
import torch
from PIL import Image

from metasr.data.intensity import IntensityScale
from metasr.errors import ScaleError
from metasr.inference.resample import resize_labels, shrink
from metasr.inference.target import Target
from metasr.inference.upscale import upscale_volume
from metasr.models import Generator
from tests.unit.nifti import in_memory, oriented_affine


def textured(shape):
    return np.random.default_rng(0).uniform(100, 900, shape)


def test_an_axis_is_shrunk_like_pillow_does():
    data = textured((21, 8, 5))
    shrunk = shrink(data, (9, 16, 5), IntensityScale.fit(data))
    expected = [
        np.asarray(Image.fromarray(data[..., k].astype(np.float32)).resize((8, 9), Image.Resampling.BICUBIC))
        for k in range(5)
    ]
    assert shrunk.shape == (9, 8, 5)
    assert np.abs(shrunk - np.stack(expected, axis=-1).clip(data.min(), data.max())).max() < 0.05


@pytest.mark.parametrize("background", [0.0, -1000.0])
def test_a_voxel_that_covers_background_alone_is_background(background):
    data = np.full((40, 12, 5), background)
    data[17:23, 3:9, 1:4] = textured((6, 6, 3))
    data[20, 6, 2] = -2000  # so that nothing is cut off at the background by being the lowest value
    shrunk = shrink(data, (13, 12, 5), IntensityScale.fit(data))
    brain = np.zeros(shrunk.shape, bool)
    brain[5:8, 3:9, 1:4] = True  # 40 -> 13: of those that cover voxels 17 to 22
    assert (shrunk[~brain] == background).all()
    assert shrunk[6, 3, 1:4].min() > 90


def test_what_is_shrunk_keeps_range_and_one_value(tmp_path):
    data = textured((30, 8, 5))
    shrunk = shrink(data, (7, 3, 5), IntensityScale.fit(data))
    assert data.min() <= shrunk.min() < shrunk.max() <= data.max()
    assert (shrink(np.full((9, 3, 3), 7.0), (4, 3, 3), None) == np.full((4, 3, 3), 7)).all()


def test_finer_axes_are_shrunk_and_thick_ones_super_resolved():
    torch.manual_seed(0)
    generator = Generator(num_features=4, num_blocks=1, norm="none", skip="bicubic")
    for parameter in (generator.upscale.kernel.weight, generator.upscale.kernel.bias):
        torch.nn.init.zeros_(parameter)
    data = 500 + 300 * np.sin(np.indices((40, 44, 8)).sum(0) / 9)
    volume = in_memory(data, np.diag([0.5, 0.5, 4, 1]))
    target = Target.of_spacing(volume, (1, 1, 1), resample=True)
    result = upscale_volume(volume, generator, target)
    assert result.shape == (20, 22, 32)
    i, j, k = ((np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(result.shape, data.shape, strict=True))
    expected = 500 + 300 * np.sin((i[:, None, None] + j[:, None] + k) / 9)
    assert np.abs(result - expected)[2:-2, 2:-2, 4:-4].max() < 5


@pytest.mark.parametrize("scale", [(2.0, 1.0, 3.0), (1.5, 2.7, 1.0)])
def test_every_voxel_has_the_label_at_its_centre(scale):
    labels = np.random.default_rng(0).integers(0, 2**40, (6, 7, 4)).astype(np.float64)
    volume = in_memory(labels, oriented_affine((1, 2, 0), (-1, 1, 1)))
    volume.header.set_data_dtype(np.int64)
    target = Target.of_axes(volume, scale)
    cells = [((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(target.shape, labels.shape, strict=True)]
    assert np.array_equal(resize_labels(volume, target), labels[np.ix_(*cells)])
    with pytest.raises(ScaleError, match="GB of memory"):
        resize_labels(volume, target, memory_bytes=100)
