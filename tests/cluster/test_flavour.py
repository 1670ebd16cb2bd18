"""Registered models as MLflow's own users see them: loaded and served, without pickle, as good as ours."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from contextlib import suppress

import numpy as np
import pytest
import torch

from cluster.registry import BUNDLE_DIGEST, CHAMPION
from metasr import manifest
from metasr.config import ExperimentConfig, ModelConfig
from metasr.errors import CheckpointError
from metasr.identity import RunIdentity
from metasr.inference.bundle import load_bundle, save_bundle
from metasr.models import build_generator, evaluating
from tests.cluster.registered import flip, stored_bundle
from tests.cluster.tracked import closed_port, start
from tests.patience import PATIENCE_S


@pytest.fixture
def no_pickle(config, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", config.uri)
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


@pytest.fixture
def champion(config, client, registry, bundles):
    """The URI of a champion."""
    version = registry.register(bundles[0], start(config))
    client.set_registered_model_alias(config.model, CHAMPION, version)
    return f"models:/{config.model}@champion"


def expected(bundle, lr, size):
    generator = load_bundle(bundle, torch.device("cpu")).generator
    with evaluating(generator):
        return generator(torch.from_numpy(lr), size).numpy()


def images(*shape):
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("params", "size"),
    [
        (None, (18, 14)),
        ({"scale": 2.5}, (22, 18)),
        ({"scale": 3}, (27, 21)),
        ({"height": 20, "width": 31}, (20, 31)),
        ({"height": 20}, (20, 14)),
    ],
)
def test_what_mlflow_loads_is_the_generator(no_pickle, champion, bundles, params, size):
    import mlflow.pyfunc

    lr = images(2, 1, 9, 7)
    sr = mlflow.pyfunc.load_model(champion).predict(lr, params=params)
    assert sr.shape == (2, 1, *size)
    np.testing.assert_allclose(sr, expected(bundles[0], lr, size), atol=1e-6)


@pytest.mark.parametrize("params", [{"scale": 1.0}, {"scale": 17.0}, {"height": 4}, {"width": 10**9}])
def test_a_size_that_cannot_be_given_is_refused_before_it_takes_memory(no_pickle, champion, params):
    import mlflow.pyfunc

    with pytest.raises(ValueError, match="is not a scale"):
        mlflow.pyfunc.load_model(champion).predict(images(1, 1, 8, 8), params=params)


def test_images_of_the_wrong_kind_are_refused_by_the_signature(no_pickle, champion):
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="shape"):
        mlflow.pyfunc.load_model(champion).predict(images(1, 3, 8, 8))


def test_a_model_for_colour_asks_for_colour(no_pickle, config, registry, tmp_path):
    import mlflow.pyfunc

    settings = ExperimentConfig(model=ModelConfig(num_features=8, num_blocks=1, channels=3))
    identity = RunIdentity("run-1", "abc123", "file:///nowhere", "d" * 64)
    save_bundle(tmp_path / "b", build_generator(settings.model), settings, identity, step=1, metrics={})
    version = registry.register(tmp_path / "b", start(config))
    lr = images(1, 3, 8, 8)
    sr = mlflow.pyfunc.load_model(f"models:/{config.model}/{version}").predict(lr)
    np.testing.assert_allclose(sr, expected(tmp_path / "b", lr, (16, 16)), atol=1e-6)


def test_mlflow_refuses_a_model_whose_weights_were_changed(no_pickle, config, client, champion):
    import mlflow.pyfunc

    flip(stored_bundle(client, config, "1") / "generator.safetensors")
    with pytest.raises(CheckpointError, match="differs"):
        mlflow.pyfunc.load_model(champion)


def test_what_lies_beside_the_bundle_is_never_run_by_our_own_commands(config, client, registry, champion, tmp_path):
    script = stored_bundle(client, config, "1").parents[1] / "serve.py"
    script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    located = registry.locate(champion, tmp_path / "download")
    load_bundle(located.folder, torch.device("cpu"))
    assert not (tmp_path / "ran").exists()


def test_the_folder_that_mlflow_keeps_is_a_reference_too(config, client, registry, champion, bundles, tmp_path):
    folder = stored_bundle(client, config, "1").parents[1]
    located = registry.locate(str(folder), tmp_path / "download")
    assert manifest.digest(located.folder) == manifest.digest(bundles[0])


def test_a_version_that_was_registered_as_a_bundle_alone_is_still_found(config, client, registry, bundles, tmp_path):
    run = start(config)
    client.create_registered_model(config.model)
    digest = manifest.digest(bundles[0])
    source = run.folder("bundle-0123", bundles[0])
    client.create_model_version(config.model, source, run_id=run.run_id, tags={BUNDLE_DIGEST: digest})
    assert manifest.digest(registry.locate("1", tmp_path / "download").folder) == digest
    assert registry.register(bundles[0], run) == "1"


def test_a_damaged_bundle_is_not_registered(config, client, registry, bundles, tmp_path):
    import shutil

    damaged = shutil.copytree(bundles[0], tmp_path / "damaged")
    flip(damaged / "generator.safetensors")
    with pytest.raises(CheckpointError):
        registry.register(damaged, start(config))
    assert not client.search_model_versions(f"name = '{config.model}'")


# `mlflow models serve`


def post(url, body):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def served(no_pickle, champion, tmp_path):
    """The address of a server of the champion."""
    url = f"http://127.0.0.1:{(port := closed_port())}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", champion, "--env-manager", "local"]
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])  # it looks for uvicorn there
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path},
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not is_up(url):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.05)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # it and its worker, in a session of their own
        process.wait()


def is_up(url):
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    except OSError:
        return False


def test_a_served_champion_answers_its_own_example(served, config, client, bundles):
    folder = stored_bundle(client, config, "1").parents[1]
    example = (folder / "serving_input_example.json").read_bytes()
    status, answer = post(f"{served}/invocations", example)
    assert status == 200, answer
    lr = np.asarray(json.loads(example)["inputs"], np.float32)
    np.testing.assert_allclose(answer["predictions"], expected(bundles[0], lr, (16, 16)), atol=1e-6)

    too_large = {"inputs": lr.tolist(), "params": {"scale": 99}}
    status, answer = post(f"{served}/invocations", json.dumps(too_large).encode())
    assert status == 400
    assert "99 is not a scale" in answer
