"""What the runbooks tell people to type exists: verbs, flags, services, targets of make; and so do links."""

import re
from pathlib import Path

import pytest

from infra.local import services
from infra.local.__main__ import VERBS
from jobs.cli import GROUPS
from tests.jobs.surface import parser_of

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "infra" / "runbooks").glob("*.md")), ROOT / "infra" / "local" / "README.md"]
METASR_VERBS = {verb for verbs in GROUPS.values() for verb in verbs}


def typed(page):
    """Return what a page tells people to type: lines of its blocks, and pieces in backticks, up to a comment."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    pieces = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line.partition("    #")[0] for block in blocks for line in block.splitlines()]
    return [command.strip() for line in [*lines, *pieces] for command in re.split(r";|&&|\|", line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_runbook_tells_people_to_type_exists(page):
    for command in typed(page):
        words = command.split()
        if words[:1] == ["metasr"] and len(words) > 1 and words[1] != "VERB":
            assert words[1] in METASR_VERBS, command
            check_flags(words[1], words[2:], command)
        elif words[:1] == ["--"] or command.startswith("--"):
            assert any(words[0] in parser_of(verb)._option_string_actions for verb in METASR_VERBS) or words[0] in {
                "--folder",
                "--any-ports",
            }, command
        elif "infra.local" in words:
            check_local(words[words.index("infra.local") + 1 :], command)
        elif words[:1] == ["make"]:
            assert f"\n{words[1]}:" in targets() or re.search(rf"\n[a-z ]*\b{words[1]}\b[a-z ]*:", targets()), command


def check_flags(verb, words, command):
    known = parser_of(verb)._option_string_actions
    for flag in (word for word in words if re.match(r"--?[a-z]", word)):
        assert flag in known, command


def check_local(words, command):
    if words[:1] == ["--help"]:
        return
    assert words[0] in VERBS, command
    flags = {word for word in words if word.startswith("--")}
    assert flags <= {"--folder", "--any-ports"}, command
    if words[0] in ("up", "down", "restart"):
        names = [word for word in words[1:] if word.isalpha()]
        assert set(names) <= set(services.SERVICES), command


def targets():
    return (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_runbook_is_short_and_its_links_lead_somewhere(page):
    text = page.read_text()
    assert len(text.splitlines()) <= 60
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (page.parent / link).exists(), link


def test_every_runbook_is_listed():
    listed = set(re.findall(r"\]\(([^)]+)\)", (ROOT / "infra" / "runbooks" / "README.md").read_text()))
    assert listed == {page.name for page in PAGES if page.stem != "README"}
