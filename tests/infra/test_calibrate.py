"""infra/calibrate.py and the measurement of thick slices, on volumes of a few voxels."""

import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.store import open_store
from infra import calibrate
from metasr.config import ExperimentConfig, ModelConfig
from metasr.identity import RunIdentity
from metasr.inference.bundle import load_bundle, save_bundle
from metasr.models import build_generator
from metasr.scale import REPORTED_SCALES
from tests.benchmarks import thick_slices

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    torch.manual_seed(0)
    config = ExperimentConfig(model=ModelConfig(num_features=4, num_blocks=1))
    folder = tmp_path_factory.mktemp("model") / "bundle"
    identity = RunIdentity("run-1", "abc", "file:///nowhere", "d" * 64)
    save_bundle(folder, build_generator(config.model), config, identity, step=1, metrics={})
    return folder


@pytest.fixture(scope="module")
def data(subjects_folder, tmp_path_factory):
    """Two patients to validate on."""
    store = open_store(str(tmp_path_factory.mktemp("store")))
    names = sorted(path.name for path in subjects_folder.iterdir())[:2]
    options = PrepareConfig(modality="t1ce", crop_px=40, val_subjects=tuple(names))
    prepare(subjects_folder, store, options, tell=lambda line: None)
    return store.url


def run(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, arguments)])
    script.main()


def test_a_bundle_becomes_one_whose_bounds_hold_for_those_calibrated_on(monkeypatch, capsys, bundle, data, tmp_path):
    out = tmp_path / "calibrated"
    run(monkeypatch, calibrate, bundle, data, out, "--slices", 1)
    calibration = load_bundle(out, torch.device("cpu")).trust
    assert (calibration.patients, sorted(calibration.scales)) == (2, [scale.rows for scale in REPORTED_SCALES])
    seen = calibrate.measured(load_bundle(bundle, torch.device("cpu")), data, 1)
    for scale in REPORTED_SCALES:
        doubts, errors = (
            np.concatenate(each) for each in zip(*(found[scale] for found in seen.values()), strict=True)
        )
        assert (errors <= calibration.bound(doubts, scale.rows)).mean() >= 0.9
    table = (out / "trust.txt").read_text()
    assert table in capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == ["left", *seen]
    assert "(2.7)" in table  # interpolated
    with pytest.raises(SystemExit):
        run(monkeypatch, calibrate, bundle, data, out)
    assert "exists" in capsys.readouterr().err


def test_who_is_left_out_is_not_calibrated_on():
    """One patient with ten times the errors: the bounds of the others do not hold for him, and theirs do."""
    random = np.random.default_rng(0)
    scales = (*REPORTED_SCALES, *calibrate.BETWEEN)

    def patient(size):
        return {scale: calibrate.Pixels(random.random(4000), size * random.random(4000)) for scale in scales}

    seen = {"a": patient(0.04), "b": patient(0.04), "odd": patient(0.4)}
    rows = {line.split()[0]: line for line in calibrate.left_out(seen, ["a", "b"], "w" * 64).splitlines()}
    shares = {name: float(rows[name].split()[1]) for name in seen}
    assert shares["a"] == pytest.approx(0.9, abs=0.03)
    assert shares["odd"] == pytest.approx(0.09, abs=0.02)


def test_an_unknown_patient_is_refused(monkeypatch, capsys, bundle, data, tmp_path):
    with pytest.raises(SystemExit):
        run(monkeypatch, calibrate, bundle, data, tmp_path / "out", "--slices", 1, "--only", "nobody")
    assert "no such patients: nobody" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pixels_of_a_patient_are_thinned_evenly():
    parts = [calibrate.Pixels(np.full(60_000, n), np.full(60_000, n)) for n in (0, 1)]
    assert calibrate._thinned(parts).scores.mean() == pytest.approx(0.5)
    assert len(calibrate._thinned(parts).scores) == calibrate.PIXELS


def test_slices_are_averaged_where_they_lie_and_scored_against_what_they_were():
    data = np.arange(2 * 3 * 6, dtype=float).reshape(2, 3, 6)
    thick, affine = thick_slices.averaged(data, np.diag([1.0, 1, 2, 1]), 2, 3)
    assert np.array_equal(thick[0, 0], [1.0, 4.0])
    assert (affine[2, 2], affine[2, 3]) == (6.0, 2.0)  # the middle of three slices of 2 mm
    noisy = np.random.default_rng(0).random((12, 13, 14))
    psnr, similarity = thick_slices.scored(noisy + 0.1, noisy, 0)
    assert psnr == pytest.approx(20.0)
    assert similarity < 1
    assert thick_slices.scored(noisy + 1e-4, noisy, 0)[1] == pytest.approx(1.0, abs=1e-4)


def test_a_volume_gives_a_row_for_each_thickness_and_method(monkeypatch, capsys, bundle, tmp_path):
    inside = np.zeros((20, 22, 17), np.int16)
    inside[3:17, 3:19, 1:16] = np.random.default_rng(0).integers(100, 400, (14, 16, 15))
    nib.save(nib.Nifti1Image(inside, np.eye(4)), tmp_path / "head.nii.gz")
    with pytest.warns(UserWarning, match="outside the scales"):  # trained up to 4
        run(monkeypatch, thick_slices, tmp_path / "head.nii.gz", "--model", bundle)
    rows = [line.split()[:3] for line in capsys.readouterr().out.splitlines() if line.startswith("head")]
    assert rows[:4] == [["head", times, name] for times in "35" for name in ("model", "cubic")]
