"""References to a model: every way to name a bundle leads to the same bytes, or to one line that says what to do."""

import shutil
import uuid

import pytest

from cluster.checkpoints import RunCheckpoints
from cluster.registry import CHAMPION, Registry
from cluster.store import open_store
from metasr import manifest
from metasr.errors import CheckpointError, RegistryError
from tests.cluster.registered import flip, make_bundle
from tests.cluster.tracked import start


@pytest.fixture
def bundle(bundles):
    return bundles[0]


@pytest.fixture
def stored(store, bundle):
    """A bundle in a store, file by file."""
    for path in bundle.iterdir():
        store.put(f"models/a/bundle/{path.name}", path)
    return store


def publish(store, tmp_path, *, scores):
    """Publish a checkpoint with a bundle for each score, as steps 1, 2...; return the run's place."""
    checkpoints = RunCheckpoints(open_store(f"{store.url}/runs"), "t1ce-0123").claim(1)
    for step, score in enumerate(scores, start=1):
        folder = tmp_path / uuid.uuid4().hex
        make_bundle(folder / "bundle", step)
        (folder / "state.safetensors").write_bytes(b"much larger")
        manifest.seal(folder, "checkpoint", {"step": step})
        checkpoints.publish(folder, step, score, keep=5)
    return f"{store.url}/runs/t1ce-0123"


def step_of(folder):
    return manifest.unseal(folder, "bundle")["step"]


def refusal(registry, reference, tmp_path, kind):
    with pytest.raises(kind) as caught:
        registry.locate(reference, tmp_path / "download")
    assert "\n" not in str(caught.value)
    assert caught.value.why
    assert caught.value.fix
    return str(caught.value)


def test_an_alias_may_have_an_at(config, client, registry, bundle, tmp_path):
    version = registry.register(bundle, start(config))
    client.set_registered_model_alias(config.model, CHAMPION, version)
    located = registry.locate("@champion", tmp_path / "download")
    assert (located.model, located.version) == (config.model, version)


def test_an_at_with_no_such_alias_says_how_to_make_one(registry, tmp_path):
    assert "metasr promote" in refusal(registry, "@champion", tmp_path, RegistryError)


# Versions by their runs


@pytest.mark.parametrize("form", ["{}", "runs:/{}"])
def test_a_run_in_mlflow_names_the_last_bundle_that_it_registered(config, registry, bundles, tmp_path, form):
    run, other = start(config, "a"), start(config, "b")
    for bundle, by in zip(bundles, (run, run, other), strict=True):
        registry.register(bundle, by)
    located = registry.locate(form.format(run.run_id), tmp_path / "download")
    assert (located.model, located.version) == (config.model, "2")
    assert manifest.digest(located.folder) == manifest.digest(bundles[1])


def test_a_run_in_mlflow_that_registered_nothing_is_refused(config, registry, tmp_path):
    run = start(config)
    assert "metasr sync" in refusal(registry, run.run_id, tmp_path, RegistryError)


# Bundles in a folder or a store


def test_a_bundle_is_found_by_the_url_of_its_folder(registry, bundle, tmp_path):
    spaced = shutil.copytree(bundle, tmp_path / "a bundle")
    assert registry.locate(spaced.as_uri(), tmp_path / "download").folder == spaced


def test_a_bundle_is_found_in_a_store(registry, stored, bundle, tmp_path):
    located = registry.locate(f"{stored.url}/models/a/bundle/", tmp_path / "download")
    assert manifest.unseal(located.folder, "bundle") == manifest.unseal(bundle, "bundle")
    assert located.version is None


@pytest.fixture
def s3(s3_url):
    return open_store(f"{s3_url}/{uuid.uuid4().hex}")


def test_a_file_of_a_bundle_in_a_store_that_was_changed_is_not_used(registry, s3, bundle, tmp_path):
    changed = shutil.copytree(bundle, tmp_path / "changed")
    flip(changed / "generator.safetensors")
    for path in changed.iterdir():
        s3.put(path.name, path)
    said = refusal(registry, s3.url, tmp_path, CheckpointError)
    assert said.startswith(f"bundle {s3.url}: generator.safetensors differs")


def test_a_bundle_in_a_store_without_its_weights_is_not_used(registry, s3, bundle, tmp_path):
    s3.put("manifest.json", bundle / "manifest.json")
    assert "its file README.md is missing" in refusal(registry, s3.url, tmp_path, CheckpointError)


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b'{"kind": "checkpoint", "about": {}, "files": {}}',
        b'{"kind": "bundle", "about": {}, "files": {"../../up": {}}}',
        b'{"kind": "bundle", "about": {}, "files": [1]}',
    ],
)
def test_what_is_no_bundle_is_refused(registry, s3, tmp_path, content):
    s3.put("manifest.json", content)
    assert s3.url in refusal(registry, s3.url, tmp_path, CheckpointError)


def test_a_url_with_nothing_behind_it_is_refused(registry, s3, tmp_path):
    said = refusal(registry, f"{s3.url}/nothing", tmp_path, RegistryError)
    assert "no manifest.json and no checkpoints.json" in said
    assert "no such folder" in refusal(registry, (tmp_path / "nothing").as_uri(), tmp_path, RegistryError)


# Runs in their storage


def test_a_run_in_its_storage_is_its_best_checkpoint(registry, store, tmp_path):
    place = publish(store, tmp_path, scores=[1.0, 3.0, 2.0])
    located = registry.locate(place, tmp_path / "download")
    assert step_of(located.folder) == 2
    assert not list((tmp_path / "download").rglob("state*"))  # larger than all the rest, and not asked for


def test_the_folder_of_a_run_may_be_a_plain_path(registry, tmp_path):
    place = publish(open_store(str(tmp_path / "store")), tmp_path, scores=[3.0, 1.0])
    assert step_of(registry.locate(place.removeprefix("file://"), tmp_path / "download").folder) == 1


def test_a_run_that_has_not_validated_yet_is_refused(registry, store, tmp_path):
    place = publish(store, tmp_path, scores=[None])
    assert "has a score" in refusal(registry, place, tmp_path, CheckpointError)


def test_a_run_whose_best_checkpoint_is_damaged_is_refused_rather_than_another_taken(registry, tmp_path):
    place = publish(open_store(str(tmp_path / "store")), tmp_path, scores=[1.0, 3.0])
    for path in (tmp_path / "store").rglob("step-*2-*/bundle/generator.safetensors"):
        flip(path)
    assert "step 2" in refusal(registry, place, tmp_path, CheckpointError)


def test_a_bundle_with_a_place_needs_no_mlflow(config, bundle, tmp_path):
    away = config.model_copy(update={"uri": "http://127.0.0.1:1"})
    assert Registry(away).locate(str(bundle), tmp_path / "download").folder == bundle
