"""Models in a real MLflow: what is registered, what can be found again, and what the gate lets through."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.registry import BUNDLE_DIGEST, CHALLENGER, CHAMPION, EVALUATION, Registry
from cluster.shards import INDEX, Index, Limit, Sample, ShardWriter
from cluster.store import open_store
from metasr import manifest
from metasr.config import ExperimentConfig, ModelConfig
from metasr.errors import CheckpointError, MetaSRError, RegistryError
from metasr.evaluation import Score
from metasr.identity import RunIdentity
from metasr.inference.bundle import load_bundle, save_bundle
from metasr.models import build_generator
from metasr.scale import Scale
from tests.cluster.tracked import artifact, start

CPU = torch.device("cpu")
TINY = ExperimentConfig(model=ModelConfig(num_features=8, num_blocks=1))
DATA = "d" * 64


def make_bundle(folder, step):
    torch.manual_seed(step)
    identity = RunIdentity("run-1", "abc123", "file:///nowhere", DATA)
    save_bundle(folder, build_generator(TINY.model), TINY, identity, step=step, metrics={"step": step})
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return [make_bundle(tmp_path_factory.mktemp("bundles") / str(step), step) for step in (1, 2)]


@pytest.fixture
def registry(config):
    return Registry(config)


@pytest.fixture
def version(config, registry, bundles):
    """A registered version, not yet evaluated."""
    return registry.register(bundles[0], start(config))


def scores(ssim_gain=0.01, **gains):
    """Scores of two subjects; `x2=0.5` puts the model 0.5 dB above bicubic at scale 2."""
    rows = []
    for subject, psnr in (("a", 30.0), ("b", 32.0)):
        for name, gain in gains.items():
            scale = Scale.parse(name.removeprefix("x"))
            rows.append(Score(subject, 7, scale, "bicubic", "whole", psnr, 0.9, 0.1))
            rows.append(Score(subject, 7, scale, "model", "whole", psnr + gain, 0.9 + ssim_gain, 0.1))
            # Elsewhere the model is worse, which the gate does not look at.
            rows.append(Score(subject, 7, scale, "bicubic", "brain", psnr, 0.9, 0.1))
            rows.append(Score(subject, 7, scale, "model", "brain", 0.0, 0.0, 0.1))
    return rows


@pytest.fixture
def results(tmp_path):
    """The folder that an evaluation wrote."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "scores.csv").write_text("subject\na\n")
    (folder / "comparison.png").write_bytes(b"a picture")
    return folder


def aliases(client, config):
    return {name: str(version) for name, version in client.get_registered_model(config.model).aliases.items()}


# Registering


def test_a_registered_bundle_is_the_challenger(config, client, registry, bundles):
    run = start(config)
    version = registry.register(bundles[0], run)
    found = client.get_model_version(config.model, version)
    assert found.run_id == run.run_id
    assert found.tags[BUNDLE_DIGEST] == manifest.digest(bundles[0])
    assert aliases(client, config) == {CHALLENGER: version}


def test_registering_a_bundle_twice_makes_one_version(config, client, registry, bundles):
    run = start(config)
    assert registry.register(bundles[0], run) == registry.register(bundles[0], run)
    assert len(client.search_model_versions(f"name = '{config.model}'")) == 1
    assert aliases(client, config) == {CHALLENGER: "1"}


def test_another_bundle_is_another_version_and_the_new_challenger(config, client, registry, bundles):
    run = start(config)
    assert [registry.register(bundle, run) for bundle in bundles] == ["1", "2"]
    assert aliases(client, config) == {CHALLENGER: "2"}


def test_registering_an_old_bundle_again_leaves_the_challenger(config, client, registry, bundles):
    run = start(config)
    for bundle in (*bundles, bundles[0]):
        registry.register(bundle, run)
    assert aliases(client, config) == {CHALLENGER: "2"}


def test_registering_again_completes_a_registration_that_was_interrupted(config, client, registry, bundles):
    run = start(config)
    version = registry.register(bundles[0], run)
    client.delete_registered_model_alias(config.model, CHALLENGER)  # as if it had ended just before the alias was set
    assert registry.register(bundles[0], run) == version
    assert aliases(client, config) == {CHALLENGER: version}


# Finding a bundle again


@pytest.mark.parametrize("reference", ["challenger", "1", "models:/{model}@challenger", "models:/{model}/1"])
def test_a_version_is_found_by_alias_number_or_uri(config, registry, version, bundles, tmp_path, reference):
    located = registry.locate(reference.format(model=config.model), tmp_path / "download")
    assert located.version == version
    assert located.folder.is_relative_to(tmp_path / "download")
    assert load_bundle(located.folder, CPU).digest == manifest.digest(bundles[0])


def test_the_uri_of_another_model_finds_that_model(config, version, bundles, tmp_path):
    other = Registry(config.model_copy(update={"model": f"{config.model}-b"}))
    other.register(bundles[1], start(config, "run-2"))
    located = other.locate(f"models:/{config.model}/{version}", tmp_path / "download")
    assert manifest.digest(located.folder) == manifest.digest(bundles[0])


def test_every_version_of_a_run_can_be_found(config, registry, bundles, tmp_path):
    run = start(config)
    versions = [registry.register(bundle, run) for bundle in bundles]
    for version, bundle in zip(versions, bundles, strict=True):
        located = registry.locate(version, tmp_path / version)
        assert manifest.digest(located.folder) == manifest.digest(bundle)


def test_a_folder_is_taken_as_it_is(registry, bundles, tmp_path):
    located = registry.locate(str(bundles[0]), tmp_path / "download")
    assert (located.folder, located.version) == (bundles[0], None)


@pytest.mark.parametrize(
    ("reference", "todo"),
    [
        ("challenger", "metasr train"),
        ("champion", "metasr promote"),
        ("models:/nobody@champion", "metasr promote"),
        ("best", "alias or a version"),
        ("7", "alias or a version"),
        ("99999999999999999999", "alias or a version"),
        ("models:/nobody/1", "alias or a version"),
        ("no/such/folder", "bundle's folder"),
    ],
)
def test_a_version_that_does_not_exist_is_refused_with_what_to_do(registry, tmp_path, reference, todo):
    with pytest.raises(RegistryError) as caught:
        registry.locate(reference, tmp_path / "download")
    assert caught.value.what == f"model {reference}"
    assert todo in caught.value.fix
    assert "\n" not in str(caught.value)


def stored_bundle(client, config, version):
    return Path(client.get_model_version(config.model, version).source.removeprefix("file://"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


TAMPERING = {
    "weights": lambda bundle: flip(bundle / "generator.safetensors"),
    "card": lambda bundle: (bundle / "README.md").write_text("champion of the world"),
    "manifest": lambda bundle: (bundle / "manifest.json").write_text((bundle / "manifest.json").read_text() + " "),
    "no manifest": lambda bundle: (bundle / "manifest.json").unlink(),
    "no weights": lambda bundle: (bundle / "generator.safetensors").unlink(),
    "another bundle": lambda bundle: (shutil.rmtree(bundle), make_bundle(bundle, step=99)),
    "nothing left": shutil.rmtree,
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_a_bundle_that_was_tampered_with_is_not_used(config, client, registry, version, tmp_path, kind):
    TAMPERING[kind](stored_bundle(client, config, version))
    with pytest.raises(CheckpointError) as caught:
        load_bundle(registry.locate(version, tmp_path / "download").folder, CPU)
    assert "\n" not in str(caught.value)


# Evaluating and promoting


def test_an_evaluation_is_kept_with_its_version_and_its_run(config, client, registry, version, results, tmp_path):
    registry.record_evaluation(version, scores(x2=0.5, x3=0.25, **{"2x3.3": 1.0}), DATA, results)
    found = client.get_model_version(config.model, version)
    run = client.get_run(found.run_id)
    evidence = json.loads(found.tags[EVALUATION])
    assert evidence["subjects"] == 2
    assert evidence["psnr"]["model"] == pytest.approx({"2": 31.5, "3": 31.25, "2x3.3": 32.0})
    assert run.data.metrics["eval_psnr_model_x2"] == pytest.approx(31.5)
    assert run.data.metrics["eval_psnr_bicubic_x3"] == pytest.approx(31.0)
    assert run.data.metrics["eval_ssim_model_x2x3.3"] == pytest.approx(0.91)
    for file in results.iterdir():
        kept = artifact(client, found.run_id, f"evaluation-version-{version}/{file.name}", tmp_path)
        assert kept == file.read_bytes()


@pytest.mark.parametrize("gains", [{"x2": 0.5}, {"x2": 0.0}, {"x1.5": 0.01, "x2": 1.0, "x1x4": 3.0}])
@pytest.mark.parametrize("ssim_gain", [0.0, 0.05])
def test_a_version_nowhere_below_bicubic_is_promoted(config, client, registry, version, results, gains, ssim_gain):
    registry.record_evaluation(version, scores(ssim_gain, **gains), DATA, results)
    assert registry.promote(CHALLENGER) == (version, None)
    assert aliases(client, config) == {CHALLENGER: version, CHAMPION: version}


def assert_not_promoted(registry, version, client, config, *words):
    with pytest.raises(RegistryError) as caught:
        registry.promote(version)
    for word in words:
        assert word in str(caught.value)
    assert CHAMPION not in aliases(client, config)


def test_a_version_that_was_not_evaluated_is_not_promoted(config, client, registry, version):
    assert_not_promoted(registry, version, client, config, "not been evaluated", f"metasr evaluate --model {version}")


@pytest.mark.parametrize("gain", [-0.01, -5.0, float("nan"), float("-inf")])
def test_a_version_with_less_psnr_at_one_scale_is_not_promoted(config, client, registry, version, results, gain):
    registry.record_evaluation(version, scores(x2=1.0, x3=gain), DATA, results)
    assert_not_promoted(registry, version, client, config, "at scale 3 its PSNR is", "--force")


@pytest.mark.parametrize("gain", [-0.001, float("nan")])
def test_a_version_with_less_ssim_is_not_promoted(config, client, registry, version, results, gain):
    registry.record_evaluation(version, scores(gain, x2=1.0), DATA, results)
    assert_not_promoted(registry, version, client, config, "at scale 2 its SSIM is", "that of bicubic 0.9000")


def test_an_evaluation_of_another_bundle_does_not_count(config, client, registry, bundles, results):
    good, other = (registry.register(bundle, start(config, name)) for name, bundle in zip("ab", bundles, strict=True))
    registry.record_evaluation(good, scores(x2=1.0), DATA, results)
    evidence = client.get_model_version(config.model, good).tags[EVALUATION]
    client.set_model_version_tag(config.model, other, EVALUATION, evidence)
    assert_not_promoted(registry, other, client, config, "another bundle")


def test_a_version_whose_bundle_was_tampered_with_is_not_promoted(config, client, registry, version, results):
    registry.record_evaluation(version, scores(x2=1.0), DATA, results)
    TAMPERING["another bundle"](stored_bundle(client, config, version))
    with pytest.raises(MetaSRError):
        registry.promote(version)
    assert CHAMPION not in aliases(client, config)


def test_promoting_twice_changes_nothing(config, client, registry, version, results):
    registry.record_evaluation(version, scores(x2=1.0), DATA, results)
    assert [registry.promote(version), registry.promote(version)] == [(version, None), (version, version)]
    assert aliases(client, config)[CHAMPION] == version


def test_a_promotion_names_the_champion_before(config, client, registry, bundles, results):
    for name, bundle in zip("ab", bundles, strict=True):
        registry.record_evaluation(registry.register(bundle, start(config, name)), scores(x2=1.0), DATA, results)
    assert [registry.promote("1"), registry.promote("2"), registry.promote("1")] == [
        ("1", None),
        ("2", "1"),
        ("1", "2"),
    ]
    assert aliases(client, config) == {CHALLENGER: "2", CHAMPION: "1"}


@pytest.mark.parametrize("evaluated", [True, False])
def test_force_promotes_against_the_evidence_and_keeps_the_reason(
    config, client, registry, version, evaluated, results
):
    if evaluated:
        registry.record_evaluation(version, scores(x2=-1.0), DATA, results)
    assert registry.promote(version, force="sharper, say the readers") == (version, None)
    assert aliases(client, config)[CHAMPION] == version
    tags = client.get_model_version(config.model, version).tags
    assert tags["metasr.promotion_forced"] == "sharper, say the readers"


def test_a_version_that_passed_is_not_marked_as_forced(config, client, registry, version, results):
    registry.record_evaluation(version, scores(x2=1.0), DATA, results)
    registry.promote(version)
    assert "metasr.promotion_forced" not in client.get_model_version(config.model, version).tags


def test_a_version_that_does_not_exist_is_not_promoted(registry):
    with pytest.raises(RegistryError, match="metasr train"):
        registry.promote("challenger")


# `metasr evaluate`, whose evidence the gate believes


@pytest.fixture
def data(tmp_path):
    """A store with one slice of each split."""
    store = open_store(str(tmp_path / "data"))
    image = np.random.default_rng(0).uniform(0, 1, (24, 24)).astype(np.float16)
    shards = []
    for split, subject in (("train", "a"), ("val", "b")):
        writer = ShardWriter(store, split, Limit(1e6, 1))
        shards.append(writer.write(subject, [Sample(subject, 0, image)]))
    subjects = {"train": ("a",), "val": ("b",)}
    index = Index(tool_version="0", options={}, mean=0.5, std=0.3, subjects=subjects, shards=tuple(shards))
    store.put(INDEX, index.to_bytes())
    return store.url


def evaluate(config, data, model):
    from jobs.evaluate import main

    tracking = [f"--tracking.{name}={getattr(config, name)}" for name in ("uri", "artifacts", "experiment", "model")]
    main(["--model", model, "--data.url", data, "--eval.scales", "2", *tracking])


def is_evaluated(client, model, version):
    tags = client.get_model_version(model, version).tags
    return EVALUATION in tags and json.loads(tags[EVALUATION])["bundle_sha256"] == tags[BUNDLE_DIGEST]


def test_the_evaluation_of_a_version_is_recorded_with_it(config, client, version, data, capsys):
    evaluate(config, data, "challenger")
    assert is_evaluated(client, config.model, version)
    assert f"recorded with version {version}" in capsys.readouterr().out


def test_the_evaluation_of_another_model_is_recorded_with_that_model(config, client, version, bundles, data):
    other = config.model_copy(update={"model": f"{config.model}-b"})
    other_version = Registry(other).register(bundles[1], start(config, "run-2"))
    assert other_version == version
    evaluate(config, data, f"models:/{other.model}/{other_version}")
    assert not is_evaluated(client, config.model, version)
    assert is_evaluated(client, other.model, other_version)
