"""Names and header texts never reach a store that is pseudonymised, and visits are still those of one patient."""

import hashlib
import hmac
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from cluster.config import PrepareConfig
from cluster.prepare import outline
from cluster.prepare.pseudonyms import KEY_VARIABLE, stored_names
from cluster.store import open_store
from cluster.stream import read_samples
from metasr.data.patients import patient_of
from metasr.data.subjects import Subject
from metasr.errors import ConfigError
from tests.cluster.patients import brain, run_prepare

KEY = "a secret"
CANARY = "JaneDoe"
VISITS = [f"BraTS-GLI-{number:05d}-{visit}" for number in (77701, 77702, 77703) for visit in ("000", "001")]
OPTIONS = PrepareConfig(modality="t1c", crop_px=32, pseudonymise=True)
NAMED = OPTIONS.model_copy(update={"val_subjects": (CANARY,)})


@pytest.fixture
def folder(tmp_path):
    """Two visits each of three patients, and a patient who bears a name, in files that have notes."""
    folder = tmp_path / f"ward-of-{CANARY}"
    folder.mkdir()
    for seed, name in enumerate([*VISITS, CANARY]):
        image = nib.Nifti1Image(brain(seed), np.eye(4))
        for field in ("descrip", "aux_file", "intent_name", "db_name"):
            image.header[field] = CANARY.encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY.encode()))
        nib.save(image, folder / f"{name}-t1c.nii.gz")
    return folder


def keyed(text):
    return hmac.digest(KEY.encode(), text.encode(), hashlib.sha256).hex()[:16]


def test_no_name_and_no_text_of_a_header_is_in_any_byte_of_the_store(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    (folder / "BraTS-GLI-77799-000-t1c.nii.gz").write_text("a text file")
    report = run_prepare(folder, open_store(str(tmp_path / "store")), NAMED)
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        for secret in (CANARY, KEY, "BraTS-GLI-777", "ward-of", "a text file"):  # too long to be there by chance
            assert secret.encode() not in path.read_bytes()
            assert secret not in str(path.relative_to(tmp_path / "store"))
    assert list(report.refused) == ["BraTS-GLI-77799-000"]


def test_without_pseudonyms_too_no_text_of_a_header_and_no_path_is_in_any_byte_of_the_store(folder, tmp_path):
    (folder / f"{CANARY}-t1c.nii.gz").rename(folder / "BraTS-GLI-77704-000-t1c.nii.gz")
    run_prepare(folder, open_store(str(tmp_path / "store")), OPTIONS.model_copy(update={"pseudonymise": False}))
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert any(b"BraTS-GLI-77704-000" in path.read_bytes() for path in files)  # names are stored here, and would show
    for path in files:
        for secret in (CANARY, "ward-of", str(tmp_path)):
            assert secret.encode() not in path.read_bytes()


def test_who_is_in_which_split_is_as_without_pseudonyms_and_their_order_tells_no_more(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    hidden, plain = (
        run_prepare(
            folder,
            open_store(str(tmp_path / str(on))),
            OPTIONS.model_copy(update={"pseudonymise": on, "val_fraction": 0.5}),
        ).index
        for on in (True, False)
    )
    names = {
        name: f"{keyed(name[:-4])}-{keyed(name)}" if name in VISITS else keyed(name) for name in [*VISITS, CANARY]
    }
    for split, subjects in plain.subjects.items():
        assert hidden.subjects[split] == tuple(sorted(names[subject] for subject in subjects))
        assert hidden.subjects[split] != tuple(names[subject] for subject in subjects)
    samples = list(read_samples(open_store(str(tmp_path / "True")), hidden, "train"))
    assert {sample.subject for sample in samples} == set(hidden.subjects["train"])


def test_the_order_in_which_validation_subjects_were_typed_is_not_stored(folder, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    typed = [(CANARY, *VISITS[:2]), (*VISITS[1::-1], CANARY)]
    stored = []
    for number, names in enumerate(typed):
        options = OPTIONS.model_copy(update={"val_subjects": names})
        stored.append(run_prepare(folder, open_store(str(tmp_path / str(number))), options).index.to_bytes())
    assert stored[0] == stored[1]


def test_the_outline_says_names_in_their_own_order_and_needs_the_key_too(folder, monkeypatch):
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE} is not set"):
        outline(folder, OPTIONS)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert any(line.endswith(f": {', '.join(VISITS)}") for line in outline(folder, NAMED))


def test_visits_of_a_patient_are_still_those_of_one_patient():
    names = stored_names(True, {KEY_VARIABLE: KEY})
    one, two, other = map(names, ("BraTS-GLI-00001-000", "BraTS-GLI-00001-001", "BraTS-GLI-00002-000"))
    assert one != two
    assert patient_of(one) == patient_of(two) == keyed("BraTS-GLI-00001") != patient_of(other)


def test_another_key_makes_other_pseudonyms_and_no_key_none():
    assert stored_names(True, {KEY_VARIABLE: KEY})("a") != stored_names(True, {KEY_VARIABLE: "another"})("a")
    with pytest.raises(ConfigError, match=f"{KEY_VARIABLE} is not set"):
        stored_names(True, {})


def test_visits_of_a_patient_that_the_user_named_have_the_pseudonym_of_one_patient():
    visits = [Subject(name, Path(name), patient="x17", is_given=True) for name in ("x17-4", "x17-5")]
    names = stored_names(True, {KEY_VARIABLE: KEY}, visits)
    assert [names(visit.name) for visit in visits] == [f"{keyed('x17')}-{keyed(name)}" for name in ("x17-4", "x17-5")]
    assert {patient_of(names(visit.name)) for visit in visits} == {keyed("x17")}
    assert names("x17") == keyed("x17")
