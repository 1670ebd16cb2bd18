"""Models in a real MLflow: what is registered, and what can be found again."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.registry import BUNDLE_DIGEST, CHALLENGER, EVALUATION, Registry
from cluster.registry.evidence import evaluation_of, require_comparable
from cluster.shards import INDEX, Index, Limit, Sample, ShardWriter
from cluster.store import open_store
from metasr import manifest
from metasr.errors import CheckpointError, RegistryError
from metasr.inference.bundle import load_bundle
from tests.cluster.registered import flip, make_bundle
from tests.cluster.tracked import start

CPU = torch.device("cpu")


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
    assert "not a medical device" in client.get_registered_model(config.model).description


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
    return (
        Path(client.get_model_version(config.model, version).source.removeprefix("file://")) / "artifacts" / "bundle"
    )


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


def evaluate(config, data, model, scales="2"):
    from jobs.evaluate import main

    tracking = [f"--tracking.{name}={getattr(config, name)}" for name in ("uri", "artifacts", "experiment", "model")]
    main(["--model", model, "--data.url", data, "--eval.scales", scales, *tracking])


def is_evaluated(config, model, version):
    registry = Registry(config)
    found = registry.version(f"models:/{model}/{version}")
    return EVALUATION in found.tags and evaluation_of(registry, found).evidence.bundle_sha256


def test_the_evaluation_of_a_version_is_recorded_with_it(config, client, version, data, capsys):
    evaluate(config, data, "challenger")
    assert is_evaluated(config, config.model, version)
    assert f"recorded with version {version}" in capsys.readouterr().out


def test_the_evaluation_of_another_model_is_recorded_with_that_model(config, client, version, bundles, data):
    other = config.model_copy(update={"model": f"{config.model}-b"})
    other_version = Registry(other).register(bundles[1], start(config, "run-2"))
    assert other_version == version
    evaluate(config, data, f"models:/{other.model}/{other_version}")
    assert not is_evaluated(config, config.model, version)
    assert is_evaluated(config, other.model, other_version)


def test_versions_evaluated_by_the_same_command_can_be_compared_and_others_by_the_one_that_is_told(
    config, registry, bundles, data
):
    for name, bundle in zip("ab", bundles, strict=True):
        registry.register(bundle, start(config, name))
    evaluate(config, data, "1")

    def compare():
        ours, theirs = registry.version("2"), registry.version("1")
        require_comparable(registry, evaluation_of(registry, ours), evaluation_of(registry, theirs), ours, theirs)

    evaluate(config, data, "2", scales="1x2,1.5")
    with pytest.raises(RegistryError) as caught:
        compare()
    told = re.search("`metasr evaluate (.*)`", caught.value.fix)[1]
    evaluate(config, data, "1", scales=shlex.split(told)[shlex.split(told).index("--eval.scales") + 1])
    compare()
    assert evaluation_of(registry, registry.version("1")).evidence.code_version
