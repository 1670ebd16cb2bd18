"""What the evidence for a promotion must cover: the scales of the gate, and no less than the champion's had."""

import json
import shutil
from pathlib import Path

import pytest

from cluster.config import GateConfig, TrackingConfig
from cluster.registry import CHALLENGER, EVALUATION, Evidence, Registry, promote
from cluster.registry.coverage import require_no_less
from metasr.config import ModelConfig, TrainConfig
from metasr.errors import RegistryError
from metasr.evaluation.regions import REGIONS
from metasr.inference.bundle import save_bundle
from metasr.models import build_generator
from metasr.scale import REPORTED_SCALES
from tests.cluster.registered import DATA, GATE, IDENTITY, TINY, record, refused, scores
from tests.cluster.tracked import start


def test_a_version_that_was_not_evaluated_at_the_scales_of_the_gate_is_not_promoted(registry, versions, champion):
    with pytest.raises(RegistryError) as caught:
        promote(registry, "1", GateConfig(scales=("2", "1.1", "4")), print)
    assert "not evaluated at scales 1.1, 4, which gate.scales requires" in str(caught.value)
    assert f"--model models:/{registry.config.model}/1 --data.url" in caught.value.fix
    assert "--eval.scales 1.1,2,3,4 --eval.slices-per-subject 1 --tracking.uri" in caught.value.fix
    assert champion() is None


def test_a_gate_asks_for_the_scales_that_are_reported(registry, versions, champion, tmp_path):
    record(registry, "1", scores(dict.fromkeys(map(str, REPORTED_SCALES), 1.0)), tmp_path / "all")
    assert promote(registry, "1", GateConfig(), print) == ("1", None)
    with pytest.raises(RegistryError, match=r"not evaluated at scales 1\.1, 1\.5, 2\.5, 3\.5, 4"):
        promote(registry, "2", GateConfig(), print)
    assert champion() == "1"


def test_a_network_for_one_scale_is_compared_at_that_scale_under_a_name_of_its_own(
    config, registry, versions, champion, tmp_path
):
    model = ModelConfig(architecture="edsr", num_features=8, num_blocks=1)
    train = TrainConfig(scale_min=2, scale_max=2)
    only = TINY.model_copy(update={"model": model, "train": train})
    save_bundle(tmp_path / "only", build_generator(model), only, IDENTITY, step=1, metrics={})
    own = Registry(config.model_copy(update={"model": f"{config.model}-x2"}))
    for where in (registry, own):
        version = where.register(tmp_path / "only", start(config, "run-only"))
        record(where, version, scores({"2": 9.0}, 0.09), tmp_path / f"results-of-{where.config.model}")
    promote(registry, "1", GATE, print)
    with pytest.raises(RegistryError, match=r"scale 2 only, and gate\.scales requires 1\.1, .*--gate\.scales 2"):
        promote(registry, CHALLENGER, GateConfig(), print)
    refused(registry, CHALLENGER, "less than the champion, which had scale 3", "--tracking.model NAME")
    assert champion() == "1"
    assert promote(own, CHALLENGER, GATE, print) == ("1", None)


def evidence(scales, slices):
    return Evidence(
        bundle_sha256="b" * 64,
        data_sha256=DATA,
        data_url="/data/t1ce",
        scales=scales,
        slices_per_subject=slices,
        regions=REGIONS,
        degradation="bicubic",
        noise=0,
        code_version="abc123",
    )


@pytest.mark.parametrize(
    ("scales", "slices", "champions", "lacks"),
    [
        ("2 3", 20, 20, None),
        ("1x4 2 3 8", 40, 20, None),
        ("2 3", 0, 20, None),
        ("2 3", 0, 0, None),
        ("2", 20, 20, "scale 3"),
        ("1x4 2 8", 20, 20, "scale 3"),
        ("2 3", 19, 20, "20 slices of each subject"),
        ("2 3", 500, 0, "all slices of each subject"),
        ("4", 1, 20, "scales 2, 3 and 20 slices of each subject"),
    ],
)
def test_a_version_lacks_what_the_champions_evidence_has_beyond_its_own(scales, slices, champions, lacks):
    ours, theirs = evidence(tuple(scales.split()), slices), evidence(("2", "3"), champions)
    if lacks is None:
        require_no_less(ours, theirs, "models:/m/2", None, TrackingConfig())
        return
    with pytest.raises(RegistryError) as caught:
        require_no_less(ours, theirs, "models:/m/2", None, TrackingConfig())
    assert caught.value.why.endswith(f"which had {lacks}")


def test_the_command_that_is_told_adds_what_is_missing():
    with pytest.raises(RegistryError) as caught:
        require_no_less(evidence(("1x4", "2"), 5), evidence(("1.5", "2"), 20), "models:/m/2", None, TrackingConfig())
    told = "metasr evaluate --model models:/m/2 --data.url /data/t1ce --eval.scales 1x4,1.5,2 "
    assert f"{told}--eval.slices-per-subject 20`" in caught.value.fix


def test_a_champion_that_was_evaluated_again_as_narrowly_as_the_version_hides_nothing(
    registry, versions, champion, tmp_path
):
    promote(registry, "1", GATE, print)
    for version, level in (("1", 1.0), ("2", 2.0)):
        record(registry, version, scores({"2": level}, level / 100), tmp_path / f"narrow-{version}")
    refused(registry, "2", "on less than the champion, which had scale 3. Run `metasr evaluate --model models:/")
    assert champion() == "1"
    for version, level in (("1", 1.0), ("2", 2.0)):
        record(registry, version, scores({"2": level, "3": level}, level / 100), tmp_path / f"wide-{version}")
    assert promote(registry, "2", GATE, print) == ("2", "1")


def test_where_the_evidence_of_the_champion_is_gone_only_a_reason_helps(client, registry, versions, tmp_path):
    promote(registry, "1", GATE, print)
    promoted = registry.version("1")
    results = json.loads(promoted.tags[EVALUATION])["artifact"]
    artifacts = client.get_run(promoted.run_id).info.artifact_uri.removeprefix("file://")
    record(registry, "1", scores({"2": 1.0}, 0.01), tmp_path / "narrow")
    record(registry, "2", scores({"2": 2.0}, 0.02), tmp_path / "narrow-too")
    shutil.rmtree(Path(artifacts, results))
    refused(registry, "2", "the evaluation with which version 1 became the champion", "--force")
    assert promote(registry, "2", GATE, print, force="it is better") == ("2", "1")
