"""Real patients: METASR_TEST_DATA points to a folder in BraTS layout."""

import os
import re
import time
import uuid
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.store import open_store
from cluster.sweep.ledger import read_ledger
from metasr.data.find import find_subjects
from metasr.data.volume import load_volume, save_volume
from metasr.inference.target import Target
from metasr.inference.upscale import upscale_volume
from metasr.models import Generator
from tests.cluster.patients import training_crops
from tests.cluster.sweeping import IDLE
from tests.cluster.training import flags, places
from tests.jobs.command import METASR, start

FOLDER = os.environ.get("METASR_TEST_DATA", "")
pytestmark = [pytest.mark.data, pytest.mark.skipif(not FOLDER, reason="METASR_TEST_DATA names no folder of patients")]
RATE = "optim.generator_lr"
SWEEP = {
    "search.trials": 4,
    "search.concurrent": 2,
    "search.asha_reduction": 2,
    "train.steps": 200,
    "train.pixel_only_steps": 200,
    "train.checkpoint_every_steps": 50,
    "resources.num_workers": 1,
}


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


@pytest.mark.slow
def test_a_sweep_runs_on_shards_in_a_bucket(tmp_path, s3_url):
    url = f"{s3_url}/{uuid.uuid4().hex}"
    storage = open_store(f"{url}/runs")
    prepare(Path(FOLDER), open_store(f"{url}/data"), PrepareConfig(modality="t1ce", slice_step=5), print)
    (tmp_path / "rates.yaml").write_text(f"space: {{{RATE}: {{choice: [{IDLE}, 0.0005, 0.001, 0.002]}}}}\n")
    settings = {**places(tmp_path), "data.url": f"{url}/data", "storage.url": storage.url, **SWEEP}
    command = [METASR, "tune", "--sweep", tmp_path / "rates.yaml", "--recipe", "smoke", *flags(settings)]
    began = time.monotonic()
    done = start(*command, folder=tmp_path, RAY_ADDRESS="")
    print(f"{time.monotonic() - began:.0f} s\n{done.out}{done.err}")
    assert done.code == 0
    name = re.search(r"sweep (\S+), code", done.out)[1]
    record = read_ledger(storage, f"sweeps/{name}/trials.json")[0].record
    assert len({trial.settings[RATE] for trial in record.trials}) == 4
    assert all(trial.status == "finished" or trial.reason.startswith("asha: behind") for trial in record.trials)
    assert record.best.settings[RATE] != IDLE
    assert f"trial {record.best.number} is version " in done.out


@pytest.mark.parametrize("number", [0, -1])
def test_a_patient_upscaled_lies_where_it_lay(tmp_path, number):
    path = find_subjects(Path(FOLDER), "t1ce").subjects[number].file
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
