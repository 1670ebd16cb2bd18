import math

import numpy as np
import pytest
import torch
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from metasr.metrics import border_px, crop_border, nrmse, psnr, ssim, ssim_map
from metasr.scale import Scale


def random_pair(batch=1, channels=1, size=(40, 33), noise=0.1, seed=0):
    random = np.random.default_rng(seed)
    reference = random.random((batch, channels, *size)).astype(np.float32)
    image = (reference + noise * random.standard_normal(reference.shape)).astype(np.float32)
    return torch.from_numpy(image), torch.from_numpy(reference)


def reference_ssim(image, reference, data_range=1.0):
    return structural_similarity(
        reference.double().numpy(),
        image.double().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=data_range,
    )


@pytest.mark.parametrize("noise", [1e-4, 0.05, 0.5])
@pytest.mark.parametrize("size", [(40, 33), (16, 70)])
def test_psnr_is_that_of_scikit_image(size, noise):
    image, reference = random_pair(batch=3, size=size, noise=noise)
    expected = [
        peak_signal_noise_ratio(r.double().numpy(), i.double().numpy(), data_range=1)
        for i, r in zip(image, reference, strict=True)
    ]
    np.testing.assert_allclose(psnr(image, reference).numpy(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise", [1e-3, 0.05, 0.5])
@pytest.mark.parametrize("size", [(40, 33), (11, 50), (11, 11)])
def test_ssim_is_that_of_scikit_image(size, noise):
    image, reference = random_pair(batch=3, size=size, noise=noise)
    expected = [reference_ssim(i[0], r[0]) for i, r in zip(image, reference, strict=True)]
    np.testing.assert_allclose(ssim(image, reference).numpy(), expected, rtol=0, atol=1e-6)


def test_ssim_counts_only_full_windows():
    image, reference = random_pair(size=(30, 27))
    _, local = structural_similarity(
        reference[0, 0].double().numpy(),
        image[0, 0].double().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        full=True,
    )
    assert ssim(image, reference).item() == pytest.approx(local[5:-5, 5:-5].mean(), abs=1e-6)
    np.testing.assert_allclose(ssim_map(image, reference)[0, 0].numpy(), local[5:-5, 5:-5], rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise", [1e-3, 0.5])
def test_nrmse_is_the_euclidean_one_of_scikit_image(noise):
    image, reference = random_pair(batch=3, noise=noise)
    expected = [
        normalized_root_mse(r.double().numpy(), i.double().numpy(), normalization="euclidean")
        for i, r in zip(image, reference, strict=True)
    ]
    np.testing.assert_allclose(nrmse(image, reference).numpy(), expected, rtol=1e-9)


def test_ssim_of_smooth_images_in_float32_is_that_of_scikit_image():
    rows, columns = torch.meshgrid(torch.linspace(0, 3, 50), torch.linspace(0, 2, 44), indexing="ij")
    reference = (0.9 + 0.05 * torch.sin(rows) * torch.cos(columns))[None, None]
    image = reference + 1e-3 * torch.cos(9 * rows)
    expected = reference_ssim(image[0, 0], reference[0, 0])
    assert ssim(image, reference).item() == pytest.approx(expected, abs=1e-6)


def test_colour_images_average_over_their_channels():
    image, reference = random_pair(batch=2, channels=3)
    expected = [
        np.mean([reference_ssim(i[c], r[c]) for c in range(3)]) for i, r in zip(image, reference, strict=True)
    ]
    np.testing.assert_allclose(ssim(image, reference).numpy(), expected, rtol=0, atol=1e-6)
    expected = 10 * math.log10(1 / (image[0].double() - reference[0].double()).square().mean().item())
    assert psnr(image, reference)[0].item() == pytest.approx(expected)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_data_range_scales_both_metrics(data_range):
    image, reference = random_pair()
    scaled = image * data_range, reference * data_range
    torch.testing.assert_close(psnr(*scaled, data_range), psnr(image, reference), rtol=0, atol=1e-5)
    torch.testing.assert_close(ssim(*scaled, data_range), ssim(image, reference), rtol=0, atol=1e-6)
    expected = reference_ssim(scaled[0][0, 0], scaled[1][0, 0], data_range)
    assert ssim(*scaled, data_range).item() == pytest.approx(expected, abs=1e-6)


def test_known_psnr():
    reference = torch.zeros(1, 1, 12, 12)
    assert psnr(reference + 0.1, reference).item() == pytest.approx(20, abs=1e-5)


def test_equal_images_have_infinite_psnr_and_ssim_one():
    image, _ = random_pair()
    assert psnr(image, image).item() == math.inf
    assert ssim(image, image).item() == pytest.approx(1, abs=1e-12)


def test_metrics_are_float64():
    image, reference = random_pair()
    assert psnr(image, reference).dtype == ssim(image, reference).dtype == torch.float64


def test_border_crop_drops_the_same_on_every_side():
    image = torch.arange(7 * 9).view(1, 1, 7, 9)
    np.testing.assert_array_equal(crop_border(image, (2, 2)).numpy(), image.numpy()[:, :, 2:5, 2:7])
    np.testing.assert_array_equal(crop_border(image, (1, 3)).numpy(), image.numpy()[:, :, 1:6, 3:6])


def test_border_crop_of_nothing_keeps_the_image():
    image = torch.rand(1, 1, 5, 4)
    assert torch.equal(crop_border(image, (0, 0)), image)


@pytest.mark.parametrize(
    ("scale", "border"), [("1.1", (2, 2)), ("2", (2, 2)), ("2.1", (3, 3)), ("1x4", (1, 4)), ("2x3.3", (2, 4))]
)
def test_border_is_the_scale_of_each_axis_rounded_up(scale, border):
    assert border_px(Scale.parse(scale)) == border
