"""Settings: which layer wins, where a value came from, and what a person is told who got one wrong."""

from pathlib import Path

import pytest
import yaml

import jobs
from cluster.config import JobConfig, PrepareConfig, expand
from cluster.recipes import Layer, flatten, leaves, nearest, parse_flag, recipe_layer, resolve
from metasr.errors import ConfigError

RECIPES = Path(jobs.__file__).parent / "recipes"
SETTINGS = dict(leaves(JobConfig))
SECTIONS = sorted({name.partition(".")[0] for name in SETTINGS})
LAST_PARTS = [name.rpartition(".")[2] for name in SETTINGS]
UNIQUE = [name for name in SETTINGS if LAST_PARTS.count(name.rpartition(".")[2]) == 1]


def given(source="command line", **values):
    """A layer; `train__steps=5` stands for train.steps."""
    return Layer(source, {name.replace("__", "."): value for name, value in values.items()})


def flag(name, text, model=JobConfig):
    """Return what a setting becomes when it is given as a flag."""
    layer = Layer("command line", {name: parse_flag(dict(leaves(model))[name], text)})
    return flatten(resolve(model, [layer]).config)[name]


@pytest.fixture
def recipe(tmp_path):
    def write(text, name="mine"):
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def refused(layers, model=JobConfig):
    with pytest.raises(ConfigError) as caught:
        resolve(model, layers)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Layers


def test_without_layers_every_setting_is_a_default():
    resolved = resolve(JobConfig, [])
    assert resolved.config == JobConfig()
    assert set(resolved.origins) == set(flatten(JobConfig()))
    assert set(resolved.origins.values()) == {"default"}


def test_each_layer_wins_over_the_ones_before_it():
    resolved = resolve(
        JobConfig,
        [
            given("recipe mine", train__steps=1, train__batch_size=2, train__seed=3),
            given("trial 7", train__batch_size=20, train__seed=30),
            given("command line", train__seed=300),
        ],
    )
    train = resolved.config.train
    assert (train.steps, train.batch_size, train.seed) == (1, 20, 300)
    assert train.log_every_steps == JobConfig().train.log_every_steps
    assert {name: source for name, source in resolved.origins.items() if source != "default"} == {
        "train.steps": "recipe mine",
        "train.batch_size": "trial 7",
        "train.seed": "command line",
    }


def test_a_setting_given_its_default_still_says_who_gave_it():
    resolved = resolve(JobConfig, [given("recipe mine", train__seed=JobConfig().train.seed)])
    assert resolved.origins["train.seed"] == "recipe mine"


def test_settings_are_checked_only_when_all_layers_are_merged():
    layers = [given("recipe mine", data__patch_px=32), given(train__scale_max=3.2)]
    assert resolve(JobConfig, layers).config.data.patch_px == 32


# Text


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"optim__generator_lr": 1e-05, "loss__perceptual": 0, "resources__gpu": True},
        {"eval__scales": (1.1, 2, 16), "loss__vgg_weights": "/data/vgg 19.safetensors"},
        {"data__url": "s3://bucket/a: b #c"},
        {"data__url": "null", "tracking__experiment": "007", "tracking__model": "yes"},
        {"data__url": "/données/サル"},
        {"data__url": "/data/🧠"},
    ],
    ids=["defaults", "numbers", "lists", "punctuation", "strings like values", "unicode", "emoji"],
)
def test_the_text_is_a_recipe_of_the_same_config(values, recipe):
    resolved = resolve(JobConfig, [given(**values)])
    again = resolve(JobConfig, [recipe_layer(str(recipe(resolved.text())), RECIPES)])
    assert again.config == resolved.config


def test_the_text_says_where_each_value_came_from():
    text = resolve(JobConfig, [given("recipe mine", train__seed=5), given(model__norm="batch")]).text()
    lines = {line.split(":")[0].strip(): line.rpartition("# ")[2] for line in text.splitlines() if "#" in line}
    assert lines.keys() == set(LAST_PARTS)
    assert lines["seed"] == "recipe mine"
    assert lines["norm"] == "command line"
    assert lines["batch_size"] == "default"


def test_the_text_of_a_config_without_sections_is_flat():
    text = resolve(PrepareConfig, [given(val_subjects=("a", "b"))]).text()
    assert yaml.safe_load(text) == flatten(PrepareConfig(val_subjects=("a", "b")))


# What cannot be used


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("generator_lr", "optim.generator_lr"),
        ("optim.generatorlr", "optim.generator_lr"),
        ("optim.genrator_lr", "optim.generator_lr"),
        ("optimiser.generator_lr", "optim.generator_lr"),
        ("num_worker", "resources.num_workers"),
        ("train.scale", "train.scale_"),
    ],
)
def test_an_unknown_key_names_the_nearest_one_and_its_source(name, meant):
    message = refused([Layer("recipe mine", {name: 1})])
    assert f"unknown setting {name} (recipe mine): did you mean {meant}" in message


def test_a_key_in_the_wrong_section_is_found_by_its_last_part():
    wrong = {
        f"{section}.{leaf}": name
        for name in UNIQUE
        for section, leaf in [(s, name.rpartition(".")[2]) for s in SECTIONS]
        if f"{section}.{leaf}" != name
    }
    missed = {key: nearest(key, SETTINGS) for key, name in wrong.items() if f"{name}?" not in nearest(key, SETTINGS)}
    assert not missed


LISTS = {
    "a,b": ["a", "b"],
    "a, b ,": ["a", "b"],
    '["a","b"]': ["a", "b"],
    "['a', 'b']": ["a", "b"],
    "[a, b]": ["a", "b"],
    '"a","b"': ["a", "b"],
    "[007, 1x4, 1.10]": ["007", "1x4", "1.10"],
    "": [],
    "[]": [],
}


@pytest.mark.parametrize("text", LISTS)
def test_a_list_is_separated_by_commas_or_written_as_json_or_yaml(text):
    assert parse_flag(dict(leaves(PrepareConfig))["val_subjects"], text) == LISTS[text]


@pytest.mark.parametrize(
    "text", ['["a","b"', '"a', "[a, [b]]", '[{"a": 1}]', "['a' 'b'", "[!!python/name:os.mkdir ]"]
)
def test_what_is_nearly_a_list_is_refused(text):
    with pytest.raises(ValueError, match="not a list"):
        parse_flag(dict(leaves(PrepareConfig))["val_subjects"], text)


def test_a_key_like_no_other_is_sent_to_the_help():
    assert "--help-all lists the settings" in refused([given(**{"zzz.qqq": 1})])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.steps", "many"),
        ("train.steps", 1.5),
        ("train.steps", None),
        ("train.steps", [1, 2]),
        ("optim.generator_lr", "fast"),
        ("optim.generator_lr", "nan"),
        ("optim.generator_lr", float("inf")),
        ("resources.gpu", "perhaps"),
        ("data.url", 5),
        ("eval.scales", 2),
        ("eval.scales", [2, "three"]),
        ("eval.scales", [2, "0x4"]),
        ("eval.scales", [17]),
        ("model.norm", "layer"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_source(name, value):
    message = refused([Layer("recipe mine", {name: value})])
    assert message.startswith(f"{name} = ")
    assert "(recipe mine)" in message


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("train.steps", 0, "1"),
        ("resources.num_workers", 0, "1"),
        ("optim.decay_factor", 1.01, "1"),
        ("train.scale_min", 1.0, "1.1"),
        ("train.scale_max", 16.1, "16"),
        ("data.patch_px", 15, "16"),
        ("loss.pixel", -0.1, "0"),
    ],
)
def test_a_value_out_of_bounds_is_named_with_the_bound(name, value, bound):
    message = refused([given(**{name: value})])
    assert message.startswith(f"{name} = {value} (command line)")
    assert f"equal to {bound}." in message


def test_settings_that_do_not_fit_together_are_both_named():
    message = refused([given(train__scale_min=3.0, train__scale_max=2.0)])
    assert "train.scale_min 3.0 is above train.scale_max 2.0" in message


# Recipes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_that_is_shipped_resolves(path):
    layer = recipe_layer(path.stem, RECIPES)
    resolved = resolve(JobConfig, [layer])
    assert layer.values
    assert {resolved.origins[name] for name in layer.values} == {f"recipe {path.stem}"}
    given_values = {name: flatten(resolved.config)[name] for name in layer.values}
    assert given_values == layer.values


def test_recipes_are_found_by_path_too(recipe):
    layer = recipe_layer(str(recipe("train:\n  steps: 7\n  seed: 1\nmodel: {norm: batch}\n")), RECIPES)
    assert layer == ("recipe mine", {"train.steps": 7, "train.seed": 1, "model.norm": "batch"})


@pytest.mark.parametrize("text", ["", "# nothing but a comment\n"])
def test_an_empty_recipe_changes_nothing(recipe, text):
    assert resolve(JobConfig, [recipe_layer(str(recipe(text)), RECIPES)]).config == JobConfig()


def test_a_dotted_key_in_a_recipe_is_the_setting_of_that_name(recipe):
    assert recipe_layer(str(recipe("train.steps: 7")), RECIPES).values == {"train.steps": 7}


@pytest.mark.parametrize(
    "content",
    [
        "train: {steps: 1",
        "train:\n\tsteps: 1",
        "a: b: c",
        "? [1, 2]\n: 3",
        "!!python/object:os.system {}",
    ],
    ids=["open brace", "tab", "two colons", "list as key", "python object"],
)
def test_a_file_that_is_not_yaml_is_named_in_one_line(recipe, content):
    path = recipe(content)
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        recipe_layer(str(path), RECIPES)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["- train\n- steps\n", "train", "5"])
def test_a_file_without_settings_is_no_recipe(recipe, content):
    with pytest.raises(ConfigError, match="holds no settings"):
        recipe_layer(str(recipe(content)), RECIPES)


def test_a_section_that_does_not_exist_is_refused(recipe):
    layer = recipe_layer(str(recipe("trian:\n  batch_size: 4\n")), RECIPES)
    assert "unknown setting trian.batch_size (recipe mine): did you mean train.batch_size?" in refused([layer])


def test_a_missing_recipe_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"recipe smok: there is no such recipe\. Did you mean smoke\?"):
        recipe_layer("smok", RECIPES)


def test_a_missing_recipe_like_no_other_lists_all():
    with pytest.raises(ConfigError) as caught:
        recipe_layer("xyzzy", RECIPES)
    for path in RECIPES.glob("*.yaml"):
        assert path.stem in str(caught.value)


def test_a_missing_recipe_file_is_named(tmp_path):
    path = str(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="there is no such recipe") as caught:
        recipe_layer(path, RECIPES)
    assert path in str(caught.value)


# Flags


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("optim.generator_lr", "1e-4", 1e-4),
        ("optim.generator_lr", "0.002", 0.002),
        ("train.steps", "300", 300),
        ("resources.gpu", "true", True),
        ("resources.gpu", "no", False),
        ("model.norm", "none", "none"),
        ("data.url", "1e5", "1e5"),
        ("data.url", "[x]", "[x]"),
        ("tracking.experiment", "007", "007"),
        ("eval.scales", "2", [2.0]),
        ("eval.scales", "1.1, 2,4", [1.1, 2.0, 4.0]),
        ("eval.scales", "[2, 3]", [2.0, 3.0]),
        ("eval.scales", "1x4, 2x3.3,1.4142135", ["1x4", "2x3.3", 1.4142135]),
        ("loss.vgg_weights", "/data/vgg.safetensors", "/data/vgg.safetensors"),
        ("loss.vgg_weights", "null", None),
    ],
)
def test_the_text_of_a_flag_becomes_a_value(name, text, value):
    assert flag(name, text) == value


@pytest.mark.parametrize("text", ["sub-01,sub-02", "sub-01, sub-02", "[sub-01, sub-02]"])
def test_a_flag_takes_several_subjects(text):
    assert flag("val_subjects", text, PrepareConfig) == ["sub-01", "sub-02"]


@pytest.mark.parametrize("text", ["001,002", "12", "no"])
def test_subjects_whose_names_look_like_numbers_keep_them(text):
    assert flag("val_subjects", text, PrepareConfig) == text.split(",")


def test_every_setting_has_a_docstring_for_the_help():
    for model in (JobConfig, PrepareConfig):
        assert all(field.description for _, field in leaves(model))


# Places


def test_places_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    assert expand("~/runs") == f"{home}/runs"
    assert expand("runs") == f"{tmp_path}/runs"
    assert expand("/runs") == "/runs"
    assert expand("file:runs") == f"{tmp_path}/runs"
    assert expand("sqlite:///~/mlflow.db") == f"sqlite:///{home}/mlflow.db"
    assert expand("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert expand("sqlite:////var/mlflow.db") == "sqlite:////var/mlflow.db"


@pytest.mark.parametrize("url", ["s3://bucket/~/runs", "http://mlflow:5000", "postgresql://db/mlflow", "sqlite://"])
def test_other_urls_are_left_alone(url):
    assert expand(url) == url
