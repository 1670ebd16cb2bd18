"""What the command says of itself: its verbs, their flags and settings, and that it is said at once."""

import re
import shlex
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path

import pytest

import jobs
from cluster.config import (
    EvaluateConfig,
    JobConfig,
    PrepareConfig,
    PromotionConfig,
    SweepConfig,
    UpscaleConfig,
    check_workers,
)
from cluster.recipes import leaves
from jobs.cli import VERBS, Parser, _dispatch, add_settings, run, settings
from tests.jobs.command import Outcome, assert_one_error, start
from tests.jobs.surface import FILE, surface

JOBS = Path(jobs.__file__).parent
TRACKING = [name for name, _ in leaves(JobConfig) if name.startswith("tracking.")]
EVALUATION = [name for name, _ in leaves(EvaluateConfig) if name.startswith(("eval.", "tasks.", "downstream."))]
SETTINGS = {
    "prepare": [name for name, _ in leaves(PrepareConfig)],
    "doctor": [name for name, _ in leaves(JobConfig)],
    "train": [name for name, _ in leaves(JobConfig)],
    "estimate": [name for name, _ in leaves(JobConfig)],
    "tune": [name for name, _ in leaves(SweepConfig)],
    "evaluate": ["data.url", "storage.url", *EVALUATION, *TRACKING],
    "report": ["data.url", "storage.url", *TRACKING],
    "promote": [name for name, _ in leaves(PromotionConfig)],
    "sync": TRACKING,
    "verify-run": ["storage.url"],
    "upscale": [name for name, _ in leaves(UpscaleConfig)],
    "serve": [name for name, _ in leaves(UpscaleConfig)],
    "view": TRACKING,
    "export": TRACKING,
    "compare": [],
    "demo": [],
    "runs": ["storage.url", *TRACKING],
    "models": ["storage.url", *TRACKING],
    "completion": [],
}


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """The whole help of every verb, as `metasr VERB --help-all` prints it."""

    def help_of(verb):
        with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:  # noqa: SIM117
            with pytest.raises(SystemExit) as left:
                run(_dispatch, [verb, "--help-all"])
        return Outcome(left.value.code, out.getvalue(), err.getvalue())

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(tmp_path_factory.mktemp("elsewhere")))
        return {verb: help_of(verb) for verb in VERBS}


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []], ids=" ".join)
def test_the_help_names_the_verbs_and_says_what_this_is_not(metasr, arguments):
    outcome = metasr(*arguments)
    assert outcome.code == 0
    assert "Research software, not a medical device." in outcome.out
    for verb, text in VERBS.items():
        assert re.search(rf"^  {verb} +{text}$", outcome.out, re.MULTILINE)


def test_the_versions_are_told_without_waiting_for_a_heavy_library(tmp_path):
    code = """
import sys
from jobs.cli import _dispatch
_dispatch(["--version"])
heavy = {"torch", "torchvision", "ray", "mlflow"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    outcome = start(sys.executable, "-c", code, folder=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.splitlines()[0].startswith(f"metasr {metadata.version('metasr')}")
    for name in ("torch", "torchvision", "ray", "mlflow"):
        assert f"\n{name} {metadata.version(name)}\n" in outcome.out


def test_every_job_is_a_verb():
    jobs = {path.stem.replace("_", "-") for path in JOBS.glob("[!_]*.py")} - {"cli", "start"}
    assert jobs == set(VERBS) == set(SETTINGS)


def test_the_surface_is_the_one_that_is_written_down():
    """Verbs, arguments and sections are what scripts rely on: they change on purpose, or not at all."""
    assert surface().splitlines() == FILE.read_text().splitlines(), (
        "if the change is meant: `.venv/bin/python -m tests.jobs.surface`, and commit tests/jobs/surface.txt"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_all_its_settings_and_no_others(helps, verb):
    assert helps[verb].code == 0
    assert helps[verb].err == ""
    assert f"\nusage: metasr {verb} " in helps[verb].out
    shown = re.findall(r"^ +--([a-z0-9._-]+) VALUE$|^ +--([a-z0-9._-]+) VALUE  ", helps[verb].out, re.MULTILINE)
    assert sorted("".join(flag) for flag in shown) == sorted(name.replace("_", "-") for name in SETTINGS[verb])


def test_the_reference_of_the_settings_is_what_the_types_say():
    done = subprocess.run([sys.executable, JOBS.parent / "infra" / "settings.py", "--check"], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_run_as_a_file_from_anywhere_is_the_verb(helps, verb, tmp_path):
    assert start(sys.executable, JOBS / f"{verb.replace('-', '_')}.py", "--help-all", folder=tmp_path) == helps[verb]


@pytest.mark.parametrize("model", [JobConfig, PrepareConfig])
def test_the_help_explains_every_setting_with_its_default(helps, model):
    text = " ".join(helps["train" if model is JobConfig else "prepare"].out.split())
    for _, field in leaves(model):
        assert " ".join(field.description.split()) in text
    default = "over all workers (paper: 8). [8; at least 1]" if model is JobConfig else "[128; at least 32]"
    assert default in text


@pytest.mark.parametrize("verb", VERBS)
def test_the_short_help_starts_with_examples_and_folds_settings(metasr, helps, verb):
    outcome = metasr(verb, "--help")
    assert outcome.code == 0
    examples, usage = outcome.out.index("\nexamples:\n"), outcome.out.index(f"\nusage: metasr {verb}")
    assert examples < usage
    assert f"  metasr {verb} " in outcome.out[examples:usage] or verb in ("sync", "promote", "evaluate")
    sections = {name.partition(".")[0] for name in SETTINGS[verb] if "." in name}
    if "more settings" in outcome.out:
        assert len(outcome.out) < len(helps[verb].out)
        assert all(f"--{section}.*  " in outcome.out or f"  --{section}." in outcome.out for section in sections)
    else:
        assert all(f"--{name.replace('_', '-')} " in outcome.out for name in SETTINGS[verb])


def test_the_list_of_verbs_is_there_at_once(tmp_path):
    """What it costs the processor, whatever else the machine does."""
    code = """
import os, sys
sys.argv = ["metasr", "--help"]
from jobs.cli import main
try:
    main()
finally:
    spent = os.times()
    heavy = {"pydantic", "yaml", "importlib.metadata"} & set(sys.modules)
    print(spent.user + spent.system, heavy or "", file=sys.stderr)
"""
    outcome = start(sys.executable, "-c", code, folder=tmp_path)
    seconds, _, heavy = outcome.err.strip().partition(" ")
    assert heavy == ""
    assert float(seconds) < 0.4


def test_the_help_does_not_push_its_flags_across_the_screen(helps):
    assert re.search(r"^  --crop-px VALUE", helps["prepare"].out, re.MULTILINE)


def test_the_help_has_the_bounds_that_errors_send_a_person_to_it_for(metasr, helps):
    outcome = metasr("prepare", "-i", "x", "-o", "y", "--crop-px", "8")
    assert_one_error(outcome, "crop_px = 8 (command line)", "32")
    if "--help-all has the bounds" in outcome.err:
        explained = helps["prepare"].out.rpartition("  --crop-px VALUE ")[2].partition("--min-brain")[0]
        assert "at least 32" in " ".join(explained.split())


def test_help_waits_for_no_heavy_library(tmp_path):
    code = """
import contextlib, importlib, sys
from jobs.cli import VERBS
for verb in VERBS:
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"jobs.{verb.replace('-', '_')}").main(["--help"])
heavy = {"torch", "torchvision", "ray", "mlflow", "boto3", "webdataset", "nibabel"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    outcome = start(sys.executable, "-c", code, folder=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    assert all(f"usage: metasr {verb} " in outcome.out for verb in VERBS)


def test_every_training_in_help_and_readme_has_as_many_workers_as_can_share_a_batch(helps):
    text = "".join([(JOBS.parent / "README.md").read_text(), *(helps[verb].out for verb in VERBS)])
    shown = re.findall(r"metasr (?:train|doctor|estimate) (--.*)|`(--resources[^`]*)`", text)
    assert len(shown) > 10
    for command in shown:
        parser = Parser(prog="metasr train")
        parser.add_argument("--recipe", default="default")
        add_settings(parser, JobConfig)
        known, _ = parser.parse_known_args(shlex.split("".join(command).rstrip("\\"), comments=True))
        check_workers(settings(JobConfig, known, known.recipe).config)
