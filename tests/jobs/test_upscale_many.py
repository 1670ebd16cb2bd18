"""`metasr upscale` on what people have: several files, folders, patterns, pictures, BIDS; and what it tells."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from metasr.errors import FormatError
from metasr.inference.sidecar import read_description
from tests.jobs.command import assert_one_error
from tests.jobs.conftest import AFFINE

SHAPE = (10, 12, 4)


@pytest.fixture
def upscale(metasr, places):
    """The command with the small model of `places`."""

    def call(*arguments):
        return metasr("upscale", *map(str, arguments), "--model", places / "bundle")

    return call


def write(path, seed=0, affine=AFFINE):
    voxels = np.random.default_rng(seed).integers(100, 400, SHAPE).astype(np.int16)
    voxels[[0, -1]] = voxels[:, [0, -1]] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return path


def shape(path):
    return nib.load(path).shape


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_an_input_and_an_output_need_no_flags(upscale, tmp_path):
    write(tmp_path / "in.nii.gz")
    outcome = upscale(tmp_path / "in.nii.gz", tmp_path / "out.nii.gz", "--scale", 2)
    assert (outcome.code, outcome.err) == (0, "")
    assert shape(tmp_path / "out.nii.gz") == (20, 24, 4)
    outcome = upscale("--scale", 2.5, tmp_path / "in.nii.gz")
    assert outcome.code == 0
    assert shape(tmp_path / "in_x2.5.nii.gz") == (25, 30, 4)
    outcome = upscale("--spacing", 1, tmp_path / "in.nii.gz", tmp_path / "mm.nii")
    assert shape(tmp_path / "mm.nii") == (10, 15, 12)
    outcome = upscale(tmp_path / "in.nii.gz", tmp_path / f"{'x' * 300}.nii.gz", "--scale", 2)
    assert_one_error(outcome, "File name too long")


def test_of_two_files_that_are_there_it_is_asked_which_is_meant(upscale, tmp_path):
    files = [write(tmp_path / name, seed) for seed, name in enumerate(("a.nii.gz", "b.nii.gz"))]
    before = files[1].read_bytes()
    assert_one_error(upscale(*files, "--scale", 2, "--force"), "both are there", f"-o {files[1]}")
    assert files[1].read_bytes() == before
    assert upscale("-i", *files, "--scale", 2).code == 0
    assert names(tmp_path)[:4] == ["a.nii.gz", "a_x2.metasr.json", "a_x2.nii.gz", "b.nii.gz"]


def test_a_folder_is_enlarged_into_another_and_one_bad_file_does_not_stop_it(upscale, tmp_path):
    folder, out = tmp_path / "scans", tmp_path / "results"
    for number, name in enumerate(("p1/t1.nii.gz", "p2/t1.nii.gz", "p3/T1.NII.GZ", "p3/t1_mask.nii.gz")):
        write(folder / name, number)
    (folder / "p2" / "t1.nii.gz").write_bytes(gzip.compress(b"no volume" * 100))
    (folder / "notes.txt").write_text("no image")
    outcome = upscale(folder, out, "--scale", 2)
    assert outcome.code == 1
    assert names(out) == ["p1/t1.metasr.json", "p1/t1.nii.gz", "p3/T1.metasr.json", "p3/T1.nii.gz"]
    assert [line for line in outcome.err.splitlines() if line.startswith("error: ")] == outcome.err.splitlines()
    assert "p2/t1.nii.gz" in outcome.err
    assert "1 masks and label maps are left out" in outcome.out
    assert outcome.out.splitlines()[-1] == "2 made, 1 failed"


def test_the_same_command_continues_where_it_was(upscale, tmp_path):
    for name in "abc":
        write(tmp_path / "in" / f"{name}.nii.gz")
    assert upscale(tmp_path / "in" / "a.nii.gz", tmp_path / "out" / "a.nii.gz", "--scale", 2).code == 0
    first = (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns
    outcome = upscale(tmp_path / "in", tmp_path / "out", "--scale", 2, "--skip-existing")
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == "1 of 3 results exist, and are left as they are"
    assert (tmp_path / "out" / "a.nii.gz").stat().st_mtime_ns == first
    again = upscale(tmp_path / "in", tmp_path / "out", "--scale", 2, "--skip-existing", "--model", "no such model")
    assert (again.code, again.out) == (0, "3 of 3 results exist, and are left as they are\n")


def test_a_pattern_that_no_shell_expands_is_expanded(upscale, tmp_path):
    for name in ("a_t1.nii.gz", "b_t1.nii.gz", "c_t2.nii.gz"):
        write(tmp_path / name)
    assert upscale(tmp_path / "*_t1.nii.gz", tmp_path / "new", "--scale", 2).code == 0
    assert names(tmp_path / "new") == ["a_t1.metasr.json", "a_t1.nii.gz", "b_t1.metasr.json", "b_t1.nii.gz"]
    assert_one_error(upscale(tmp_path / "*_flair.nii.gz", "--scale", 2), "_flair.nii.gz: nothing matches it")


def test_several_inputs_do_not_fit_into_one_file_and_those_of_one_name_keep_their_folders(upscale, tmp_path):
    one, two = write(tmp_path / "a" / "t1.nii.gz"), write(tmp_path / "b" / "t1.nii.gz")
    assert_one_error(upscale("-i", one, two, "-o", tmp_path / "o.nii.gz", "--scale", 2), "there are 2 inputs")
    assert upscale(one, two, tmp_path / "o", "--scale", 2).code == 0
    assert [name for name in names(tmp_path / "o") if name.endswith("gz")] == ["a/t1.nii.gz", "b/t1.nii.gz"]
    (tmp_path / "a" / "t1.hdr").touch()
    outcome = upscale(one, tmp_path / "a" / "t1.hdr", tmp_path / "p", "--scale", 2)
    assert_one_error(outcome, "p/t1.nii.gz: it would be that of", "a/t1.hdr")


def test_json_is_all_of_stdout_and_quiet_says_nothing(upscale, tmp_path):
    write(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "b.nii.gz").write_bytes(b"nothing")
    outcome = upscale(tmp_path / "in", tmp_path / "out", "--scale", 5, "--json")
    assert outcome.code == 1
    said = json.loads(outcome.out)
    assert [result["output"]["name"] for result in said["results"]] == ["a.nii.gz"]
    assert said["failed"][0]["input"].endswith("b.nii.gz")
    assert "warning: outside the scales" in outcome.err
    quiet = upscale(tmp_path / "in" / "a.nii.gz", tmp_path / "q.nii.gz", "--scale", 2, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_the_description_beside_a_result_says_what_made_it_of_what(upscale, places, tmp_path):
    import hashlib

    source = write(tmp_path / "in.nii.gz")
    upscale(source, tmp_path / "out.nii.gz", "--scale", "2x1.5", "--ensemble")
    said = read_description(tmp_path / "out.metasr.json")
    assert said["input"]["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert said["output"]["sha256"] == hashlib.sha256((tmp_path / "out.nii.gz").read_bytes()).hexdigest()
    assert (
        said["model"]["bundle_sha256"]
        == hashlib.sha256((places / "bundle" / "manifest.json").read_bytes()).hexdigest()
    )
    assert (said["scales"], said["plane"], said["ensemble"]) == ([1.5, 2.0, 1.0], "axial", True)
    assert said["consistency_db"] > 15
    assert said["warnings"] == []
    assert str(tmp_path) not in (tmp_path / "out.metasr.json").read_text()
    later = tmp_path / "later.json"
    later.write_text(json.dumps({**said, "format": 2}))
    with pytest.raises(FormatError, match="format 2"):
        read_description(later)


def test_what_a_model_was_not_made_for_is_told_and_kept(upscale, tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 2000, (20, 20, 12)).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([0.2, 0.2, 5, 1])), tmp_path / "ct.nii.gz")
    outcome = upscale(tmp_path / "ct.nii.gz", tmp_path / "out.nii.gz", "--scale", 5)
    assert "as in CT" in outcome.out
    assert "pixels of 0.2 x 0.2 mm" in outcome.out
    about = [each["about"] for each in read_description(tmp_path / "out.metasr.json")["warnings"]]
    assert about == ["scale", "kind", "spacing"]


def test_the_grid_of_another_volume_is_met_or_refused(upscale, tmp_path):
    write(tmp_path / "in.nii.gz")
    assert upscale(tmp_path / "in.nii.gz", tmp_path / "high.nii.gz", "--scale", "2x3x1").code == 0
    assert upscale(tmp_path / "in.nii.gz", tmp_path / "o.nii.gz", "--like", tmp_path / "high.nii.gz").code == 0
    np.testing.assert_allclose(*(nib.load(tmp_path / name).affine for name in ("o.nii.gz", "high.nii.gz")), atol=1e-4)
    write(tmp_path / "far.nii.gz", affine=AFFINE + np.eye(4)[:, [3, 0, 1, 2]] * 9)
    outcome = upscale(tmp_path / "in.nii.gz", tmp_path / "p.nii.gz", "--like", tmp_path / "far.nii.gz")
    assert_one_error(outcome, "far.nii.gz", "resample the result")


def gray(bits):
    return np.random.default_rng(1).integers(0, 2**bits, (12, 16)).astype(f"uint{bits}")


@pytest.mark.parametrize(
    ("name", "pixels", "mode"),
    [
        ("a.png", gray(8), "L"),
        ("a.png", gray(16), "I;16"),
        ("a.tif", gray(16), "I;16"),
        ("a.tiff", gray(8).astype(np.float32), "F"),
        ("a.jpg", gray(8), "L"),
        ("a.png", np.stack([gray(8), gray(8).T.reshape(12, 16), gray(8)[::-1]], axis=-1), "RGB"),
        ("a.png", np.stack([gray(8), gray(8)[::-1], gray(8), gray(8)[:, ::-1]], axis=-1), "RGBA"),
    ],
)
def test_a_picture_is_given_back_as_it_was_only_larger(upscale, tmp_path, name, pixels, mode):
    Image.fromarray(pixels).save(tmp_path / name)
    outcome = upscale(tmp_path / name, tmp_path / f"out-{name}", "--scale", "1.5x2")
    assert outcome.code == 0, outcome.err
    assert "a picture or photograph" in outcome.out
    with Image.open(tmp_path / f"out-{name}") as made:
        assert (made.mode, made.size) == (mode, (32, 18))
        assert np.asarray(made).std() > 0.1 * pixels.std()


def test_a_picture_that_is_not_there_is_told_as_a_volume_is(upscale, tmp_path):
    outcome = upscale("-i", tmp_path / "nowhere.png", "-o", tmp_path / "o.png", "--scale", 2)
    assert_one_error(outcome, "nowhere.png: there is no such file. Check the path")


def test_a_picture_has_no_voxel_size_and_needs_a_format_that_holds_it(upscale, tmp_path):
    Image.fromarray(gray(16)).save(tmp_path / "a.png")
    assert_one_error(upscale(tmp_path / "a.png", tmp_path / "o.png", "--spacing", 1), "no voxel size", "--scale")
    assert_one_error(upscale(tmp_path / "a.png", tmp_path / "o.jpg", "--scale", 2), "JPEG holds no 16-bit values")
    assert_one_error(
        upscale(tmp_path / "a.png", tmp_path / "o.nii.gz", "--scale", 2), "the name of a picture ends in"
    )
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    assert_one_error(upscale(tmp_path / "cut.png", tmp_path / "o.png", "--scale", 2), "not a readable picture")


def dataset(folder):
    write(folder / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz")
    write(folder / "sub-02" / "anat" / "sub-02_acq-x_FLAIR.nii")
    write(folder / "sub-02" / "func" / "sub-02_task-rest_bold.nii.gz")
    write(folder / "derivatives" / "other" / "sub-01" / "anat" / "sub-01_desc-x_T1w.nii.gz")
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "Brains", "BIDSVersion": "1.8.0"}))
    return folder


def test_a_bids_data_set_gives_a_derived_one(upscale, tmp_path):
    folder = dataset(tmp_path / "bids")
    before = names(folder)
    assert upscale(folder, "--scale", 2.5).code == 0
    out = folder / "derivatives" / "metasr"
    made = [
        "sub-01/ses-1/anat/sub-01_ses-1_res-x2p5_desc-metasr_T1w",
        "sub-02/anat/sub-02_acq-x_res-x2p5_desc-metasr_FLAIR",
    ]
    assert names(out) == [
        "dataset_description.json",
        f"{made[0]}.json",
        f"{made[0]}.nii.gz",
        f"{made[1]}.json",
        f"{made[1]}.nii",
    ]
    about = json.loads((out / "dataset_description.json").read_text())
    assert (about["DatasetType"], about["GeneratedBy"][0]["Name"]) == ("derivative", "metasr")
    said = json.loads((out / f"{made[0]}.json").read_text())
    assert said["Sources"] == ["bids:raw:sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz"]
    again = upscale(folder, "--scale", 2.5, "--skip-existing")
    assert again.out == "2 of 2 results exist, and are left as they are\n"
    assert [name for name in names(folder) if not name.startswith("derivatives/metasr")] == before


def test_convolutions_are_computed_in_the_precision_asked_for(upscale, tmp_path):
    write(tmp_path / "in.nii.gz")
    results = {}
    for precision in ("float32", "bfloat16"):
        output = tmp_path / f"{precision}.nii.gz"
        assert upscale(tmp_path / "in.nii.gz", output, "--scale", 2, "--precision", precision).code == 0
        assert read_description(output.with_suffix("").with_suffix(".metasr.json"))["model"]["precision"] == precision
        results[precision] = nib.load(output).get_fdata()
    difference = np.abs(results["float32"] - results["bfloat16"])
    assert 0 < difference.max() < 0.05 * results["float32"].max()


def test_a_device_that_is_not_there_is_one_line(upscale, tmp_path):
    write(tmp_path / "in.nii.gz")
    outcome = upscale(tmp_path / "in.nii.gz", tmp_path / "o.nii.gz", "--scale", 2, "--device", "cuda:99")
    assert_one_error(outcome, "device cuda:99", "there is none here")


def test_without_a_wish_the_released_model_stands_in_for_a_champion(metasr, places, tmp_path, monkeypatch):
    write(tmp_path / "in.nii.gz")
    monkeypatch.setattr("metasr.sources.RELEASED", tmp_path / "released")
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "fidelity").symlink_to(places / "bundle")
    monkeypatch.setattr("cluster.registry.Registry.locate", _none)
    outcome = metasr("upscale", tmp_path / "in.nii.gz", tmp_path / "o.nii.gz", "--scale", 2)
    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == "model: the one that ships with metasr"
    outcome = metasr("upscale", tmp_path / "in.nii.gz", tmp_path / "n.nii.gz", "--scale", 2, "--model", "fidelity")
    assert outcome.code == 0
    assert read_description(tmp_path / "n.metasr.json")["model"]["version"] == "released fidelity"
    monkeypatch.setattr("metasr.sources.RELEASED", tmp_path)
    outcome = metasr("upscale", tmp_path / "in.nii.gz", tmp_path / "p.nii.gz", "--scale", 2)
    assert_one_error(outcome, "model champion: no such version", "metasr promote")


def _none(self, reference, download_to):
    from metasr.errors import RegistryError

    raise RegistryError(f"model {reference}", "no such version at x", "Promote one with `metasr promote`")
