"""The `metasr` command: one job per verb, flags generated from the typed settings, errors on one line."""

import argparse
import importlib
import logging
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.recipes import Layer, Resolved, leaves, nearest, parse_flag, recipe_layer, resolve
from cluster.runtime.code_version import code_version
from metasr import __version__
from metasr.errors import ConfigError, MetaSRError
from metasr.extras import missing_extra

RECIPES = Path(__file__).parent / "recipes"
VERBS = {
    "prepare": "turn a folder of NIfTI volumes, or photographs, into training shards",
    "doctor": "check everything that training needs, before GPUs are spent",
    "estimate": "train a few steps, and estimate the time and cost of the whole training",
    "train": "train a generator, or resume training, and register the best",
    "tune": "search settings with many small trainings, and register the best",
    "evaluate": "compare a model with interpolation and other models on the validation subjects",
    "promote": "make an evaluated model the champion",
    "sync": "send MLflow the records that it missed while unreachable",
    "verify-run": "compare two runs bit for bit, and explain the first difference",
    "upscale": "super-resolve a NIfTI volume",
    "demo": "all of the above on one healthy brain, in minutes",
}
ELSEWHERE = {
    "history": "promote --history",
    "rollback": "promote --rollback",
    "version": "--version",
}
"""Commands for words that are not verbs."""
VERSIONS_OF = "torch", "torchvision", "ray", "mlflow"
Config = TypeVar("Config", bound=BaseModel)


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError, with the nearest existing flag."""

    def __init__(self, **options: Any) -> None:
        options.setdefault(
            "formatter_class",
            lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=32, width=110),
        )
        super().__init__(allow_abbrev=False, **options)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_known(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Parse all arguments; the error for an unknown flag names the nearest existing one."""
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            flags = {
                flag: None for action in self._actions for flag in action.option_strings if flag.startswith("--")
            }
            name = unknown[0].partition("=")[0]
            raise ConfigError(f"unknown argument {name}", nearest(name, flags))
        return known

    def error(self, message: str) -> NoReturn:
        """Raise argparse's error as ConfigError."""
        raise ConfigError(f"{self.prog}", message, f"`{self.prog} --help` explains the arguments")


def add_settings(parser: Parser, model: type[BaseModel], *only: str) -> None:
    """Add a flag for every setting of a config type, grouped by section, with its docstring as help.

    Call it after adding the job's own flags: the usage line shows only those.

    Args:
        parser: Parser to add the flags to.
        model: The config type.
        only: Sections or settings to add, by dotted name; none given: all.
    """
    own = parser.format_usage().removeprefix("usage: ").rstrip()
    parser.usage = f"{own} [--SETTING VALUE ...]".replace("%", "%%")
    groups = {}
    for name, field in leaves(model):
        section = name.rpartition(".")[0]
        if only and section not in only and name not in only:
            continue
        if section not in groups:
            groups[section] = parser.add_argument_group(f"{section} settings" if section else "settings")
        help_text = f"{field.description} [{_default_and_bounds(field)}]".replace("%", "%%")
        flag = f"--{name.replace('_', '-')}"
        groups[section].add_argument(flag, dest=f"setting:{name}", metavar="VALUE", help=help_text)


def _default_and_bounds(field: FieldInfo) -> str:
    shown = ", ".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    if get_origin(field.annotation) is Literal:
        return f"{shown}; one of {', '.join(map(str, get_args(field.annotation)))}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{text} {getattr(bound, kind):g}"
        for bound in field.metadata
        for kind, text in words.items()
        if hasattr(bound, kind)
    ]
    return f"{shown}; {', '.join(bounds)}" if bounds else shown


def settings(model: type[Config], known: argparse.Namespace, recipe: str | None = None) -> Resolved[Config]:
    """Resolve the settings of parsed arguments: defaults < recipe < command line."""
    flags = flag_layer(model, known)
    return resolve(model, [flags] if recipe is None else [recipe_layer(recipe, RECIPES), flags])


def flag_layer(model: type[BaseModel], known: argparse.Namespace) -> Layer:
    """Return the settings among parsed arguments."""
    fields = dict(leaves(model))
    given = {
        key.removeprefix("setting:"): value
        for key, value in vars(known).items()
        if key.startswith("setting:") and value is not None
    }
    return Layer("command line", {name: parse_flag(fields[name], value) for name, value in given.items()})


def say(line: str) -> None:
    """Print a line of progress and flush it, also into a job's log."""
    print(line, flush=True)


def run(job: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a job and exit with its code; errors that the user can solve are one line on stderr, not a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # prints file names unchanged
        with _missing_extras_named():
            code = job(arguments) or 0
        sys.stdout.flush()
    except MetaSRError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt as error:
        print(f"{str(error) or 'interrupted'}: run the same command again to continue", file=sys.stderr)
        code = getattr(error, "exit_code", 130)
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except UnicodeEncodeError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"error: the name {error.object!r} is not UTF-8. Rename it", file=sys.stderr)
        code = 2
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        where = f" {error.filename}" if error.filename else ""
        print(f"error: cannot use the file{where}: {error.strerror or error}", file=sys.stderr)
        code = 1
    sys.exit(code)


@contextmanager
def _missing_extras_named() -> Iterator[None]:
    """Turn the import error of a library that an extra brings into a ConfigError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if missing := missing_extra(error, "this command"):
            raise missing from error
        raise


def main() -> NoReturn:
    """Run `metasr VERB ...`."""
    run(_dispatch)


def _dispatch(arguments: Sequence[str]) -> int | None:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print("metasr VERB [--help]: arbitrary-scale super-resolution of brain MRI\n")
        print("\n".join(f"  {name:<12}{text}" for name, text in VERBS.items()))
        print("\nmetasr --version prints the versions in use.\nResearch software, not a medical device.")
        return 0
    if verb == "--version":
        print(_versions())
        return 0
    if verb in ELSEWHERE:
        raise ConfigError(f"unknown verb {verb}", f"that is `metasr {ELSEWHERE[verb]}`")
    if verb not in VERBS:
        raise ConfigError(f"unknown verb {verb}", nearest(verb, VERBS), "`metasr --help` lists the verbs")
    job = importlib.import_module(f"jobs.{verb.replace('-', '_')}")
    code: int | None = job.main(arguments[1:])
    return code


def _versions() -> str:
    """Return the version, the commit if known, and the versions of the libraries, without importing them."""
    code = code_version()
    own = f"metasr {__version__}" if code.startswith(__version__) else f"metasr {__version__}, commit {code}"
    libraries = [f"{name} {_installed(name)}" for name in VERSIONS_OF]
    return "\n".join([own, f"python {platform.python_version()}", *libraries])


def _installed(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "is not installed"


if __name__ == "__main__":
    main()
