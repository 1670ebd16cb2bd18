"""A constant background stays that constant to the last bit, and costs nothing."""

import nibabel as nib
import numpy as np
import pytest
import torch

from metasr.data.intensity import find_background
from metasr.data.volume import load_volume, save_volume
from metasr.inference.background import surrounding, working_area
from metasr.inference.reach import reach_px
from metasr.inference.target import Target
from metasr.inference.trunk import FoldedTrunk
from metasr.inference.upscale import upscale_volume
from metasr.models import EDSR, SRGAN, Generator, SuperResolver, evaluating
from tests.unit.nifti import in_memory, write


@pytest.fixture(autouse=True)
def _seeded_and_on_one_thread():
    """Images this small are only slowed down by threads that wait for each other."""
    torch.manual_seed(0)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(**options):
    """A generator that does something everywhere, with statistics of BatchNorm that are not those of the start."""
    generator = Generator(**{"num_features": 8, "num_blocks": 2, "norm": "batch", "skip": "bicubic", **options})
    with torch.no_grad():
        generator.upscale.kernel.weight.mul_(10)
        generator.upscale.kernel.bias.add_(0.1)
    generator.train()(torch.rand(2, 1, 20, 20), (30, 30))
    return generator.eval()


def head(background, shape=(24, 26, 6), ends=(9, 14)):
    """Return random values in the middle, and a constant around them."""
    data = np.full(shape, background, np.float64)
    middle = tuple(slice(*ends) if n > 15 else slice(1, n - 1) for n in shape)
    data[middle] = np.random.default_rng(0).uniform(0.5, 4, data[middle].shape)
    return data


def far_from_brain(data, background, shape):
    """Return of each voxel of a grid whether its LR voxel and all 26 around that are background."""
    padded = np.pad(data != background, 1)
    brain = np.zeros(data.shape, bool)
    for i, j, k in np.ndindex(3, 3, 3):
        brain |= padded[i : i + data.shape[0], j : j + data.shape[1], k : k + data.shape[2]]
    cells = [((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(data.shape, shape, strict=True)]
    return ~brain[np.ix_(*cells)]


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 1), (0.5, 0.4, 0.3), (1, 1, 0.5)], ids=str)
@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(
    ("background", "dtype"), [(0.0, "float32"), (-1.3, "float64"), (0.1, "float32"), (0, "int16")]
)
def test_the_background_is_the_same_constant_to_the_bit(tmp_path, dtype, background, negative, spacing):
    data = head(background)
    if negative:
        data[11, 12, 3] = -2
    if dtype == "int16":
        data = (100 * data).round()
    volume = load_volume(write(tmp_path / "in.nii.gz", data.astype(dtype), affine=np.eye(4)))
    save_volume(tmp_path / "out.nii.gz", made := upscale(volume, spacing), volume)
    constant = volume.data[0, 0, 0].astype(dtype)
    away = far_from_brain(volume.data, volume.data[0, 0, 0], made.shape)
    written = np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj)
    assert written.dtype == dtype
    assert away.mean() > 0.2
    assert (written[away] == constant).all()
    assert np.unique(written).size > 100


def watched(monkeypatch):
    """Return a list to which each image that is encoded adds its pixels."""
    seen, compute = [], FoldedTrunk.__call__

    def call(trunk, image, rim=(0, 0)):
        seen.append(image[0, 0].numel())
        return compute(trunk, image, rim)

    monkeypatch.setattr(FoldedTrunk, "__call__", call)
    return seen


def upscale(volume, spacing):
    return upscale_volume(volume, network(), Target.of_spacing(volume, spacing))


@pytest.mark.parametrize("background", [0.0, -1.3, 1.7, 9.0])
def test_nothing_rings_outside_the_mask(background):
    """The voxels beside the brain are as bright as what lies around them, though the network would have them wild."""
    data = head(background)
    data[11, 12, 3] = -2
    volume = in_memory(data)
    result = upscale_volume(volume, network(), Target.of_scale(volume, (3, 3)))
    outside = (data == background).repeat(3, 0).repeat(3, 1)
    brain = data[data != background]
    low, high = min(background, brain[brain > -2].min()), max(background, brain.max())
    lowest = np.where(np.abs(np.indices(result.shape).T - (34, 37, 3)).max(-1).T < 6, -2, low)
    assert (result >= lowest)[outside].all()
    assert (result <= high)[outside].all()
    assert (result != background).mean() < 1.6 * (data != background).mean()


@pytest.mark.parametrize("scale", [(2, 2), (2.5, 1.5), (1, 3), (1.1, 1.3)], ids=str)
@pytest.mark.parametrize("place", ["middle", "corner", "edge", "everywhere"])
@pytest.mark.parametrize(("norm", "skip"), [("batch", "none"), ("none", "none"), ("none", "bicubic")])
def test_computing_the_brain_alone_gives_what_computing_all_gives(monkeypatch, norm, skip, place, scale):
    generator, data = network(norm=norm, skip=skip), np.zeros((60, 80, 3))
    rows, columns = {
        "middle": (slice(27, 31), slice(40, 44)),
        "corner": (slice(0, 3), slice(77, 80)),
        "edge": (slice(20, 40), slice(0, 9)),
        "everywhere": (slice(1, 59), slice(1, 79)),
    }[place]
    data[rows, columns] = np.random.default_rng(0).uniform(0.2, 1, data[rows, columns].shape)
    volume, seen = in_memory(data), watched(monkeypatch)
    target = Target.of_scale(volume, scale)
    part = upscale_volume(volume, generator, target)
    computed, seen[:] = sum(seen), []
    monkeypatch.setattr("metasr.inference.upscale.reach_px", lambda network: None)
    whole = upscale_volume(volume, generator, target)
    assert sum(seen) == data.size
    assert (computed < data.size) == (place != "everywhere")
    assert np.abs(part - whole).max() < (1e-6 if skip == "none" else 1e-5)  # torch resizes at places in float32
    assert whole.std() > 1e-4


def test_the_part_to_compute_begins_and_ends_where_lr_and_hr_pixels_do():
    image = np.zeros((60, 97))
    image[30, 50] = 1
    area = working_area(image, (150, 233), 0.0, reach_px=7)
    assert area.lr == (slice(22, 40), slice(0, 97))  # 60 -> 150 begins anew every 2 pixels, 97 -> 233 never
    assert area.hr == (slice(55, 100), slice(0, 233))


@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (lambda: Generator(num_features=4, num_blocks=3, norm="none"), 4 + 2 * 3 + 1 + 1),
        (lambda: Generator(num_features=4, num_blocks=5, skip="bicubic"), 4 + 2 * 5 + 1 + 1),
        (lambda: SRGAN(num_features=4, num_blocks=1), 4 + 2 + 1 + 1 + 4),
        (lambda: EDSR(scale=4, num_features=4, num_blocks=2), 1 + 2 * 2 + 1 + 1 + 1 + 1),
    ],
    ids=["without norm", "with skip", "srgan", "edsr"],
)
def test_the_reach_of_a_network_is_that_of_its_layers(make, steps):
    generator = make()
    assert reach_px(generator) == steps
    side, scale = 2 * steps + 9, getattr(generator, "scale", 2)
    image = torch.rand(1, 1, side, side)
    changed = image.clone()
    changed[..., 0, :] += 1
    with evaluating(generator):
        before, after = (generator(each, (scale * side, scale * side)) for each in (image, changed))
    reached = (before != after).any(dim=3).flatten().nonzero().max().item() // scale
    assert steps / 2 < reached <= steps


class Unknown(SuperResolver):
    def __init__(self):
        super().__init__(mean=0.0, std=1.0)

    def forward(self, lr, size):
        return torch.nn.functional.interpolate(lr, size) + lr.mean()


def test_a_network_of_unknown_layers_sees_the_whole_slice():
    data = np.zeros((40, 40, 2))
    data[19:21, 19:21] = 0.5
    seen, generator = [], Unknown()
    generator.register_forward_pre_hook(lambda module, given: seen.append(tuple(given[0].shape[2:])))
    assert reach_px(generator) is None
    upscale_volume(in_memory(data), generator, Target.of_scale(in_memory(data), (2, 2)))
    assert seen == [(40, 40)] * 2


def test_slices_of_background_are_not_computed(monkeypatch):
    data = np.zeros((20, 20, 5))
    data[8:12, 8:12, 2] = 0.5
    seen, generator = watched(monkeypatch), network()
    upscale_volume(in_memory(data), generator, Target.of_scale(in_memory(data), (2, 2)))
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("old", "new", "first", "last"),
    [
        (2, 4, [0, 0, 0, 1], [0, 1, 1, 1]),
        (2, 6, [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 1, 1]),
        (3, 3, [0, 1, 2], [0, 1, 2]),
        (5, 2, [0, 2], [2, 4]),
    ],
)
def test_pixels_lie_among_those_whose_centres_enclose_theirs(old, new, first, last):
    found = surrounding(old, new)
    assert [ends.tolist() for ends in found] == [first, last]


def test_the_background_of_a_slab_that_the_brain_fills_is_found_at_its_edges():
    data = np.zeros((40, 40, 3))
    data[3:-3, 3:-3] = np.random.default_rng(0).uniform(1, 2, (34, 34, 3))
    assert find_background(data) == 0
    data[0] = data[-1] = np.nan
    assert find_background(data) == 0
    assert find_background(np.full((3, 3, 3), np.nan)) is None
    assert find_background(np.random.default_rng(0).normal(size=(9, 9, 9))) is None
