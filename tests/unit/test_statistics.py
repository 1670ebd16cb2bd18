"""Statistics over patients, against scipy and against doing it the long way."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from metasr.evaluation import Score, differences
from metasr.evaluation.statistics import bootstrap_interval, holm, signed_rank_p
from metasr.evaluation.tables import from_csv, to_csv
from metasr.scale import Scale

SCALES = tuple(map(Scale.parse, ("1.5", "2", "1x4")))


def scores_of(gains, slices=2, rival="bicubic"):
    """Scores where patient p gains gains[scale][p] dB; its slices differ, its mean does not."""
    rows = []
    for scale, of_patients in zip(SCALES, gains, strict=False):
        for patient, gain in enumerate(of_patients):
            for number in range(slices):
                wobble = number - (slices - 1) / 2
                base = 30.0 + patient + 3 * wobble
                for method, psnr in ((rival, base), ("model", base + gain + 0.1 * wobble)):
                    rows.append(Score(f"p{patient}", number, scale, method, "whole", psnr, psnr / 100, 0.1))
    return rows


def test_differences_are_paired_by_patient():
    gains = [[1.0, 2.0, -0.5], [0.0, 0.25, 0.5]]
    found = differences(scores_of(gains), "bicubic", "psnr")
    assert [difference.scale for difference in found] == list(SCALES[:2])
    for difference, expected in zip(found, gains, strict=True):
        assert list(difference.by_patient.values()) == pytest.approx(expected)
        assert difference.mean == pytest.approx(np.mean(expected))
        assert difference.p_value is None
    ssim = differences(scores_of(gains), "bicubic", "ssim")
    assert [d.mean * 100 for d in ssim] == pytest.approx([d.mean for d in found])


def test_subjects_of_one_recorded_patient_count_once_also_after_their_csv():
    rows = [
        replace(score, patient="anna" if score.subject in ("p0", "p2") else "") for score in scores_of([[1, 2, 4]])
    ]
    for scores in (rows, from_csv(to_csv(rows))):
        (found,) = differences(scores, "bicubic", "psnr")
        assert found.by_patient == pytest.approx({"anna": 2.5, "p1": 2.0})


def test_scores_whose_patients_follow_from_names_have_no_column_for_them():
    assert "patient" not in to_csv(scores_of([[1.0]])).partition("\n")[0]


def test_a_rival_for_one_scale_is_compared_at_that_scale():
    rows = scores_of([[1.0], [2.0]]) + [
        row for row in scores_of([[1.0], [2.0]], rival="srgan") if row.scale == SCALES[1]
    ]
    found = differences(rows, "srgan", "psnr")
    assert [(d.scale, d.rival) for d in found] == [(SCALES[1], "srgan")]


def test_the_interval_is_that_of_resampled_patients():
    values = np.array([0.1, 0.5, -0.2, 0.9, 0.4, 0.3, 1.2])
    low, high = bootstrap_interval(values, seed=0)
    random = np.random.default_rng(1)
    means = sorted(sum(values[random.integers(len(values))] for _ in values) / len(values) for _ in range(10_000))
    assert (low, high) == pytest.approx((means[250], means[9750]), abs=0.02)
    assert (low, high) == bootstrap_interval(values, seed=0)
    assert (low, high) != bootstrap_interval(values, seed=1)


def test_the_interval_has_the_number_of_resamples_of_the_protocol():
    values = np.array([0.0, 1.0])
    low, high = bootstrap_interval(values, seed=3)
    assert (low, high) == (0.0, 1.0)  # each with probability 1/4


def test_one_patient_has_no_interval_and_two_have():
    assert differences(scores_of([[1.0]]), "bicubic", "psnr")[0].interval is None
    low, high = differences(scores_of([[1.0, 2.0]]), "bicubic", "psnr")[0].interval
    assert (low, high) == pytest.approx((1.0, 2.0))


@pytest.mark.parametrize(("patients", "tested"), [(5, False), (6, True), (9, True)])
def test_from_six_patients_wilcoxons_test_is_corrected_over_the_scales(patients, tested):
    gains = np.random.default_rng(0).normal([[0.5], [0.1], [-0.2]], 0.4, (3, patients))
    found = differences(scores_of(gains), "bicubic", "psnr")
    if not tested:
        assert [difference.p_value for difference in found] == [None] * 3
        return
    ordered = [dict(zip(SCALES, gains, strict=True))[difference.scale] for difference in found]
    expected = holm([stats.wilcoxon(values).pvalue for values in ordered])
    assert [difference.p_value for difference in found] == pytest.approx(expected)
    assert any(p != q for p, q in zip(expected, (stats.wilcoxon(values).pvalue for values in ordered), strict=True))


def test_the_smallest_p_value_of_six_patients_is_that_of_six_coins():
    assert signed_rank_p(np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])) == pytest.approx(2 / 2**6)


@pytest.mark.filterwarnings("error")
def test_no_difference_at_all_is_no_evidence():
    assert signed_rank_p(np.zeros(8)) == 1.0
    assert signed_rank_p(np.array([0, 0, 0, 0, 0, 0.1, -0.2, 0.3])) > 0.2


def rejected_step_by_step(p_values, level):
    """Holm's procedure as it was published: go on to the next larger one while one is small enough."""
    rejected = set()
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected.add(int(index))
    return rejected


def test_adjusted_p_values_reject_what_holms_procedure_rejects():
    random = np.random.default_rng(0)
    for size in (1, 2, 3, 7, 30):
        p_values = (random.random(size) ** 3).tolist()
        adjusted = holm(p_values)
        assert max(adjusted) <= 1
        for level in (0.001, 0.01, 0.05, 0.2, 0.5):
            assert {i for i, p in enumerate(adjusted) if p <= level} == rejected_step_by_step(p_values, level)
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
