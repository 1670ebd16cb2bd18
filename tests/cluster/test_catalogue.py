"""Versions and runs as a real MLflow lists them."""

import contextlib

import pytest

from cluster.catalogue.models import list_models
from cluster.catalogue.tracked import tracked_runs
from cluster.config import StorageConfig
from cluster.registry import promote
from cluster.tracking import Run, now_ms
from metasr.errors import RegistryError
from tests.cluster.registered import GATE, record, scores


@pytest.fixture
def listed(config, tmp_path):
    def versions():
        listing = list_models(StorageConfig(url=str(tmp_path / "none")), config)
        assert listing.problems == ()
        return {one.version: one for one in listing.versions}

    return versions


def test_a_version_is_listed_with_alias_run_gain_and_verdict(listed, registry, versions, tmp_path):
    found = listed()
    assert list(found) == sorted(found, key=int, reverse=True)
    newest = found[max(found, key=int)]
    assert "challenger" in newest.aliases
    assert newest.run
    assert newest.is_evaluated
    assert newest.gate == "not judged yet"
    record(registry, "1", scores({"2": 0.5}), tmp_path / "good")
    promote(registry, "1", GATE, lambda line: None)
    record(registry, "2", scores({"2": -0.5}), tmp_path / "bad")
    with contextlib.suppress(RegistryError):
        promote(registry, "2", GATE, lambda line: None)
    found = listed()
    assert "champion" in found["1"].aliases
    assert found["1"].gate == "passed"
    assert found["1"].gain_db == pytest.approx(0.5)
    assert found["2"].gate.startswith("failed: PSNR")
    promote(registry, "2", GATE, lambda line: None, force="readers prefer it")
    assert listed()["2"].gate == "promoted against it: readers prefer it"


def test_a_model_without_versions_lists_none(listed):
    assert listed() == {}


def test_trainings_are_listed_and_sweeps_are_not(config):
    run = Run.find_or_make(config, "smoke-0123456789", {"train.steps": 400}, now_ms())
    run.log(4, {"val_psnr_gain": 0.75})
    run.finish("KILLED")
    Run.find_or_make(config, "a sweep", {"search.trials": 4, "train.steps": 400}, now_ms())
    (found,) = tracked_runs(config)
    assert (found.name, found.state, found.num_steps, found.gain_db) == ("smoke-0123456789", "stopped", 400, 0.75)
