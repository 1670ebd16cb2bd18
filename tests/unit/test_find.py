"""Finding subjects: the ways BraTS has named its files, and folders that are not BraTS."""

import os

import pytest

from metasr.data.find import find_subjects
from metasr.errors import ConfigError, DataError

# One file of each release's naming, `{}` for the modality.
BRATS = {
    "2013": "2013_0001_1_{}.nii.gz",
    "2013 redistributed": "BraTS_2013_pat0001_{}.nii.gz",
    "2015": "brats_tcia_pat105_0001_{}.nii.gz",
    "2017": "Brats17_2013_0_1_{}.nii.gz",
    "2018": "Brats18_CBICA_AAB_1_{}.nii.gz",
    "2019": "BraTS19_TCIA10_639_1_{}.nii.gz",
    "2020": "BraTS20_Training_001_{}.nii.gz",
    "2020 Kaggle": "BraTS20_Training_001_{}.nii",
    "2021": "BraTS2021_00000_{}.nii.gz",
    "2023": "BraTS-GLI-00000-000-{}.nii.gz",
    "2023 GoAT": "BraTS-GoAT-00000-{}.nii.gz",
    "2023 paediatric": "BraTS-PED-00001-000-{}.nii",
    "2024": "BraTS-MET-00133-100-{}.nii.gz",
}
OLD = ("flair", "t1", "t1ce", "t2", "seg")
NEW = ("t2f", "t1n", "t1c", "t2w", "seg")


@pytest.fixture
def folder(tmp_path):
    """A folder with empty files: only their names count."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return make


def names_of(found):
    return [subject.name for subject in found.subjects]


def files_of(found):
    return [subject.file.name for subject in found.subjects]


@pytest.mark.parametrize("modality", ["t1ce", "t1c", "T1CE"])
@pytest.mark.parametrize("nested", [True, False], ids=["a folder a subject", "flat"])
@pytest.mark.parametrize("release", BRATS)
def test_a_brats_subject_is_its_contrast_enhanced_volume(folder, release, nested, modality):
    pattern = BRATS[release]
    subject = pattern.partition("{}")[0][:-1]
    place = f"HGG/{subject}/" if nested else ""
    spelling = NEW if release >= "2023" else OLD
    found = find_subjects(folder(*(place + pattern.format(one) for one in spelling)), modality)
    wanted = "t1c" if release >= "2023" else "t1ce"
    assert names_of(found) == [subject]
    assert files_of(found)[0] == pattern.format(wanted)
    assert found.subjects[0].file.is_file()


@pytest.mark.parametrize("modality", OLD[:-1])
def test_a_modality_is_not_mistaken_for_one_that_begins_like_it(folder, modality):
    found = find_subjects(folder(*(f"BraTS20_Training_001_{one}.nii.gz" for one in OLD)), modality)
    assert files_of(found) == [f"BraTS20_Training_001_{modality}.nii.gz"]


def test_capital_letters_in_file_names_do_not_matter(folder):
    assert names_of(find_subjects(folder("A_T1CE.nii.gz", "B_T1gD.NII.GZ", "C_t1ce.Nii"), "t1ce")) == ["A", "B", "C"]


def test_a_modality_is_taken_literally(folder):
    with pytest.raises(DataError):
        find_subjects(folder("A_t1.nii.gz"), "t.")


def test_subjects_come_sorted_whatever_their_folders(folder):
    found = find_subjects(folder("z/A_t1.nii.gz", "a/C_t1.nii", "m/deep/er/B_t1.nii.gz"), "t1")
    assert names_of(found) == ["A", "B", "C"]


def test_without_a_modality_every_volume_is_a_subject(folder):
    found = find_subjects(folder("one.nii.gz", "sub/two.nii", "BraTS20_Training_001_t1ce.nii.gz", "notes.txt"), "")
    assert names_of(found) == ["BraTS20_Training_001_t1ce", "one", "two"]


@pytest.mark.parametrize("modality", ["", "t1ce"])
def test_segmentations_and_hidden_files_are_no_subjects(folder, modality):
    names = "A_t1ce.nii.gz", "A_seg.nii.gz", "B-seg.nii", "._A_t1ce.nii.gz", ".partial-C_t1ce.nii.gz"
    assert files_of(find_subjects(folder(*names), modality)) == ["A_t1ce.nii.gz"]


@pytest.mark.parametrize("place", ["{}/", "", "{1}/"], ids=["a folder a subject", "flat", "a folder a contrast"])
@pytest.mark.parametrize("release", BRATS)
def test_contrasts_of_one_patient_are_not_taken_for_patients(folder, release, place):
    spelling = NEW if release >= "2023" else OLD
    subject = BRATS[release].partition("{}")[0][:-1]
    names = [place.format(subject, one) + BRATS[release].format(one) for one in spelling]
    with pytest.raises(DataError, match=rf"subject {subject}: it has 4 contrasts, found: ") as caught:
        find_subjects(folder(*names), "")
    assert all(one in str(caught.value) for one in spelling[:-1])
    assert str(caught.value).endswith(f"--modality {'t1c' if release >= '2023' else 't1ce'}")


@pytest.mark.parametrize(("old", "new"), list(zip(OLD[:-1], NEW[:-1], strict=True)))
def test_a_contrast_is_found_under_its_name_of_either_time(folder, old, new):
    place = folder(*(f"A_{one}.nii.gz" for one in OLD), *(f"B-{one}.nii.gz" for one in NEW))
    for modality in (old, new):
        assert files_of(find_subjects(place, modality)) == [f"A_{old}.nii.gz", f"B-{new}.nii.gz"]


@pytest.mark.parametrize("file", ["BraTS20_Training_001_t1.nii", "00000057_brain_t1.nii", "W39_1998.09.19_t1.nii.gz"])
def test_a_volume_in_a_folder_named_like_one_has_the_name_of_the_folder(folder, file):
    place = folder(f"BraTS20_Training_001/BraTS20_Training_001_t1.nii/{file}", "B/B_t1.nii", "B/B_t2.nii/scan.nii")
    found = find_subjects(place, "t1")
    assert names_of(found) == ["B", "BraTS20_Training_001"]
    assert files_of(found)[1] == file
    assert found.subjects[1].file.is_file()


def test_two_volumes_in_a_folder_named_like_one_are_both_named(folder):
    with pytest.raises(DataError, match=r"subject A: it has two volumes, .*1\.nii and .*2\.nii"):
        find_subjects(folder("A_t1.nii/1.nii", "A_t1.nii/2.nii"), "t1")


@pytest.mark.parametrize(
    ("path", "stratum"),
    [
        ("HGG/brats_tcia_pat105_0001/brats_tcia_pat105_0001_t1ce.nii", "HGG"),
        ("MICCAI/lgg/Brats18_TCIA10_639_1/Brats18_TCIA10_639_1_t1ce.nii.gz", "LGG"),
        ("BraTS_2013_pat0001_t1ce.nii.gz", "2013"),
        ("2013_0001_1_t1ce.nii.gz", "2013"),
        ("Brats17_CBICA_AAB_1_t1ce.nii.gz", "CBICA"),
        ("BraTS19_TCIA10_639_1_t1ce.nii.gz", "TCIA"),
        ("BraTS19_TMC_06290_1_t1ce.nii.gz", "TMC"),
        ("TCGA_FG_6692_t1ce.nii.gz", "TCGA"),
        ("BraTS-GLI-00000-000-t1c.nii.gz", "GLI"),
        ("BraTS-GoAT-00000-t1c.nii.gz", "GOAT"),
        ("BraTS2021_00000_t1ce.nii.gz", ""),
        ("BraTS20_Training_001_t1ce.nii.gz", ""),
        ("OpenMS_07_t1ce.nii.gz", ""),
    ],
)
def test_the_stratum_is_the_grade_of_the_folder_or_the_collection(folder, path, stratum):
    assert [subject.stratum for subject in find_subjects(folder(path), "t1ce").subjects] == [stratum]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("day1/A_t1ce.nii.gz", "day2/A_t1ce.nii.gz"),
        ("A_t1ce.nii.gz", "A_t1ce.nii"),
        ("A_t1ce.nii.gz", "A_t1c.nii.gz"),
        ("A_t1ce.nii.gz", "A-t1ce.nii.gz"),
    ],
)
def test_two_volumes_of_one_subject_are_both_named(folder, first, second):
    with pytest.raises(DataError, match="subject A: it has two volumes") as caught:
        find_subjects(folder(first, second, "B_t1ce.nii.gz"), "t1ce")
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_two_files_of_one_name_are_refused_without_a_modality_too(folder):
    with pytest.raises(DataError, match="subject A: it has two volumes"):
        find_subjects(folder("a/A.nii.gz", "b/A.nii.gz"), "")


@pytest.mark.parametrize("path", ["absent", "file.nii.gz"])
def test_what_is_no_folder_is_named(folder, path):
    with pytest.raises(DataError, match="there is no such folder") as caught:
        find_subjects(folder("file.nii.gz") / path, "")
    assert path in str(caught.value)


@pytest.mark.parametrize("modality", ["", "t1ce"])
def test_a_folder_without_volumes_is_named(folder, modality):
    with pytest.raises(DataError, match="it has no NIfTI file") as caught:
        find_subjects(folder("readme.txt", "scan.dcm"), modality)
    assert str(folder()) in str(caught.value)


def test_a_missing_modality_says_what_was_found_instead(folder):
    with pytest.raises(DataError, match=r"no \*_t1ce.nii.gz in .*it has 2 NIfTI files, such as A_flair.nii.gz"):
        find_subjects(folder("A_flair.nii.gz", "A_t2.nii.gz"), "t1ce")


def test_files_that_are_left_out_are_counted_and_named_by_reason(folder):
    place = folder(
        *(f"A{n}/A{n}_{one}.nii.gz" for n in range(9) for one in ("t1ce", "seg")),
        *("B/B_t1.nii.gz", "B/B_flair.nii.gz", "C/C_adc.nii.gz", "masks/D_t1ce.nii.gz", "scan.MHA", "mri/orig.mgz"),
    )
    (place / "A0" / "A0_t1ce.nii.gz").unlink()
    (place / "A0" / "A0_t1ce.nii.gz").symlink_to("nowhere.nii.gz")
    found = find_subjects(place, "t1ce")
    assert names_of(found) == [f"A{n}" for n in range(1, 9)]
    assert found.lines() == [
        "22 NIfTI files, of which 8 can be used",
        "  left out, named as masks or label maps: 10, such as A0/A0_seg.nii.gz",
        "  left out, a broken link: 1 (A0/A0_t1ce.nii.gz)",
        "  left out, of contrast flair: 1 (B/B_flair.nii.gz)",
        "  left out, of contrast t1: 1 (B/B_t1.nii.gz)",
        "  left out, without t1ce at either end of the name: 1 (C/C_adc.nii.gz)",
        "  without t1ce: 1 (B)",
        "  1 are *.mgz; convert them with `nib-convert in.mgz out.nii.gz`",
        "  1 are *.mha; convert them with `c3d in.mha -o out.nii.gz`",
    ]
    assert found.summary(["A3"]).startswith(
        "used 7 of 22 NIfTI files; left out: 10 named as masks or label maps; 1 a broken link; "
    )
    assert found.summary(["A3"]).endswith("1 (A3) that could not be used, see above; without t1ce: 1 (B)")


def test_dicom_is_known_by_what_it_holds_and_the_error_names_the_tool(folder):
    place = folder("IM0001", "IM0002", "notes")
    for name in ("IM0001", "IM0002"):
        (place / name).write_bytes(bytes(128) + b"DICM" + bytes(100))
    with pytest.raises(DataError, match="it has no NIfTI file; 2 are DICOM; convert them with `dcm2niix"):
        find_subjects(place, "")


def test_a_contrast_in_front_of_the_visit_is_of_the_patient_whose_folder_it_is_in(folder):
    names = [f"{one}_time0{time}_on_middle_space" for one in ("flair", "brain_mask") for time in (1, 2)]
    place = folder(*(f"{patient}/{name}.nii.gz" for patient in ("013", "P07") for name in names))
    found = find_subjects(place, "flair")
    assert names_of(found) == ["013_time01", "013_time02", "P07_time01", "P07_time02"]
    assert [subject.patient for subject in found.subjects] == ["013", "013", "P07", "P07"]


def test_a_contrast_in_front_of_the_patient_is_found_and_several_must_be_chosen_from(folder):
    place = folder("T1c_sub-01.nii.gz", "T1c_sub-02.nii.gz", "FLAIR_sub-01.nii.gz", "T1c_sub-02_ses-2.nii.gz")
    found = find_subjects(place, "t1ce")
    assert names_of(found) == ["sub-01", "sub-02", "sub-02_ses-2"]
    assert [subject.patient for subject in found.subjects] == ["sub-01", "sub-02", "sub-02"]
    with pytest.raises(DataError, match="sub-01: it has 2 contrasts, found: FLAIR, T1c"):
        find_subjects(place, "")


def test_several_contrasts_of_a_patient_are_subjects_that_say_which_they_are(folder):
    place = folder("A_t1ce.nii.gz", "A_T1.nii.gz", "A_flair.nii.gz", "B/T1Gd.nii.gz", "B/scan_t1n.nii.gz", "C_t1.nii")
    found = find_subjects(place, "t1ce, t1")
    said = [(subject.name, subject.patient, subject.contrast) for subject in found.subjects]
    both = [(f"{name}_{contrast}", name, contrast) for name in "AB" for contrast in ("t1", "t1ce")]
    assert said == [*both, ("C_t1", "C", "t1")]
    assert found.without == {"t1ce": ["C"]}


@pytest.mark.parametrize("modality", ["t1ce,t1c", "t1,T1", "t1,t1w"])
def test_a_contrast_that_is_asked_for_twice_is_refused(folder, modality):
    with pytest.raises(ConfigError, match="is asked for twice"):
        find_subjects(folder("A_t1.nii"), modality)


def test_a_contrast_that_nobody_has_is_an_error_beside_one_that_some_have(folder):
    with pytest.raises(DataError, match=r"no \*_t2.nii.gz in .*1 left out, of contrast flair"):
        find_subjects(folder("A_t1.nii", "A_flair.nii"), "t1,t2")


def test_of_two_names_of_a_contrast_the_one_that_was_asked_for_is_taken(folder):
    place = folder("A_T1w.nii.gz", "A_MPRAGE.nii.gz", "B_mprage.nii.gz")
    assert files_of(find_subjects(place, "T1w")) == ["A_T1w.nii.gz", "B_mprage.nii.gz"]
    assert files_of(find_subjects(place, "mprage")) == ["A_MPRAGE.nii.gz", "B_mprage.nii.gz"]


@pytest.mark.parametrize("place", ["", "imagesTr/"])
def test_channels_of_a_case_are_its_contrasts(folder, place):
    cases = folder(*(f"{place}case{n}_{channel:04d}.nii.gz" for n in (1, 2) for channel in range(4)))
    with pytest.raises(DataError, match=r"subject case1: it has 4 contrasts, found: 0000, 0001, .*--modality 0"):
        find_subjects(cases, "")
    assert names_of(find_subjects(cases, "0001")) == ["case1", "case2"]
    assert {subject.patient for subject in find_subjects(cases, "0000,0003").subjects} == {"case1", "case2"}


def test_numbered_patients_are_not_taken_for_channels(folder):
    place = folder(*(f"Patient_{n:04d}.nii.gz" for n in range(4)), "site1_0001.nii.gz", "site2_0002.nii.gz")
    assert len({subject.patient for subject in find_subjects(place, "").subjects}) == 6


def test_names_that_are_not_utf8_are_escaped_and_their_files_still_found(folder):
    name = os.fsdecode(b"M\xfcller_t1ce.nii.gz")
    found = find_subjects(folder(name, "B_t1ce.nii.gz"), "t1ce")
    assert names_of(found) == ["B", "M\\xfcller"]
    assert found.subjects[1].file.is_file()
