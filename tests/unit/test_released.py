"""The models that ship with metasr are whole, say what they are, and are better than bicubic interpolation."""

import re

import pytest
import torch

from metasr.data.degrade import Degradation, resize_bicubic
from metasr.data.slices import slice_lengths
from metasr.data.synthetic import load_template
from metasr.inference.bundle import load_bundle
from metasr.metrics import psnr, ssim
from metasr.sources import released_bundle, released_models


@pytest.fixture(scope="module")
def template():
    """An axial slice of the ICBM template, intensities in [0, 1], `[1, 1, H, W]`."""
    pytest.importorskip("nilearn", reason="the template ships with nilearn")
    data, _ = load_template()
    image = torch.from_numpy(data[:, :, data.shape[2] // 2]).float()
    return (image / image.max())[None, None]


@pytest.fixture(scope="module", params=released_models())
def folder(request):
    return released_bundle(request.param)


@pytest.fixture(scope="module")
def released(folder):
    return load_bundle(folder, torch.device("cpu"))  # checks the SHA-256 of each file


def test_it_names_its_data_and_no_machine(released, folder):
    assert released.generator.num_parameters <= 561_926
    assert released.about["trained_on"]["skull_stripped"]
    card, about = (folder / "README.md").read_text(), (folder / "manifest.json").read_text()
    assert {"CC0", "CC BY"} <= set(re.findall(r"CC0|CC BY", card))
    assert "not a medical device" in card
    assert not re.search(r"/(?:work|home|root|tmp)/|://(?!openneuro|github)", card + about)


def test_it_is_small(folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2.5e6


@pytest.mark.parametrize("scale", [1.5, 2, 3, 4])
def test_it_beats_bicubic_on_a_brain_it_has_not_seen(released, template, scale):
    (height, lr_height), (width, lr_width) = (slice_lengths(length, scale) for length in template.shape[2:])
    hr = template[..., :height, :width]
    lr = Degradation()(hr, (lr_height, lr_width))
    with torch.inference_mode():
        sr = released.generator(lr, (height, width))
    bicubic = resize_bicubic(lr, (height, width))
    assert psnr(sr, hr).item() > psnr(bicubic, hr).item() + 0.5
    assert ssim(sr, hr).item() > ssim(bicubic, hr).item()
