"""A `metasr` command for a person to run next, which leads to the same places as the one that says it."""

import shlex

from cluster.redaction import without_password
from metasr.config import Section

_MODEL = ("tracking.uri", "tracking.model")
_NEEDS = {
    "evaluate": ("storage.url", *_MODEL),
    "promote": _MODEL,
    "sync": ("tracking.spool",),
    "train": ("data.url", "storage.url", *_MODEL),
    "upscale": _MODEL,
}


def command(verb: str, *arguments: str, **sections: Section) -> str:
    """Return a command, quoted for a shell, with those settings that its verb needs and that are no defaults.

    A password in a URL is left out: give it in the environment.

    Args:
        verb: Of `metasr`.
        arguments: Of the verb.
        sections: Settings by the name of their section, such as `tracking`.
    """
    flags = [
        part
        for name in _NEEDS.get(verb, ())
        if (section := sections.get(name.partition(".")[0])) is not None
        for part in _flag(name, section)
    ]
    return shlex.join(["metasr", verb, *arguments, *flags])


def _flag(name: str, section: Section) -> list[str]:
    leaf = name.rpartition(".")[2]
    value = getattr(section, leaf)
    is_default = value == type(section).model_fields[leaf].default
    return [] if is_default else [f"--{name.replace('_', '-')}", without_password(value)]
