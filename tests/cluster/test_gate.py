"""The gate's rules, each on scores that are just good enough and just not."""

import pytest

from cluster.config import GateConfig
from cluster.registry.gate import judge, side_by_side
from metasr.evaluation.statistics import MIN_PATIENTS_FOR_TEST
from tests.cluster.registered import scores

GATE = GateConfig(psnr_margin_db=0.05, ssim_margin=0.0005)


def findings(ours, champion=None, gate=GATE):
    rows = ours if champion is None else side_by_side(ours, champion)
    return {finding.rule: finding for finding in judge(rows, gate)}


def failed(*arguments, **options):
    return {rule for rule, finding in findings(*arguments, **options).items() if not finding.passed}


# Bicubic


@pytest.mark.parametrize("gain", [0.0, 0.01, 3.0])
@pytest.mark.parametrize("ssim", [0.0, 0.05])
def test_the_first_champion_must_only_be_nowhere_below_bicubic(gain, ssim):
    assert not failed(scores({"1.5": gain, "1x4": 1.0}, ssim))
    assert list(findings(scores({"2": gain}, ssim))) == ["PSNR nowhere below bicubic", "SSIM nowhere below bicubic"]


@pytest.mark.parametrize("gain", [-0.01, -5.0, float("nan"), float("-inf")])
def test_less_psnr_than_bicubic_at_one_scale_fails(gain):
    finding = findings(scores({"2": 1.0, "3": gain}))["PSNR nowhere below bicubic"]
    assert not finding.passed
    assert finding.numbers == f"least at scale 3, {gain:+.3f} dB"


@pytest.mark.parametrize("gain", [-0.001, float("nan")])
def test_less_ssim_than_bicubic_fails(gain):
    assert failed(scores({"2": 1.0}, gain)) == {"SSIM nowhere below bicubic"}


def test_a_model_that_was_not_compared_with_bicubic_fails():
    rows = [row for row in scores({"2": 1.0}) if row.method == "model"]
    assert failed(rows) == {"PSNR nowhere below bicubic", "SSIM nowhere below bicubic"}


# The champion


def test_a_version_better_everywhere_passes_every_rule():
    found = findings(scores({"2": 1.1, "3": 0.6}, 0.02), scores({"2": 1.0, "3": 0.5}, 0.01))
    assert len(found) == 6
    assert all(finding.passed for finding in found.values())


@pytest.mark.parametrize(("loss", "passes"), [(0.04, True), (0.06, False)])
def test_a_loss_of_psnr_at_one_scale_is_held_against_the_margin(loss, passes):
    """It gains more at the other scale, so that it is better on average."""
    found = failed(scores({"2": 2.0, "3": 1 - loss}, 0.02), scores({"2": 1.0, "3": 1.0}, 0.01))
    assert found == (set() if passes else {"PSNR nowhere more than 0.05 dB below the champion"})


@pytest.mark.parametrize(("loss", "passes"), [(0.0004, True), (0.0006, False)])
def test_a_loss_of_ssim_at_one_scale_is_held_against_the_margin(loss, passes):
    ours = scores({"2": 1.1}, 0.02) + scores({"3": 1.1}, 0.01 - loss)
    found = failed(ours, scores({"2": 1.0, "3": 1.0}, 0.01))
    assert found == (set() if passes else {"SSIM nowhere more than 0.0005 below the champion"})


def test_margins_are_settings():
    ours, champion = scores({"2": 2.0, "3": 0.9}, 0.02), scores({"2": 1.0, "3": 1.0}, 0.01)
    assert failed(ours, champion)
    assert not failed(ours, champion, GateConfig(psnr_margin_db=0.2))


@pytest.mark.parametrize("patients", [1, 2, 5])
def test_with_few_patients_the_mean_decides_and_says_so(patients):
    spread = [0.4, -0.1, 0.1, 0.1, -0.1][:patients]
    better = findings(
        scores({"2": [1 + gain for gain in spread]}, 0.02, patients), scores({"2": 1.0}, 0.01, patients)
    )
    rule = better["PSNR better than the champion on average"]
    assert rule.passed
    assert "too few for a 95 % interval" in rule.numbers
    worse = scores({"2": [1 - gain for gain in spread]}, 0.02, patients)
    # The rule about single scales looks at the mean as well.
    assert "PSNR better than the champion on average" in failed(worse, scores({"2": 1.0}, 0.01, patients))


def test_the_same_again_is_not_better():
    same = scores({"2": 1.0, "3": 0.5})
    assert failed(same, same) == {
        "PSNR better than the champion on average",
        "SSIM better than the champion on average",
    }


@pytest.mark.parametrize(
    ("gains", "passes"),
    [([0.1, 0.12, 0.08, 0.1, 0.11, 0.09], True), ([0.9, -0.1, 0.05, -0.05, -0.1, 0.1], False)],
    ids=["sure", "one lucky patient"],
)
def test_with_enough_patients_the_gain_must_be_sure(gains, passes):
    ours = scores({"2": [1 + gain for gain in gains]}, 0.02, 6)
    found = findings(ours, scores({"2": 1.0}, 0.01, 6))["PSNR better than the champion on average"]
    assert sum(gains) > 0
    assert found.passed is passes
    assert "95 % interval [" in found.numbers
    assert "6 patients" in found.numbers


def test_a_sure_gain_in_psnr_does_not_make_up_for_an_unsure_one_in_ssim():
    ours = scores({"2": 1.1}, [0.05, 0.009, 0.011, 0.009, 0.009, 0.01], 6)
    assert failed(ours, scores({"2": 1.0}, 0.01, 6)) == {"SSIM better than the champion on average"}


def test_a_patient_without_a_finite_score_fails():
    ours = scores({"2": [1.1] * 5 + [float("nan")]}, 0.02, 6)
    assert "PSNR better than the champion on average" in failed(ours, scores({"2": 1.0}, 0.01, 6))


def test_the_number_of_patients_is_that_of_the_statistics():
    assert GateConfig().min_patients == MIN_PATIENTS_FOR_TEST
