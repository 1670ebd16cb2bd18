"""Downstream evaluation without a cluster: overlap by brute force, classes of intensity, a program of the user's."""

import shlex
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import bootstrap

from metasr.data.degrade import Degradation
from metasr.data.stack import save_slices
from metasr.data.volume import load_volume
from metasr.errors import ConfigError, DataError
from metasr.evaluation import BICUBIC, HeldOutSlice, Method
from metasr.evaluation.downstream import Grid, Outcome, compare_labels
from metasr.evaluation.outcomes import by_patient, from_csv, gains, outcomes_table, patients_table, to_csv
from metasr.evaluation.overlap import dice, surface_distances
from metasr.evaluation.segmentation import Command
from metasr.evaluation.tissue import Tissue
from metasr.scale import Scale
from tests.patience import PATIENCE_S

GRID = Grid((3.0, 1.0, 1.0), "mm")
TWO = Scale(2.0, 2.0)


# Overlap


def blobs(seed, shape=(6, 14, 13)):
    random = np.random.default_rng(seed)
    field = np.cumsum(np.cumsum(random.standard_normal(shape), axis=1), axis=2)
    return field > np.quantile(field, 0.7)


def surface(mask):
    """Voxels with a neighbour by a face that is not in the mask, or outside, one after the other."""
    found = []
    for voxel in np.argwhere(mask):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                other = voxel.copy()
                other[axis] += step
                outside = not 0 <= other[axis] < mask.shape[axis]
                if outside or not mask[tuple(other)]:
                    found.append(tuple(voxel))
    return np.array(sorted(set(found)), float)


@pytest.mark.parametrize("seed", range(4))
def test_overlap_is_that_of_brute_force(seed):
    one, two = blobs(seed), blobs(seed + 100)
    voxels = [set(map(tuple, np.argwhere(mask).tolist())) for mask in (one, two)]
    assert dice(one, two) == 2 * len(voxels[0] & voxels[1]) / (len(voxels[0]) + len(voxels[1]))
    spacing = (3.0, 1.0, 0.5)
    distances = cdist(surface(one) * spacing, surface(two) * spacing)
    there, back = distances.min(axis=1), distances.min(axis=0)
    found = surface_distances(one, two, spacing)
    assert found == surface_distances(two, one, spacing)
    assert found.hausdorff == pytest.approx(max(there.max(), back.max()))
    assert found.hausdorff95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)))


def test_empty_masks_follow_the_rules():
    empty, full = np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool)
    assert dice(empty, empty) == 1
    assert dice(empty, full) == 0
    assert surface_distances(empty, empty, (1, 1, 1)) == (0, 0)
    assert surface_distances(empty, full, (3.0, 1.0, 2.0)) == pytest.approx((np.sqrt(36 + 9 + 64),) * 2)


# Slices as a volume


def test_a_stack_is_read_back_as_it_was_and_lies_as_far_apart_as_is_said(tmp_path):
    slices = np.random.default_rng(0).random((3, 5, 7)).astype(np.float32)
    save_slices(tmp_path / "x.nii.gz", slices, (3.0, 1.5, 0.5))
    volume = load_volume(tmp_path / "x.nii.gz")
    np.testing.assert_array_equal(volume.slices(), slices)
    assert volume.spacing_mm == pytest.approx((0.5, 1.5, 3.0))


@pytest.mark.parametrize(
    ("spacing_mm", "slice_mm", "grid"),
    [
        ((1.0, 1.0), 0, Grid((2.0, 1.0, 1.0), "mm")),
        ((0.5, 0.5), 3, Grid((6.0, 0.5, 0.5), "mm")),
        ((0.5, 1.0), 3, Grid((2.0, 1.0, 1.0), "px")),
        (None, 3, Grid((2.0, 1.0, 1.0), "px")),
    ],
)
def test_the_grid_is_in_mm_where_all_pixels_of_the_data_are_as_large(spacing_mm, slice_mm, grid):
    assert Grid.of(spacing_mm, slice_mm, [10, 12, 14]) == grid


# Tissue


def brain(seed=0, slices=3, side=48):
    """A disc of three intensities, 0 around it."""
    random = np.random.default_rng(seed)
    classes = np.kron(random.integers(0, 3, (slices, 6, 6)), np.ones((1, side // 6, side // 6), int))
    images = np.array([0.2, 0.5, 0.8])[classes] + 0.02 * random.standard_normal((slices, side, side))
    rows, columns = np.indices((side, side)) - side / 2
    inside = rows**2 + columns**2 < (0.45 * side) ** 2
    return np.where(inside, images, 0).astype(np.float32), np.where(inside, classes + 1, 0)


def held(images, subject="patient-1"):
    return [HeldOutSlice(subject, number, torch.from_numpy(image)[None, None]) for number, image in enumerate(images)]


def test_the_classes_of_a_brain_are_found_and_named_by_their_intensity():
    images, classes = brain()
    label = Tissue().labeller("a", images, GRID)
    found = label(images, images != 0)
    assert (found == classes).mean() > 0.999
    assert (found == Tissue().labeller("a", images, GRID)(images, images != 0)).all()
    assert [Tissue().class_name(number) for number in (1, 2, 3)] == ["dark", "middle", "bright"]


def test_classes_are_intervals_of_intensity_also_where_one_is_most_of_the_brain():
    """With variances of their own, the widest class has both ends."""
    random = np.random.default_rng(0)
    values = np.concatenate(
        [random.normal(0.45, 0.04, 9000), random.normal(0.2, 0.06, 900), random.normal(0.8, 0.1, 100)]
    )
    images = values.astype(np.float32).reshape(1, 100, 100)
    label = Tissue().labeller("a", images, GRID)
    ramp = np.linspace(0.01, 1.2, 200, dtype=np.float32).reshape(1, 1, 200)
    found = label(ramp, ramp != 0).ravel()
    assert (np.diff(found) >= 0).all()
    assert set(found) == {1, 2, 3}


def test_what_is_outside_the_brain_of_hr_is_in_no_class():
    images, _ = brain()
    found = Tissue().labeller("a", images, GRID)(np.ones_like(images), images != 0)
    assert ((found == 0) == (images == 0)).all()


def test_a_brain_of_one_intensity_is_an_error_that_names_the_subject():
    with pytest.raises(DataError, match="subject a: its brain has fewer than 3 intensities"):
        Tissue().labeller("a", np.ones((1, 8, 8), np.float32), GRID)


def test_a_method_that_gives_hr_back_agrees_with_it_and_a_blurred_image_agrees_less():
    images, _ = brain()
    slices = held(images)
    original = {tuple(one.image.shape[-2:]): iter([other.image for other in slices]) for one in slices}
    perfect = Method("model", lambda lr, size: next(original[size]))
    rows = list(compare_labels(Tissue(), slices, [TWO], Degradation(), [BICUBIC, perfect], GRID))
    assert {row.value for row in rows if row.method == "model"} == {1.0}
    assert {row.label for row in rows} == {"dark", "middle", "bright"}
    assert all(0.3 < row.value < 0.99 for row in rows if row.method == "bicubic")


def test_what_only_a_rival_finds_counts_for_that_rival_alone():
    class Levels:
        """Its classes are the intensities."""

        name, has_distances = "command", False

        def labeller(self, subject, hr, grid):
            return lambda images, brain: images.astype(np.int64)

        def class_name(self, label):
            return str(label)

    def constant(name, value):
        return Method(name, lambda lr, size: torch.full((1, 1, *size), value))

    slices = held(np.ones((1, 48, 48), np.float32))
    bicubic, model, rival = constant("bicubic", 2.0), constant("model", 1.0), constant("again", 3.0)

    def found(*methods):
        rows = compare_labels(Levels(), slices, [TWO], Degradation(), methods, GRID)
        return {(row.method, row.label): row.value for row in rows}

    alone, beside = found(bicubic, model), found(bicubic, rival, model)
    assert alone == {("bicubic", "1"): 0, ("bicubic", "2"): 0, ("model", "1"): 1, ("model", "2"): 1}
    assert beside == {**alone, ("again", "1"): 0, ("again", "2"): 1, ("again", "3"): 0}


# Statistics


def outcomes(gain, patients=8):
    random = np.random.default_rng(1)
    return [
        Outcome("tissue", f"p{patient}", TWO, method, label, "dice", 0.7 + (gain + noise) * (method == "model"))
        for patient, noise in enumerate(0.02 * random.standard_normal(patients))
        for method in ("bicubic", "model")
        for label in ("dark", "bright")
    ]


def test_the_interval_is_that_of_scipy():
    rows = outcomes(0.05)
    (gain,) = (one for one in gains(rows, "tissue") if one.label == "dark")
    values = np.array(list(gain.by_patient.values()))
    reference = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert gain.interval == pytest.approx(tuple(reference), abs=1e-3)
    assert gain.mean == pytest.approx(values.mean())
    assert gain.model - gain.rival == pytest.approx(gain.mean)


def test_visits_of_one_recorded_patient_count_once_also_after_their_csv():
    rows = [replace(row, patient="anna" if row.subject in ("p0", "p1") else "") for row in outcomes(0.05, patients=3)]
    for found in (rows, from_csv(to_csv(rows))):
        assert {name for gain in gains(found, "tissue") for name in gain.by_patient} == {"anna", "p2"}


def test_rows_survive_their_csv_and_the_tables_show_patients_and_intervals():
    rows = outcomes(0.05)
    assert from_csv(to_csv(rows)) == rows
    assert by_patient(rows, "command") == {}
    assert f"{gains(rows, 'tissue')[0].interval[0]:+.4f}" in outcomes_table(rows, "tissue")
    assert all(f"p{patient}" in patients_table(rows, "tissue") for patient in range(8))


# A program of the user's


def program(tmp_path, body):
    """A command that runs Python with `image`, `labels` (paths) at hand."""
    file = tmp_path / "program.py"
    start = "import sys, time\nimport nibabel as nib\nimport numpy as np\nimage, labels = sys.argv[1:]\n"
    file.write_text(start + textwrap.dedent(body))
    return shlex.join([sys.executable, str(file)]) + " {input} {output}"


THRESHOLDS = """
    volume = nib.load(image)
    data = volume.get_fdata()
    found = (data > 0.35).astype(np.uint8) + (data > 0.65)
    nib.save(nib.as_closest_canonical(nib.Nifti1Image(found, volume.affine)), labels)
"""


def test_a_command_labels_slices_as_it_would_label_the_array(tmp_path):
    images, _ = brain()
    label = Command(program(tmp_path, THRESHOLDS)).labeller("a", images, GRID)
    expected = (images > 0.35).astype(int) + (images > 0.65)
    np.testing.assert_array_equal(label(images, images != 0), expected)


def test_what_a_command_finds_is_compared_by_dice_and_distance(tmp_path):
    images, _ = brain()
    rows = list(
        compare_labels(Command(program(tmp_path, THRESHOLDS)), held(images), [TWO], Degradation(), [BICUBIC], GRID)
    )
    assert {(row.label, row.measure) for row in rows} == {
        (label, measure) for label in "12" for measure in ("dice", "hausdorff_mm", "hausdorff95_mm")
    }
    values = {(row.label, row.measure): row.value for row in rows}
    assert 0 < values["1", "dice"] < 1
    assert values["1", "hausdorff_mm"] >= values["1", "hausdorff95_mm"] >= 1


FAILURES = {
    "exit code": ("sys.exit('no model\\nfound')", "exit code 1, stderr: no model found"),
    "nothing written": ("pass", "there are none at {output}"),
    "another shape": ("nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), labels)", "shape"),
    "no integers": ("nib.save(nib.load(image), labels)", "not integers from 0 on"),
    "not NIfTI": ("open(labels, 'w').write('text')", "not a readable NIfTI volume"),
    "too slow": (f"time.sleep({PATIENCE_S})", "not done with a volume after 3 s"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_command_that_fails_is_named_with_what_it_said(tmp_path, kind):
    body, reason = FAILURES[kind]
    images, _ = brain()
    step = Command(program(tmp_path, body), timeout_s=3 if kind == "too slow" else PATIENCE_S)
    with pytest.raises(DataError) as caught:
        step.labeller("patient-7", images, GRID)(images, images != 0)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind != "not NIfTI":
        assert "subject patient-7" in str(caught.value)


def test_a_program_that_is_not_there_is_named():
    images, _ = brain()
    with pytest.raises(DataError, match="subject a: no-such-program: it does not start"):
        Command("no-such-program {input} {output}").labeller("a", images, GRID)(images, images != 0)


@pytest.mark.parametrize(
    ("command", "reason"),
    [("segment {input}", "no {output}"), ("segment {output}", "no {input}"), ("segment '{input} {output}", "quot")],
)
def test_a_command_without_its_places_is_refused_before_anything_runs(command, reason):
    with pytest.raises(ConfigError, match=reason):
        Command(command)


def test_no_shell_reads_the_command(tmp_path):
    images, _ = brain()
    step = Command(f"{program(tmp_path, THRESHOLDS)} ; touch {tmp_path}/owned")
    with pytest.raises(DataError, match="exit code 1"):
        step.labeller("a", images, GRID)(images, images != 0)
    assert not (tmp_path / "owned").exists()
