"""Real patients: METASR_TEST_DATA points to a folder in BraTS layout."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.store import open_store
from metasr.data.subjects import find_subjects
from metasr.data.volume import load_volume, save_volume
from metasr.inference.target import Target
from metasr.inference.upscale import upscale_volume
from metasr.models import Generator
from tests.cluster.patients import training_crops

FOLDER = os.environ.get("METASR_TEST_DATA", "")
pytestmark = [pytest.mark.data, pytest.mark.skipif(not FOLDER, reason="METASR_TEST_DATA names no folder of patients")]


def test_every_patient_becomes_crops_full_of_brain(tmp_path):
    store = open_store(str(tmp_path))
    report = prepare(Path(FOLDER), store, PrepareConfig(modality="t1ce", slice_step=20), lambda line: None)
    assert not report.refused
    crops = training_crops(store, report.index).float()
    assert torch.isfinite(crops).all()
    assert 0.1 < report.index.mean < 0.6
    brain_fractions = (crops != 0).float().mean(dim=(1, 2, 3))
    assert brain_fractions.median() > 0.5
    assert crops.amin() > -1


@pytest.mark.parametrize("number", [0, -1])
def test_a_patient_upscaled_lies_where_it_lay(tmp_path, number):
    path = find_subjects(Path(FOLDER), "t1ce")[number].file
    original = nib.load(path)
    nib.save(original.slicer[60:100, 60:110, 70:73], tmp_path / "part.nii.gz")
    part = load_volume(tmp_path / "part.nii.gz")
    torch.manual_seed(0)
    untrained = Generator(norm="none", skip="bicubic", num_features=8, num_blocks=1)
    target = Target.of_scale(part, (2.5, 2.5))
    save_volume(tmp_path / "out.nii.gz", upscale_volume(part, untrained, target), part)
    result = nib.load(tmp_path / "out.nii.gz")
    assert result.shape == (100, 125, 3)
    assert result.get_data_dtype() == original.get_data_dtype()
    assert (part.data.min(), part.data.max()) == pytest.approx(
        (result.get_fdata().min(), result.get_fdata().max()), rel=0.2
    )
    before = part.affine @ [-0.5, -0.5, -0.5, 1], part.affine @ [39.5, 49.5, 2.5, 1]
    after = result.affine @ [-0.5, -0.5, -0.5, 1], result.affine @ [99.5, 124.5, 2.5, 1]
    assert np.abs(np.array(before) - np.array(after)).max() < 1e-3
