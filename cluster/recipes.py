"""Merge and validate settings: one dotted name for each, in recipes, flags, sweeps and MLflow.

`optim.generator_lr` in a recipe is `--optim.generator-lr` on the command line and `optim.generator_lr` in MLflow.
Later layers win: defaults < recipe < trial < command line.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from metasr.errors import ConfigError

Config = TypeVar("Config", bound=BaseModel)


class Layer(NamedTuple):
    """Settings by dotted name, and their source."""

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved(Generic[Config]):
    """A valid config, and for each dotted name the source of its value."""

    config: Config
    origins: dict[str, str]

    def text(self) -> str:
        """Return the config as YAML, with the source of each value in a comment."""
        lines, section = [], ""
        for name, value in flatten(self.config).items():
            *sections, leaf = name.split(".")
            if sections and sections[0] != section:
                section = sections[0]
                lines.append(f"{section}:")
            setting = f"{'  ' * len(sections)}{leaf}: {json.dumps(value, ensure_ascii=False)}"
            lines.append(f"{setting:<52} # {self.origins[name]}")
        return "\n".join(lines)


def resolve(model: type[Config], layers: Sequence[Layer]) -> Resolved[Config]:
    """Merge layers over the defaults of `model` and validate the result.

    Raises:
        ConfigError: A name is unknown (the nearest is given) or a value is not allowed.
    """
    fields = dict(leaves(model))
    origins = dict.fromkeys(fields, "default")
    nested: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.values.items():
            if name not in fields:
                raise ConfigError(f"unknown setting {name} ({layer.source})", nearest(name, fields))
            origins[name] = layer.source
            *sections, leaf = name.split(".")
            target = nested
            for section in sections:
                target = target.setdefault(section, {})
            target[leaf] = value
    try:
        return Resolved(model.model_validate(nested), origins)
    except ValidationError as error:
        raise _as_config_error(error, origins) from None


def leaves(model: type[BaseModel], *, without: object = None, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted name and the field of every setting of a config type, except those marked `without`."""
    for name, field in model.model_fields.items():
        if without in field.metadata:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, without=without, prefix=f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def flatten(config: BaseModel) -> dict[str, Any]:
    """Return every setting as a JSON value, by dotted name."""
    return dict(dotted(config.model_dump(mode="json")))


def recipe_layer(recipe: str, folder: Path, kind: str = "recipe") -> Layer:
    """Read a recipe, or a similar `kind` of file: a name in `folder`, or the path of a YAML file."""
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else folder / f"{recipe}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        hint = difflib.get_close_matches(recipe, names, n=1)
        known = f"Did you mean {hint[0]}?" if hint else f"Choose {', '.join(names)}, or give the path of a YAML file"
        raise ConfigError(f"{kind} {recipe}", f"there is no such {kind}", known)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{kind} {path}", f"line {line} is not UTF-8 text", "Save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{kind} {path}", f"not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"{kind} {path}", "it holds no settings", "Write sections such as `train:` with their settings"
        )
    return Layer(f"{kind} {path.stem}", dict(dotted(content)))


def parse_flag(field: FieldInfo, text: str) -> Any:
    """Return the value of a flag's text: numbers and null as in YAML, lists as `a, b`, `[a, b]` or JSON.

    Raises:
        ValueError: It is no list where one is needed.
    """
    if field.annotation is str:
        return text
    if get_origin(field.annotation) is tuple:
        return _items(text.strip())
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _items(text: str) -> list[str]:
    """Return the items of a list, as they are written: 007 and 1x4 are no numbers."""
    if not text.startswith(("[", '"', "'")):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        found = yaml.compose(text if text.startswith("[") else f"[{text}]", Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        found = None
    if isinstance(found, yaml.SequenceNode) and all(
        isinstance(item, yaml.ScalarNode) and ":python/" not in item.tag for item in found.value
    ):
        return [item.value for item in found.value if item.value]
    raise ValueError("it is not a list")


def nearest(name: str, known: Mapping[str, object], otherwise: str = "--help-all lists the settings") -> str:
    """Return a hint with the known setting closest to `name`, also if only its last part matches."""
    last = {key.rpartition(".")[2]: key for key in known}
    leaf = name.rpartition(".")[2]
    close = (
        difflib.get_close_matches(name, [key for key in known if key.rpartition(".")[2] == leaf], n=1, cutoff=0)
        or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        or [last[close] for close in difflib.get_close_matches(leaf, last, n=1, cutoff=0.6)]
    )
    return f"did you mean {close[0]}?" if close else otherwise


def dotted(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and the value of every setting of nested sections."""
    for name, value in content.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _as_config_error(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"] if not isinstance(part, int))
    source = f" ({origins[name]})" if origins.get(name, "default") != "default" else ""
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error" and name not in origins:
        return ConfigError(f"settings that do not fit together{source}", message)
    return ConfigError(
        f"{name} = {first['input']!r}{source}", message[0].lower() + message[1:], "--help-all has the bounds"
    )
