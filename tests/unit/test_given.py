"""Patients that the user names: by a regular expression on paths, or by a table."""

import pytest

from metasr.data.find import find_subjects
from metasr.data.given import patients_by_regex, patients_by_table
from metasr.errors import ConfigError, DataError

FILES = ("ward/x17-4.nii.gz", "ward/x17-5.nii.gz", "ward/y2-1.nii.gz")


@pytest.fixture
def folder(tmp_path):
    for name in FILES:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


def patients(folder, given):
    return [subject.patient for subject in find_subjects(folder, "", given).subjects]


@pytest.mark.parametrize("regex", [r"([a-z]\d+)-\d", r"[a-z]\d+(?=-)", r"ward/(?:(q)|([a-z]\d+))"])
def test_a_group_of_the_expression_or_the_whole_match_is_the_patient(folder, regex):
    assert patients(folder, patients_by_regex(regex)) == ["x17", "x17", "y2"]


@pytest.mark.parametrize(
    "table",
    [
        "file,patient\nward/x17-4.nii.gz,Ann\nx17-5.nii.gz,Ann\ny2-1,Bob\nnot-there.nii,Carl\n",
        "\ufeffSubject;Age;Patient\nx17-4;3;Ann\nx17-5;3;Ann\ny2-1;4;Bob\n",
        "patient\tfile\nAnn\tx17-4.nii.gz\nAnn\tx17-5.nii.gz\nBob\ty2-1.nii.gz\n",
    ],
)
def test_a_table_says_who_is_who(folder, tmp_path, table):
    (tmp_path / "table.csv").write_text(table, encoding="utf-8")
    assert patients(folder, patients_by_table(tmp_path / "table.csv")) == ["Ann", "Ann", "Bob"]


def test_files_of_equal_names_are_visits_where_patients_are_given(folder):
    (folder / "other").mkdir()
    (folder / "other" / "y2-1.nii.gz").touch()
    subjects = find_subjects(folder, "", patients_by_regex(r"(\w+)-")).subjects
    assert [s.name for s in subjects if s.patient == "y2"] == ["other_y2-1", "ward_y2-1"]


def test_a_file_without_a_patient_is_named(folder, tmp_path):
    with pytest.raises(DataError, match=r"patient-regex x\(.*no patient for 1 of 3 files, such as ward/y2-1.nii.gz"):
        patients(folder, patients_by_regex(r"x(\d+)"))
    (tmp_path / "table.csv").write_text("file,patient\nx17-4.nii.gz,Ann\n")
    with pytest.raises(DataError, match=r"table.csv: it gives no patient for 2 of 3 files, such as ward/x17-5"):
        patients(folder, patients_by_table(tmp_path / "table.csv"))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("name,patient\na,b\n", "line 2 has no patient, or neither file nor subject"),
        ("file,patient\na,\n", "line 2 has no patient"),
        ("file,patient\na,b\na.nii,c\n", "it gives a two patients, b and c"),
        ("file,patient\n", "it has no lines"),
        (b"\xff\xfe\x00", "it cannot be read"),
        (None, "No such file"),
    ],
)
def test_a_table_that_cannot_be_used_is_named_with_the_reason(tmp_path, table, reason):
    file = tmp_path / "table.csv"
    if table is not None:
        file.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(DataError, match=reason) as caught:
        patients_by_table(file)
    assert str(file) in str(caught.value)


def test_an_expression_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"patient-regex \(: missing \)"):
        patients_by_regex("(")
