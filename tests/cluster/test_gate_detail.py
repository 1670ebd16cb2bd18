"""The gate's rules about detail, off by default: what fails says the figure, the limit and what helps."""

from dataclasses import replace

import pytest

from cluster.config import GateConfig, TrackingConfig
from cluster.registry import promote
from cluster.registry.card import model_card
from cluster.registry.detail import judge_detail, require_detail
from cluster.registry.records import Evaluated
from metasr.errors import RegistryError
from tests.cluster.registered import ABOUT, record, scores
from tests.cluster.test_model_card import REFERENCE, evidence, section, tables

STRICT = GateConfig(scales=("2",), max_mismatch=0.3, min_covered=0.88)


def measured(mismatch, covered):
    """Scores whose model has these means at scales 2 and 4; bicubic disagrees everywhere."""
    found = []
    for row in scores({"2": 1.0, "4": 0.5}):
        if row.region == "whole":
            of_model = row.method == "model"
            number = ("2", "4").index(str(row.scale))
            row = replace(
                row, mismatch=mismatch[number] if of_model else 1.0, covered=covered[number] if of_model else None
            )
        found.append(row)
    return found


def failed(rows, gate=STRICT):
    return [f"{one.rule}: {one.numbers}" for one in judge_detail(rows, gate) if not one.passed]


def test_there_is_no_such_rule_by_default():
    assert judge_detail(measured((1.0, 1.0), (0.0, 0.0)), GateConfig()) == []
    require_detail(Evaluated(evidence([]), "", [], []), REFERENCE, GateConfig(), TrackingConfig())


@pytest.mark.parametrize(("mismatch", "covered"), [((0.1, 0.3), (0.95, 0.88)), ((0.3, 0.3), (0.9, None))])
def test_what_is_within_the_limits_at_every_scale_passes(mismatch, covered):
    rows = measured(mismatch, covered)
    assert len(judge_detail(rows, STRICT)) == 2
    assert failed(rows) == []


def test_what_is_not_at_one_scale_fails_with_the_figure_the_limit_and_what_helps():
    mismatch, coverage = failed(measured((0.1, 0.342), (0.871, 0.9)))
    assert mismatch.startswith("mismatch nowhere above 30.0% (gate.max_mismatch): most at scale 4, 34.2% (")
    assert "train it longer" in mismatch
    assert coverage.startswith("covered nowhere below 88.0% (gate.min_covered): least at scale 2, 87.1% (")
    assert "infra/calibrate.py" in coverage


def test_an_evaluation_without_the_measure_is_to_be_done_again(registry, versions, config):
    with pytest.raises(RegistryError) as refused:
        promote(registry, "2", STRICT.model_copy(update={"max_mismatch": 1}), print)
    assert "gate.min_covered 0.88 requires a measure that its evaluation lacks" in str(refused.value)
    assert f"Run `metasr evaluate --model models:/{config.model}/2" in str(refused.value)


def test_the_gate_holds_a_version_to_them(registry, versions, tmp_path, champion):
    record(registry, "2", measured((0.1, 0.342), (0.9, 0.9)), tmp_path / "worse")
    with pytest.raises(RegistryError, match=r"most at scale 4, 34\.2%"):
        promote(registry, "2", STRICT, print)
    assert champion() is None
    record(registry, "2", measured((0.1, 0.2), (0.9, 0.9)), tmp_path / "better")
    assert promote(registry, "2", STRICT, print) == ("2", None)


def test_the_card_has_both_figures_where_they_were_measured():
    rows = measured((0.1, 0.342), (0.9, None))
    ((header, two, four),) = tables(section(model_card(REFERENCE, ABOUT, evidence(rows), rows), "Scale by scale"))
    shares = [
        "patches that disagree, bicubic",
        "patches that disagree, model",
        "pixels within the bounds of trust, model",
    ]
    assert header[-4:] == [*shares, "patients"]
    assert (two[-4:-1], four[-4:-1]) == (["100.0%", "10.0%", "90.0%"], ["100.0%", "34.2%", "-"])
