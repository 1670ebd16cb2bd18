"""metasr evaluate: what a person sees of it, and what is kept."""

import sys

import pytest

from cluster.registry import Registry
from cluster.registry.evidence import evaluation_of
from jobs.cli import main
from metasr.evaluation.outcomes import from_csv


@pytest.fixture
def tracking(unjudged):
    return unjudged


@pytest.fixture
def metasr(tracking, store_url, monkeypatch, capfd):
    def call(verb, *arguments):
        where = [f"--tracking.uri={tracking.uri}", f"--tracking.artifacts={tracking.artifacts}"]
        if verb == "evaluate":
            where += [f"--data.url={store_url}", "--eval.scales=2", "--eval.slices-per-subject=3"]
        elif "--history" not in arguments:
            where.append("--gate.scales=2")
        monkeypatch.setattr(sys, "argv", ["metasr", verb, *map(str, arguments), *where])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capfd.readouterr()

    return call


def test_the_challenger_against_the_champion_with_tissue_is_recorded_for_a_gate_that_asks(metasr, tracking, tmp_path):
    code, _, err = metasr("promote", "--gate.downstream", "tissue")
    assert code == 2
    assert "it has not been evaluated" in err

    challenger = f"models:/{tracking.model}@challenger"
    code, out, err = metasr("evaluate", challenger, "--against", "@champion")
    assert (code, err) == (0, "")
    assert "the model's gain over champion" in out
    assert "some of its subjects may have been trained on" in out  # its bundle is of other data
    code, _, err = metasr("promote", "--model", "2", "--gate.downstream", "tissue")
    assert code == 2
    assert f"`metasr evaluate --model models:/{tracking.model}/2 --data.url" in err
    assert f"--downstream tissue --tracking.uri {tracking.uri}`" in err

    code, out, err = metasr("evaluate", challenger, "--downstream", "tissue", "-o", tmp_path / "results")
    assert (code, err) == (0, "")
    assert "Labels of tissue in SR against HR, model and bicubic:" in out
    assert f"next: metasr promote --model 2 --tracking.uri {tracking.uri}" in out
    kept = from_csv((tmp_path / "results" / "downstream.csv").read_text())
    assert {(row.label, row.method) for row in kept} == {
        (label, method) for label in ("dark", "middle", "bright") for method in ("bicubic", "model")
    }
    registry = Registry(tracking)
    found = evaluation_of(registry, registry.version("2"))
    assert found.outcomes == kept
    code, out, _ = metasr("promote", "--model", "2", "--gate.downstream", "tissue", "--force", "a trial")
    assert "not judged: " in out  # the champion has no evaluation
    code, out, _ = metasr("promote", "--history")
    assert "forced: a trial" in out


def test_the_model_may_be_given_as_before(metasr):
    code, out, err = metasr("evaluate", "--model", "1")
    assert (code, err) == (0, "")
    assert "recorded with version 1" in out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["1", "--model", "2"], "two models are given"),
        (["--workers", "0"], "at least one is needed"),
        (["--downstream", "organs"], "invalid choice: 'organs'"),
        (["--downstream-command", "segment {input}"], "it has no {output}"),
        (["--against", "champion", "--against", "@champion"], "two methods would have the same name"),
    ],
)
def test_what_makes_no_sense_is_one_line(metasr, arguments, reason):
    code, out, err = metasr("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert reason in err
    assert len(err.splitlines()) == 1
