"""Trust: bounds hold with their coverage on data like that of the calibration, and belong to one model."""

import hashlib
import math

import numpy as np
import pytest
import torch

from metasr import manifest
from metasr.config import ExperimentConfig, ModelConfig
from metasr.data.degrade import resize_bicubic
from metasr.errors import CheckpointError, ScaleError
from metasr.identity import RunIdentity
from metasr.inference.bundle import TRUST, WEIGHTS, load_bundle, save_bundle
from metasr.models import build_generator
from metasr.trust.conformal import Bounds, Calibration, conformal_quantile
from metasr.trust.doubt import doubt


def pixels(number, seed):
    """Scores, and errors that grow with them: exchangeable with any others that are made so."""
    random = np.random.default_rng(seed)
    scores = random.gamma(2.0, 0.02, number)
    return scores, scores * np.abs(random.standard_t(4, number))


def calibration():
    bounds = {2.0: Bounds((0.1,), (0.01, 0.04)), 3.0: Bounds((0.1,), (0.03, 0.08))}
    return Calibration("a" * 64, 4, 0.9, 0.05, bounds)


def test_the_quantile_is_that_of_one_more_than_were_seen():
    assert conformal_quantile(np.arange(1.0, 10), 0.9) == 9  # the 9th of 9: ceil(10 * 0.9)
    assert conformal_quantile(np.arange(19.0, 0, -1), 0.9) == 18
    assert conformal_quantile(np.arange(1.0, 9), 0.9) == math.inf  # of 8 the 9th is needed
    assert conformal_quantile(np.arange(4.0), 0.5) == 2


def test_the_stated_coverage_is_reached_on_exchangeable_pixels_in_all_and_in_those_believed():
    bounds = Bounds.fit(*pixels(40_000, seed=0))
    scores, errors = pixels(40_000, seed=1)
    within = errors <= bounds(scores)
    believed = bounds(scores) <= 0.05
    assert 0.2 < believed.mean() < 0.8
    for chosen in (np.ones_like(believed), believed, ~believed):
        assert within[chosen].mean() == pytest.approx(0.9, abs=0.02)
    assert (errors[believed] <= 0.05).mean() >= 0.9


def test_few_pixels_bound_nothing():
    scores, errors = pixels(40, seed=0)
    assert (Bounds.fit(scores, errors)(scores) > 1e6).all()


def test_between_two_scales_bounds_are_interpolated_and_below_the_smallest_they_are_its_own():
    doubts = np.array([[0.05, 0.2]])
    found = {scale: calibration().bound(doubts, scale).tolist() for scale in (1.5, 2.0, 2.25, 3.0)}
    assert found == {
        1.5: [[0.01, 0.04]],
        2.0: [[0.01, 0.04]],
        2.25: [[pytest.approx(0.015), pytest.approx(0.05)]],
        3.0: [[0.03, 0.08]],
    }
    with pytest.raises(ScaleError, match="up to 3"):
        calibration().bound(doubts, 3.1)


def test_it_is_read_as_it_was_written():
    assert Calibration.from_json(calibration().to_json()) == calibration()


def test_bicubic_is_not_doubted_and_what_was_added_is():
    lr = torch.rand(1, 1, 20, 16)
    bicubic = resize_bicubic(lr, (40, 32))
    assert doubt(bicubic, lr).abs().max() < 1e-6
    assert torch.allclose(doubt(bicubic - 0.25, lr), torch.full((1, 1, 40, 32), 0.25), atol=1e-6)
    dot = bicubic.clone()
    dot[..., 20, 16] += 1
    assert doubt(dot, lr).sum().item() == pytest.approx(1, abs=1e-4)
    assert doubt(dot, lr)[0, 0, 20, 16].item() == pytest.approx(1 / (2 * math.pi * 2.0**2), rel=0.02)


@pytest.fixture
def bundle(tmp_path):
    """Makes a bundle with some text as its calibration."""

    def make(text):
        folder = tmp_path / "bundle"
        config = ExperimentConfig(model=ModelConfig(num_features=4, num_blocks=1))
        identity = RunIdentity("run-1", "abc", "file:///nowhere", "d" * 64)
        save_bundle(folder, build_generator(config.model), config, identity, step=1, metrics={})
        weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        (folder / TRUST).write_text(text.replace("a" * 64, weights))
        manifest.seal(folder, "bundle", manifest.unseal(folder, "bundle"))
        return folder

    return make


def test_a_bundle_holds_the_calibration_of_its_own_weights(bundle):
    loaded = load_bundle(bundle(calibration().to_json()), torch.device("cpu"))
    assert loaded.trust.scales == calibration().scales


@pytest.mark.parametrize(
    "text",
    [
        calibration().to_json().replace("a" * 64, "b" * 64),
        calibration().to_json().replace("metasr.trust", "other"),
        '{"kind": "metasr.trust"}',
        "[]",
        "no JSON",
    ],
    ids=["other weights", "kind", "empty", "list", "text"],
)
def test_another_calibration_is_refused(bundle, text):
    with pytest.raises(CheckpointError):
        load_bundle(bundle(text), torch.device("cpu"))
