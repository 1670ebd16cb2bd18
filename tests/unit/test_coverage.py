"""Whether the bounds of `upscale --trust` hold, as an evaluation measures it."""

import pytest
import torch

from metasr.evaluation import Conditions, HeldOutSlice, evaluate
from metasr.evaluation.coverage import covered
from metasr.evaluation.report import CONVENTIONS
from metasr.evaluation.tables import from_csv, measures_table, to_csv
from metasr.report.tables import detail
from metasr.scale import Scale
from metasr.trust.conformal import Bounds, Calibration
from tests.unit.test_evaluation import tiny_generator

TWO, FOUR = Scale(2.0, 2.0), Scale(4.0, 4.0)


def calibration(*bounds):
    """The same bound for all pixels, or one up to a doubt of 0.1 and another above."""
    edges = (0.1,) * (len(bounds) - 1)
    return Calibration("a" * 64, 4, 0.9, 0.05, {3.0: Bounds(edges, bounds)})


def test_the_share_of_brain_within_the_bound_is_counted_by_hand():
    lr = torch.zeros(1, 1, 4, 5)
    lr[..., 1:3, 1:4] = 0.5  # 6 pixels of brain: 24 of HR
    hr = lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    sr = hr.clone()
    sr[..., 2, 2:8] += 0.25  # 6 of them are wrong
    sr[..., 0, :] += 9.0  # background does not count
    assert covered(sr, lr, hr, TWO, calibration(0.1)) == pytest.approx(18 / 24)
    assert covered(sr, lr, hr, TWO, calibration(0.3)) == 1
    assert covered(sr, lr, hr, FOUR, calibration(0.3)) is None  # calibrated up to 3
    assert covered(sr, lr * 0, hr, TWO, calibration(0.3)) is None


def test_an_evaluation_has_it_for_the_model_alone_and_all_tables_show_it():
    held_out = HeldOutSlice("patient1", 5, torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)) + 0.1)
    scores = evaluate(tiny_generator(), [held_out], (TWO, FOUR), Conditions(trust=calibration(0.2))).scores
    found = {(score.method, str(score.scale), score.region): score.covered for score in scores}
    share = found.pop(("model", "2", "whole"))
    assert 0 < share < 1
    assert set(found.values()) == {None}
    assert from_csv(to_csv(scores)) == scores
    header, two, four = measures_table(scores).splitlines()
    assert header.endswith("covered model")
    assert (two.split()[-1], four.split()[-1]) == (f"{share:.1%}", "nan%")
    table = detail(scores)
    assert table.columns[-1] == "pixels within the bounds of trust"
    assert table.rows[0][-1].text == f"{share:.1%}"
    assert "covered" in CONVENTIONS
    without = evaluate(tiny_generator(), [held_out], (TWO,)).scores
    assert "covered" not in measures_table(without) + to_csv(without)
    assert detail(without).columns[-1] == "consistency, model"
