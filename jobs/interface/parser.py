"""The parser of a verb: errors of one line with the nearest flag, and a help that starts with examples."""

import argparse
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jobs.interface.color import paint
from metasr.errors import ConfigError

WIDTH = 110
"""Columns of a help text where no terminal says otherwise."""
_HEADING = re.compile(r"^(\S.*:)$", re.MULTILINE)


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError, and whose help starts with the examples of its description.

    Paragraphs of the description whose lines are indented are examples. Folded settings are explained by
    `--help-all` alone.

    Attributes:
        has_recipe: Whether the defaults of its settings depend on a recipe.
        folded: What `--help` shows in place of folded settings: names of sections, each with a line of text.
    """

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _formatter)
        super().__init__(allow_abbrev=False, add_help=False, **options)
        self.color = False  # Python 3.14 has colours of its own
        self.has_recipe = False
        self.folded: dict[str, str] = {}
        self._hidden: list[argparse.Action] = []
        self._settings: list[argparse.Action] = []
        self._explains_all = False
        self._general = self.add_argument_group("general")
        self._general.add_argument("-h", "--help", action=_Help, help="show this help, and exit")
        self._help_all = self._general.add_argument("--help-all", action=_Help, help=argparse.SUPPRESS)
        self._general.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_known(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse all arguments; the error for an unknown flag names the nearest existing one.

        A flag may be written as its setting is named in a recipe, with underscores.
        """
        if "_ARGCOMPLETE" in os.environ:
            from jobs.interface.completion import complete

            complete(self)
        arguments = sys.argv[1:] if arguments is None else arguments
        known, unknown = self.parse_known_args([_hyphenated(one) for one in arguments])
        if unknown:
            from cluster.recipes import nearest

            flags = {
                flag: None for action in self._actions for flag in action.option_strings if flag.startswith("--")
            }
            name = unknown[0].partition("=")[0]
            hint = nearest(name, flags, f"`{self.prog} --help{'-all' if self.folded else ''}` lists the flags")
            raise ConfigError(f"unknown argument {name}", hint)
        return known

    def error(self, message: str) -> NoReturn:
        """Raise argparse's error as ConfigError."""
        raise ConfigError(f"{self.prog}", message, f"`{self.prog} --help` explains the arguments")

    def add_setting(self, action: argparse.Action, *, is_folded: bool) -> None:
        """Note that a flag is a setting, and whether `--help` leaves it to `--help-all`."""
        self._settings.append(action)
        if is_folded:
            self._hidden.append(action)
            self._help_all.help = "explain every setting too, and exit"

    def explain_all(self) -> None:
        """Let the help explain folded flags too."""
        self._explains_all = True

    def format_help(self) -> str:
        """Return the help: what the verb does, examples, usage, the details, the flags."""
        summary, examples, details = _parts(self.description or "")
        formatter = self._get_formatter()
        formatter.add_text(summary)
        if examples:
            formatter.start_section("examples")
            formatter.add_text(examples)
            formatter.end_section()
        formatter.add_usage(None, self._own_actions(), self._mutually_exclusive_groups)
        text = formatter.format_help()
        if self._settings:
            text = f"{text.rstrip()} [--SETTING VALUE ...]"
        text = f"{text.rstrip()}\n\n"
        text += self._formatted_flags(details)
        return _HEADING.sub(lambda found: paint(found[1], "bold", sys.stdout), text)

    def _formatted_flags(self, details: str) -> str:
        formatter = self._get_formatter()
        formatter.add_text(details)
        is_short = bool(self.folded) and not self._explains_all
        for group in self._action_groups:
            if group is self._general or (is_short and any(one in self._settings for one in group._group_actions)):
                continue
            formatter.start_section(group.title)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        if is_short:
            formatter.start_section(
                "settings, with the defaults that a recipe may change" if self.has_recipe else "settings"
            )
            formatter.add_arguments([one for one in self._settings if one not in self._hidden])
            formatter.end_section()
            formatter.start_section(f"more settings, which `{self.prog} --help-all` explains")
            width = max(map(len, self.folded))
            formatter.add_text("\n".join(f"{name:<{width}}  {text}" for name, text in self.folded.items()))
            formatter.end_section()
        formatter.start_section(self._general.title)
        formatter.add_arguments(self._general._group_actions)
        formatter.end_section()
        return formatter.format_help()

    def _own_actions(self) -> list[argparse.Action]:
        """Return the verb's own arguments: no settings, and nothing that every verb has."""
        general = self._general._group_actions
        return [one for one in self._actions if one not in general and one not in self._settings]


def _hyphenated(argument: str) -> str:
    """Return an argument, which if it is a flag has hyphens for underscores."""
    flag, equals, value = argument.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else argument


class _Help(argparse.Action):
    """Prints the help, with folded flags for `--help-all`, and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option: str | None = None,
    ) -> NoReturn:
        """Print the help, and exit."""
        if option == "--help-all" and isinstance(parser, Parser):
            parser.explain_all()
        parser.print_help()
        parser.exit()


def _formatter(prog: str) -> argparse.HelpFormatter:
    width = shutil.get_terminal_size((WIDTH, 24)).columns - 2 if sys.stdout.isatty() else WIDTH
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=min(width, WIDTH))


def _parts(description: str) -> tuple[str, str, str]:
    """Return the first paragraph, the examples, which are indented, and the rest, filled to the width."""
    paragraphs = description.strip("\n").split("\n\n")
    examples = [text for text in paragraphs if _is_example(text)]
    first, *rest = list(_filled(paragraphs)) or [""]
    return first, "\n\n".join(map(textwrap.dedent, examples)), "\n\n".join(rest)


def _filled(paragraphs: Sequence[str]) -> Iterator[str]:
    width = _formatter("")._width
    for text in paragraphs:
        if not _is_example(text):
            yield textwrap.fill(" ".join(text.split()), width, break_on_hyphens=False, break_long_words=False)


def _is_example(paragraph: str) -> bool:
    return all(line.startswith("  ") for line in paragraph.splitlines() if line)
