"""Every command of the documents is one that the command line takes, and every link leads somewhere."""

import re
import shlex
from pathlib import Path

import pytest

from jobs.cli import VERBS
from tests.jobs.surface import parser_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = ["README.md", "jobs/tutorial.md", "jobs/how-to.md", "metasr/models/meta-upscale.md"]
SKIPPED = {"completion"}  # its argument is no flag


def commands(text):
    """The commands of a document, those of code blocks and of `code` in text, as verb and arguments."""
    lines = re.findall(r"^ {4}metasr ([a-z].*)$", text, re.MULTILINE)
    lines += re.findall(r"^ {4}ray job submit.*-- python jobs/([a-z_]+)\.py(.*)$", text, re.MULTILINE)
    for line in lines:
        words = line if isinstance(line, str) else f"{line[0].replace('_', '-')} {line[1]}"
        verb, *arguments = shlex.split(words, comments=True)
        yield verb, arguments


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_commands_of_a_document_are_understood(name):
    found = [each for each in commands((ROOT / name).read_text(encoding="utf-8")) if each[0] not in SKIPPED]
    assert found or name.startswith("metasr/")
    for verb, arguments in found:
        assert verb in VERBS
        parser_of(verb, arguments).parse_known(arguments)  # raises for what it does not know


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_links_and_pictures_of_a_document_are_there(name):
    path = ROOT / name
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_what_the_tutorial_does_is_in_the_order_of_its_verbs():
    text = (ROOT / "jobs" / "tutorial.md").read_text(encoding="utf-8")
    order = list(dict.fromkeys(verb for verb, _ in commands(text)))
    assert order == [
        *("prepare", "doctor", "estimate", "train", "runs", "evaluate", "report", "promote", "models"),
        *("upscale", "view"),
    ]
