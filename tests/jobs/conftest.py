"""Fixtures: the command in this process, a home of its own, and things to point it at."""

import hashlib
import shutil
import sys

import nibabel as nib
import numpy as np
import pytest

from cluster.registry import CHAMPION
from jobs.cli import main
from metasr import manifest
from metasr.config import ExperimentConfig, ModelConfig
from metasr.identity import RunIdentity
from metasr.inference.bundle import TRUST, WEIGHTS, save_bundle
from metasr.models import build_generator
from metasr.trust.conformal import Bounds, Calibration
from tests.cluster.registered import two_versions
from tests.jobs.command import Outcome

SHAPE = (10, 12, 4)
AFFINE = np.array([[-1.0, 0.2, 0.0, 90.0], [0.1, -1.2, 0.0, 126.0], [0.0, 0.0, 3.0, -72.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of our own, where the defaults lead."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def metasr(home, monkeypatch, capfd):
    """The command, in this process: starting another one takes seconds where torch is needed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["metasr", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return Outcome(left.value.code, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Things to point the command at: volumes, a bundle, and much that is neither."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("empty", "text", "several"):
        (folder / name).mkdir()
    (folder / "text" / "notes.txt").write_text("no volume")
    (folder / "text.nii.gz").write_text("not a volume")
    (folder / "typo.yaml").write_text("optim:\n  generater_lr: 0.001\n")
    (folder / "broken.yaml").write_text("optim: {generator_lr: 1")
    (folder / "latin.yaml").write_bytes(b"train: {steps: 10}\n# \xe9t\xe9\n")
    voxels = np.random.default_rng(0).integers(100, 400, SHAPE).astype(np.int16)
    voxels[[0, -1]] = voxels[:, [0, -1]] = 0
    nib.save(nib.Nifti1Image(voxels, AFFINE), folder / "volume.nii.gz")
    config = ExperimentConfig(model=ModelConfig(num_features=8, num_blocks=1))
    identity = RunIdentity("run-1", "abc", "file:///nowhere", "d" * 64)
    save_bundle(folder / "bundle", build_generator(config.model), config, identity, step=1, metrics={})
    return folder


@pytest.fixture
def calibrated(places, tmp_path):
    """Makes the small bundle with the same bound on the error of every pixel, up to scale 3."""

    def make(bound):
        folder = tmp_path / f"bundle-{bound}"
        shutil.copytree(places / "bundle", folder)
        weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        scales = {3.0: Bounds((0.1,), (bound, bound))}
        (folder / TRUST).write_text(Calibration(weights, 4, 0.9, 0.05, scales).to_json())
        manifest.seal(folder, "bundle", manifest.unseal(folder, "bundle"))
        return folder

    return make


@pytest.fixture(scope="module")
def unjudged(tmp_path_factory):
    """A database with two versions that were not evaluated; the first is the champion."""
    config, registry = two_versions(tmp_path_factory.mktemp("registry"))
    registry.client.set_registered_model_alias(config.model, CHAMPION, "1")
    return config
