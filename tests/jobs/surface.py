"""The surface of the command: its verbs, their arguments, and the sections of its settings.

`python -m tests.jobs.surface` writes `surface.txt` anew, for a change that is meant.
"""

import argparse
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest.mock import patch

from jobs.cli import GROUPS, Parser

FILE = Path(__file__).with_name("surface.txt")


class _Caught(Exception):  # noqa: N818
    """Holds a parser before it parses."""


def parser_of(verb: str, given: Sequence[str] = ()) -> Parser:
    """Return the parser of a verb, with all its arguments; what some need depends on those that are given."""

    def catch(parser: Parser, arguments: object) -> None:
        raise _Caught(parser)

    job = importlib.import_module(f"jobs.{verb.replace('-', '_')}")
    with patch.object(Parser, "parse_known", catch):
        try:
            job.main(list(given))
        except _Caught as caught:
            return caught.args[0]
    raise AssertionError(f"{verb} has parsed nothing")


def surface() -> str:
    """Return the text of `surface.txt`."""
    lines = ["# Made by `python -m tests.jobs.surface`.", *_general(parser_of("train"))]
    for group, verbs in GROUPS.items():
        for verb in verbs:
            lines += ["", f"{group}: metasr {verb}", *_arguments(parser_of(verb))]
    return "\n".join(lines) + "\n"


def _general(parser: Parser) -> Iterator[str]:
    yield ""
    yield "every verb"
    yield from (f"  {_named(one)}" for one in parser._general._group_actions)


def _arguments(parser: Parser) -> Iterator[str]:
    sections: dict[str, list[str]] = {}
    for action in parser._actions:
        if action in parser._settings:
            flag = action.option_strings[0]
            sections.setdefault(flag.removeprefix("--").rpartition(".")[0], []).append(flag)
        elif action not in parser._general._group_actions:
            yield f"  {_named(action)}"
    for section, flags in sections.items():
        # What is in a whole section, the reference of the settings says.
        yield f"  --{section}.*" if section and len(flags) > 1 else f"  {' '.join(flags)}"


def _named(action: argparse.Action) -> str:
    """Return an argument's names, and whether it takes a value."""
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    value = "" if action.nargs == 0 or not action.option_strings else f" {action.metavar or action.dest.upper()}"
    return f"{names}{value}"


if __name__ == "__main__":
    FILE.write_text(surface())
