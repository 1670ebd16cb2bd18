"""The command in a person's shell: a little colour on a terminal, and completion at Tab."""

import os
import pty
import shlex
import subprocess

import pytest

from jobs.cli import VERBS
from tests.jobs.command import METASR, start


def on_terminal(folder, *arguments, **environment):
    """Return all that a command prints on a terminal."""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "NO_COLOR": "", **environment}
    with subprocess.Popen([METASR, *arguments], cwd=folder, env=environment, stdout=slave, stderr=slave) as process:
        os.close(slave)
        said = b""
        while True:
            try:
                said += os.read(master, 4096)
            except OSError:  # so Linux says that nobody writes any more
                break
        process.wait()
    os.close(master)
    return said.decode()


def test_a_terminal_shows_headings_and_errors_in_colour(tmp_path):
    assert "\x1b[1mjudge:\x1b[0m" in on_terminal(tmp_path, "--help")
    assert "\x1b[1mexamples:\x1b[0m" in on_terminal(tmp_path, "sync", "--help")
    assert on_terminal(tmp_path, "xyzzy").startswith("\x1b[31merror:\x1b[0m unknown verb")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
@pytest.mark.parametrize("arguments", [["--help"], ["sync", "--help"], ["xyzzy"]], ids=" ".join)
def test_who_wants_no_colour_gets_none(tmp_path, arguments, environment):
    assert "\x1b" not in on_terminal(tmp_path, *arguments, **environment)


@pytest.mark.parametrize("arguments", [["--help"], ["sync", "--help"], ["xyzzy"]], ids=" ".join)
def test_a_file_gets_no_colour(tmp_path, arguments):
    outcome = start(METASR, *arguments, folder=tmp_path, TERM="xterm", NO_COLOR="")
    assert "\x1b" not in outcome.out + outcome.err


def completions(folder, typed):
    """Return what bash completes a command line to, by the code that the verb prints."""
    code = start(METASR, "completion", "bash", folder=folder).out
    line = f"metasr {typed}"
    *words, last = line.split(" ")
    script = f"""
PATH={shlex.quote(str(METASR.parent))}:$PATH
{code}
COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_TYPE=9
COMP_WORDS=({shlex.join(words)} {shlex.quote(last)}) COMP_CWORD={len(words)}
_python_argcomplete metasr {shlex.quote(last)} {shlex.quote(words[-1])}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.stderr == ""
    return [one.strip() for one in done.stdout.splitlines()]


def test_bash_completes_verbs(tmp_path):
    assert set(completions(tmp_path, "")) >= set(VERBS)
    assert completions(tmp_path, "ver") == ["verify-run"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("train --rec", ["--recipe"]),
        ("train --optim.gen", ["--optim.generator-lr"]),
        ("verify-run --js", ["--json"]),
        ("train --recipe sm", ["smoke"]),
        ("train --recipe smoke --train.reduction e", ["exact"]),
        ("prepare -i a -o b --kind ph", ["photos"]),
        ("completion z", ["zsh"]),
    ],
)
def test_bash_completes_flags_and_values(tmp_path, typed, expected):
    assert completions(tmp_path, typed) == expected


def test_bash_completes_files(tmp_path):
    (tmp_path / "brain.yaml").touch()
    assert completions(tmp_path, "prepare --patients bra") == ["brain.yaml"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_code_of_their_own(metasr, shell):
    outcome = metasr("completion", shell)
    assert outcome.code == 0
    assert {"zsh": "compdef", "fish": "complete --command metasr"}[shell] in outcome.out
