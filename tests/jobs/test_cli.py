"""The command as a person meets it: one line about whatever went wrong, and no secret in it."""

import os
import socket
import subprocess
import sys

import pytest

from jobs.cli import run
from tests.jobs.command import METASR, assert_one_error, start

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


def test_a_flag_may_be_written_as_its_setting_is_named(metasr):
    written = metasr("train", "--optim.generator_lr=1e-5", "--resources.num_workers", "3", "--print-config")
    assert written.code == 0
    assert written == metasr("train", "--optim.generator-lr=1e-5", "--resources.num-workers", "3", "--print-config")


def test_on_a_first_day_there_is_the_model_that_ships_and_no_other(metasr, tmp_path, places):
    """Nothing has been registered yet, nor has anybody made the database."""
    command = ["upscale", places / "volume.nii.gz", tmp_path / "out.nii.gz", "--scale", "2"]
    database = tmp_path / "home" / "metasr" / "mlflow.db"
    outcome = metasr(*command, "--model", "champion")
    assert_one_error(outcome, "model champion: no such version", "metasr promote")
    assert database.is_file()
    database.unlink()
    outcome = metasr(*command)
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
