"""Who validates: whole patients, seeded, from every stratum its share."""

import hashlib
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metasr.data.split import digest_of_names, doubtful_pairs, split_subjects
from metasr.data.subjects import Subject
from metasr.errors import DataError

NAMES = [f"subject-{number:03d}" for number in range(40)]


def split(names, val_fraction, seed, strata=None):
    """Split subjects of these names; `strata` says who belongs where."""
    subjects = [Subject(name, Path(name), (strata or {}).get(name, "")) for name in names]
    return split_subjects(subjects, val_fraction, seed)


@given(
    count=st.integers(2, 40),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 2**31),
    shuffled=st.randoms(use_true_random=False),
)
def test_the_split_is_of_whole_subjects_sorted_and_blind_to_their_order(count, fraction, seed, shuffled):
    subjects = NAMES[:count]
    validating = split(subjects, fraction, seed)
    assert validating == sorted(set(validating))
    assert set(validating) < set(subjects)
    assert abs(len(validating) - count * fraction) <= 1
    shuffled.shuffle(subjects)
    assert split(subjects, fraction, seed) == validating


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.999, 1.0])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_neither_side_of_the_split_is_empty(count, fraction):
    assert 1 <= len(split(NAMES[:count], fraction, 0)) <= count - 1


@given(old=st.integers(2, 30), added=st.integers(0, 10), seed=st.integers(0, 1000))
def test_adding_subjects_moves_nobody_past_another(old, added, seed):
    before = set(split(NAMES[:old], 0.2, seed))
    after = set(split(NAMES[: old + added], 0.2, seed)) & set(NAMES[:old])
    assert before <= after or after <= before


def test_the_same_number_of_validating_subjects_changes_by_at_most_the_added_one():
    before = set(split(NAMES[:10], 0.2, 3))
    after = set(split(NAMES[:11], 0.2, 3))
    assert len(before) == len(after) == 2
    assert after - before <= {NAMES[10]}


def test_another_seed_is_another_split():
    splits = {tuple(split(NAMES, 0.2, seed)) for seed in range(20)}
    assert len(splits) == 20


def test_everybody_validates_under_some_seed():
    chosen = {name for seed in range(60) for name in split(NAMES[:10], 0.2, seed)}
    assert chosen == set(NAMES[:10])


def test_a_split_never_changes_between_versions():
    # sha256sum gives the two smallest digests of "0:a" to "0:f" to f and d.
    assert split(["a", "b", "c", "d", "e", "f"], 0.34, 0) == ["d", "f"]


def test_rules_for_names_of_visits_leave_the_split_of_single_visits_as_it_is():
    # sha256sum gives the fifth of "0:sub-1_ses-1" to "0:sub-6_ses-1" the smallest digest.
    assert split([f"sub-{number}_ses-1" for number in range(1, 7)], 0.1, 0) == ["sub-5_ses-1"]


@pytest.mark.parametrize("subjects", [[], ["alone"]])
def test_fewer_than_two_subjects_cannot_be_split(subjects):
    with pytest.raises(DataError, match=rf"{len(subjects)} subject.*at least two"):
        split(subjects, 0.2, 0)


STRATA = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["HGG", "LGG", "TCIA"]), min_size=2)


@given(strata=STRATA, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_every_stratum_gives_its_share_of_patients_to_within_one(strata, fraction, seed):
    validating = split(strata, fraction, seed, strata)
    count = min(max(1, round(len(strata) * fraction)), len(strata) - 1)
    assert len(validating) == count
    sizes, given_up = Counter(strata.values()), Counter(strata[name] for name in validating)
    for stratum, size in sizes.items():
        share = count * size / len(strata)
        assert math.floor(share) <= given_up[stratum] <= math.ceil(share)


def test_what_is_left_over_goes_to_the_largest_remainders():
    strata = dict(zip(NAMES[:20], ["HGG"] * 12 + ["LGG"] * 7 + ["TCIA"], strict=True))
    # A quarter of 20 is 5: shares of 3, 1.75 and 0.25 patients.
    assert Counter(strata[name] for name in split(strata, 0.25, 0, strata)) == {"HGG": 3, "LGG": 2}


@given(added=st.integers(0, 20), seed=st.integers(0, 1000))
def test_patients_added_to_one_stratum_move_no_ranks_in_another(added, seed):
    strata = dict.fromkeys(NAMES[:10], "HGG") | dict.fromkeys(NAMES[10:20], "LGG")
    more = strata | dict.fromkeys(NAMES[20 : 20 + added], "LGG")
    before, after = (set(split(who, 0.3, seed, who)) & set(NAMES[:10]) for who in (strata, more))
    assert before <= after or after <= before


def test_visits_in_two_strata_are_still_one_patient():
    visits = {
        f"BraTS-GLI-{n:05d}-{visit}": stratum for n in range(6) for visit, stratum in (("000", "a"), ("001", "b"))
    }
    for seed in range(20):
        validating = split(visits, 0.4, seed, visits)
        assert list(Counter(name[:-4] for name in validating).values()) == [2, 2]


def test_the_digest_of_a_split_is_that_of_its_sorted_names():
    assert digest_of_names(["b", "a"]) == digest_of_names(["a", "b"]) == hashlib.sha256(b"a\nb\n").hexdigest()
    assert digest_of_names(["ab"]) != digest_of_names(["a", "b"])


def doubted(train, val):
    sides = [[Subject(Path(name).stem, Path(name)) for name in names.split()] for names in (train, val)]
    return doubtful_pairs(*sides)


@pytest.mark.parametrize(
    ("train", "val", "pairs"),
    [
        ("x/case7a.nii x/case8.nii", "x/case7b.nii", [("case7a", "case7b")]),
        ("x/case7.nii", "x/case7b.nii", [("case7", "case7b")]),
        ("x/P07_1.nii x/P07_2.nii", "x/P07_3.nii", [("P07_1", "P07_3")]),
        ("x/P07-new.nii", "x/P07-old2.nii", [("P07-new", "P07-old2")]),
        ("x/HC_scan1.nii", "x/HC_scan2.nii", [("HC_scan1", "HC_scan2")]),
        ("P1/123.nii P2/124.nii", "P1/987.nii", [("123", "987")]),
        ("x/TCGA-02-0003.nii x/BraTS20_Training_001.nii", "x/TCGA-02-0006.nii x/BraTS20_Training_002.nii", []),
        ("x/OpenMS_07.nii x/sub-01.nii x/a.nii", "x/OpenMS_19.nii x/sub-02.nii x/b.nii", []),
        ("x/Brats18_2013_0_1.nii", "x/Brats18_2013_1_1.nii", []),
        ("HGG/1.nii HGG/2.nii HGG/3.nii HGG/4.nii HGG/5.nii LGG/6.nii", "HGG/7.nii LGG/8.nii", []),
    ],
)
def test_names_and_folders_that_may_be_of_one_person_on_both_sides_are_doubted(train, val, pairs):
    assert doubted(train, val) == pairs


def test_patients_that_the_user_named_are_not_doubted():
    one, two = (Subject(name, Path(name), patient=name, is_given=True) for name in ("case7a", "case7b"))
    assert doubtful_pairs([one], [two]) == []
