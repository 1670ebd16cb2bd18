"""Flags generated from the typed settings: one for each, its docstring as help, and the value that it stands for."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, get_args, get_origin

from jobs.interface.parser import Parser
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from cluster.recipes import Layer, Resolved

RECIPES = Path(__file__).parents[1] / "recipes"
COMMON = frozenset(
    {
        "data.url",
        "eval.scales",
        "gate.scales",
        "resources.gpu",
        "resources.num_workers",
        "search.trials",
        "storage.url",
        "tracking.model",
        "tracking.uri",
        "train.steps",
    }
)
"""Settings that most people give: `--help` explains them too."""
OWN = "downstream", "gate", "tasks"
"""Sections of one verb: its `--help` explains them."""
FEWEST_FOLDED = 3
"""Fewer settings than this are all explained by `--help`."""
_DEST = "setting:"
Config = TypeVar("Config", bound="BaseModel")


def add_recipe(parser: Parser) -> None:
    """Add the flag of the recipe whose settings are the defaults."""
    recipe = parser.add_argument(
        "--recipe",
        default="default",
        metavar="NAME",
        help="name of a recipe in jobs/recipes, or a YAML file [default]",
    )
    parser.has_recipe = True
    names = sorted(file.stem for file in RECIPES.glob("*.yaml"))
    recipe.completer = lambda **_: names  # type: ignore[attr-defined]


def add_settings(parser: Parser, model: "type[BaseModel]", *only: str) -> None:
    """Add a flag for every setting of a config type, grouped by section, with its docstring as help.

    Where there are many, those of sections are explained by `--help-all` alone, but for those of `COMMON`, of `OWN`
    sections, and named in `only`.

    Args:
        parser: Parser to add the flags to.
        model: The config type.
        only: Sections or settings to add, by dotted name; none given: all.
    """
    from cluster.recipes import leaves

    chosen = {
        name: field for name, field in leaves(model) if not only or name in only or name.rpartition(".")[0] in only
    }
    folded = [
        name for name in chosen if "." in name and name not in (*COMMON, *only) and name.partition(".")[0] not in OWN
    ]
    if len(folded) < FEWEST_FOLDED:
        folded = []
    groups = {}
    for name, field in chosen.items():
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(f"{section} settings" if section else "settings")
        action = groups[section].add_argument(
            f"--{name.replace('_', '-')}",
            dest=f"{_DEST}{name}",
            metavar="VALUE",
            help=f"{field.description} [{about_setting(field)}]".replace("%", "%%"),
        )
        action.completer = _completer(field)  # type: ignore[attr-defined]
        parser.add_setting(action, is_folded=name in folded)
    for section in dict.fromkeys(name.rpartition(".")[0] for name in folded):
        number = sum(name.startswith(f"{section}.") for name in folded)
        about = (model.model_fields[section].annotation.__doc__ or "").partition(".\n")[0].strip(" .")
        parser.folded[f"--{section}.*"] = f"{about} ({number})"


def settings(model: type[Config], known: argparse.Namespace, recipe: str | None = None) -> "Resolved[Config]":
    """Resolve the settings of parsed arguments: defaults < recipe < command line."""
    from cluster.recipes import recipe_layer, resolve

    flags = flag_layer(model, known)
    return resolve(model, [flags] if recipe is None else [recipe_layer(recipe, RECIPES), flags])


def flag_layer(model: "type[BaseModel]", known: argparse.Namespace) -> "Layer":
    """Return the settings among parsed arguments.

    Raises:
        ConfigError: A list cannot be read.
    """
    from cluster.recipes import Layer, leaves, parse_flag

    fields, values = dict(leaves(model)), {}
    for key, text in vars(known).items():
        if key.startswith(_DEST) and text is not None:
            name = key.removeprefix(_DEST)
            try:
                values[name] = parse_flag(fields[name], text)
            except ValueError as error:
                flag = f"--{name.replace('_', '-')} {text}"
                raise ConfigError(flag, str(error), "Separate several by commas, as in a,b") from None
    return Layer("command line", values)


def about_setting(field: "FieldInfo") -> str:
    """Return the default of a setting, its choices or bounds, and how to give several."""
    default = field.default
    shown = ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    if default is None or shown == "" or isinstance(default, bool):
        shown = shown.lower() or "none"
    if get_origin(field.annotation) is Literal:
        return f"{shown}; one of {', '.join(map(str, get_args(field.annotation)))}"
    if get_origin(field.annotation) is tuple:
        shown = f"{shown}; several separated by commas"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{text} {getattr(bound, kind):g}"
        for bound in field.metadata
        for kind, text in words.items()
        if hasattr(bound, kind)
    ]
    return f"{shown}; {', '.join(bounds)}" if bounds else shown


def _completer(field: "FieldInfo") -> Callable[..., list[str]] | None:
    """Return what completes the value of a setting; None for the shell's own completion of files."""
    if get_origin(field.annotation) is Literal:
        return lambda **_: [str(one) for one in get_args(field.annotation)]
    return (lambda **_: ["true", "false"]) if field.annotation is bool else None
