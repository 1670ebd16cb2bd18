"""What a sweep searches: read, checked before anything starts, and typed like any other setting."""

import pytest

from cluster.recipes import Layer
from cluster.sweep.space import SweepPlan
from jobs.cli import RECIPES
from jobs.tune import SWEEPS
from metasr.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    def from_text(text, flags=None, recipe="smoke"):
        (tmp_path / "s.yaml").write_text(text)
        return SweepPlan.read(
            str(tmp_path / "s.yaml"),
            SWEEPS,
            recipe,
            RECIPES,
            Layer("command line", {"data.url": "d", **(flags or {})}),
        )

    return from_text


def test_numbers_of_a_domain_may_be_written_as_yaml_takes_for_texts(read):
    plan = read("space: {loss.adversarial: {loguniform: [1e-4, 1e-2]}, optim.generator_lr: {choice: [1e-4, 1e-3]}}")
    assert plan.space["loss.adversarial"].values == (1e-4, 1e-2)
    assert plan.trial({"loss.adversarial": 0.005, "optim.generator_lr": 1e-3}).config.optim.generator_lr == 1e-3


def test_settings_of_a_trial_lie_between_the_recipe_and_the_command_line(read):
    plan = read("space: {optim.generator_lr: {uniform: [0.1, 0.2]}}\ntrain: {steps: 70, seed: 3}", {"train.seed": 4})
    trial = plan.trial({"optim.generator_lr": 0.15})
    assert (trial.config.optim.generator_lr, trial.origins["optim.generator_lr"]) == (0.15, "trial")
    assert (trial.config.train.steps, trial.origins["train.steps"]) == (70, "sweep s")
    assert (trial.config.train.seed, trial.origins["train.seed"]) == (4, "command line")
    assert trial.config.train.batch_size == 4  # of the recipe


def test_a_trial_has_values_that_can_be_typed(read):
    plan = read(
        "space: {optim.generator_lr: {loguniform: [0.00012345, 1]}, train.scale_min: {quniform: [1.1, 2.0, 0.1]}, "
        "train.pixel_only_steps: {uniform: [0, 400]}}"
    )
    chosen = {"optim.generator_lr": 0.0123456789, "train.scale_min": 1.1 + 0.1 + 0.1, "train.pixel_only_steps": 123}
    assert plan.tidy(chosen) == {
        "optim.generator_lr": 0.01235,
        "train.scale_min": 1.3,
        "train.pixel_only_steps": 123,
    }
    assert plan.tidy({**chosen, "optim.generator_lr": 0.00012345})["optim.generator_lr"] == 0.00012345


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: {}", "its space is empty"),
        ("train: {steps: 5}", "its space is empty"),
        ("space: {optim.generater_lr: {uniform: [0, 1]}}", "did you mean optim.generator_lr?"),
        ("space: {optim.generator_lr: [1, 2]}", "it has no domain"),
        ("space: {optim.generator_lr: {lognormal: [1, 2]}}", "unknown domain 'lognormal'"),
        ("space: {optim.generator_lr: {uniform: [2, 1]}}", "2 is not below 1"),
        ("space: {optim.generator_lr: {uniform: [1]}}", "uniform takes two numbers"),
        ("space: {optim.generator_lr: {uniform: [a, b]}}", "could not convert"),
        ("space: {loss.adversarial: {loguniform: [0, 1]}}", "loguniform needs numbers above 0"),
        ("space: {train.scale_min: {quniform: [1.1, 2.0, 0.4]}}", "not a whole number of steps of 0.4"),
        ("space: {optim.generator_lr: {uniform: [0, 1]}}", "optim.generator_lr = 0.0 (trial)"),
        ("space: {loss.adversarial: {uniform: [0, .inf]}}", "not a finite number"),
        ("space: {train.pixel_only_steps: {uniform: [0, 10.5]}}", "train.pixel_only_steps = 10.5 (trial)"),
        ("space: {model.norm: {choice: [batch, group]}}", "model.norm = 'group' (trial)"),
        ("space: {train.scale_min: {choice: [1.5, 3.0]}, train.scale_max: {choice: [2.0, 4.0]}}", "is above"),
        ("space: {eval.scales: {choice: [2, 3]}}", "it is the same for all trials"),
        ("space: {train.steps: {choice: [2, 3]}}", "it is the same for all trials"),
        ("space: {resources.num_workers: {choice: [1, 2]}}", "it is the same for all trials"),
        ("space: {loss.pixel: {uniform: [1, 2], choice: [1, 2]}}", "it has two domains"),
        ("space: {loss.pixel: {choice: [1, 1]}}", "different single values"),
    ],
)
def test_a_space_that_cannot_be_searched_is_one_line_before_anything_starts(read, text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flag_for_a_setting_that_is_searched_is_an_error(read):
    with pytest.raises(ConfigError, match=r"--optim\.generator-lr: the sweep s searches this setting"):
        read("space: {optim.generator_lr: {uniform: [0.1, 0.2]}}", {"optim.generator_lr": 0.1})


@pytest.mark.parametrize(("sweep", "recipe"), [("loss-weights", "brats"), ("scale-range", "default")])
def test_the_sweeps_that_come_along_are_valid_for_their_recipes(sweep, recipe):
    plan = SweepPlan.read(sweep, SWEEPS, recipe, RECIPES, Layer("command line", {"data.url": "d"}))
    assert plan.config.search.trials == 16
    assert plan.config.train.checkpoint_every_steps < plan.config.train.steps


def test_what_a_population_tries_next_lies_in_the_space(read):
    plan = read(
        "space: {optim.generator_lr: {loguniform: [1e-4, 1e-2]}, train.scale_min: {quniform: [1.1, 1.4, 0.1]}, "
        "train.pixel_only_steps: {uniform: [0, 400]}, data.patch_px: {choice: [64, 48]}}"
    )
    mutations = {name: domain.mutation() for name, domain in plan.space.items()}
    assert mutations["train.scale_min"] == [1.1, 1.2, 1.3, 1.4]
    assert mutations["data.patch_px"] == [64, 48]
    for name in ("optim.generator_lr", "train.pixel_only_steps"):
        low, high = plan.space[name].values
        assert all(low <= mutations[name].sample() <= high for _ in range(200))
    drawn = {mutations["train.pixel_only_steps"].sample() for _ in range(5)}
    assert all(isinstance(value, int) for value in drawn)
    beyond = {"optim.generator_lr": 0.012, "train.scale_min": 1.4, "train.pixel_only_steps": 480, "data.patch_px": 48}
    assert plan.tidy(beyond) | {"train.scale_min": 0} == {
        "optim.generator_lr": 0.01,
        "train.scale_min": 0,
        "train.pixel_only_steps": 400,
        "data.patch_px": 48,
    }


def test_a_population_shares_one_network(read):
    text = "space: {model.num_features: {choice: [8, 16]}}"
    read(text)
    with pytest.raises(ConfigError, match="the network is the same for all"):
        read(text, {"search.scheduler": "pbt"})
