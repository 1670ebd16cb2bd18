"""What a promotion may ask of downstream evaluation, in a real MLflow."""

import re
import shlex

import pytest

from cluster.config import GateConfig
from cluster.registry import promote
from cluster.registry.downstream import judge_downstream
from cluster.registry.evidence import evaluation_of
from metasr.errors import RegistryError
from metasr.evaluation.downstream import Outcome
from metasr.evaluation.outcomes import to_csv
from metasr.scale import Scale
from tests.cluster.registered import GATE, record, scores
from tests.cluster.tracked import start

TISSUE = GATE.model_copy(update={"downstream": "tissue"})
COMMAND = GATE.model_copy(update={"downstream": "command"})


def outcomes(gains, step="tissue", patients=2):
    """Dice of bicubic and a model; `{"2": 0.05}` puts the model so much above bicubic at scale 2."""
    return [
        Outcome(
            step, f"patient{patient}", Scale.parse(scale), method, label, "dice", 0.7 + gain * (method == "model")
        )
        for scale, gain in gains.items()
        for patient in range(patients)
        for method in ("bicubic", "model")
        for label in ("dark", "bright")
    ]


def failed(ours, champion=None, gate=TISSUE):
    return {finding.rule for finding in judge_downstream(ours, champion, gate) if not finding.passed}


def test_a_gate_that_asks_for_nothing_finds_nothing():
    assert judge_downstream([], None, GateConfig()) == []


@pytest.mark.parametrize(("gain", "passes"), [(0.001, True), (0.0, True), (-0.001, False)])
def test_dice_is_nowhere_below_bicubic(gain, passes):
    assert failed(outcomes({"2": 0.1, "3": gain})) == (set() if passes else {"Dice (tissue) nowhere below bicubic"})


@pytest.mark.parametrize(("loss", "passes"), [(0.004, True), (0.006, False)])
def test_dice_below_the_champion_is_held_against_the_margin(loss, passes):
    found = failed(outcomes({"2": 0.2, "3": 0.1 - loss}), outcomes({"2": 0.1, "3": 0.1}))
    assert found == (set() if passes else {"Dice (tissue) nowhere more than 0.005 below the champion"})


def test_a_step_without_rows_or_at_other_scales_fails():
    assert failed([]) == {"Dice (tissue) nowhere below bicubic"}
    assert failed(outcomes({"2": 0.1}), outcomes({"2": 0.1, "3": 0.1}))
    assert failed(outcomes({"2": 0.1}), gate=COMMAND) == {"Dice (command) nowhere below bicubic"}


def test_a_patient_in_whom_there_is_nothing_to_find_counts_against_who_finds_something():
    """Whose evaluation has no rows of that patient has found nothing, rightly."""
    nothing, something = outcomes({"2": 0.1}), outcomes({"2": 0.1})
    something += [
        Outcome("tissue", "healthy", Scale.parse("2"), method, "bright", "dice", float(method == "bicubic"))
        for method in ("bicubic", "model")
    ]
    assert not failed(nothing, something)
    assert failed(something, nothing) == {
        "Dice (tissue) nowhere below bicubic",
        "Dice (tissue) nowhere more than 0.005 below the champion",
    }


def test_what_is_found_says_where():
    (finding,) = judge_downstream(outcomes({"2": 0.1, "3": 0.02}), None, TISSUE)
    assert str(finding) == "passed  Dice (tissue) nowhere below bicubic: least at scale 3, +0.0200"


# Promotions


@pytest.fixture
def evaluated(config, registry, bundles, tmp_path):
    """Register the next bundle, with an evaluation; return the version."""
    numbers = iter(range(1, 4))

    def call(rows, **changes):
        number = next(numbers)
        version = registry.register(bundles[number - 1], start(config, f"run-{number}"))
        again(version, rows, **changes)
        return version

    def again(version, rows, **changes):
        folder = tmp_path / f"results-{len(list(tmp_path.iterdir()))}"
        files = {"downstream.csv": to_csv(rows)} if rows else {}
        steps = tuple(dict.fromkeys(row.step for row in rows))
        good = scores({"2": int(version), "3": int(version)}, int(version) / 100)
        record(registry, version, good, folder, files, downstream=steps, **changes)

    call.again = again
    return call


def refusal(registry, version, gate):
    with pytest.raises(RegistryError) as caught:
        promote(registry, version, gate, lambda line: None)
    return caught.value


def test_outcomes_are_bound_to_the_version_with_its_evaluation(registry, evaluated):
    rows = outcomes({"2": 0.1, "3": 0.1})
    found = evaluation_of(registry, registry.version(evaluated(rows)))
    assert found.outcomes == rows
    assert found.evidence.downstream == ("tissue",)


def test_an_evaluation_without_downstream_is_as_good_as_before_until_the_gate_asks(registry, evaluated, champion):
    version = evaluated([])
    error = refusal(registry, version, TISSUE)
    assert "gate.downstream tissue" in str(error)
    told = shlex.split(re.search("`metasr (.*)`", error.fix)[1])
    assert told[:3] == ["evaluate", "--model", f"models:/{registry.config.model}/{version}"]
    place = told.index("--downstream")
    assert told[place : place + 2] == ["--downstream", "tissue"]
    assert champion() is None
    evaluated.again(version, outcomes({"2": 0.1, "3": 0.1}))
    lines = []
    assert promote(registry, version, TISSUE, lines.append) == (version, None)
    assert "passed  Dice (tissue) nowhere below bicubic: least at scale 2, +0.1000" in "\n".join(lines)


def test_a_version_that_loses_dice_is_not_promoted(registry, evaluated, champion):
    first = evaluated(outcomes({"2": 0.1, "3": 0.1}))
    promote(registry, first, TISSUE, print)
    worse = evaluated(outcomes({"2": 0.1, "3": 0.08}))
    assert "Dice (tissue) nowhere more than 0.005 below the champion" in str(refusal(registry, worse, TISSUE))
    assert promote(registry, worse, GATE, print) == (worse, first)


def test_a_champion_that_was_not_evaluated_alike_is_to_be_evaluated_alike(registry, evaluated, champion):
    first = evaluated([])
    promote(registry, first, GATE, print)
    command = "segment --in {input} --out {output}"
    second = evaluated(outcomes({"2": 0.1, "3": 0.1}, "command"), downstream_command=command)
    error = refusal(registry, second, COMMAND)
    told = shlex.split(re.search("`metasr (.*)`", error.fix)[1])
    assert told[2] == f"models:/{registry.config.model}/{first}"
    assert told[told.index("--downstream-command") + 1] == command
    evaluated.again(first, outcomes({"2": 0.1, "3": 0.1}, "command"), downstream_command="another {input} {output}")
    assert "not evaluated in the same way by command" in str(refusal(registry, second, COMMAND))
    evaluated.again(first, outcomes({"2": 0.1, "3": 0.1}, "command"), downstream_command=command)
    assert promote(registry, second, COMMAND, print) == (second, first)
