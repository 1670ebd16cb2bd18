"""Contrasts are found under the names that people give them, and none is taken for another."""

import pytest

from metasr.data.contrasts import find_contrast, split_name

NAMES = {
    "t1ce": "t1ce t1c t1gd T1Gd T1-Gd T1_gad CT1 T1post T1_postcontrast T1-post-contrast t1km T1WKS T1W_CE ce_t1 "
    "t1c_pp mprage_post",
    "t1": "t1 T1 t1n t1w T1w T1pre t1_pre_contrast mprage MPRAGE_pp MP-RAGE spgr T1_MPRAGE",
    "t2": "t2 t2w T2W T2_TSE",
    "flair": "flair FLAIR t2f t2_flair T2-FLAIR",
}


@pytest.mark.parametrize("asked", ["t1ce", "t1", "t2", "flair", "T1w", "t1gd"])
def test_a_contrast_is_found_under_all_its_names_and_under_no_others(asked):
    own = split_name(asked).contrast
    for contrast, words in NAMES.items():
        for word in words.split():
            for name in (f"A7_{word}", f"A7-{word}", word):
                assert (find_contrast(name, asked) is not None) == (contrast == own), name


@pytest.mark.parametrize(
    ("name", "contrast", "subject"),
    [
        ("sub-01_T1w", "t1", "sub-01"),
        ("sub-01_ce-gadolinium_T1w", "t1ce", "sub-01"),
        ("sub-01_ses-2_ce-gd_run-1_T1w", "t1ce", "sub-01_ses-2_run-1"),
        ("sub-01_ce-none_T1w", "t1", "sub-01_ce-none"),
        ("sub-01_acq-postcontrast_T1w", "t1ce", "sub-01_acq-postcontrast"),
        ("sub-01_acq-precontrast_T1w", "t1", "sub-01_acq-precontrast"),
        ("sub-01_acq-space_T1w", "t1", "sub-01_acq-space"),
        ("sub-01_acq-space_FLAIR", "flair", "sub-01_acq-space"),
    ],
)
def test_in_bids_an_entity_says_whether_a_t1w_is_after_contrast_agent(name, contrast, subject):
    found = split_name(name)
    assert (found.contrast, found.subject) == (contrast, subject)


@pytest.mark.parametrize(
    "name",
    [
        "T2_star",
        "T2_star_01",
        "T1_map_01",
        "T1_mprage_sag_3",
        "T2_TE80",
        "T1_2",
        "T1_1001",
        "A_pd",
        "fact1",
        "A_T1_bias",
        "A_swi",
        "BraTS20_Training_001",
        "sub-01_dseg",
        "t1x",
    ],
)
def test_a_name_without_a_contrast_has_none(name):
    assert split_name(name) is None


@pytest.mark.parametrize(
    ("name", "contrast", "subject"),
    [
        ("flair_time01_on_middle_space", "flair", "time01"),
        ("FLAIR_time02", "flair", "time02"),
        ("T1c_sub-01", "t1ce", "sub-01"),
        ("T1_post_patient07", "t1ce", "patient07"),
        ("T1w_P07_visit2", "t1", "P07_visit2"),
        ("mprage-IXI002", "t1", "IXI002"),
        ("T1_P07_flair", "flair", "T1_P07"),
    ],
)
def test_a_contrast_may_be_in_front_of_patient_or_visit(name, contrast, subject):
    found = split_name(name)
    assert (found.contrast, found.subject) == (contrast, subject)
    assert find_contrast(name, contrast) == found


def test_what_is_no_contrast_is_taken_literally():
    assert find_contrast("SWI_sub-01", "swi").subject == "sub-01"
    assert find_contrast("A_SWI", "swi").subject == "A"
    assert find_contrast("case_0001", "0001").subject == "case"
    assert find_contrast("A_t1", "t.") is None
