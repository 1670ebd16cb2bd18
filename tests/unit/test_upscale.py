"""Volumes upscaled by a generator that is exactly bicubic, so that Pillow can say what must come out."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from metasr.data.planes import PLANES
from metasr.data.volume import load_volume, save_volume
from metasr.errors import ScaleError
from metasr.inference.target import Target
from metasr.inference.upscale import upscale_volume
from metasr.models import SRGAN, Generator, evaluating
from tests.unit.nifti import ORIENTATIONS, corners, in_memory, oriented_affine


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Images this small are only slowed down by threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def bicubic():
    torch.manual_seed(0)
    generator = Generator(skip="bicubic", norm="none", num_features=8, num_blocks=1)
    torch.nn.init.zeros_(generator.upscale.kernel.weight)
    torch.nn.init.zeros_(generator.upscale.kernel.bias)
    return generator.eval()


def on_disk(path, data, affine):
    nib.save(nib.Nifti1Image(data, affine), path)
    return load_volume(path)


def upscaled(volume, generator, scale, **options):
    return upscale_volume(volume, generator, Target.of_scale(volume, (scale, scale)), **options)


def saved(path, volume, generator, scale):
    save_volume(path, upscaled(volume, generator, scale), volume)
    return nib.load(path)


def brain(shape, seed=0, background=0.0):
    """Return smooth positive values in a ball, and a constant around it."""
    random = np.random.default_rng(seed)
    indices = np.indices(shape)
    centre = (np.array(shape) - 1) / 2
    radius = np.sqrt((((indices.T - centre) / (np.array(shape) / 2)) ** 2).sum(-1)).T
    return np.where(radius < 0.75, 300 + 100 * np.sin(indices.sum(0)) + random.uniform(0, 20, shape), background)


def bicubic_by_pillow(image, size):
    enlarged = Image.fromarray(image.astype(np.float32), "F").resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(enlarged, dtype=np.float64)


def bicubic_on_background(image, size, volume, background=0.0):
    """Enlarge like Pillow does, within the volume's range; where the nearest pixel is background, of those around."""
    result = bicubic_by_pillow(image, size).clip(volume.min(), volume.max())
    for row, column in np.ndindex(size):
        y, x = ((n + 0.5) * old / new - 0.5 for n, old, new in zip((row, column), image.shape, size, strict=True))
        if image[tuple(np.floor([y + 0.5, x + 0.5]).astype(int))] == background:
            result[row, column] = np.clip(result[row, column], *range_around(image, y, x))
    return result


def range_around(image, y, x):
    ends = ([math.floor(round(at, 9)), math.ceil(round(at, 9))] for at in (y, x))
    rows, columns = (np.clip(end, 0, length - 1) for end, length in zip(ends, image.shape, strict=True))
    around = image[np.ix_(rows, columns)]
    return around.min(), around.max()


def half_up(value):
    return int(value + 0.5)


@pytest.mark.parametrize("scale", [1.1, 1.5, 2, 2.7, np.pi, 4])
def test_every_axial_slice_is_enlarged_like_pillow_does(bicubic, scale):
    data = brain((11, 14, 6))
    result = upscaled(in_memory(data), bicubic, scale)
    size = half_up(11 * scale), half_up(14 * scale)
    expected = np.stack([bicubic_on_background(data[..., k], size, data) for k in range(6)], axis=-1)
    assert result.shape == (*size, 6)
    assert np.abs(result - expected).max() < 1e-4 * np.ptp(data)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_the_slices_that_are_enlarged_are_the_axial_ones_in_every_orientation(bicubic, axes, signs):
    volume = in_memory(brain((9, 8, 7)), oriented_affine(axes, signs))
    result = upscaled(volume, bicubic, 1.5)
    before = nib.as_closest_canonical(nib.Nifti1Image(volume.data, volume.affine)).get_fdata()
    after = nib.as_closest_canonical(nib.Nifti1Image(result, volume.affine)).get_fdata()
    size = tuple(half_up(n * 1.5) for n in before.shape[:2])
    expected = np.stack(
        [bicubic_on_background(before[..., k], size, before) for k in range(before.shape[2])], axis=-1
    )
    assert np.abs(after - expected).max() < 1e-4 * np.ptp(before)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
def test_a_bright_spot_and_the_field_of_view_stay_where_they_are_in_the_world(tmp_path, bicubic, axes, signs):
    # Smooth enough to be interpolated well, and off the centre, so that no flip goes unnoticed.
    indices = np.indices((13, 12, 11)).T - (5, 6.3, 4.6)
    spot = (1000 * np.exp(-(indices**2).sum(-1) / (2 * 1.3**2))).T.round()
    volume = on_disk(tmp_path / "in.nii", spot.astype(np.float32), oriented_affine(axes, signs))
    result = saved(tmp_path / "out.nii", volume, bicubic, 1.7)
    assert np.abs(corners(result.affine, result.shape) - corners(volume.affine, spot.shape)).max() < 1e-3
    before, after = (centre_of_mass(data, affine) for data, affine in both(volume, result))
    assert np.abs(after - before).max() < 0.02


def both(volume, result):
    return (volume.data, volume.affine), (result.get_fdata(), result.affine)


def centre_of_mass(data, affine):
    index = (np.indices(data.shape) * data).sum((1, 2, 3)) / data.sum()
    return affine[:3, :3] @ index + affine[:3, 3]


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32", "float64"])
def test_scale_one_changes_no_bit(tmp_path, bicubic, dtype):
    data = (brain((6, 7, 5)) / 2).astype(dtype)
    volume = on_disk(tmp_path / "in.nii", data, oriented_affine((1, 2, 0), (-1, 1, 1)))
    result = saved(tmp_path / "out.nii", volume, bicubic, 1)
    assert np.array_equal(result.dataobj.get_unscaled(), data)
    assert result.get_data_dtype() == dtype
    assert np.array_equal(result.affine, nib.load(tmp_path / "in.nii").affine)


def test_intensities_stay_in_the_range_of_the_input():
    torch.manual_seed(0)
    wild = Generator(skip="bicubic", norm="none", num_features=8, num_blocks=1)
    with torch.no_grad():
        wild.upscale.kernel.weight.mul_(200)
    data = brain((8, 8, 3))
    result = upscaled(in_memory(data), wild, 2)
    assert (result.min(), result.max()) == (data.min(), data.max())
    assert np.unique(result[result > 0]).size > 20


def test_slices_of_one_value_come_back_as_that_value(bicubic):
    data = brain((8, 9, 5))
    data[..., 1], data[..., 3] = 0, 137.25
    result = upscaled(in_memory(data), bicubic, 1.5)
    assert (result[..., 1] == 0).all()
    assert (result[..., 3] == 137.25).all()
    assert np.unique(result[..., 2]).size > 20


def test_a_volume_of_one_value_comes_back_as_that_value(bicubic):
    result = upscaled(in_memory(np.full((4, 5, 3), -7.5)), bicubic, 2)
    assert result.shape == (8, 10, 3)
    assert (result == -7.5).all()


def test_a_mask_of_zeros_and_ones_does_not_vanish(bicubic):
    mask = np.zeros((8, 8, 3))
    mask[2:6, 3:6] = 1
    result = upscaled(in_memory(mask), bicubic, 2)
    assert (result[6:10, 8:10] > 0.9).all()
    assert (result[:2] < 0.1).all()
    assert result.mean() == pytest.approx(mask.mean(), rel=0.1)


def test_a_brain_on_a_brighter_background_does_not_vanish(bicubic):
    data = np.full((16, 16, 4), 2000.0)
    data[5:11, 5:11] = np.random.default_rng(0).uniform(0, 500, (6, 6, 4))
    result = upscaled(in_memory(data), bicubic, 2)
    expected = np.stack([bicubic_by_pillow(data[..., k], (32, 32)) for k in range(4)], axis=-1)
    inside, outside = (slice(14, 18), slice(14, 18)), slice(0, 6)  # where the kernel does not cross the border
    assert np.abs(result - expected)[inside].max() < 1
    assert np.abs(result[outside] - 2000).max() < 1


@pytest.mark.parametrize("background", [-4.0, -2.5, -1.0])
def test_the_negative_background_of_a_z_scored_volume_stays(bicubic, background):
    data = np.full((20, 21, 5), background)
    data[6:14, 6:15] = np.random.default_rng(0).normal(size=(8, 9, 5)).clip(-2, 3)
    result = upscaled(in_memory(data), bicubic, 2)
    assert result.min() >= data.min()
    away = np.ones(result.shape, bool)
    away[8:-8, 8:-8] = False  # two LR voxels beyond the brain, where a cubic kernel no longer reaches it
    assert np.abs(result[away] - background).max() < 1e-5


@pytest.mark.parametrize("scale", [2, 3])
def test_a_background_far_below_the_brain_comes_back_exactly(bicubic, scale):
    data = brain((12, 13, 4), background=-1000.0)
    result = upscaled(in_memory(data), bicubic, scale)
    inside = (data != -1000).repeat(scale, axis=0).repeat(scale, axis=1)
    assert (result[~inside] == -1000).all()
    assert result[inside].min() > data[data != -1000].min() - 50


@pytest.mark.parametrize("scale", [1.1, 1.7, 2.4, 3.3])
def test_a_background_far_below_the_brain_is_cut_along_the_nearest_lr_voxels(bicubic, scale):
    data = brain((11, 13, 3), background=-1000.0)  # odd lengths: no HR centre lies on a border of LR voxels
    result = upscaled(in_memory(data), bicubic, scale)
    rows, columns = (
        np.floor((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(result.shape[:2], data.shape[:2], strict=True)
    )
    assert np.array_equal(result == -1000, data[rows][:, columns] == -1000)


@pytest.mark.parametrize("background", [0.0, -1000.0])
@pytest.mark.parametrize("scale", [1.1, 1.7, 2])
def test_a_mirrored_volume_gives_the_mirrored_result(bicubic, scale, background):
    data = brain((11, 13, 3), background=background)
    straight = upscaled(in_memory(data), bicubic, scale)
    mirrored = upscaled(in_memory(data[::-1, ::-1]), bicubic, scale)[::-1, ::-1]
    assert np.abs(straight - mirrored).max() < 0.05


@pytest.mark.parametrize("dtype", ["int16", "uint8", "uint16", "float32"])
def test_the_result_is_saved_in_the_type_of_the_input(tmp_path, bicubic, dtype):
    data = (brain((8, 8, 3)) / 2).astype(dtype)
    result = saved(tmp_path / "out.nii.gz", on_disk(tmp_path / "in.nii.gz", data, np.eye(4)), bicubic, 2)
    assert result.get_data_dtype() == dtype
    assert result.shape == (16, 16, 3)
    values = result.get_fdata()
    assert data.min() <= values.min() <= values.max() <= data.max()
    assert values.mean() == pytest.approx(data.mean(), rel=0.05)


def test_progress_is_told_after_every_slice(bicubic):
    told = []
    upscaled(in_memory(brain((5, 5, 4))), bicubic, 2, on_slice=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("training", [True, False])
def test_the_generator_keeps_its_mode_and_the_volume_its_values(training):
    torch.manual_seed(0)
    generator = Generator(skip="bicubic", norm="batch", num_features=8, num_blocks=1).train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    volume = in_memory(brain((6, 6, 3)))
    untouched = volume.data.copy()
    first = upscaled(volume, generator, 2)
    assert generator.training is training
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert np.array_equal(volume.data, untouched)
    assert np.array_equal(upscaled(volume, generator, 2), first)


@pytest.mark.parametrize("plane", PLANES)
def test_slices_of_every_plane_are_enlarged_by_the_scale_of_each_axis(bicubic, plane):
    data = brain((9, 8, 7))
    result = upscale_volume(in_memory(data), bicubic, Target.of_scale(in_memory(data), (1.5, 3), plane))
    across, rows, columns = {"axial": (2, 1, 0), "coronal": (1, 2, 0), "sagittal": (0, 2, 1)}[plane]
    before, after = (volume.transpose(across, rows, columns) for volume in (data, result))
    size = half_up(before.shape[1] * 1.5), before.shape[2] * 3
    expected = np.stack([bicubic_on_background(image[::-1], size, data)[::-1] for image in before])
    assert np.abs(after - expected).max() < 1e-4 * np.ptp(data)


def test_along_an_axis_of_scale_one_the_network_treats_all_pixels_alike():
    torch.manual_seed(0)
    generator = Generator(norm="none", skip="none", num_features=8, num_blocks=1)
    image = torch.rand(1, 1, 9, 40)
    with evaluating(generator):
        straight, moved = (generator(x, (36, 40)) for x in (image, image.roll(1, dims=3)))
    assert straight.std() > 1e-3
    assert torch.allclose(straight.roll(1, dims=3)[..., 12:-12], moved[..., 12:-12], atol=1e-6)


def test_a_network_of_one_scale_enlarges_by_that_scale_alone():
    torch.manual_seed(0)
    volume = in_memory(brain((6, 7, 4)))
    srgan = SRGAN(scale=2, norm="none", num_features=8, num_blocks=1)
    assert upscaled(volume, srgan, 2).shape == (12, 14, 4)
    with pytest.raises(ScaleError, match=r"this SRGAN enlarges 2 times .* Ask for scale 2"):
        upscaled(volume, srgan, 1.5)
    with pytest.raises(ScaleError, match="this SRGAN enlarges 2 times"):
        upscale_volume(volume, srgan, Target.of_spacing(volume, (1, 1, 0.5)))


def test_a_result_that_does_not_fit_into_memory_is_refused_before_anything_is_computed(bicubic):
    told = []
    with pytest.raises(ScaleError, match="GB of memory"):
        upscaled(in_memory(brain((8, 8, 4))), bicubic, 4, memory_bytes=1000, on_slice=lambda *done: told.append(done))
    assert not told
