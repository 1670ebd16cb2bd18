"""Settings: the paper's numbers by default, and nothing that makes no sense."""

import pytest
from pydantic import ValidationError

from metasr.config import (
    DataConfig,
    EvalConfig,
    ExperimentConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    Section,
    TrainConfig,
)

SECTIONS = (ModelConfig, DataConfig, LossConfig, OptimConfig, TrainConfig, EvalConfig)
PAPER = {
    "model.channels": 1,
    "model.num_features": 64,
    "model.num_blocks": 5,
    "data.patch_px": 96,
    "loss.pixel": 1.0,
    "loss.adversarial": 0.001,
    "loss.perceptual": 0.006,
    "loss.vgg_network": "vgg19",
    "loss.vgg_layer": "relu5_4",
    "optim.generator_lr": 1e-4,
    "optim.discriminator_lr": 1e-4,
    "optim.decay_every_steps": 60_000,
    "optim.decay_factor": 0.8,
    "train.steps": 360_000,
    "train.batch_size": 8,
    "train.scale_min": 1.1,
    "train.scale_max": 4.0,
    "train.pixel_only_steps": 0,
    "optim.schedule": "step",
    "optim.clip_norm": 0,
    "optim.ema_decay": 0,
    "data.lr_patch_px": 0,
    "data.noise": 0,
    "data.contrast": 0,
    "data.min_brain": 0,
    "train.precision": "float32",
}
OUT_OF_BOUNDS = {
    "model.channels": [0, 2, 4],
    "model.num_features": [0, -1],
    "model.num_blocks": [-1],
    "model.architecture": ["rdn", ""],
    "model.fixed_scale": [1, 5, 2.5],
    "model.norm": ["layer", ""],
    "model.skip": ["nearest"],
    "model.residual_scale": [0, -0.1],
    "data.shuffle_shards": [0],
    "data.on_corrupt": ["ignore", ""],
    "data.patch_px": [15, 0, -96],
    "data.lr_patch_px": [-1],
    "data.degradation": ["nearest", ""],
    "data.noise": [-0.01, 1.01],
    "data.contrast": [-0.1, 1],
    "data.min_brain": [-0.1, 1.01],
    "loss.pixel": [-1e-9],
    "loss.adversarial": [-1],
    "loss.perceptual": [-0.006],
    "loss.adversarial_form": ["wgan"],
    "loss.vgg_network": ["vgg11"],
    "optim.generator_lr": [0, -1e-4],
    "optim.discriminator_lr": [0, -1e-4],
    "optim.decay_every_steps": [0],
    "optim.decay_factor": [0, -0.5, 1.01],
    "optim.schedule": ["linear", ""],
    "optim.clip_norm": [-1],
    "optim.ema_decay": [-0.1, 1],
    "train.steps": [0, -1],
    "train.batch_size": [0],
    "train.scale_min": [1.0, 0.9, 0, -2],
    "train.scale_max": [16.1, 100],
    "train.pixel_only_steps": [-1],
    "train.checkpoint_every_steps": [0],
    "train.keep_checkpoints": [0],
    "train.keep_best_by": ["ssim", ""],
    "train.reduction": ["mean", ""],
    "train.virtual_shards": [-1, 3, 16],
    "train.on_nan": ["ignore", ""],
    "train.max_skipped": [-1],
    "train.precision": ["float16", ""],
    "train.graphs": ["cuda", ""],
    "train.log_every_steps": [0],
    "train.seed": [-1],
    "eval.scales": [(), (1.0,), (2.0, 0.5), (2.0, 16.5), (-2.0,), ("1x1",), ("1x17",)],
    "eval.validation_slices": [0],
    "eval.slices_per_subject": [-1],
}
WRONG_TYPE = {
    "model.num_features": ["many", 1.5, None, [64]],
    "data.url": [3, None],
    "data.flips": ["perhaps", 2, None],
    "loss.pixel": ["heavy", None],
    "loss.vgg_weights": [3],
    "optim.generator_lr": ["fast", None],
    "train.steps": [0.5, "all", None],
    "train.scale_min": ["small"],
    "eval.scales": [2.0, "2.0", None, ("large",)],
}


def flat(changes):
    return [(key, value) for key, values in changes.items() for value in values]


def nested(key, value):
    section, name = key.split(".")
    return {section: {name: value}}


def lookup(config, key):
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize(("key", "value"), PAPER.items())
def test_defaults_are_the_papers(key, value):
    assert lookup(ExperimentConfig(), key) == value


def test_where_the_default_is_not_the_papers_the_description_says_so():
    assert (ModelConfig().norm, ModelConfig().skip) == ("none", "bicubic")
    for name in ("norm", "skip"):
        assert "paper has" in ModelConfig.model_fields[name].description


def test_the_list_of_out_of_bounds_values_leaves_no_bounded_field_out():
    free = {"data.url", "data.flips", "loss.vgg_layer", "loss.vgg_weights"}
    every = {
        f"{name}.{field}"
        for name, info in ExperimentConfig.model_fields.items()
        for field in info.annotation.model_fields
    }
    assert every - free == set(OUT_OF_BOUNDS)


@pytest.mark.parametrize(("key", "value"), flat(OUT_OF_BOUNDS))
def test_out_of_bounds_values_are_errors_that_name_the_key(key, value):
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate(nested(key, value))
    assert key.split(".")[1] in str(caught.value)


@pytest.mark.parametrize(("key", "value"), flat(WRONG_TYPE))
def test_wrong_types_are_errors_that_name_the_key(key, value):
    with pytest.raises(ValidationError) as caught:
        ExperimentConfig.model_validate(nested(key, value))
    assert key in ".".join(str(part) for part in caught.value.errors()[0]["loc"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["optim.generator_lr", "loss.pixel", "train.scale_max", "model.residual_scale"])
def test_numbers_must_be_finite(key, value):
    with pytest.raises(ValidationError, match="finite"):
        ExperimentConfig.model_validate(nested(key, value))


def test_evaluated_scales_must_be_finite():
    with pytest.raises(ValidationError):
        EvalConfig(scales=(2.0, float("nan")))


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_keys_are_errors(section):
    with pytest.raises(ValidationError, match="no_such_key"):
        section(no_such_key=1)


def test_unknown_sections_are_errors():
    with pytest.raises(ValidationError, match="optimizer"):
        ExperimentConfig.model_validate({"optimizer": {}})


@pytest.mark.parametrize("section", [*SECTIONS, ExperimentConfig])
def test_settings_never_change(section):
    settings = section()
    for name in section.model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(settings, name, getattr(settings, name))


@pytest.mark.parametrize("value", [1.15, 1.1001, 2.05])
@pytest.mark.parametrize("name", ["scale_min", "scale_max"])
def test_scales_between_tenths_are_errors(name, value):
    with pytest.raises(ValidationError, match=r"multiple of 0\.1"):
        TrainConfig(**{name: value})


def test_training_stops_at_the_largest_scale_that_can_be_asked_for():
    with pytest.raises(ValidationError, match="less than or equal to 16"):
        TrainConfig(scale_max=16.1)


def test_evaluation_needs_a_scale():
    with pytest.raises(ValidationError, match="takes scales above 1"):
        EvalConfig(scales=())


def test_every_tenth_is_a_scale():
    for tenths in range(11, 161):
        assert TrainConfig(scale_min=tenths / 10, scale_max=tenths / 10).scale_max == tenths / 10


def test_the_smallest_scale_must_not_be_above_the_largest():
    with pytest.raises(ValidationError, match="above"):
        TrainConfig(scale_min=3.0, scale_max=2.0)
    with pytest.raises(ValidationError, match="above"):
        TrainConfig(scale_max=1.0)
    assert TrainConfig(scale_min=2.0, scale_max=2.0).scale_min == 2.0


@pytest.mark.parametrize(("scale", "smallest"), [(4.0, 40), (3.1, 31), (1.6, 16), (16.0, 160)])
def test_a_patch_must_hold_the_largest_scale(scale, smallest):
    def config(patch_px):
        return ExperimentConfig(data=DataConfig(patch_px=patch_px), train=TrainConfig(scale_max=scale))

    assert config(smallest).data.patch_px == smallest
    with pytest.raises(ValidationError, match="patch_px"):
        config(smallest - 1)


@pytest.mark.parametrize("architecture", ["srgan", "edsr"])
def test_a_network_of_one_scale_is_trained_and_evaluated_at_that_scale_alone(architecture):
    model = ModelConfig(architecture=architecture, fixed_scale=3)
    train, evaluation = TrainConfig(scale_min=3, scale_max=3), EvalConfig(scales=(3,))
    assert ExperimentConfig(model=model, train=train, eval=evaluation).model.fixed_scale == 3
    for wrong in ({"eval": EvalConfig()}, {"train": TrainConfig()}, {"train": TrainConfig(scale_min=2, scale_max=3)}):
        with pytest.raises(ValidationError, match=rf"{architecture} is for scale 3 .* alone: set train.scale_min"):
            ExperimentConfig(**{"model": model, "train": train, "eval": evaluation} | wrong)


def test_bounds_themselves_are_allowed():
    ModelConfig(num_features=1, num_blocks=0, channels=3)
    LossConfig(pixel=0, adversarial=0, perceptual=0)
    OptimConfig(decay_every_steps=1, decay_factor=1)
    TrainConfig(steps=1, batch_size=1, scale_min=1.1, scale_max=16, seed=0)
    EvalConfig(scales=(1.0001, 16.0), validation_slices=1, slices_per_subject=0)


def test_every_field_of_every_section_is_described():
    for section in SECTIONS:
        assert issubclass(section, Section)
        assert section.__doc__.strip()
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert field.description.strip().endswith(".")


def test_every_section_of_an_experiment_is_tested_here():
    assert tuple(field.annotation for field in ExperimentConfig.model_fields.values()) == SECTIONS


def test_an_experiment_survives_json():
    config = ExperimentConfig.model_validate(
        {
            "model": {"norm": "batch"},
            "loss": {"vgg_weights": "a/b.safetensors"},
            "eval": {"scales": [1.5, "1x4", 3.1]},
        }
    )
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config
    assert ExperimentConfig.model_validate(config.model_dump(mode="json")) == config


def test_the_perceptual_distance_needs_a_perceptual_loss():
    with pytest.raises(
        ValidationError, match=r"keep_best_by perceptual measures with the network of a loss\.perceptual"
    ):
        ExperimentConfig.model_validate({"train": {"keep_best_by": "perceptual"}, "loss": {"perceptual": 0}})
    ExperimentConfig.model_validate({"train": {"keep_best_by": "perceptual"}, "loss": {"perceptual": 0.006}})


def test_lr_patches_smaller_than_what_the_network_sees_are_refused():
    with pytest.raises(ValidationError, match=r"lr_patch_px 31 .* at least 32"):
        ExperimentConfig(data=DataConfig(lr_patch_px=31))
