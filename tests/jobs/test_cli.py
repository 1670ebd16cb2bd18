"""The command as a person meets it: its help, and one line about whatever went wrong."""

import os
import re
import shlex
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import jobs
from cluster.config import EvaluateConfig, JobConfig, PrepareConfig, PromotionConfig, SweepConfig, check_workers
from cluster.recipes import leaves
from jobs.cli import VERBS, Parser, add_settings, run, settings
from tests.jobs.command import METASR, start
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
    "upscale": TRACKING,
    "view": TRACKING,
    "compare": [],
    "demo": [],
    "runs": ["storage.url", *TRACKING],
    "models": ["storage.url", *TRACKING],
    "completion": [],
}


def assert_one_error(outcome, *words, code=2):
    assert outcome.code == code, outcome.err
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in outcome.out + outcome.err
    for word in words:
        assert word in lines[0]


# Help


@pytest.fixture(scope="module")
def helps(tmp_path_factory):
    """The whole help of every verb, as `metasr VERB --help-all` prints it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return {verb: start(METASR, verb, "--help-all", folder=folder) for verb in VERBS}


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


# Mistakes


PREPARE = ["prepare", "-o", "{tmp}/store"]
UPSCALE = ["upscale", "-o", "{tmp}/out.nii.gz", "--model", "{places}/bundle"]
THIS = ["-i", "{places}/volume.nii.gz"]
MISTAKES = {
    "verb": (["upscal"], "unknown verb upscal", "did you mean upscale?"),
    "question that is no verb": (["history"], "unknown verb history", "`metasr promote --history`"),
    "word for a verb": (["predict"], "unknown verb predict", "`metasr upscale`"),
    "list that is none": (["prepare", "-i", "x", "-o", "y", "--val-subjects", '["a", "b"'], "not a list", "a,b"),
    "verb like no other": (["xyzzy"], "unknown verb xyzzy", "`metasr --help` lists the verbs"),
    "flag": (["train", "--optim.genrator-lr", "1"], "--optim.genrator-lr", "did you mean --optim.generator-lr?"),
    "flag without section": (["train", "--generator-lr=1"], "--generator-lr", "did you mean --optim.generator-lr?"),
    "short flag of a verb": ([*PREPARE, "-i", "x", "--modalty", "t1"], "--modalty", "did you mean --modality?"),
    "abbreviated flag": (["train", "--print"], "unknown argument --print", "did you mean --print-config?"),
    "stray word": (["train", "xyzzy"], "unknown argument xyzzy", "--help"),
    "flag without value": (["train", "--train.steps"], "expected one argument", "`metasr train --help`"),
    "nothing required": (["prepare"], "-i/--input, -o/--output", "`metasr prepare --help`"),
    "key in a recipe": (
        ["train", "--recipe", "{places}/typo.yaml"],
        "generater_lr (recipe typo)",
        "optim.generator_lr?",
    ),
    "recipe that is not YAML": (["train", "--recipe", "{places}/broken.yaml"], "broken.yaml", "not valid YAML"),
    "recipe in Latin-1": (["train", "--recipe", "{places}/latin.yaml"], "latin.yaml", "line 2 is not UTF-8 text"),
    "sweep in Latin-1": (["tune", "--sweep", "{places}/latin.yaml"], "latin.yaml", "line 2 is not UTF-8 text"),
    "database whose name is not UTF-8": (
        ["promote", "--tracking.uri", "sqlite:///d\udce9.db"],
        "d\\udce9.db' is not UTF-8. Rename it",
    ),
    "recipe": (["train", "--recipe", "smoek"], "recipe smoek", "Did you mean smoke?"),
    "type of a flag": (["train", "--train.steps", "many"], "train.steps = 'many' (command line)", "valid integer"),
    "bound of a flag": (["train", "--train.batch-size", "0"], "train.batch_size = 0 (command line)", "equal to 1"),
    "settings together": (["train", "--data.patch-px", "20"], "cannot hold scale 4.0", "needs 40"),
    "no folder": ([*PREPARE, "-i", "{places}/absent"], "/absent: there is no such folder", "Give the folder"),
    "empty folder": ([*PREPARE, "-i", "{places}/empty"], "it has no NIfTI file", "Check the folder and --modality"),
    "folder of texts": ([*PREPARE, "-i", "{places}/text"], "it has no NIfTI file", "Check the folder and --modality"),
    "file as store": (["prepare", "-i", "{subjects}", "-o", "{places}/typo.yaml"], "typo.yaml", "Check"),
    "kind of store": (["prepare", "-i", "{subjects}", "-o", "ftp://host/x"], "cannot open the store", "s3://bucket/"),
    "no data": (["train"], "data.url is not set", "Give --data.url"),
    "two starts": (["train", "--init-from", "x", "--fork", "r@2"], "--fork: not allowed", "`metasr train --help`"),
    "branch": (["train", "--fork", "brats"], "cannot branch off from brats", "RUN@STEP"),
    "no data to try": (["train", "--dry-run"], "data.url is not set", "Give --data.url"),
    "no data to estimate": (["estimate"], "data.url is not set", "Give --data.url"),
    "recipe to estimate": (["estimate", "--recipe", "smoek"], "recipe smoek", "Did you mean smoke?"),
    "too many workers": (
        ["estimate", "--recipe", "smoke", "--resources.num-workers", "5"],
        "resources.num_workers 5",
        "train.virtual_shards",
    ),
    "price": (["estimate", "--price-per-hour", "cheap"], "'cheap' is not a price", "such as 2.50"),
    "price below 0": (["estimate", "--storage-price", "-1"], "'-1' is not a price", "such as 2.50"),
    "one step": (["estimate", "--steps", "1"], "--steps 1", "Give 2 or more"),
    "no store": (
        ["train", "--data.url", "{places}/absent"],
        "/absent: the folder does not exist",
        "Create it",
    ),
    "store without data": (["train", "--data.url", "{places}/empty"], "it has no index.json", "metasr prepare"),
    "no volume": ([*UPSCALE, "-i", "{places}/absent.nii", "--scale", "2"], "absent.nii", "Check the path"),
    "text as volume": (
        [*UPSCALE, "-i", "{places}/text.nii.gz", "--scale", "2"],
        "text.nii.gz",
        "Give a .nii",
    ),
    "scale 0": ([*UPSCALE, *THIS, "--scale", "0"], "0 is not a scale", "above 1 and up to 16"),
    "scale below 1": ([*UPSCALE, *THIS, "--scale", "0.99"], "0.99 is not a scale", "above 1 and up to 16"),
    "scale negative": ([*UPSCALE, *THIS, "--scale", "-2"], "-2 is not a scale", "above 1 and up to 16"),
    "scale nan": ([*UPSCALE, *THIS, "--scale", "nan"], "nan is not a scale", "above 1 and up to 16"),
    "scale inf": ([*UPSCALE, *THIS, "--scale", "inf"], "inf is not a scale", "above 1 and up to 16"),
    "scale too large": ([*UPSCALE, *THIS, "--scale", "16.1"], "16.1 is not a scale", "above 1 and up to 16"),
    "scale no number": (
        [*UPSCALE, *THIS, "--scale", "abc"],
        "--scale: abc is not a scale",
        "up to 16",
        "`metasr upscale --help`",
    ),
    "folder as model": ([*UPSCALE, *THIS, "--scale", "2", "--model", "{places}/empty"], "bundle", "Give the folder"),
    "scale of four axes": ([*UPSCALE, *THIS, "--scale", "2x2x2x2"], "2x2x2x2 is not a scale", "such as 2x2x1"),
    "scale of an axis": ([*UPSCALE, *THIS, "--scale", "2x17x1"], "17 is not a scale", "up to 16"),
    "no scale": ([*UPSCALE, *THIS], "--scale --spacing --like is required", "`metasr upscale --help`"),
    "scale and spacing": ([*UPSCALE, *THIS, "--scale", "2", "--spacing", "1", "1", "1"], "--spacing: not allowed"),
    "spacing of two axes": (
        [*UPSCALE, *THIS, "--spacing", "1", "2"],
        "--spacing of 2 numbers",
        "one each for i, j, k",
    ),
    "spacing coarser": ([*UPSCALE, *THIS, "--spacing", "3.5"], "3.5 mm along i", "at most 1.0", "--resample"),
    "NaN to what": ([*UPSCALE, *THIS, "--scale", "2", "--nan-to", "nan"], "--nan-to", "`background`"),
    "several volumes": ([*UPSCALE, *THIS, "{places}/x.nii", "--scale", "2"], "there are 2 inputs", "Give a folder"),
    "nothing to enlarge": (["upscale", "--scale", "2"], "nothing to enlarge", "metasr upscale IN OUT"),
    "folder without volumes": ([*UPSCALE, "-i", "{places}/text", "--scale", "2"], "/text", "no image", ".nii.gz"),
    "spacing no number": ([*UPSCALE, *THIS, "--spacing", "wide"], "wide is no voxel size"),
    "skipped and replaced": ([*UPSCALE, *THIS, "--scale", "2", "--force", "--skip-existing"], "Give one of two"),
    "input as output": (
        [*UPSCALE, *THIS, "--scale", "2", "--force", "-o", "{places}/several/../volume.nii.gz"],
        "it is the input",
        "Give another name",
    ),
    "output that exists": ([*UPSCALE, *THIS, "--scale", "2", "-o", "{places}/text.nii.gz"], "it exists", "--force"),
    "output below a file": (
        [*UPSCALE, *THIS, "--scale", "2", "-o", "{places}/text.nii.gz/x.nii"],
        *("cannot write", "a folder that you may write to"),
    ),
    "output of a long name": (
        [*UPSCALE, *THIS, "--scale", "2", "-o", "{tmp}/" + "x" * 250 + ".nii.gz"],
        "File name too long",
    ),
    "spacing negative": ([*UPSCALE, *THIS, "--spacing", "1", "-1", "1"], "-1 mm along j", "above 0"),
    "plane": ([*UPSCALE, *THIS, "--scale", "2", "--plane", "top"], "--plane", "'top'", "axial"),
    "ending of the output": ([*UPSCALE, *THIS, "--scale", "2", "-o", "{tmp}/x.png"], "x.png", ".nii or .nii.gz"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_do(metasr, places, subjects_folder, tmp_path, mistake):
    arguments, *words = MISTAKES[mistake]
    places_of = {"places": places, "tmp": tmp_path, "subjects": subjects_folder}
    assert_one_error(metasr(*(argument.format(**places_of) for argument in arguments)), *words)
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize("command", [[METASR], [sys.executable, "-m", "jobs.cli"]], ids=["metasr", "jobs.cli"])
def test_a_mistake_in_a_process_of_its_own_is_one_line_too(tmp_path, command):
    outcome = start(*command, "train", "--generator-lr", "1", folder=tmp_path)
    assert_one_error(outcome, "unknown argument --generator-lr", "did you mean --optim.generator-lr?")
    assert outcome.out == ""


def test_on_a_first_day_there_is_the_model_that_ships_and_no_other(tmp_path, places):
    """Nothing has been registered yet, nor has anybody made the database."""
    command = [METASR, "upscale", places / "volume.nii.gz", tmp_path / "out.nii.gz", "--scale", "2"]
    database = tmp_path / "home" / "metasr" / "mlflow.db"
    outcome = start(*command, "--model", "champion", folder=tmp_path)
    assert_one_error(outcome, "model champion: no such version", "metasr promote")
    assert database.is_file()
    database.unlink()
    outcome = start(*command, folder=tmp_path)
    assert (outcome.code, outcome.out.splitlines()[0]) == (0, "model: the one that ships with metasr")
    assert not database.exists()


def test_a_file_that_cannot_be_written_is_one_line(metasr, places, tmp_path):
    (tmp_path / "file").touch()
    given = ["-i", places / "volume.nii.gz", "--model", places / "bundle", "--scale", "2"]
    assert_one_error(metasr("upscale", *given, "-o", tmp_path / "file" / "out.nii"), str(tmp_path / "file"))


def test_debug_shows_the_traceback_before_the_line(metasr, tmp_path):
    outcome = metasr("prepare", "-i", tmp_path / "absent", "-o", tmp_path / "store", "--debug")
    assert outcome.code == 2
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1].startswith("error: folder")


def test_an_interrupted_job_says_how_to_go_on(capfd):
    def job(arguments):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as left:
        run(job, [])
    assert left.value.code == 130
    assert capfd.readouterr().err == "interrupted: run the same command again to continue\n"


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as stdout:
        command = [METASR, "train", "--print-config"]
        done = subprocess.run(command, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")


# Secrets


@pytest.fixture
def dead_s3(monkeypatch):
    """A bucket at a port where nobody listens, and the secrets for it."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    environment = {
        "AWS_ENDPOINT_URL": f"http://someone:canary-password@127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "canary-id",
        "AWS_SECRET_ACCESS_KEY": "canary-secret",
        "AWS_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return f"127.0.0.1:{port}"


@pytest.mark.parametrize("verb", ["prepare", "train"])
def test_secrets_are_in_no_output_of_a_command_that_fails(metasr, dead_s3, subjects_folder, verb):
    arguments = {
        "prepare": ["-i", subjects_folder, "-o", "s3://bucket/data", "--modality", "t1ce", "--crop-px", "40"],
        "train": ["--data.url", "s3://bucket/data"],
    }
    outcome = metasr(verb, *arguments[verb])
    assert_one_error(outcome, f"no connection to {dead_s3}", "Check AWS_ENDPOINT_URL")
    assert "canary" not in outcome.out + outcome.err


def test_a_traceback_has_no_secrets_and_the_line_after_it_is_the_last(dead_s3, subjects_folder, tmp_path):
    arguments = ["-i", subjects_folder, "-o", "s3://bucket/data", "--modality", "t1ce", "--crop-px", "40", "--debug"]
    outcome = start(METASR, "prepare", *arguments, folder=tmp_path)
    assert outcome.code == 2
    assert "canary-secret" not in outcome.out + outcome.err
    assert outcome.err.startswith("Traceback")
    assert outcome.err.splitlines()[-1].startswith("error: cannot write 'prepare/")
