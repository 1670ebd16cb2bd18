"""What is said of the best trial when a sweep has ended."""

import pytest

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig, StorageConfig, TrackingConfig, portable
from cluster.store import open_store
from cluster.stream import read_index
from cluster.sweep.outcome import best_pictures
from cluster.sweep.record import Trial
from metasr import manifest
from metasr.config import EvalConfig, ModelConfig
from metasr.identity import RunIdentity
from metasr.inference.bundle import save_bundle
from metasr.models import build_generator
from metasr.scale import Scale


@pytest.fixture
def config(tmp_path, store_url):
    """Settings of a sweep whose trial `best` has a checkpoint with a bundle, as a worker writes it."""
    config = JobConfig(
        model=ModelConfig(num_features=4, num_blocks=1),
        eval=EvalConfig(scales=(Scale(2.0, 2.0), Scale(1.7, 3.0))),
        storage=StorageConfig(url=str(tmp_path / "runs"), cache=str(tmp_path / "cache")),
    )
    identity = RunIdentity("best", "abc", store_url, read_index(open_store(store_url)).digest())
    checkpoint = tmp_path / "step-1"
    generator = build_generator(config.model)
    save_bundle(checkpoint / "bundle", generator, portable(config), identity, step=1, metrics={})
    manifest.seal(checkpoint, "checkpoint", {})
    RunCheckpoints(open_store(config.storage.url), "best").claim(1).publish(checkpoint, 1, 0.1, keep=1)
    return config


def test_the_page_has_a_picture_for_each_scale_of_the_best_trial(config):
    told = []
    pictures = best_pictures(config, Trial(number=0, settings={}, run_name="best"), told.append)
    assert (list(pictures), told) == (["x2", "x1.7x3"], [])
    assert all(png.startswith(b"\x89PNG") for png in pictures.values())


def test_a_trial_without_a_checkpoint_has_no_pictures(config):
    told = []
    assert best_pictures(config, Trial(number=0, settings={}, run_name="other"), told.append) == {}
    assert told == []


def test_what_is_stored_with_a_checkpoint_has_no_password():
    tracking = TrackingConfig(uri="https://user:hush@mlflow.example:5000")
    assert portable(JobConfig(tracking=tracking)).tracking.uri == "https://mlflow.example:5000"
