"""Who is whose: visits of one patient are told as public collections write them, and patients stay apart."""

import pytest

from metasr.data.find import find_subjects
from metasr.data.patients import folder_patient, patient_of

PATIENTS = {
    "BraTS-GLI-00000-000": "BraTS-GLI-00000",
    "BraTS-GLI-00005-100": "BraTS-GLI-00005",
    "BraTS-GLI-00000-000-t1c": "BraTS-GLI-00000",
    "BraTS-MEN-RT-0001-1": "BraTS-MEN-RT-0001",
    "Brats18_TCIA10_639_1": "Brats18_TCIA10_639",
    "brats_tcia_pat105_0102": "brats_tcia_pat105",
    "UCSF-PDGM-0004_FU001d": "UCSF-PDGM-0004",
    "UPENN-GBM-00002_11": "UPENN-GBM-00002",
    "UPENN-GBM-00002_21": "UPENN-GBM-00002",
    "RHUH-0001_0": "RHUH-0001",
    "UCSD-PTGBM-0001_01": "UCSD-PTGBM-0001",
    "PatientID_0003_Timepoint_1_brain_t1c": "PatientID_0003",
    "Patient-001_week-044": "Patient-001",
    "Patient-001_week-000-1": "Patient-001",
    "patient01_study1": "patient01",
    "training01_01_mprage_pp": "training01",
    "P1_T1": "P1",
    "P1_T2_FLAIR": "P1",
    "TCGA-02-0006_1996.08.23_t1Gd": "TCGA-02-0006",
    "TCGA_CS_4941_19960909": "TCGA_CS_4941",
    "OAS1_0001_MR1": "OAS1_0001",
    "OAS30001_MR_d0129": "OAS30001",
    "ADNI_002_S_0295_MR_MP-RAGE_br_raw": "002_S_0295",
    "sub-01_ses-1": "sub-01",
    "sub-01_ses-preop_acq-iso_ce-gadolinium_run-2_T1w": "sub-01",
    "sub-OAS30001_ses-d0129_run-01": "sub-OAS30001",
    "x1_time2": "x1",
    "x1_fu1": "x1",
    "Smith_visit2": "Smith",
    "Smith_2019-01-31": "Smith",
    "x1_baseline": "x1",
    "x1_m06": "x1",
    "x1_preop": "x1",
}
APART = """
    TCGA-02-0003 TCGA-02-0006 TCGA_FG_6692 BraTS20_Training_001 BraTS20_Training_002 BraTS2021_00000 BraTS2021_00001
    BraTS_2013_pat0001 BraTS_2013_pat0002 BraTS-GoAT-00000 BraTS-GoAT-00001 UCSF-PDGM-0004 UCSF-PDGM-0005 OpenMS_07
    OpenMS_19 sub-01 sub-02 IXI002-Guys-0828 IXI012-HH-1211 case_0001 case_0002 case_2019 patient_1 patient_2 P1 P2
    patient_study1 patient_study2 brain_scan1 brain_scan2 HC_m01 HC_m02 HC_scan1 HC_scan2 site2_m01 site2_m02 A B
    2013_0001 2013_0002 100307 100408 M001 M002 image_20190101 image_20190102 volume1 volume2 sub1 sub2 someone
"""


@pytest.mark.parametrize(("subject", "patient"), PATIENTS.items())
def test_a_visit_belongs_to_its_patient(subject, patient):
    assert patient_of(subject) == patient


def test_names_of_different_patients_stay_apart():
    assert [patient_of(name) for name in APART.split()] == APART.split()


@pytest.mark.parametrize(
    ("path", "patient", "visit"),
    [
        ("P07/t1", "P07", "P07"),
        ("HGG/patient 1 ü/scan", "patient 1 ü", "patient 1 ü"),
        ("sub-01/ses-2/anat/t1", "sub-01", "sub-01_ses-2"),
        ("P07/2019-01-01/t1", "P07", "P07_2019-01-01"),
        ("Patient-001/week-000-1/CT1", "Patient-001", "Patient-001_week-000-1"),
        ("patient01/study1", "patient01", "patient01_study1"),
        ("BraTS-GLI-00001-000/t1c", "BraTS-GLI-00001", "BraTS-GLI-00001-000"),
        ("P01/M06/t1", "P01", "P01_M06"),
        ("males/M001/t1", "M001", "M001"),
        ("site1/M001/t1", "M001", "M001"),
        ("images/scan1", "scan1", "scan1"),
        ("hospital/20190101", "20190101", "20190101"),
        ("2019-01-01/t1", "2019-01-01", "2019-01-01"),
        ("HGG/x7_fu1", "x7", "x7_fu1"),
        ("t1ce", "t1ce", "t1ce"),
    ],
)
def test_a_folder_is_the_patient_where_files_have_names_that_any_patients_could_have(path, patient, visit):
    assert folder_patient(path.split("/")) == (patient, visit)


@pytest.mark.parametrize(
    "layout",
    [
        "{}/t1ce.nii.gz",
        "{}/anat/T1post.nii.gz",
        "{}/2019-01-01/t1c.nii.gz {}/2020-02-02/t1c.nii.gz",
        "{}/week-000-1/CT1.nii.gz {}/week-044/CT1.nii.gz",
        "{0}/ses-1/{0}_ses-1_t1ce.nii.gz {0}/ses-2/{0}_ses-2_t1ce.nii.gz",
    ],
)
def test_whatever_the_layout_two_patients_are_found_with_all_their_visits(tmp_path, layout):
    for patient in ("P01", "P02"):
        for name in layout.format(patient, patient).split():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    subjects = find_subjects(tmp_path, "t1ce").subjects
    assert len({subject.name for subject in subjects}) == 2 * len(layout.split())
    assert {subject.patient for subject in subjects} == {"P01", "P02"}
