"""The `metasr` command: one job per verb, and errors on one line."""

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn

from jobs.interface.color import paint
from jobs.interface.json_output import json_output
from jobs.interface.parser import Parser
from jobs.interface.settings import RECIPES, add_recipe, add_settings, flag_layer, settings
from jobs.start import end_with, ended_at_once, interrupted
from metasr.errors import ConfigError, MetaSRError
from metasr.extras import missing_extra

__all__ = [
    "RECIPES",
    "VERBS",
    "Parser",
    "add_recipe",
    "add_settings",
    "flag_layer",
    "json_output",
    "main",
    "run",
    "say",
    "say_error",
    "settings",
]
GROUPS = {
    "data": {
        "prepare": "turn a folder of NIfTI volumes, or photographs, into training shards",
    },
    "train": {
        "doctor": "check everything that training needs, before GPUs are spent",
        "estimate": "train a few steps, and estimate the time and cost of the whole training",
        "train": "train a generator, or resume training, and register the best",
        "tune": "search settings with many small trainings, and register the best",
        "runs": "list the runs: state, steps, gain, last checkpoint",
        "verify-run": "compare two runs bit for bit, and explain the first difference",
        "sync": "send MLflow the records that it missed while unreachable",
    },
    "judge": {
        "evaluate": "compare a model with interpolation and other models on the validation subjects",
        "report": "write an evaluation or a sweep as one HTML page, to decide by",
        "promote": "make an evaluated model the champion",
        "models": "list the versions of the model: alias, run, gain, the gate's verdict",
    },
    "use": {
        "upscale": "super-resolve volumes and pictures: files, folders, DICOM, BIDS",
        "view": "zoom into a volume on a local page, at any real scale",
        "export": "write a model as ONNX, for other programs",
        "serve": "serve a model to a team, on Ray: volumes in, volumes out",
        "compare": "print and draw the difference of two volumes or pictures",
        "demo": "all of the above on one healthy brain, in minutes",
        "completion": "print what makes a shell complete all this",
    },
}
"""The verbs, by what a person wants to do."""
VERBS = {verb: text for verbs in GROUPS.values() for verb, text in verbs.items()}
ELSEWHERE = {
    "check": "doctor",
    "diff": "compare",
    "fork": "train --fork RUN@STEP",
    "history": "promote --history",
    "infer": "upscale",
    "predict": "upscale",
    "list": "runs",
    "ls": "runs",
    "resume": "train --resume RUN",
    "rollback": "promote --rollback",
    "search": "tune",
    "validate": "evaluate",
    "version": "--version",
    "versions": "models",
}
"""Commands for words that are not verbs."""
FIRST_STEPS = """\
  metasr demo                                           everything below, on one healthy brain, in minutes
  metasr prepare -i BraTS/ -o ~/data/t1ce --modality t1ce
  metasr train --recipe smoke --data.url ~/data/t1ce"""
LAST_WORDS = """`metasr VERB --help` explains a verb, with examples; `metasr --version` prints the versions in use.
Research software, not a medical device."""
VERSIONS_OF = "torch", "torchvision", "ray", "mlflow"


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
        with _missing_extras_named(), interrupted():
            code = job(arguments) or 0
            sys.stdout.flush()
    except MetaSRError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        say_error(str(error))
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
        say_error(f"the name {error.object!r} is not UTF-8. Rename it")
        code = 2
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        where = f" {error.filename}" if error.filename else ""
        say_error(f"cannot use the file{where}: {error.strerror or error}")
        code = 1
    end_with(code)
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


def say_error(text: str) -> None:
    """Print an error as its line on stderr."""
    print(f"{paint('error:', 'red', sys.stderr)} {text}", file=sys.stderr)


def main() -> NoReturn:
    """Run `metasr VERB ...`, see `jobs.start`."""
    run(_dispatch)


def _dispatch(arguments: Sequence[str]) -> int | None:
    if "_ARGCOMPLETE" in os.environ:
        from jobs.interface.completion import asked_verb

        arguments = [asked_verb(VERBS)]
    verb, *rest = arguments or ["--help"]
    if verb == "help" and rest:
        verb, rest = rest[0], ["--help"]
    if verb in ("-h", "--help", "--help-all", "help"):
        print(_help())
        return 0
    if verb == "--version":
        print(_versions())
        return 0
    if verb in ELSEWHERE:
        raise ConfigError(f"unknown verb {verb}", f"that is `metasr {ELSEWHERE[verb]}`")
    if verb not in VERBS:
        from cluster.recipes import nearest

        lists = "`metasr --help` lists the verbs"
        raise ConfigError(f"unknown verb {verb}", nearest(verb, VERBS, ""), lists)
    with ended_at_once():
        job = importlib.import_module(f"jobs.{verb.replace('-', '_')}")
    code: int | None = job.main(rest)
    return code


def _help() -> str:
    blocks = ["metasr VERB [...]: arbitrary-scale super-resolution of brain MRI", _headed("first steps", FIRST_STEPS)]
    for group, verbs in GROUPS.items():
        blocks.append(_headed(group, "\n".join(f"  {verb:<12}{text}" for verb, text in verbs.items())))
    return "\n\n".join([*blocks, LAST_WORDS])


def _headed(heading: str, text: str) -> str:
    return f"{paint(f'{heading}:', 'bold', sys.stdout)}\n{text}"


def _versions() -> str:
    """Return the version, the commit if known, and the versions of the libraries, without importing them."""
    import platform

    from cluster.runtime.code_version import code_version
    from metasr import __version__

    code = code_version()
    own = f"metasr {__version__}" if code.startswith(__version__) else f"metasr {__version__}, commit {code}"
    libraries = [f"{name} {_installed(name)}" for name in VERSIONS_OF]
    return "\n".join([own, f"python {platform.python_version()}", *libraries])


def _installed(library: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "is not installed"


if __name__ == "__main__":
    main()
