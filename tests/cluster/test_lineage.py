"""What computed the steps of a run, where that changed on the way."""

import json
import re
import shutil
import signal
from dataclasses import replace

import pytest

from metasr.errors import CheckpointError
from metasr.manifest import seal
from metasr.training.state import LOG
from tests.cluster.compared import CAUSES, MOMENT, change_tensor, compare, config, flip_lowest_bit, names_of, reseal
from tests.cluster.training import line_with, only_run, start_training
from tests.patience import PATIENCE_S
from tests.unit.runs import IDENTITY, train

pytestmark = pytest.mark.usefixtures("one_thread")


def train_on(folder, monkeypatch, arithmetic, code_version="0", **changes):
    """Train, or go on, as another machine with other code would."""
    monkeypatch.setattr("metasr.training.state.arithmetic", lambda device: arithmetic)
    monkeypatch.setattr("tests.unit.runs.IDENTITY", replace(IDENTITY, code_version=code_version))
    return train(folder, config(**changes))


def test_a_run_that_went_on_otherwise_is_told_from_one_that_did_not_though_its_bits_are_equal(tmp_path, monkeypatch):
    train_on(tmp_path / "a", monkeypatch, "1 thread", steps=2)
    train_on(tmp_path / "a", monkeypatch, "2 threads", code_version="1")
    train_on(tmp_path / "b", monkeypatch, "2 threads", code_version="1")
    found = compare(tmp_path / "a" / "step-4", tmp_path / "b" / "step-4")
    assert found.identical
    assert found.verdict.endswith("although these differ: code version and arithmetic")
    assert [check.differences[0].about for check in found.causes if not check.equal] == [
        {"A": "0; after step 2: 1", "B": "1"},
        {"A": "1 thread; after step 2: 2 threads", "B": "2 threads"},
    ]


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_threads_says_so_in_its_lines_report_and_mlflow(tmp_path, store_url):
    settings = {"train.steps": 10**6, "train.pixel_only_steps": 10**6, "resources.num_workers": 1}
    for threads, expected in (1, "  loss "), (2, "  code or arithmetic changed"):
        process = start_training(tmp_path, store_url, settings | {"resources.cpus-per-worker": threads})
        try:
            line_with(process, expected)
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
            process.communicate()
    _, run = only_run(tmp_path)
    text = run.data.tags["metasr.changed"]
    assert re.fullmatch(r"arithmetic .* 1 thread, .*; after step \d+: .* 2 threads, .*", text)
    (report,) = (tmp_path / "artifacts").rglob("run-report.json")
    assert json.loads(report.read_text())["changed"] == text


def test_a_change_on_the_way_is_to_blame_only_for_what_comes_after_it(tmp_path, monkeypatch):
    train_on(tmp_path / "a", monkeypatch, "1 thread")
    train_on(tmp_path / "b", monkeypatch, "1 thread", steps=2)
    train_on(tmp_path / "b", monkeypatch, "2 threads")
    one, other = tmp_path / "a" / "step-4", tmp_path / "b" / "step-4"
    change_tensor(other, MOMENT, flip_lowest_bit)
    assert "step 4, because of the arithmetic: arithmetic: A" in compare(one, other).verdict
    log = (other / LOG).read_text()
    (other / LOG).write_text(log.replace('"step": 1', '"step": 1, "odd": 1', 1))
    reseal(other)
    assert "step 1, although these are equal until then" in compare(one, other).verdict


def test_a_change_that_both_went_through_is_suspected(tmp_path, monkeypatch):
    for steps, arithmetic in ((2, "1 thread"), (4, "2 threads")):
        train_on(tmp_path, monkeypatch, arithmetic, steps=steps)
    other = shutil.copytree(tmp_path / "step-4", tmp_path / "other")
    change_tensor(other, MOMENT, flip_lowest_bit)
    verdict = compare(tmp_path / "step-4", other).verdict
    assert "the changes during the runs, recorded as equal in both" in verdict
    assert "arithmetic 1 thread; after step 2: 2 threads" in verdict


def test_a_checkpoint_from_before_there_was_a_lineage_still_tells_what_computed_it(tmp_path, monkeypatch):
    train_on(tmp_path, monkeypatch, "1 thread")
    original = tmp_path / "step-4"
    copy = shutil.copytree(original, tmp_path / "copy")
    about = json.loads((copy / "manifest.json").read_text())["about"]
    (stretch,) = about.pop("lineage")
    seal(copy, "checkpoint", about | {"arithmetic": stretch["arithmetic"]})
    assert names_of(compare(original, copy).causes, equal=True) == CAUSES
    seal(copy, "checkpoint", about)
    with pytest.raises(CheckpointError, match="names no code or arithmetic"):
        compare(original, copy)
