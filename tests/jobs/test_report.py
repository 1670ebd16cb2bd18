"""metasr report, and the page that metasr evaluate writes by itself."""

import re
import shutil
import sys

import pytest

from cluster.config import JobConfig
from cluster.registry import Registry
from cluster.registry.evidence import fetch_evaluation
from cluster.store import open_store
from cluster.sweep.ledger import FOLDER, LEDGER, StoredTrials
from cluster.sweep.record import Point, SweepRecord, Trial, to_document
from cluster.sweep.stored import stored_sweep
from cluster.tracking import Run
from jobs.cli import main
from metasr.evaluation import differences
from metasr.report.template import signed_text


@pytest.fixture
def tracking(unjudged):
    return unjudged


@pytest.fixture
def metasr(tracking, store_url, monkeypatch, capfd):
    def call(verb, *arguments):
        where = [f"--tracking.uri={tracking.uri}", f"--tracking.artifacts={tracking.artifacts}"]
        if verb == "evaluate":
            where += [] if "--data.url" in arguments else [f"--data.url={store_url}"]
            where += ["--eval.scales=2", "--eval.slices-per-subject=2", "--workers=1"]
        monkeypatch.setattr(sys, "argv", ["metasr", verb, *map(str, arguments), *where])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capfd.readouterr()

    return call


def test_an_evaluation_has_its_page_and_the_report_compares_with_the_champion_of_now(metasr, tracking, tmp_path):
    code, _, err = metasr("report", "2", "-o", tmp_path / "early.html")
    assert code == 2
    assert "version 2: it has not been evaluated. Run `metasr evaluate" in err
    assert not (tmp_path / "early.html").exists()

    code, out, err = metasr("evaluate", "2", "-o", tmp_path / "results")
    assert (code, err) == (0, "")
    assert f"scores, pictures and report.html: {tmp_path}/results" in out
    page = (tmp_path / "results" / "report.html").read_text()
    registry = Registry(tracking)
    found, folder = fetch_evaluation(registry, registry.version("2"), tmp_path / "kept")
    assert (folder / "report.html").read_text() == page  # sealed with the scores in MLflow
    assert page.count("data:image/png") >= 6
    (gain,) = differences(found.scores, "bicubic", "psnr")
    assert signed_text(gain.mean, 2) in page
    assert "It is not compared with version 1, the champion: version 1: it has not been evaluated" in page
    assert f"metasr promote --model models:/{tracking.model}/2" in page

    assert metasr("evaluate", "1")[0] == 0
    code, out, err = metasr("report", "2", "-o", tmp_path / "now.html")
    assert (code, err) == (0, "")
    assert re.search(r"report: .*now\.html \(0\.\d MB\)", out)
    page = (tmp_path / "now.html").read_text()
    assert "Compared with version 1, the champion." in page
    assert "gain over champion" in page
    assert ">champion</b>" in page  # its pictures

    code, _, err = metasr("report", "2", "-o", tmp_path / "now.html")
    assert code == 2
    assert "it is there already" in err
    code, _, err = metasr("report", "1", "-o", tmp_path / "now.html", "--force", "--tracking.pictures", "false")
    assert (code, err) == (0, "")
    page = (tmp_path / "now.html").read_text()
    assert "It is the champion." in page
    assert "Pictures are turned off" in page
    assert "data:image" not in page


def test_pictures_can_be_kept_out_of_an_evaluation(metasr, tmp_path):
    code, _, err = metasr(
        "evaluate", "2", "-o", tmp_path / "results", "--paper-table", "--tracking.pictures", "false"
    )
    assert (code, err) == (0, "")
    assert not list((tmp_path / "results").glob("*.png"))
    assert "data:image" not in (tmp_path / "results" / "report.html").read_text()


def test_an_evaluation_is_not_lost_for_a_page_that_cannot_be_drawn(metasr, tmp_path, monkeypatch):
    monkeypatch.setattr("metasr.report.page.HERE", tmp_path)  # without the template
    code, out, err = metasr("evaluate", "2", "-o", tmp_path / "results")
    assert (code, err) == (0, "")
    assert "there is no report.html: " in out
    assert "recorded with version 2" in out
    assert (tmp_path / "results" / "scores.csv").exists()
    assert not (tmp_path / "results" / "report.html").exists()


def test_a_report_whose_data_has_gone_has_all_but_the_pictures(metasr, tmp_path, store_url):
    data = shutil.copytree(store_url.removeprefix("file://"), tmp_path / "data")
    assert metasr("evaluate", "2", "--data.url", data)[0] == 0
    shutil.rmtree(data)
    code, _, err = metasr("report", "2", "-o", tmp_path / "report.html")
    assert (code, err) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert "There are no pictures: " in page
    assert "Gain of each patient" in page
    code, _, err = metasr("report", "2", "-o", tmp_path / "elsewhere.html", "--data.url", store_url)
    assert (code, err) == (0, "")
    assert "data:image/png" in (tmp_path / "elsewhere.html").read_text()


def test_a_sweep_is_reported_as_it_is_now(metasr, tmp_path):
    trial = Trial(
        number=0,
        settings={"optim.generator_lr": 0.001},
        run_name="tiny-0123456789",
        history=(Point(step=10, objective=0.25, metrics={}),),
    )
    record = SweepRecord(
        name="sweep-a-0123456789",
        recipe="tiny",
        objective="mean gain",
        scales=("2",),
        space={"optim.generator_lr": "choice of 0.001"},
        trials=(trial,),
    )
    stored = StoredTrials(revision=1, fence=1, record=record)
    storage = open_store(str(tmp_path / "runs"))
    storage.put(f"{FOLDER}/{record.name}/{LEDGER}", to_document(stored).encode())
    where = f"--storage.url={tmp_path}/runs"
    code, _, err = metasr("report", record.name, where, "-o", tmp_path / "sweep.html")
    assert (code, err) == (0, "")
    assert "Sweep sweep-a-0123456789" in (tmp_path / "sweep.html").read_text()
    code, _, err = metasr("report", "sweep-b-0123456789", where, "-o", tmp_path / "other.html")
    assert code == 2
    assert "sweep sweep-b-0123456789: there is none in" in err


def test_a_sweep_that_is_not_there_is_none(tmp_path):
    config = JobConfig.model_validate({"storage": {"url": str(tmp_path)}})
    assert stored_sweep(config, "sweep-a") is None


@pytest.mark.parametrize(
    ("output", "reason"), [("", "it is a folder"), ("missing/report.html", "there is no folder")]
)
def test_an_output_that_cannot_be_is_said_before_the_work(metasr, tmp_path, output, reason):
    code, out, err = metasr("report", "2", "-o", tmp_path / output)
    assert (code, out) == (2, "")
    assert reason in err
    assert len(err.splitlines()) == 1


def test_a_run_that_has_not_been_evaluated_has_its_curves_and_the_command_that_evaluates_it(
    metasr, tracking, tmp_path
):
    run = Run.find_or_make(tracking, "tiny-0123456789", {"train.seed": 1}, 1)
    run.points([("gain_psnr_db", value, step, step) for step, value in ((1, -0.5), (2, 0.25), (3, 0.75))])
    code, out, err = metasr("report", "tiny-0123456789", "-o", tmp_path / "run.html")
    assert (code, err) == (0, "")
    assert "it has the learning curves alone" in out
    page = (tmp_path / "run.html").read_text()
    assert "0.75 at step 3" in page
    assert "metasr evaluate tiny-0123456789" in page
    assert "metasr train --resume tiny-0123456789" in page
    assert metasr("report", "tiny-0000000000", "-o", tmp_path / "none.html")[0] == 2
