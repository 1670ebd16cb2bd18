"""`metasr upscale` as a person meets it: inputs of every kind, and outputs that are safe."""

import io
import os
import signal
from collections import namedtuple

import nibabel as nib
import numpy as np
import pytest

from metasr.inference.progress import Progress
from tests.jobs.command import assert_one_error
from tests.jobs.conftest import AFFINE

SHAPE = (10, 12, 4)


@pytest.fixture
def upscale(metasr, places, tmp_path):
    """The command on a volume with the small model of `places`; returns what it said and what it wrote."""

    def call(source, *arguments, output="out.nii.gz"):
        outcome = metasr(
            "upscale", "-i", source, "-o", tmp_path / output, "--model", places / "bundle", *map(str, arguments)
        )
        return outcome, nib.load(tmp_path / output) if outcome.code == 0 else None

    return call


def volume(path, data, edit=lambda image: None):
    image = nib.Nifti1Image(data, AFFINE, dtype=data.dtype)
    edit(image)
    nib.save(image, path)
    return path


def labels():
    found = np.zeros(SHAPE, np.int16)
    found[2:8, 3:9, 1:3], found[4:6, 5:7, 2] = 4, 1000
    return found


def image():
    return np.random.default_rng(0).integers(100, 400, SHAPE).astype(np.int16)


def as_labels(each):
    each.header["intent_code"] = 1002


@pytest.mark.parametrize(
    ("name", "data", "edit"),
    [
        ("x.nii.gz", labels(), lambda each: None),
        ("x.nii.gz", image(), as_labels),
        ("sub-1_dseg.nii.gz", image(), lambda each: None),
    ],
    ids=["content", "intent", "name"],
)
def test_a_label_map_is_refused_or_enlarged_by_nearest_label(upscale, tmp_path, name, data, edit):
    path = volume(tmp_path / name, data, edit)
    assert_one_error(upscale(path, "--scale", 2)[0], name, "--labels", "--no-labels")
    outcome, made = upscale(path, "--scale", "2x1.5", "--labels", "--model", "no such model")
    assert outcome.code == 0
    assert made.get_data_dtype() == data.dtype
    rows, columns = (np.floor((np.arange(n) + 0.5) / scale).astype(int) for n, scale in ((15, 1.5), (24, 2)))
    assert np.array_equal(np.asarray(made.dataobj), data[rows][:, columns])
    if name == "x.nii.gz":
        assert upscale(path, "--scale", 2, "--no-labels", "--force")[1].shape == (20, 24, 4)


def test_an_output_that_exists_is_kept_but_for_force(upscale, places, tmp_path):
    (tmp_path / "out.nii.gz").write_bytes(b"precious")
    assert_one_error(upscale(places / "volume.nii.gz", "--scale", 2)[0], "out.nii.gz", "it exists", "--force")
    assert (tmp_path / "out.nii.gz").read_bytes() == b"precious"
    outcome, made = upscale(places / "volume.nii.gz", "--scale", 2, "--force")
    assert (outcome.code, made.shape) == (0, (20, 24, 4))
    assert sorted(path.name for path in tmp_path.glob("*.nii*")) == ["out.nii.gz"]


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_the_input_is_not_overwritten_by_another_name_of_it(upscale, tmp_path, link):
    path = volume(tmp_path / "in.nii.gz", image())
    link(path, tmp_path / "out.nii.gz")
    before = path.read_bytes()
    assert_one_error(upscale(path, "--scale", 2, "--force")[0], "it is the input")
    assert path.read_bytes() == before


def test_a_job_that_is_stopped_while_it_writes_leaves_no_file(upscale, places, tmp_path, monkeypatch):
    def stopped(image, path):
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("metasr.data.volume.nib.save", stopped)
    outcome, _ = upscale(places / "volume.nii.gz", "--scale", 2)
    signal.signal(signal.SIGTERM, before)
    assert outcome.code == 143
    assert list(tmp_path.rglob("*.nii*")) == []


def test_a_full_disk_is_found_before_the_work(upscale, places, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 1000))
    outcome, _ = upscale(places / "volume.nii.gz", "--scale", 2, "--model", "no such model")
    assert_one_error(outcome, "GB of the disk are free")


def test_one_spacing_is_that_of_all_axes_and_finer_ones_stay_and_are_named(upscale, tmp_path):
    path = tmp_path / "thick.nii.gz"
    nib.save(nib.Nifti1Image(image(), np.diag([0.4688, 0.4688, 5, 1])), path)
    outcome, made = upscale(path, "--spacing", 1)
    assert "finer than asked for, and left as they are" in outcome.out
    assert "i (0.4688 mm), j (0.4688 mm)" in outcome.out
    assert made.shape == (10, 12, 20)
    outcome, made = upscale(path, "--spacing", 1, 1, 1, "--resample", "--force")
    assert "finer" not in outcome.out
    assert made.shape == (5, 6, 20)


@pytest.mark.parametrize(
    ("scale", "shape"),
    [(["2", "2", "1"], (20, 24, 4)), (["2x1x3"], (20, 12, 12)), (["2X1"], (10, 24, 4)), (["1.5"], (15, 18, 4))],
)
def test_scales_are_written_as_people_write_them(upscale, places, scale, shape):
    assert upscale(places / "volume.nii.gz", "--scale", *scale)[1].shape == shape


def test_a_warning_about_the_file_is_one_line(upscale, tmp_path):
    path = volume(tmp_path / "x.nii", image())
    path.write_bytes(path.read_bytes() + bytes(512))
    outcome, made = upscale(path, "--scale", 2)
    assert outcome.out.splitlines()[0] == f"warning: {path}: the 512 bytes after its voxels are left out"
    assert made.shape == (20, 24, 4)
    assert outcome.err == ""


def test_nan_is_replaced_when_asked(upscale, tmp_path):
    data = image().astype(np.float32)
    data[[0, 1, -1]] = data[:, [0, -1]] = np.nan
    path = volume(tmp_path / "x.nii.gz", data)
    assert_one_error(upscale(path, "--scale", 2)[0], "NaN", "--nan-to 0")
    _, made = upscale(path, "--scale", 2, "--nan-to", "0")
    assert np.isfinite(made.get_fdata()).all()
    assert (made.get_fdata()[0] == 0).all()


def test_slice_timing_is_cleared_where_slices_are_no_longer_those_acquired(upscale, tmp_path):
    def edit(each):
        each.header.set_dim_info(slice=2)
        each.header["slice_end"], each.header["slice_code"], each.header["slice_duration"] = 3, 1, 0.5

    path = volume(tmp_path / "x.nii.gz", image(), edit)
    within, through = (upscale(path, *how, "--force")[1] for how in (["--scale", 2], ["--scale", "1x1x2"]))
    fields = "slice_start", "slice_end", "slice_code", "slice_duration"
    assert [within.header[field].item() for field in fields] == [0, 3, 1, 0.5]
    assert [through.header[field].item() for field in fields] == [0, 0, 0, 0]


def test_names_that_are_not_utf_8_are_handled_and_said(metasr, places, tmp_path):
    source, output = (tmp_path / os.fsdecode(name) for name in (b"n\xe4me.nii.gz", b"\xff.nii.gz"))
    source.write_bytes((places / "volume.nii.gz").read_bytes())
    model = "--model", places / "bundle"
    assert metasr("upscale", "-i", source, "-o", output, "--scale", 2, *model).code == 0
    assert output.is_file()
    assert_one_error(metasr("upscale", "-i", source, "-o", output, "--scale", 2, *model), "it exists")
    assert_one_error(
        metasr("upscale", "-i", f"{source}x", "-o", output, "--scale", 2, "--force", *model), "no such file"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_log_gets_a_line_every_ten_seconds_with_what_is_left():
    log, now = io.StringIO(), iter([0, 3, 9, 12, 15, 24])
    progress = Progress(log, lambda: next(now))
    for done in (1, 2, 3, 4, 60):
        progress(done, 60)
    assert log.getvalue().splitlines() == ["3/60 slices, about 4 min left", "60/60 slices"]


def test_a_terminal_gets_a_bar_that_ends_its_line():
    terminal = Terminal()
    progress = Progress(terminal)
    for done in (1, 2):
        progress(done, 2)
    first, last = terminal.getvalue().split("\r")[1:]
    assert first.startswith("[###############...............] 1/2 slices, about 0 s left")
    assert last.startswith(f"[{'#' * 30}] 2/2 slices")
    assert terminal.getvalue().count("\n") == 1
