"""Preparing folders as people have them: patients stay on one side, contrasts are kept apart, names may be odd."""

import json
import os

import nibabel as nib
import numpy as np
import pytest

from cluster.config import PrepareConfig
from cluster.prepare import outline, prepare, verify
from cluster.prepare.pseudonyms import KEY_VARIABLE
from cluster.shards import INDEX
from cluster.store import open_store
from cluster.stream import held_out_slices, read_index, read_samples
from metasr.errors import DataError
from metasr.evaluation import evaluate
from metasr.evaluation.statistics import by_patient
from metasr.evaluation.tables import from_csv, to_csv
from metasr.models import Generator
from metasr.scale import Scale
from tests.cluster.patients import LPS, brain, run_prepare, write_volume

TWO = Scale(2, 2)
SMALL = PrepareConfig(crop_px=32, slice_step=100)


def options(**chosen):
    return PrepareConfig(**{"crop_px": 32, "slice_step": 100, **chosen})


def make(folder, *names):
    """Write a volume for each name, as quickly as possible."""
    for seed, name in enumerate(names):
        write_volume(folder / name, brain(seed % 3))
    return folder


def patients_of(index, split):
    return {index.patient_of(name) for name in index.subjects[split]}


def scores(store, index):
    untrained = Generator(norm="none", num_features=8, num_blocks=1)
    return evaluate(untrained, held_out_slices(store, index, 1), [TWO]).scores


@pytest.fixture
def sessions(tmp_path):
    """Two sessions each of six people, in BIDS."""
    names = [f"sub-0{n}/ses-{s}/anat/sub-0{n}_ses-{s}_T1w.nii.gz" for n in range(1, 7) for s in (1, 2)]
    return make(tmp_path / "bids", *names)


@pytest.mark.parametrize("seed", range(3))
def test_sessions_of_a_person_are_on_one_side_and_counted_as_one_patient(sessions, tmp_path, seed):
    store = open_store(str(tmp_path / "store"))
    index = run_prepare(sessions, store, options(modality="T1w", seed=seed, val_fraction=0.4)).index
    train, val = patients_of(index, "train"), patients_of(index, "val")
    assert len(val) == 2
    assert len(index.subjects["val"]) == 4
    assert not train & val
    result = evaluate(
        Generator(norm="none", num_features=8, num_blocks=1), held_out_slices(store, index, 1), [Scale(2, 2)]
    )
    assert set(by_patient(result.scores, "psnr")[Scale(2, 2), "model"]) == val


def test_a_patient_is_named_to_validate_with_all_visits(sessions, tmp_path):
    chosen = options(modality="t1", val_subjects=("sub-03",))
    index = run_prepare(sessions, open_store(str(tmp_path / "store")), chosen).index
    assert index.subjects["val"] == ("sub-03_ses-1", "sub-03_ses-2")


def test_patients_that_the_user_names_are_kept_with_the_data_and_decide_the_statistics(tmp_path):
    folder = make(tmp_path / "ward-7", "x17-4.nii.gz", "x17-5.nii.gz", "y2-1.nii.gz", "y2-9.nii.gz", "z3-1.nii.gz")
    store = open_store(str(tmp_path / "store"))
    regex = options(patient_regex=r"^([a-z]\d+)-", val_subjects=("x17",))
    index = run_prepare(folder, store, regex).index
    assert index.subjects["val"] == ("x17-4", "x17-5")
    assert read_index(store).patients == {"x17-4": "x17", "x17-5": "x17", "y2-1": "y2", "y2-9": "y2", "z3-1": "z3"}
    assert verify(store, lambda line: None) == index
    result = evaluate(
        Generator(norm="none", num_features=8, num_blocks=1), held_out_slices(store, index, 1), [Scale(2, 2)]
    )
    assert set(by_patient(from_csv(to_csv(result.scores)), "ssim")[Scale(2, 2), "model"]) == {"x17"}

    table = tmp_path / "secret-table.csv"
    table.write_text("subject,patient\n" + "".join(f"{name},{name[:2]}\n" for name in index.patients))
    other = run_prepare(folder, open_store(str(tmp_path / "other")), options(patients=str(table))).index
    assert other.patients == {name: name[:2] for name in other.patients}
    assert b"secret" not in other.to_bytes()


def test_a_split_by_names_that_parts_a_given_patient_is_refused(tmp_path):
    folder = make(tmp_path / "volumes", "x17-4.nii.gz", "x17-5.nii.gz", "y2-1.nii.gz")
    with pytest.raises(DataError, match="subject x17: it is in training and in validation"):
        run_prepare(
            folder, open_store(str(tmp_path / "store")), options(patient_regex=r"\w+", val_subjects=("x17-4",))
        )


def test_an_index_in_which_a_patient_is_on_both_sides_is_refused(tmp_path):
    folder = make(tmp_path / "volumes", "a.nii.gz", "b.nii.gz")
    index = run_prepare(folder, open_store(str(tmp_path / "store")), SMALL).index
    with pytest.raises(DataError, match="subject P: it is in training and in validation"):
        index.model_copy(update={"patients": {"a": "P", "b": "P"}, "sha256": ""}).check()


def test_names_that_may_be_of_one_person_on_both_sides_are_warned_of(tmp_path):
    folder = make(tmp_path / "volumes", "case7a.nii.gz", "case7b.nii.gz", "case9.nii.gz")
    told, chosen = [], options(val_subjects=("case7b",))
    prepare(folder, open_store(str(tmp_path / "store")), chosen, told.append, progress=lambda line: None)
    (warning,) = told
    assert warning.startswith("warning: ")
    assert "case7a (training) and case7b (validation)" in warning
    assert "--patient-regex" in warning
    assert outline(folder, chosen)[-1] == warning


def test_contrasts_of_a_patient_are_on_one_side_and_every_sample_says_which_it_is(tmp_path):
    names = [f"P{n}/P{n}_{contrast}.nii.gz" for n in range(5) for contrast in ("t1", "T1Gd", "flair")]
    folder, store = make(tmp_path / "volumes", *names), open_store(str(tmp_path / "store"))
    index = run_prepare(folder, store, options(modality="t1ce,t1", val_fraction=0.4)).index
    assert index.contrasts == {f"P{n}_{contrast}": contrast for n in range(5) for contrast in ("t1", "t1ce")}
    assert patients_of(index, "val") | patients_of(index, "train") == {f"P{n}" for n in range(5)}
    assert not patients_of(index, "val") & patients_of(index, "train")
    for split in ("train", "val"):
        for sample in read_samples(store, index, split):
            assert index.contrasts[sample.subject] == sample.contrast
    assert read_index(store) == index


def test_an_index_of_one_contrast_says_nothing_of_several(original):
    said = json.loads((original / INDEX).read_text())
    of_images = "kind mean modality recipe_sha256 sha256 shards skull_stripped spacing_mm split_sha256 std subjects"
    assert sorted(said) == sorted(["format", "options", "tool_version", *of_images.split()])
    chosen = "crop_px kind min_brain modality pseudonymise seed shard_mb slice_step val_fraction val_subjects"
    assert sorted(said["options"]) == chosen.split()


def test_a_label_map_is_known_when_it_is_read_and_costs_that_file_alone(tmp_path):
    folder = make(tmp_path / "volumes", "a.nii.gz", "b.NII.GZ", "c.nii.gz")
    write_volume(folder / "d.nii.gz", np.digitize(brain(0), (1, 200, 300)).astype(np.uint8))
    labelled = nib.Nifti1Image(brain(0), LPS)
    labelled.header.set_intent("label")
    nib.save(labelled, folder / "e.nii.gz")
    (folder / "f.nii.gz").symlink_to("nowhere")
    report = run_prepare(folder, open_store(str(tmp_path / "store")), SMALL)
    assert "4 distinct values" in report.refused["d"]
    assert "its voxels are labels" in report.refused["e"]
    assert sorted(name for names in report.index.subjects.values() for name in names) == ["a", "b", "c"]
    assert report.summary() == (
        "used 3 of 6 NIfTI files; left out: 1 a broken link; 2 (d, e) that could not be used, see above"
    )


@pytest.mark.parametrize("pseudonymise", [False, True])
def test_a_name_that_is_not_utf8_is_no_obstacle(tmp_path, monkeypatch, pseudonymise):
    monkeypatch.setenv(KEY_VARIABLE, "a secret")
    odd = [os.fsdecode(name) for name in (b"M\xfcller.nii.gz", b"M\xf6ller.nii.gz")]
    folder = make(tmp_path / "volumes", "a.nii.gz", odd[0])
    (folder / odd[1]).write_text("a text file")
    told, store = [], open_store(str(tmp_path / "store"))
    index = prepare(folder, store, options(pseudonymise=pseudonymise), told.append).index
    assert sum(map(len, index.subjects.values())) == 2
    assert pseudonymise or "M\\xfcller" in {name for names in index.subjects.values() for name in names}
    assert "M\\xf6ller: left out" in "\n".join(told)
    assert "\n".join([*told, *outline(folder, SMALL)]).encode()
    assert verify(store, lambda line: None) == index
