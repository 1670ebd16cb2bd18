"""What is to be made of a volume, from a scale or a spacing, and what is refused before anything is computed."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metasr.data.planes import PLANES
from metasr.data.volume import Volume
from metasr.errors import ScaleError
from metasr.inference.memory import available_bytes, check_memory, float_type, needed_bytes
from metasr.inference.target import Target
from tests.unit.nifti import ORIENTATIONS, in_memory, oriented_affine


def of_shape(shape, spacing=(1, 1, 1), dtype="float32"):
    """Return a volume that takes no memory."""
    small = in_memory(np.zeros((1, 1, 1)), np.diag([*spacing, 1.0]))
    small.header.set_data_dtype(dtype)
    return Volume(np.broadcast_to(0.0, shape), small.header, small.source)


@pytest.mark.parametrize(("length", "scale", "expected"), [(11, 1.5, 17), (10, 1.25, 13), (9, 1.1, 10), (3, 16, 48)])
def test_sizes_are_rounded_half_up(length, scale, expected):
    assert Target.of_scale(of_shape((length, 4, 2)), (scale, scale)).shape[0] == expected
    assert Target.of_spacing(of_shape((length, 4, 2)), (1 / scale, 1, 1)).shape == (expected, 4, 2)


@pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
@pytest.mark.parametrize("plane", PLANES)
def test_rows_and_columns_of_the_plane_are_scaled_and_the_axis_across_is_not(axes, signs, plane):
    volume = in_memory(np.zeros((4, 5, 6)), oriented_affine(axes, signs, (10, 5, -8)))
    target = Target.of_scale(volume, (2, 3), plane)
    rows, columns = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[plane]
    factors = [{rows: 2, columns: 3}.get(world, 1) for world in axes]
    assert target.shape == tuple(n * factor for n, factor in zip((4, 5, 6), factors, strict=True))
    assert target.scales == tuple(factors)
    assert target.plane == plane


sizes_mm = st.tuples(*(st.floats(0.3, 8),) * 3)
wanted = st.tuples(*(st.floats(1, 16),) * 3)
shapes = st.tuples(*(st.integers(1, 40),) * 3)


@given(sizes_mm, wanted, shapes, st.sampled_from(ORIENTATIONS))
@settings(deadline=None)
def test_the_spacing_asked_for_is_met_as_nearly_as_the_field_of_view_allows(old_mm, factors, shape, orientation):
    affine = oriented_affine(*orientation, (15, -10, 5)) @ np.diag([*(np.array(old_mm) / (1, 1.5, 2.5)), 1])
    volume = in_memory(np.zeros(shape), affine)
    target = Target.of_spacing(volume, tuple(mm / factor for mm, factor in zip(old_mm, factors, strict=True)))
    for old, new, factor in zip(shape, target.shape, factors, strict=True):
        assert new >= old
        assert abs(new - old * factor) <= 0.5 + 0.002 * old


def test_the_slices_lie_across_the_largest_voxels():
    volume = of_shape((40, 40, 8), (0.9, 1.0, 5.0))
    assert Target.of_spacing(volume, (0.9, 1, 1)).plane == "axial"
    assert Target.of_spacing(of_shape((40, 8, 40), (1, 5, 1)), (1, 1, 1)).plane == "coronal"
    assert Target.of_spacing(of_shape((8, 40, 40), (5, 1, 1)), (1, 1, 1)).plane == "sagittal"
    assert Target.of_spacing(volume, (0.9, 1, 1), "coronal").plane == "coronal"


@pytest.mark.parametrize(
    ("spacing", "plane"),
    [((0.5, 0.5, 1), "axial"), ((0.5, 1, 0.5), "coronal"), ((1, 0.5, 0.5), "sagittal"), ((0.5, 0.5, 0.5), "axial")],
)
def test_of_equal_voxels_the_slices_lie_across_the_axis_that_stays(spacing, plane):
    assert Target.of_spacing(of_shape((4, 4, 4)), spacing).plane == plane


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf"), -float("inf"), 0.5, 0.999, 16.001, 17])
@pytest.mark.parametrize("place", [0, 1])
def test_scales_that_do_not_enlarge_within_the_range_are_refused(scale, place):
    scales = [2.0, 2.0]
    scales[place] = scale
    with pytest.raises(ScaleError, match="from 1 to 16"):
        Target.of_scale(of_shape((4, 4, 2)), tuple(scales))


@pytest.mark.parametrize(
    ("spacing", "words"),
    [
        ((1, 1, 3.1), r"3.1 mm along k, which has 3 mm: .* coarser. Give at most 3 .*--resample"),
        ((1.2, 1, 3), r"1.2 mm along i, which has 1 mm: .* coarser"),
        ((1, 0.05, 1), r"0.05 mm along j, which has 1 mm: .* scale 20, above 16. Give at least 0.0625"),
        ((0, 1, 1), r"0 mm along i, .* above 0"),
        ((1, -1, 1), r"-1 mm along j, .* above 0"),
        ((1, 1, float("nan")), r"nan mm along k, .* above 0"),
        ((1, 1, float("inf")), r"inf mm along k, .* above 0"),
    ],
)
def test_spacings_that_cannot_be_made_are_refused_with_their_axis(spacing, words):
    with pytest.raises(ScaleError, match=words):
        Target.of_spacing(of_shape((4, 4, 2), (1, 1, 3)), spacing)


def test_axes_that_are_finer_already_stay_as_they_are_or_are_resampled():
    thick = of_shape((96, 90, 7), (0.4688, 0.4688, 5))
    target = Target.of_spacing(thick, (1, 1, 1))
    assert (target.shape, target.scales, target.plane) == ((96, 90, 35), (1, 1, 5), "axial")
    assert Target.of_spacing(thick, (1, 0.2344, 1)).shape == (96, 180, 35)
    resampled = Target.of_spacing(thick, (1, 1, 1), resample=True)
    assert (resampled.shape, resampled.plane) == ((45, 42, 35), "axial")
    assert resampled.scales == pytest.approx((0.4688, 0.4688, 5))
    assert Target.of_spacing(thick, (90, 90, 90), resample=True).shape == (1, 1, 1)


def test_axes_of_the_array_have_a_scale_each():
    target = Target.of_axes(of_shape((10, 20, 30)), (2, 1, 3))
    assert (target.shape, target.scales) == ((20, 20, 90), (2, 1, 3))
    assert Target.of_axes(of_shape((10, 20, 30)), (2, 2, 1)).plane == "axial"
    assert Target.of_axes(of_shape((10, 20, 30)), (2, 1, 2)).plane == "coronal"
    with pytest.raises(ScaleError, match="from 1 to 16"):
        Target.of_axes(of_shape((10, 20, 30)), (2, 17, 1))


def test_a_spacing_that_differs_by_rounding_is_the_same_spacing():
    target = Target.of_spacing(of_shape((900, 900, 30), (0.9375, 0.99999, 4)), (0.938, 1, 1))
    assert target.shape == (900, 900, 120)
    assert target.scales == (1, 1, 4)


def test_a_result_that_would_be_too_large_is_refused():
    huge = of_shape((4000, 4000, 2))
    with pytest.raises(ScaleError, match=r"64000 x 64000 x 2 voxels: .* 2,147,483,648"):
        Target.of_scale(huge, (16, 16))
    with pytest.raises(ScaleError, match="2,147,483,648"):
        Target.of_spacing(huge, (0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("dtype", "a_voxel"),
    # One float32 and the copy to write, or the volume after the first pass, half the size; float64 for what needs it.
    [("float32", 4 + 2), ("int16", 4 + 2), ("uint8", 4 + 2), ("float64", 8 + 4), ("int32", 8 + 4)],
)
def test_the_memory_needed_is_counted(dtype, a_voxel):
    volume = of_shape((10, 10, 5), (1, 1, 2), dtype)
    assert needed_bytes(volume, Target.of_spacing(volume, (0.5, 0.5, 1))) == 20 * 20 * 10 * a_voxel


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "float32", "int32", "uint32", "float64"])
def test_the_type_computed_in_holds_every_value_of_the_file(dtype):
    kind = float_type(of_shape((1, 1, 1), dtype=dtype))
    limits = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    values = np.array([limits.min, limits.max], dtype)
    assert np.array_equal(values.astype(kind).astype(dtype), values)
    assert kind.itemsize == (8 if np.dtype(dtype).itemsize > 2 and dtype != "float32" else 4)


def test_a_result_that_does_not_fit_into_memory_is_refused_with_what_it_needs():
    volume = of_shape((500, 500, 100))
    target = Target.of_scale(volume, (4, 4))
    check_memory(volume, target, None)
    check_memory(volume, target, 10**11)
    with pytest.raises(ScaleError, match=r"2000 x 2000 x 100 voxels: .* need 3.2 GB .* 1.5 GB are available"):
        check_memory(volume, target, 1_500_000_000)


def test_the_memory_that_is_available_is_a_part_of_what_there_is():
    available = available_bytes()
    if available is not None:
        assert 2**20 < available <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
