"""A run continued by its name: its own settings, and those that may change on the way."""

from typing import Any

from cluster.checkpoints.begun import Begun
from cluster.command import command
from cluster.config import JobConfig
from cluster.recipes import Layer, Resolved, dotted, flatten, resolve
from cluster.training.naming import first_defaults
from metasr.errors import ConfigError


def resumed_settings(begun: Begun, flags: Layer) -> Resolved[JobConfig]:
    """Return the settings of a run that goes on, changed by flags that leave it the same run.

    Args:
        begun: The run.
        flags: Settings of the command line.

    Raises:
        ConfigError: A flag would make another run of it, or the settings are those of another version.
    """
    own = Layer(f"run {begun.run_name}", dict(dotted(begun.settings)))
    found = Layer("where it was found", {"storage.url": begun.storage_url})
    before, now = resolve(JobConfig, [own, found]), resolve(JobConfig, [own, flags, found])
    was, wanted = flatten(before.config), flatten(now.config)
    for name in first_defaults(JobConfig):
        if was[name] != wanted[name]:
            raise _another_run(begun, before.config, name, was[name], flags)
    return now


def _another_run(begun: Begun, config: JobConfig, name: str, own: Any, flags: Layer) -> ConfigError:
    decide = first_defaults(JobConfig)  # the others, `command` adds where they are needed
    changed = [part for key, value in flags.values.items() if key in decide for part in (_flag(key), _text(value))]
    fork = ["--recipe", begun.recipe, "--fork", f"{begun.run_name}@{begun.step}", *changed]
    branch = command("train", *fork, data=config.data, storage=config.storage, tracking=config.tracking)
    return ConfigError(
        f"{_flag(name)} {_text(flags.values[name])}",
        f"run {begun.run_name} has {_text(own)}, and with another value it would be another run",
        f"Leave it out, or branch off, with the other settings that it began with: `{branch}`",
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
