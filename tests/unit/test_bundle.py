"""Bundles: what was saved is what is loaded, to the last bit, or it is refused."""

import json

import pytest
import torch

from metasr import __version__, manifest
from metasr.config import EvalConfig, ExperimentConfig, ModelConfig, TrainConfig
from metasr.errors import CheckpointError
from metasr.identity import RunIdentity
from metasr.inference import bundle
from metasr.inference.bundle import load_bundle, save_bundle
from metasr.models import build_generator

IDENTITY = RunIdentity("run-1", "abc123", "s3://bucket/prefix", "0123456789abcdef" * 4)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Images this small are only slowed down by threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def config(**model):
    return ExperimentConfig(
        model=ModelConfig(num_features=4, num_blocks=1, **model), train=TrainConfig(scale_min=1.2, scale_max=3.5)
    )


def make(folder, **model):
    """Save a generator none of whose numbers are defaults, in training mode, and return it."""
    torch.manual_seed(0)
    generator = build_generator(config(**model).model, mean=0.37, std=0.117)
    with torch.no_grad():
        for _ in range(3):
            generator(torch.rand(2, generator.trunk.head[0].in_channels, 6, 6), (9, 9))  # moves running statistics
        for parameter in generator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    save_bundle(folder, generator, config(**model), IDENTITY, step=42, metrics={"step": 42, "psnr": 31.25})
    return generator


def reseal(folder, about=None):
    """Let a manifest vouch for files that were changed."""
    about = manifest.unseal(folder, "bundle") if about is None else about
    (folder / "manifest.json").unlink()
    manifest.seal(folder, "bundle", about)


def assert_refused(folder, *words):
    with pytest.raises(CheckpointError) as caught:
        load_bundle(folder, CPU)
    for word in (str(folder), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("skip", ["none", "bicubic"])
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_loaded_generator_gives_the_same_bits(tmp_path, norm, skip, channels):
    original = make(tmp_path / "bundle", norm=norm, skip=skip, channels=channels).eval()
    loaded = load_bundle(tmp_path / "bundle", CPU).generator
    assert not loaded.training
    lr = torch.rand(2, channels, 7, 5)
    with torch.inference_mode():
        assert torch.equal(loaded(lr, (17, 11)), original(lr, (17, 11)))
    saved, restored = original.state_dict(), loaded.state_dict()
    assert saved.keys() == restored.keys()
    assert all(torch.equal(value, restored[name]) for name, value in saved.items())


@pytest.mark.parametrize("architecture", ["srgan", "edsr"])
def test_a_loaded_baseline_gives_the_same_bits(tmp_path, architecture):
    model = ModelConfig(architecture=architecture, fixed_scale=3, num_features=4, num_blocks=1, norm="batch")
    settings = ExperimentConfig(
        model=model, train=TrainConfig(scale_min=3, scale_max=3), eval=EvalConfig(scales=(3,))
    )
    original = build_generator(model, mean=0.37, std=0.117).eval()
    save_bundle(tmp_path / "bundle", original, settings, IDENTITY, step=1, metrics={})
    loaded = load_bundle(tmp_path / "bundle", CPU).generator
    lr = torch.rand(2, 1, 7, 5)
    with torch.inference_mode():
        assert torch.equal(loaded(lr, (21, 15)), original(lr, (21, 15)))


def test_saving_leaves_the_generator_alone(tmp_path):
    generator = make(tmp_path / "one", norm="batch")
    assert generator.training
    assert all(parameter.requires_grad for parameter in generator.parameters())


def test_a_bundle_says_where_it_came_from(tmp_path):
    make(tmp_path / "bundle")
    about = load_bundle(tmp_path / "bundle", CPU).about
    assert about["run_name"] == "run-1"
    assert about["code_version"] == "abc123"
    assert about["data_digest"] == IDENTITY.data_digest
    assert about["metasr_version"] == __version__
    assert about["step"] == 42
    assert about["metrics"]["psnr"] == 31.25
    assert ExperimentConfig.model_validate(about["config"]) == config()


def test_the_trained_scales_are_those_of_the_training(tmp_path):
    make(tmp_path / "bundle")
    assert load_bundle(tmp_path / "bundle", CPU).trained_scales == (1.2, 3.5)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_parameters_are_counted_from_the_generator_that_is_saved_and_loaded(tmp_path, monkeypatch, norm):
    generator = build_generator(config(norm=norm).model)
    with monkeypatch.context() as patch:
        patch.setattr(bundle, "build_generator", None)  # to save a network, no other is built
        save_bundle(tmp_path / "b", generator, config(norm=norm), IDENTITY, step=1, metrics={})
    assert load_bundle(tmp_path / "b", CPU).about["num_parameters"] == generator.num_parameters


def test_the_card_states_parameters_steps_and_scores(tmp_path):
    generator = make(tmp_path / "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert f"{sum(p.numel() for p in generator.parameters()):,} parameters" in card
    assert "42 steps on scales 1.2 to 3.5" in card
    assert "| psnr | 31.2500 |" in card
    assert "not a medical device" in card


def test_a_bundle_holds_nothing_that_could_be_executed(tmp_path):
    make(tmp_path / "bundle", norm="batch")
    names = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert names == {"generator.safetensors", "manifest.json", "README.md"}
    header = (tmp_path / "bundle" / "generator.safetensors").read_bytes()
    assert isinstance(json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")]), dict)


def test_the_digest_identifies_the_bundle(tmp_path):
    make(tmp_path / "one")
    make(tmp_path / "same")
    make(tmp_path / "other", norm="batch")
    digests = [load_bundle(tmp_path / name, CPU).digest for name in ("one", "same", "other")]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] == manifest.digest(tmp_path / "one")


def test_an_existing_folder_is_not_overwritten(tmp_path):
    make(tmp_path / "bundle")
    with pytest.raises(FileExistsError):
        make(tmp_path / "bundle")


@pytest.mark.parametrize("name", ["generator.safetensors", "README.md"])
def test_a_flipped_byte_is_refused(tmp_path, name):
    make(tmp_path / "bundle")
    content = bytearray((tmp_path / "bundle" / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "bundle" / name).write_bytes(content)
    assert_refused(tmp_path / "bundle", name)


def test_a_bundle_without_its_weights_is_refused(tmp_path):
    make(tmp_path / "bundle")
    (tmp_path / "bundle" / "generator.safetensors").unlink()
    assert_refused(tmp_path / "bundle", "generator.safetensors")


def test_a_sealed_bundle_that_never_had_weights_is_refused(tmp_path):
    make(tmp_path / "bundle")
    about = manifest.unseal(tmp_path / "bundle", "bundle")
    (tmp_path / "bundle" / "generator.safetensors").unlink()
    reseal(tmp_path / "bundle", about)
    assert_refused(tmp_path / "bundle")


def test_a_checkpoint_is_not_a_bundle(tmp_path):
    tmp_path.joinpath("weights").write_bytes(b"x")
    manifest.seal(tmp_path, "checkpoint", {})
    assert_refused(tmp_path, "bundle")


def test_a_pickle_in_the_place_of_the_weights_is_refused_and_not_run(tmp_path):
    make(tmp_path / "bundle")
    about = manifest.unseal(tmp_path / "bundle", "bundle")
    marker = tmp_path / "executed"
    (tmp_path / "bundle" / "generator.safetensors").write_bytes(f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode())
    reseal(tmp_path / "bundle", about)
    assert_refused(tmp_path / "bundle")
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"\xff" * 64, b"PK\x03\x04" + bytes(60)], ids=["empty", "zeros", "ones", "zip"]
)
def test_weights_in_an_unknown_format_are_refused(tmp_path, content):
    make(tmp_path / "bundle")
    about = manifest.unseal(tmp_path / "bundle", "bundle")
    (tmp_path / "bundle" / "generator.safetensors").write_bytes(content)
    reseal(tmp_path / "bundle", about)
    assert_refused(tmp_path / "bundle")


@pytest.mark.parametrize(
    "model",
    [
        {"attention": True},
        {"norm": "layer"},
        {"num_features": 5},
        {"num_blocks": 2},
        {"norm": "batch"},
        {"channels": 3},
        {"num_features": 0},
    ],
)
def test_a_model_that_this_version_does_not_know_is_refused(tmp_path, model):
    make(tmp_path / "bundle")
    about = manifest.unseal(tmp_path / "bundle", "bundle")
    about["config"]["model"] |= model
    about["metasr_version"] = "9.8.7"
    reseal(tmp_path / "bundle", about)
    assert_refused(tmp_path / "bundle", "9.8.7")


@pytest.mark.parametrize("about", [{}, {"config": {}}, {"config": []}, {"config": {"model": None}}, {"config": None}])
def test_a_manifest_without_settings_is_refused(tmp_path, about):
    make(tmp_path / "bundle")
    reseal(tmp_path / "bundle", about)
    assert_refused(tmp_path / "bundle")
