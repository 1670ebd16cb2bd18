"""`import metasr; metasr.load(...).upscale(...)`: every kind of image, given back as the kind that it was."""

import dataclasses
import re
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

import metasr
from metasr.config import ExperimentConfig, ModelConfig
from metasr.data.volume import load_volume
from metasr.errors import CheckpointError, ConfigError, DataError, RegistryError, ScaleError
from metasr.identity import RunIdentity
from metasr.inference.bundle import save_bundle
from metasr.inference.target import Target
from metasr.inference.trust import trusted
from metasr.inference.upscale import upscale_volume
from metasr.models import build_generator, evaluating
from metasr.trust.conformal import Bounds, Calibration

pytestmark = pytest.mark.usefixtures("one_thread")
AFFINE = np.array([[-1.0, 0.1, 0, 90], [0.1, -1.2, 0, 126], [0, 0, 3, -72], [0, 0, 0, 1]])
# What the inference part of the package does not bring.
ABSENT = ("boto3", "jinja2", "matplotlib", "mlflow", "optuna", "ray", "scipy", "sklearn", "torchvision", "webdataset")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = ExperimentConfig(model=ModelConfig(num_features=8, num_blocks=1))
    folder = tmp_path_factory.mktemp("model") / "bundle"
    identity = RunIdentity("run-1", "abc", "file:///nowhere", "d" * 64)
    save_bundle(folder, build_generator(config.model), config, identity, step=1, metrics={})
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return metasr.load(folder, device="cpu", precision="float32")  # auto: not on every machine


def voxels(shape=(12, 14, 4), dtype=np.int16):
    inside = np.random.default_rng(0).integers(100, 400, shape).astype(dtype)
    inside[[0, -1]] = inside[:, [0, -1]] = 0
    return inside


def python(code, absent=()):
    """Run code in an interpreter that lacks some libraries; return what it printed."""
    lacking = f"import sys\nfor name in {tuple(absent)!r}: sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", lacking + code], capture_output=True, text=True)
    return done.stdout + done.stderr


def test_importing_metasr_imports_nothing_heavy():
    printed = python("import metasr; print(metasr.__version__, *({'torch', 'nibabel', 'numpy'} & set(sys.modules)))")
    assert printed == f"{metasr.__version__}\n"


def test_a_model_is_used_without_the_libraries_of_a_cluster(folder, tmp_path):
    nib.save(nib.Nifti1Image(voxels(), AFFINE), tmp_path / "in.nii.gz")
    code = f"""
import metasr
model = metasr.load({str(folder)!r})
print(model.upscale({str(tmp_path / "in.nii.gz")!r}, scale=2).shape)
from jobs.cli import run, _dispatch
made = {str(tmp_path / "out.nii.gz")!r}
what = ["-i", {str(tmp_path / "in.nii.gz")!r}, "-o", made, "--model", {str(folder)!r}]
run(_dispatch, ["upscale", *what, "--scale", "2"])
"""
    printed = python(code, ABSENT)
    assert printed.startswith("(24, 28, 4)\n"), printed
    assert nib.load(tmp_path / "out.nii.gz").shape == (24, 28, 4)


def test_what_needs_an_extra_says_so_in_one_line(tmp_path):
    line = (
        "error: this command: it needs boto3, which is not installed. Install it with `pip install 'metasr[cluster]'`"
    )
    code = "from jobs.cli import run, _dispatch; run(_dispatch, ['train', '--data.url', 's3://bucket/data'])"
    assert python(code, ["boto3"]).splitlines() == [line]


def test_references_are_found_by_the_part_that_is_installed(folder):
    assert metasr.load(f"file://{folder}").bundle.digest == metasr.load(folder).bundle.digest
    printed = python("import metasr; metasr.load('models:/meta-srgan@champion')", ["mlflow"])
    what = r"ConfigError: model models:/meta-srgan@champion: it needs mlflow.*'metasr\[cluster\]'"
    assert re.search(what, printed), printed


def test_without_a_released_model_the_error_says_how_to_get_one(monkeypatch, tmp_path):
    monkeypatch.setattr("metasr.sources.RELEASED", tmp_path)
    with pytest.raises(RegistryError, match=r"ships no model fidelity\. Give the folder of a bundle; `metasr demo`"):
        metasr.load()


def test_the_released_models_have_names_and_fidelity_is_the_default(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("metasr.sources.RELEASED", tmp_path)
    (tmp_path / "fidelity").symlink_to(folder)
    (tmp_path / "zebra").symlink_to(folder)
    digest = metasr.load(folder).bundle.digest
    assert metasr.load().bundle.digest == metasr.load("fidelity").bundle.digest == digest
    assert metasr.load("zebra").bundle.digest == digest


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no manifest\.json"):
        metasr.load(tmp_path)


def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(ConfigError, match="device tpu9: there is none here"):
        metasr.load(folder, device="tpu9")


def test_a_model_says_what_it_is(model):
    assert "x1.1 to x4.0" in repr(model)
    assert model.device == torch.device("cpu")
    assert model.about["run_name"] == "run-1"


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32, np.float64])
def test_an_array_gives_an_array_of_its_type(model, dtype):
    given = voxels(dtype=np.int16).clip(0, 255).astype(dtype)
    before = given.copy()
    made = model.upscale(given, scale=2.5)
    assert (made.dtype, made.shape) == (dtype, (30, 35, 4))
    assert np.array_equal(given, before)
    assert given.min() <= made.min() <= made.max() <= given.max()
    assert (made[0] == 0).all(), "the background stays"
    assert made.astype(float).std() > 10


@pytest.fixture(scope="module")
def calibrated(model):
    """The model with bounds that grow with the doubt: some of the brain is believed, some not."""
    edges = np.linspace(0.001, 0.02, 20)
    bounds = Bounds(tuple(edges), (*(10 * edges), 1.0))  # believed up to a doubt of 0.005, about the median
    trust = Calibration("a" * 64, 4, 0.9, 0.05, {3.0: bounds})
    return metasr.Model(dataclasses.replace(model.bundle, trust=trust), "calibrated")


def test_a_result_comes_with_where_it_is_to_be_believed(calibrated, tmp_path):
    path = tmp_path / "in.nii.gz"
    nib.save(nib.Nifti1Image(voxels(dtype=np.float32), AFFINE), path)
    volume = load_volume(path)
    target = Target.of_scale(volume, (2.5, 2.5))
    result = upscale_volume(volume, calibrated.bundle.generator, target)
    expected = trusted(volume, result, target, calibrated.bundle.trust)  # as `metasr upscale --trust`
    assert 0.05 < expected.mean() < 0.65  # the brain is 0.71
    image, mask = calibrated.upscale_with_trust(path, scale=2.5)
    assert np.array_equal(image.get_fdata(), calibrated.upscale(path, scale=2.5).get_fdata())
    assert (mask.get_data_dtype(), mask.shape) == (np.uint8, image.shape)
    assert np.array_equal(mask.affine, image.affine)
    assert np.array_equal(np.asarray(mask.dataobj), expected)


def test_masks_are_of_the_kind_of_what_was_given(calibrated):
    given = voxels(dtype=np.float32)
    sr, trust = calibrated.upscale_with_trust(given, scale=2)
    assert (sr.shape, trust.shape, trust.dtype) == ((24, 28, 4), (24, 28, 4), np.bool_)
    assert not trust[0].any(), "background is not believed"
    tensor = calibrated.upscale_with_trust(torch.from_numpy(given), scale=2).trust
    assert tensor.dtype == torch.bool
    assert np.array_equal(tensor.numpy(), trust)
    assert calibrated.upscale_with_trust(given[..., 1], scale=2).trust.shape == (24, 28)


def test_where_no_calibration_holds_there_is_no_mask(model, calibrated):
    with pytest.raises(ConfigError, match="the model has no calibration"):
        model.upscale_with_trust(voxels(), scale=2)
    with pytest.raises(ConfigError, match="finer across them too"):
        calibrated.upscale_with_trust(voxels(), scale=(2, 2, 2))
    with pytest.raises(ScaleError, match="up to 3"):
        calibrated.upscale_with_trust(voxels(), scale=3.5)


def test_an_image_is_what_the_generator_makes_of_it(model):
    """An array with values from 0 to 1 and no background is given to the network as it is, not turned."""
    image = np.random.default_rng(0).random((9, 11)).astype(np.float32)
    image.flat[:2] = 0, 1
    low, high = np.percentile(image.astype(np.float64), [0.1, 99.9])
    with evaluating(model.bundle.generator):
        unit = torch.from_numpy(((image - low) / (high - low)).astype(np.float32))[None, None]
        expected = model.bundle.generator(unit, (18, 33))[0, 0].numpy() * (high - low) + low
    made = model.upscale(image, scale=(2, 3))
    assert made.shape == (18, 33)
    np.testing.assert_allclose(made, expected.clip(image.min(), image.max()), atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
def test_a_tensor_gives_a_tensor_of_its_type(model, dtype):
    given = torch.from_numpy(voxels().clip(0, 255)).to(dtype)
    made = model.upscale(given, scale=2)
    assert (made.dtype, made.device, tuple(made.shape)) == (dtype, given.device, (24, 28, 4))


def test_a_path_and_a_nibabel_image_give_the_volume_of_the_engine(model, tmp_path):
    image = nib.Nifti1Image(voxels(), AFFINE)
    nib.save(image, tmp_path / "in.nii.gz")
    volume = load_volume(tmp_path / "in.nii.gz")
    expected = upscale_volume(volume, model.bundle.generator, Target.of_spacing(volume, (0.5, 0.6, 1.5)))
    for given in (image, tmp_path / "in.nii.gz", str(tmp_path / "in.nii.gz"), nib.load(tmp_path / "in.nii.gz")):
        made = model.upscale(given, spacing=(0.5, 0.6, 1.5))
        assert isinstance(made, nib.Nifti1Image)
        assert made.get_data_dtype() == np.int16
        assert np.array_equal(np.asarray(made.dataobj), np.rint(expected).astype(np.int16))
        np.testing.assert_allclose(nib.affines.voxel_sizes(made.affine), [0.5025, 0.602, 1.5], rtol=0.02)


def test_integers_with_a_slope_and_other_formats_become_what_holds_them(model):
    scaled = nib.Nifti1Image(voxels(), AFFINE)
    scaled.header.set_slope_inter(2.0, 0.0)
    reread = nib.Nifti1Image.from_bytes(scaled.to_bytes())
    made = model.upscale(reread, scale=2)
    assert made.get_data_dtype() == np.float32
    assert made.get_fdata().max() > 600
    other = model.upscale(nib.MGHImage(voxels(dtype=np.float32), AFFINE), scale=2)
    assert isinstance(other, nib.Nifti1Image)
    assert other.shape == (24, 28, 4)


def test_the_grid_of_another_is_met_exactly(model, tmp_path):
    low, high = nib.Nifti1Image(voxels(), AFFINE), model.upscale(nib.Nifti1Image(voxels(), AFFINE), scale=2.5)
    nib.save(high, tmp_path / "grid.nii.gz")
    for like in (high, tmp_path / "grid.nii.gz"):
        made = model.upscale(low, like=like)
        assert made.shape == high.shape
        np.testing.assert_allclose(made.affine, high.affine, atol=1e-5)
    assert model.upscale(voxels(), like=np.empty((24, 20, 4))).shape == (24, 20, 4)
    with pytest.raises(ScaleError, match="shape 6 x 14 x 4 from 12 x 14 x 4"):
        model.upscale(voxels(), like=np.empty((6, 14, 4)))


def moved(by):
    affine = AFFINE.copy()
    affine[:3, 3] += by
    return nib.Nifti1Image(voxels((24, 28, 4)), affine @ np.diag([0.5, 0.5, 1, 1]))


@pytest.mark.parametrize(
    ("like", "said"),
    [
        (moved(4), "its field of view is another"),
        (nib.Nifti1Image(voxels(), np.diag([1.0, -1.2, 3, 1])), "its axes run RPS, those of image LPS"),
        (nib.Nifti1Image(voxels(), AFFINE[[1, 0, 2, 3]]), "its axes run"),
    ],
    ids=["moved", "mirrored", "turned"],
)
def test_a_grid_elsewhere_is_refused_with_the_reason(model, like, said):
    with pytest.raises(ScaleError, match=said):
        model.upscale(nib.Nifti1Image(voxels(), AFFINE), like=like)


def test_an_ensemble_does_not_depend_on_how_the_image_is_turned(model):
    image = np.random.default_rng(1).random((9, 12)).astype(np.float32)
    made = model.upscale(image, scale=2, ensemble=True)
    turned = model.upscale(np.ascontiguousarray(np.rot90(image).T), scale=2, ensemble=True)
    np.testing.assert_allclose(np.rot90(made).T, turned, atol=1e-5)
    alone = model.upscale(image, scale=2)
    assert 1e-6 < np.abs(made - alone).max() < 0.2


def test_a_scale_that_was_not_trained_is_warned_of(model):
    with pytest.warns(UserWarning, match=r"outside the scales that the model was trained on, 1\.1 to 4\.0: 5"):
        model.upscale(voxels(), scale=5)


@pytest.mark.parametrize(
    ("given", "options", "error"),
    [
        (voxels(), {}, ConfigError),
        (voxels(), {"scale": 2, "like": voxels()}, ConfigError),
        (voxels(), {"spacing": 1}, ConfigError),
        (voxels(), {"scale": (2, 2, 2, 2)}, ConfigError),
        (voxels(), {"scale": 0.5}, ScaleError),
        (voxels(), {"scale": float("nan")}, ScaleError),
        (voxels()[0, 0], {"scale": 2}, DataError),
        (voxels()[None], {"scale": 2}, DataError),
        (voxels() + 1j, {"scale": 2}, DataError),
        (np.full((4, 5), np.nan), {"scale": 2}, DataError),
        ([[1, 2], [3, 4]], {"scale": 2}, ConfigError),
        (nib.Nifti1Image(np.zeros((4, 5, 6, 7), np.int16), AFFINE), {"scale": 2}, DataError),
    ],
)
def test_what_cannot_be_done_is_refused_by_type(model, given, options, error):
    with pytest.raises(error):
        model.upscale(given, **options)
