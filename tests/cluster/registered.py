"""Bundles to register, and evaluations of them that were never measured."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.config import GateConfig, TrackingConfig
from cluster.registry import Evidence, Registry, promote, record_evaluation
from metasr import manifest
from metasr.config import ExperimentConfig, ModelConfig
from metasr.errors import RegistryError
from metasr.evaluation import Score
from metasr.evaluation.regions import REGIONS
from metasr.evaluation.tables import to_csv
from metasr.identity import RunIdentity
from metasr.inference.bundle import save_bundle
from metasr.models import build_generator
from metasr.scale import Scale
from tests.cluster.tracked import empty_database, start

GATE = GateConfig(scales=("2",))
FORCED = "metasr.promotion_forced"
TINY = ExperimentConfig(model=ModelConfig(num_features=8, num_blocks=1))
DATA = "d" * 64
IDENTITY = RunIdentity("run-1", "abc123", "file:///nowhere", DATA)
# What the manifest of such a bundle says.
ABOUT = {**asdict(IDENTITY), "config": TINY.model_dump(mode="json"), "step": 1, "num_parameters": 1}


def make_bundle(folder, step):
    torch.manual_seed(step)
    save_bundle(folder, build_generator(TINY.model), TINY, IDENTITY, step=step, metrics={"step": step})
    return folder


def two_versions(folder):
    """Settings for a new database with two versions, which were not evaluated; and its registry."""
    config = TrackingConfig(uri=empty_database(folder / "mlflow.db"), artifacts=f"{folder}/artifacts")
    registry = Registry(config)
    for step in (1, 2):
        registry.register(make_bundle(folder / f"bundle-{step}", step), start(config, f"run-{step}"))
    return config, registry


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def scores(gains, ssim=0.01, patients=2):
    """Scores of bicubic and a model; `{"2": 0.5}` puts the model 0.5 dB above bicubic at scale 2, for each patient.

    A gain, also of `ssim`, may be a list with a number for each patient.
    """
    rows = []
    for scale, gain in gains.items():
        psnr_gains, ssim_gains = (np.broadcast_to(value, patients) for value in (gain, ssim))
        for patient in range(patients):
            where = f"patient{patient}", 7, Scale.parse(scale)
            psnr = 30.0 + patient
            rows.append(Score(*where, "bicubic", "whole", psnr, 0.9, 0.1))
            rows.append(
                Score(
                    *where, "model", "whole", psnr + float(psnr_gains[patient]), 0.9 + float(ssim_gains[patient]), 0
                )
            )
            # Elsewhere the model is worse, which the gate does not look at.
            rows.append(Score(*where, "bicubic", "brain", psnr, 0.9, 0.1))
            rows.append(Score(*where, "model", "brain", 0.0, 0.0, 0.1))
    return rows


def record(registry, version, rows, folder, files=(), **changes):
    """Record scores, and texts `{name: text}` beside them, as the evaluation of a version."""
    folder.mkdir()
    for name, text in dict(files).items():
        (folder / name).write_text(text)
    (folder / "scores.csv").write_text(to_csv(rows))
    (folder / "comparison.png").write_bytes(b"a picture")
    values = {
        "bundle_sha256": registry.version(version).tags["metasr.bundle_sha256"],
        "data_sha256": DATA,
        "data_url": "/data/t1ce",
        "scales": tuple(dict.fromkeys(str(row.scale) for row in rows)),
        "slices_per_subject": 1,
        "regions": REGIONS,
        "degradation": "bicubic",
        "noise": 0.0,
        "code_version": "abc123",
    }
    record_evaluation(registry, version, ABOUT, Evidence(**{**values, **changes}), folder)
    return manifest.digest(folder)


def refused(registry, version, *words, **options):
    with pytest.raises(RegistryError) as caught:
        promote(registry, version, GATE, lambda line: None, **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def stored_bundle(client, config, version):
    return (
        Path(client.get_model_version(config.model, version).source.removeprefix("file://")) / "artifacts" / "bundle"
    )
