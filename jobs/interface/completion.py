"""Completion of verbs, flags and their values in a shell, which starts the program anew at each Tab."""

import argparse
import os
from collections.abc import Mapping


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer the shell that asks for completions, and end."""
    import argcomplete

    argcomplete.autocomplete(parser)


def asked_verb(verbs: Mapping[str, str]) -> str:
    """Return the verb whose arguments the shell wants to have completed.

    While the verb itself is not complete, the shell gets the verbs, and the program ends.

    Args:
        verbs: Their names, and what they do.
    """
    typed = os.environ["COMP_LINE"].encode()[: int(os.environ["COMP_POINT"])].decode(errors="ignore")
    words = typed.split()
    if len(words) > 2 or (len(words) == 2 and typed.endswith(" ")):
        os.environ["_ARGCOMPLETE"] = "2"  # which leaves the verb out of what is parsed
        return words[1]
    parser = argparse.ArgumentParser(prog="metasr", add_help=False)
    for flag in ("--help", "--version"):
        parser.add_argument(flag, action="store_true")
    choices = parser.add_subparsers()
    for verb, text in verbs.items():
        choices.add_parser(verb, help=text)
    complete(parser)
    return ""
