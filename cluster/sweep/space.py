"""The search space of a sweep: for each setting, by its dotted name, the domain of its values."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from cluster.config import JobConfig, SweepConfig
from cluster.recipes import Layer, Resolved, leaves, nearest, recipe_layer, resolve
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from ray import tune

Kind = Literal["uniform", "loguniform", "quniform", "choice"]
SPACE, SEARCH, TRIAL = "space", "search.", "trial"
DIGITS = 4
MAX_CORNERS = 1024
SAME_FOR_ALL = {
    "eval.": "trials are compared by it",
    "data.degradation": "trials are compared by it",
    "data.noise": "trials are compared by it",
    "train.steps": "trials are compared at the same steps",
    "train.checkpoint_every_steps": "trials are compared at the same steps",
    "train.keep_best_by": "trials are compared by what they keep",
    "data.url": "it does not decide how good a model is",
    "resources.": "it does not decide how good a model is",
    "storage.": "it does not decide how good a model is",
    "tracking.": "it does not decide how good a model is",
    SEARCH: "it says how to search",
}
FORMS = "{uniform: [low, high]}, {loguniform: [low, high]}, {quniform: [low, high, step]} or {choice: [a, b]}"


@dataclass(frozen=True)
class Domain:
    """The values that a setting may have.

    Attributes:
        kind: uniform, loguniform (uniform in the logarithm), quniform (in steps) between two numbers, both included;
            or a choice.
        values: Low, high and, with quniform, the step; or the choices.
        is_whole: Whether only whole numbers are possible.
    """

    kind: Kind
    values: tuple[Any, ...]
    is_whole: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The extreme values: low and high, or all choices."""
        return self.values if self.kind == "choice" else self.values[:2]

    def __str__(self) -> str:
        if self.kind == "choice":
            return f"choice of {', '.join(map(str, self.values))}"
        low, high, *step = self.values
        return f"{self.kind} {low:g} to {high:g}" + (f" in steps of {step[0]:g}" if step else "")

    def tidy(self, value: Any) -> Any:
        """Return a value rounded to a few digits, so that a person can type it to repeat a trial."""
        if self.kind == "choice":
            return value
        return min(max(value if self.is_whole else float(f"{value:.{DIGITS}g}"), self.values[0]), self.values[1])

    @property
    def all_values(self) -> Sequence[Any] | None:
        """All values; None if the domain is continuous."""
        if self.kind == "choice":
            return self.values
        low, high, *step = self.values
        if step:
            return [self.tidy(low + step[0] * place) for place in range(round((high - low) / step[0]) + 1)]
        return range(low, high + 1) if self.is_whole else None

    def distribution(self) -> "BaseDistribution":
        """Return the domain as a distribution of Optuna."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "choice":
            return CategoricalDistribution(self.values)
        low, high, *step = self.values
        is_log = self.kind == "loguniform"
        if self.is_whole:
            return IntDistribution(low, high, log=is_log, step=step[0] if step else 1)
        return FloatDistribution(low, high, log=is_log, step=step[0] if step else None)

    def mutation(self) -> "list[Any] | tune.search.sample.Domain":
        """Return the domain as Ray Tune's PBT takes it: a list of values, or a domain to sample from."""
        from ray import tune

        if self.kind in ("choice", "quniform"):
            return list(self.all_values or ())
        low, high = self.values
        if self.is_whole:
            draw = tune.lograndint if self.kind == "loguniform" else tune.randint
            whole: tune.search.sample.Domain = draw(low, high + 1)
            return whole
        draw = tune.loguniform if self.kind == "loguniform" else tune.uniform
        domain: tune.search.sample.Domain = draw(low, high)
        return domain


@dataclass(frozen=True)
class SweepPlan:
    """A search space and the settings around it, in layers: recipe < sweep file < trial < command line.

    Attributes:
        name: Of the sweep's file.
        recipe: Name of the recipe.
        below: Layers with a lower priority than a trial's settings: the recipe and the sweep's file.
        space: Domains by dotted name.
        flags: The layer with the highest priority.
    """

    name: str
    recipe: str
    below: tuple[Layer, ...]
    space: Mapping[str, Domain]
    flags: Layer

    @classmethod
    def read(cls, sweep: str, sweeps: Path, recipe: str, recipes: Path, flags: Layer) -> "SweepPlan":
        """Read the file of a sweep, and check that the corners of its space are valid configs.

        Args:
            sweep: Name of a file in `sweeps`, or the path of a YAML file: `space:`, and settings as in a recipe.
            sweeps: Folder of sweeps.
            recipe: Name of a recipe in `recipes`, or the path of a YAML file.
            recipes: Folder of recipes.
            flags: Settings of the command line.

        Raises:
            ConfigError: A name is unknown, or a value in the space is not allowed.
        """
        file = recipe_layer(sweep, sweeps, kind="sweep")
        space, settings = {}, {}
        for name, value in file.values.items():
            if name == SPACE or name.startswith(f"{SPACE}."):
                space[name.removeprefix(f"{SPACE}.")] = value
            else:
                settings[name] = value
        below = (recipe_layer(recipe, recipes), Layer(file.source, settings))
        plan = cls(Path(sweep).stem, recipe, below, _domains(space, file.source), flags)
        plan._check()
        return plan

    @property
    def config(self) -> SweepConfig:
        """The settings that all trials share, and the search; searched settings have their first value."""
        return resolve(SweepConfig, [*self.below, Layer(TRIAL, self.first), self.flags]).config

    @property
    def first(self) -> dict[str, Any]:
        """The first corner of the space."""
        return {name: domain.ends[0] for name, domain in self.space.items()}

    @property
    def sample(self) -> Resolved[JobConfig]:
        """A config from the space: one with perceptual loss, if there is any."""
        corners = list(map(self.trial, self._corners()))
        return next((corner for corner in corners if corner.config.loss.perceptual), corners[0])

    def trial(self, settings: Mapping[str, Any]) -> Resolved[JobConfig]:
        """Return the config of a trial.

        Raises:
            ConfigError: The settings contradict each other.
        """
        layers = (*self.below, Layer(TRIAL, settings), self.flags)
        return resolve(JobConfig, [Layer(layer.source, _of_job(layer.values)) for layer in layers])

    def with_precision(self, precision: str) -> "SweepPlan":
        """Return the plan with a precision for all trials in place of auto."""
        return replace(self, flags=Layer(self.flags.source, {**self.flags.values, "train.precision": precision}))

    def tidy(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a trial for the values that a searcher chose."""
        return {name: domain.tidy(values[name]) for name, domain in self.space.items()}

    def all_settings(self) -> Iterator[dict[str, Any]] | None:
        """Return all settings that a trial may have; None if the space is continuous."""
        values = [domain.all_values for domain in self.space.values()]
        finite = [one for one in values if one is not None]
        if len(finite) < len(values):
            return None
        return (dict(zip(self.space, chosen, strict=True)) for chosen in itertools.product(*finite))

    def _check(self) -> None:
        if twice := [name for name in self.flags.values if name in self.space]:
            raise ConfigError(
                f"--{twice[0].replace('_', '-')}",
                f"the sweep {self.name} searches this setting",
                "Leave the flag out, or take the setting out of the sweep's space",
            )
        if "train.precision" in self.space and "auto" in self.space["train.precision"].values:
            raise ConfigError(
                f"train.precision auto in the space of {self.name}",
                "it is chosen for all trials at once",
                "Take it out, or list float32 and bfloat16",
            )
        networks = [name for name in self.space if name.startswith("model.")]
        if networks and self.config.search.scheduler == "pbt":
            raise ConfigError(
                f"{networks[0]} in the space of {self.name}",
                "a fork starts from the weights of another trial: the network is the same for all",
                "Take it out of the sweep's space, or set search.scheduler to asha",
            )
        for settings in self._corners():
            try:
                self.trial(settings)
            except ConfigError as error:
                raise ConfigError(f"sweep {self.name}: {error.what}", error.why, "Change its space") from None

    def _corners(self) -> Iterator[dict[str, Any]]:
        """Return extreme settings: of each setting alone, the others at their first, then of all together."""
        alone = ({**self.first, name: value} for name, domain in self.space.items() for value in domain.ends)
        together = itertools.product(*(domain.ends for domain in self.space.values()))
        named = (dict(zip(self.space, values, strict=True)) for values in itertools.islice(together, MAX_CORNERS))
        return itertools.chain(alone, named)


def _domains(space: Mapping[str, Any], source: str) -> dict[str, Domain]:
    """Return the domains of a space, which is given as `<setting>.<kind>: values`."""
    fields = dict(leaves(JobConfig))
    domains: dict[str, Domain] = {}
    for key, values in space.items():
        name, _, kind = key.rpartition(".")
        if key in fields:
            raise ConfigError(f"{key} in the space of {source}", "it has no domain", f"Write {FORMS}")
        if name not in fields:
            raise ConfigError(f"unknown setting {name or key} in the space of {source}", nearest(name or key, fields))
        for same, why in SAME_FOR_ALL.items():
            if name == same or (same.endswith(".") and name.startswith(same)):
                raise ConfigError(f"{name} in the space of {source}", f"{why}: it is the same for all trials")
        if name in domains:
            raise ConfigError(f"{name} in the space of {source}", "it has two domains", f"Write one of {FORMS}")
        try:
            domains[name] = _domain(kind, values, fields[name].annotation)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{name} in the space of {source}", str(error), f"Write {FORMS}") from None
    if not domains:
        raise ConfigError(source, "its space is empty", f"Write `{SPACE}:` with a domain for each setting: {FORMS}")
    return domains


def _domain(kind: str, values: Any, of: object) -> Domain:
    """Return a domain for a setting of a type.

    Raises:
        ValueError: With what is wrong with the kind or the values.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"unknown domain {kind!r}")
    if not isinstance(values, list) or not values:
        raise ValueError(f"{kind} {values!r} is not a list of values")
    if kind == "choice":
        if any(isinstance(value, list | dict) for value in values) or len(set(map(str, values))) < len(values):
            raise ValueError(f"choice {values} is not a list of different single values")
        return Domain("choice", tuple(_number(value, of) if of in (int, float) else value for value in values))
    numbers = [_number(value, of) for value in values]
    if len(numbers) != (3 if kind == "quniform" else 2):
        raise ValueError(f"{kind} takes {'three numbers' if kind == 'quniform' else 'two numbers'}, not {values}")
    low, high, *step = numbers
    if not low < high:
        raise ValueError(f"{low:g} is not below {high:g}")
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"loguniform needs numbers above 0, not {low:g}")
    if step and (step[0] <= 0 or abs((high - low) / step[0] - round((high - low) / step[0])) > 1e-9):
        raise ValueError(f"from {low:g} to {high:g} is not a whole number of steps of {step[0]:g}")
    return Domain(cast(Kind, kind), tuple(numbers), of is int and all(isinstance(number, int) for number in numbers))


def _number(value: Any, of: object) -> float:
    """Return a number, also from a text such as 1e-4, which YAML does not read as a number."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is not a finite number")
    return int(number) if of is int and number.is_integer() else number


def _of_job(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if not name.startswith(SEARCH)}
