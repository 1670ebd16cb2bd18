"""The name of a run: what decides the weights changes it, and nothing else does."""

import hashlib
from typing import Annotated, Literal, get_args, get_origin

import pytest

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig, SweepConfig
from cluster.recipes import Layer, leaves, recipe_layer, resolve
from cluster.sweep.space import SweepPlan
from cluster.sweep.sweep import sweep_name
from cluster.training import naming
from cluster.training.naming import deciding, first_defaults, former_run_name, run_name, stored_run_name
from jobs.cli import RECIPES
from jobs.tune import SWEEPS
from metasr.config import FirstDefault, OptimConfig, TrainConfig
from metasr.errors import ConfigError
from metasr.scale import Scale
from tests.cluster.training import changed

DATA = "d" * 64
FIELDS = dict(leaves(JobConfig))
LEFT_OUT = {
    "model.architecture": "meta_srgan",
    "model.fixed_scale": 2,
    "model.channels": 1,
    "model.num_features": 64,
    "model.num_blocks": 5,
    "model.norm": "none",
    "model.skip": "bicubic",
    "model.residual_scale": 0.2,
    "data.shuffle_shards": 8,
    "data.patch_px": 96,
    "data.lr_patch_px": 0,
    "data.degradation": "bicubic",
    "data.noise": 0.0,
    "data.flips": True,
    "data.contrast": 0.0,
    "data.min_brain": 0.0,
    "loss.pixel": 1.0,
    "loss.adversarial": 0.001,
    "loss.perceptual": 0.006,
    "loss.adversarial_form": "non_saturating",
    "loss.vgg_network": "vgg19",
    "loss.vgg_layer": "relu5_4",
    "optim.generator_lr": 0.0001,
    "optim.discriminator_lr": 0.0001,
    "optim.schedule": "step",
    "optim.decay_every_steps": 60000,
    "optim.decay_factor": 0.8,
    "optim.clip_norm": 0.0,
    "optim.ema_decay": 0.0,
    "train.steps": 360000,
    "train.batch_size": 8,
    "train.scale_min": 1.1,
    "train.scale_max": 4.0,
    "train.pixel_only_steps": 0,
    "train.checkpoint_every_steps": 1000,
    "train.keep_best_by": "psnr",
    "train.reduction": "exact",
    "train.virtual_shards": 0,
    "train.precision": "float32",
    "train.seed": 0,
    "eval.scales": [1.5, 2.0, 3.0, 4.0],
    "eval.validation_slices": 4,
    "search.searcher": "tpe",
    "search.scheduler": "asha",
    "search.seed": 0,
    "search.metric": "ssim",
    "search.floor": 0.0,
    "search.asha_grace": 0.25,
    "search.asha_reduction": 3.0,
    "search.pbt_interval": 0.25,
    "search.pbt_quantile": 0.25,
}
RENAMES = """The names of runs would change, and the same command would begin at step 0 again.
A changed default: keep the former one where the setting is defined, as Annotated[..., FirstDefault(former)].
A new setting: its default must mean what happened without it; add it to this table.
A setting that is removed or renamed: runs that gave it get another name; say so in the release notes, and change this
table."""


def job(**values):
    """Settings; `train__steps=5` stands for train.steps."""
    layer = Layer("test", {name.replace("__", "."): value for name, value in values.items()})
    return resolve(JobConfig, [layer]).config


def otherwise(name):
    """Return the default settings with another value of one of them, whether or not it fits the others."""
    section, leaf = name.split(".")
    value, kind = getattr(getattr(JobConfig(), section), leaf), FIELDS[name].annotation
    if get_origin(kind) is Literal:
        value = next(other for other in get_args(kind) if other != value)
    elif kind is bool:
        value = not value
    elif kind is tuple or get_origin(kind) is tuple:
        value = (Scale(2.5, 2.5),)
    else:
        value = f"{value}other" if kind is str else value + 1
    return changed(JobConfig(), section, **{leaf: value})


def test_settings_are_left_out_of_names_at_the_same_values_for_ever():
    assert first_defaults(SweepConfig) == LEFT_OUT, RENAMES


@pytest.mark.parametrize("name", sorted(first_defaults(JobConfig)))
def test_each_setting_that_decides_the_weights_makes_another_run(name):
    assert run_name(otherwise(name), "smoke", DATA) != run_name(JobConfig(), "smoke", DATA)


@pytest.mark.parametrize("name", sorted(FIELDS.keys() - first_defaults(JobConfig).keys() - {"loss.vgg_weights"}))
def test_no_other_setting_makes_another_run(name):
    assert run_name(otherwise(name), "smoke", DATA) == run_name(JobConfig(), "smoke", DATA)


def test_machines_places_and_what_is_said_on_the_way_make_no_other_run():
    other = job(
        resources__num_workers=8,
        storage__url="s3://other/runs",
        tracking__uri="http://mlflow:5000",
        data__url="s3://other/copy",
        data__on_corrupt="skip",
        train__log_every_steps=7,
        train__keep_checkpoints=9,
        train__on_nan="skip",
    )
    assert run_name(other, "/some/where/smoke.yaml", DATA) == run_name(job(), "smoke", DATA)


def test_a_new_setting_whose_default_means_as_before_renames_nothing():
    class LaterTrain(TrainConfig):
        averaged_steps: int = 0
        """A setting to come."""

    class LaterJob(JobConfig):
        train: LaterTrain = LaterTrain()

    assert run_name(LaterJob(), "smoke", DATA) == run_name(JobConfig(), "smoke", DATA)
    used = LaterJob(train=LaterTrain(averaged_steps=1))
    assert run_name(used, "smoke", DATA) != run_name(JobConfig(), "smoke", DATA)


def test_runs_keep_their_names_when_a_default_changes():
    class LaterOptim(OptimConfig):
        generator_lr: Annotated[float, FirstDefault(1e-4)] = 3e-4
        """With another default than at first."""

    class LaterJob(JobConfig):
        optim: LaterOptim = LaterOptim()

    former = LaterJob(optim=LaterOptim(generator_lr=1e-4))
    assert run_name(former, "smoke", DATA) == run_name(JobConfig(), "smoke", DATA)
    assert run_name(LaterJob(), "smoke", DATA) == run_name(job(optim__generator_lr=3e-4), "smoke", DATA)


def test_the_run_is_the_same_whichever_layer_said_so():
    assert run_name(job(), "smoke", DATA) == run_name(job(train__seed=JobConfig().train.seed), "smoke", DATA)


def test_other_data_or_another_start_is_another_run():
    names = [run_name(job(), "smoke", *what) for what in ((DATA,), ("e" * 64,), (DATA, "b" * 64), (DATA, "run@20"))]
    assert len(set(names)) == 4


def test_the_name_of_a_run_begins_with_its_recipe():
    assert run_name(job(), "recipes/mine.yaml", DATA).startswith("mine-")


# The weights of the perceptual loss


@pytest.fixture
def weights(tmp_path):
    def write(name, content=b"weights"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def with_weights(file, **values):
    return run_name(job(loss__vgg_weights=str(file), **values), "smoke", DATA)


def test_weights_of_the_perceptual_loss_count_by_their_bytes_not_by_their_place(weights):
    first, copy, other = weights("a.safetensors"), weights("b.safetensors"), weights("c.safetensors", b"others")
    assert with_weights(first) == with_weights(copy)
    assert with_weights(first) != with_weights(other)
    assert with_weights(first) != run_name(job(), "smoke", DATA)
    first.write_bytes(b"others, of another size")
    assert with_weights(first) != with_weights(copy)


def test_torchvisions_own_file_is_the_one_that_would_be_downloaded(weights, monkeypatch):
    file = weights("anywhere.pth")
    monkeypatch.setattr(naming, "SHA256", {"vgg19": hashlib.sha256(file.read_bytes()).hexdigest()})
    assert with_weights(file) == run_name(job(), "smoke", DATA)


def test_weights_that_nobody_uses_are_not_read(tmp_path):
    unused = with_weights(tmp_path / "missing", loss__perceptual=0)
    assert unused == run_name(job(loss__perceptual=0), "smoke", DATA)
    with pytest.raises(ConfigError, match="there is no such file"):
        with_weights(tmp_path / "missing")


# Runs of version 0.1.0


def test_the_names_that_version_0_1_0_gave_are_known():
    smoke = recipe_layer("smoke", RECIPES)
    given = {"loss.vgg_weights": "/x/vgg.pth", "eval.scales": [1.5, "1x4"], "train.log_every_steps": 7}
    mine = resolve(JobConfig, [smoke, Layer("test", given)]).config
    assert former_run_name(JobConfig(), "smoke", DATA) == "smoke-f4cb8b1243"
    assert former_run_name(resolve(JobConfig, [smoke]).config, "smoke", DATA) == "smoke-0cc2a576d3"
    assert former_run_name(mine, "mine.yaml", DATA, "other-0123@20") == "mine-c8cfb3df0a"


def test_a_run_of_version_0_1_0_goes_on_under_its_name_and_says_so(store):
    config = job(storage__url=store.url)
    name, former = run_name(config, "smoke", DATA), former_run_name(config, "smoke", DATA)
    said = []
    assert stored_run_name(config, "smoke", DATA, tell=said.append) == name
    RunCheckpoints(store, former).claim(1)
    assert said == []
    assert stored_run_name(config, "smoke", DATA, tell=said.append) == former
    assert said == [f"{former} was started by version 0.1.0 and keeps that name; a new one would be called {name}"]
    RunCheckpoints(store, name).claim(1)
    assert stored_run_name(config, "smoke", DATA, tell=said.append) == name
    assert len(said) == 1


def test_settings_of_a_search_count_where_they_differ_and_numbers_of_trials_do_not():
    layers = [Layer("test", {"search.trials": 99, "search.concurrent": 3, "search.seed": 5})]
    assert deciding(resolve(SweepConfig, layers).config) == {"search.seed": 5}


def test_a_sweep_of_version_0_1_0_goes_on_under_its_name(store):
    given = {"storage.url": store.url, "search.seed": 5, "data.url": "data"}
    plan = SweepPlan.read("scale-range", SWEEPS, "default", RECIPES, Layer("test", given))
    plan = plan.with_precision("bfloat16")
    name = sweep_name(plan, DATA)
    former = "sweep-scale-range-41ba4f7303"
    assert name != former
    store.put(f"sweeps/{former}/trials.json", b"{}")
    assert sweep_name(plan, DATA) == former
