"""The command as a person meets it: its help, its results, and one line about whatever went wrong."""

import os
import re
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import yaml

import jobs
from cluster.config import JobConfig, PrepareConfig, PromotionConfig
from cluster.recipes import leaves
from jobs.cli import VERBS, main, run
from metasr.config import ExperimentConfig, ModelConfig
from metasr.identity import RunIdentity
from metasr.inference.bundle import save_bundle
from metasr.models import build_generator

JOBS = Path(jobs.__file__).parent
METASR = Path(sys.executable).with_name("metasr")
SHAPE = (10, 12, 4)
AFFINE = np.array([[-1.0, 0.2, 0.0, 90.0], [0.1, -1.2, 0.0, 126.0], [0.0, 0.0, 3.0, -72.0], [0.0, 0.0, 0.0, 1.0]])
TRACKING = [name for name, _ in leaves(JobConfig) if name.startswith("tracking.")]
SETTINGS = {
    "prepare": [name for name, _ in leaves(PrepareConfig)],
    "doctor": [name for name, _ in leaves(JobConfig)],
    "train": [name for name, _ in leaves(JobConfig)],
    "estimate": [name for name, _ in leaves(JobConfig)],
    "evaluate": ["data.url", *(name for name, _ in leaves(JobConfig) if name.startswith("eval.")), *TRACKING],
    "promote": [name for name, _ in leaves(PromotionConfig)],
    "sync": TRACKING,
    "verify-run": ["storage.url"],
    "upscale": TRACKING,
    "demo": [],
}


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder of our own, where the defaults lead."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def metasr(home, monkeypatch, capfd):
    """The command, in this process: starting another one takes seconds where torch is needed."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["metasr", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return Outcome(left.value.code, *capfd.readouterr())

    return call


def start(*command, folder, **environment):
    """Run a command in a process of its own."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**os.environ, "HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


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
    """The help of every verb, as `metasr VERB --help` prints it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    return {verb: start(METASR, verb, "--help", folder=folder) for verb in VERBS}


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []], ids=" ".join)
def test_the_help_names_the_verbs_and_says_what_this_is_not(metasr, arguments):
    outcome = metasr(*arguments)
    assert outcome.code == 0
    assert "Research software, not a medical device." in outcome.out
    for verb, text in VERBS.items():
        assert re.search(rf"^  {verb} +{text}$", outcome.out, re.MULTILINE)


def test_every_job_is_a_verb():
    jobs = {path.stem.replace("_", "-") for path in JOBS.glob("[!_]*.py")} - {"cli"}
    assert jobs == set(VERBS) == set(SETTINGS)


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_has_all_its_settings_and_no_others(helps, verb):
    assert helps[verb].code == 0
    assert helps[verb].err == ""
    assert helps[verb].out.startswith(f"usage: metasr {verb} ")
    shown = re.findall(r"^ +--([a-z0-9._-]+) VALUE$|^ +--([a-z0-9._-]+) VALUE  ", helps[verb].out, re.MULTILINE)
    assert sorted("".join(flag) for flag in shown) == sorted(name.replace("_", "-") for name in SETTINGS[verb])


@pytest.mark.parametrize("verb", VERBS)
def test_a_job_run_as_a_file_from_anywhere_is_the_verb(helps, verb, tmp_path):
    assert start(sys.executable, JOBS / f"{verb.replace('-', '_')}.py", "--help", folder=tmp_path) == helps[verb]


@pytest.mark.parametrize("model", [JobConfig, PrepareConfig])
def test_the_help_explains_every_setting_with_its_default(helps, model):
    text = " ".join(helps["train" if model is JobConfig else "prepare"].out.split())
    for _, field in leaves(model):
        assert " ".join(field.description.split()) in text
    default = "over all workers (paper: 8). [8; at least 1]" if model is JobConfig else "[128; at least 32]"
    assert default in text


def test_the_help_does_not_push_its_flags_across_the_screen(helps):
    assert re.search(r"^  --crop-px VALUE", helps["prepare"].out, re.MULTILINE)


def test_the_help_has_the_bounds_that_errors_send_a_person_to_it_for(metasr, helps):
    outcome = metasr("prepare", "-i", "x", "-o", "y", "--crop-px", "8")
    assert_one_error(outcome, "crop_px = 8 (command line)", "32")
    if "--help has the bounds" in outcome.err:
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


# Mistakes


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Things to point the command at: volumes, a bundle, and much that is neither."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("empty", "text", "several"):
        (folder / name).mkdir()
    (folder / "text" / "notes.txt").write_text("no volume")
    (folder / "text.nii.gz").write_text("not a volume")
    (folder / "typo.yaml").write_text("optim:\n  generater_lr: 0.001\n")
    (folder / "broken.yaml").write_text("optim: {generator_lr: 1")
    voxels = np.random.default_rng(0).integers(100, 400, SHAPE).astype(np.int16)
    voxels[[0, -1]] = voxels[:, [0, -1]] = 0
    nib.save(nib.Nifti1Image(voxels, AFFINE), folder / "volume.nii.gz")
    config = ExperimentConfig(model=ModelConfig(num_features=8, num_blocks=1))
    identity = RunIdentity("run-1", "abc", "file:///nowhere", "d" * 64)
    save_bundle(folder / "bundle", build_generator(config.model), config, identity, step=1, metrics={})
    return folder


PREPARE = ["prepare", "-o", "{tmp}/store"]
UPSCALE = ["upscale", "-o", "{tmp}/out.nii.gz", "--model", "{places}/bundle"]
THIS = ["-i", "{places}/volume.nii.gz"]
MISTAKES = {
    "verb": (["upscal"], "unknown verb upscal", "did you mean upscale?"),
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
    "recipe": (["train", "--recipe", "smoek"], "recipe smoek", "Did you mean smoke?"),
    "type of a flag": (["train", "--train.steps", "many"], "train.steps = 'many' (command line)", "valid integer"),
    "bound of a flag": (["train", "--train.batch-size", "0"], "train.batch_size = 0 (command line)", "equal to 1"),
    "settings together": (["train", "--data.patch-px", "20"], "cannot hold scale 4.0", "needs 40"),
    "no folder": ([*PREPARE, "-i", "{places}/absent"], "places0/absent: there is no such folder", "Give the folder"),
    "empty folder": ([*PREPARE, "-i", "{places}/empty"], "it has no NIfTI file", "Check the folder and --modality"),
    "folder of texts": ([*PREPARE, "-i", "{places}/text"], "it has no NIfTI file", "Check the folder and --modality"),
    "file as store": (["prepare", "-i", "{subjects}", "-o", "{places}/typo.yaml"], "typo.yaml", "Check"),
    "kind of store": (["prepare", "-i", "{subjects}", "-o", "ftp://host/x"], "cannot open the store", "s3://bucket/"),
    "no data": (["train"], "data.url is not set", "Give --data.url"),
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
        "places0/absent: the folder does not exist",
        "Create it",
    ),
    "store without data": (["train", "--data.url", "{places}/empty"], "it has no index.json", "metasr prepare"),
    "no volume": ([*UPSCALE, "-i", "{places}/absent.nii", "--scale", "2"], "absent.nii", "Check the path"),
    "text as volume": ([*UPSCALE, "-i", "{places}/text.nii.gz", "--scale", "2"], "text.nii.gz", "Give a .nii"),
    "scale 0": ([*UPSCALE, *THIS, "--scale", "0"], "scale 0", "from 1 to 16"),
    "scale below 1": ([*UPSCALE, *THIS, "--scale", "0.99"], "scale 0.99", "from 1 to 16"),
    "scale negative": ([*UPSCALE, *THIS, "--scale", "-2"], "scale -2", "from 1 to 16"),
    "scale nan": ([*UPSCALE, *THIS, "--scale", "nan"], "scale nan", "from 1 to 16"),
    "scale inf": ([*UPSCALE, *THIS, "--scale", "inf"], "scale inf", "from 1 to 16"),
    "scale too large": ([*UPSCALE, *THIS, "--scale", "16.1"], "scale 16.1", "from 1 to 16"),
    "scale no number": ([*UPSCALE, *THIS, "--scale", "abc"], "--scale", "'abc'", "`metasr upscale --help`"),
    "folder as model": ([*UPSCALE, *THIS, "--scale", "2", "--model", "{places}/empty"], "bundle", "Give the folder"),
    "scale of three axes": ([*UPSCALE, *THIS, "--scale", "2x2x2"], "'2x2x2'", "ROWSxCOLUMNS"),
    "no scale": ([*UPSCALE, *THIS], "--scale --spacing is required", "`metasr upscale --help`"),
    "scale and spacing": ([*UPSCALE, *THIS, "--scale", "2", "--spacing", "1", "1", "1"], "--spacing: not allowed"),
    "spacing of one axis": ([*UPSCALE, *THIS, "--spacing", "1"], "--spacing: expected 3 arguments"),
    "spacing coarser": (
        [*UPSCALE, *THIS, "--spacing", "1", "1", "3.5"],
        "3.5 mm along k, which has 3 mm",
        "at most 3",
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


def test_a_model_that_is_not_there_on_a_first_day_is_one_line(tmp_path, places):
    """Nothing has been registered yet, nor has anybody made the database."""
    volume, result = places / "volume.nii.gz", tmp_path / "out.nii.gz"
    outcome = start(METASR, "upscale", "-i", volume, "-o", result, "--scale", "2", folder=tmp_path)
    assert_one_error(outcome, "model champion: no such version", "metasr promote")
    assert (tmp_path / "home" / "metasr" / "mlflow.db").is_file()


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
    assert outcome.err.splitlines()[-1].startswith("error: cannot look at 'index.json' in s3://bucket/data")


# Results


def test_the_settings_can_be_printed_and_used_as_a_recipe(metasr, tmp_path):
    first = metasr("train", "--train.steps", "7", "--optim.generator-lr", "1e-5", "--print-config")
    assert (first.code, first.err) == (0, "")
    assert re.search(r"^  steps: 7 +# command line$", first.out, re.MULTILINE)
    assert re.search(r"^  norm: \"none\" +# recipe default$", first.out, re.MULTILINE)
    assert re.search(r"^  seed: 0 +# default$", first.out, re.MULTILINE)
    (tmp_path / "again.yaml").write_text(first.out)
    again = metasr("train", "--recipe", tmp_path / "again.yaml", "--print-config")
    assert yaml.safe_load(again.out) == yaml.safe_load(first.out)
    assert set(re.findall("# (.*)", again.out)) == {"recipe again"}


def test_prepare_says_what_it_made_and_what_comes_next(metasr, subjects_folder, tmp_path):
    outcome = metasr(
        "prepare", "-i", subjects_folder, "-o", tmp_path / "store", "--modality", "t1ce", "--crop-px", "40"
    )
    assert (outcome.code, outcome.err) == (0, "")
    assert "2 training and 1 validation subjects" in outcome.out
    assert outcome.out.endswith(f"next: metasr train --recipe smoke --data.url {tmp_path}/store\n")


def outer_corners(affine, shape):
    ends = np.array(list(product(*((-0.5, n - 0.5) for n in shape))))
    return ends @ affine[:3, :3].T + affine[:3, 3]


def test_upscale_with_a_folder_gives_more_voxels_in_the_same_place(places, tmp_path):
    result = tmp_path / "new folder" / "out.nii.gz"
    given = ["-i", places / "volume.nii.gz", "-o", result, "--scale", "2.5", "--model", places / "bundle"]
    outcome = start(METASR, "upscale", *given, folder=tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    made_of = "voxels of 0.402 x 0.4866 x 3 mm; axial slices (across k, 3 mm)"
    assert outcome.out == f"{result}: 10 x 12 x 4 -> 25 x 30 x 4 {made_of}\n"
    made, original = nib.load(result), nib.load(places / "volume.nii.gz")
    assert made.shape == (25, 30, 4)
    assert made.get_data_dtype() == original.get_data_dtype()
    np.testing.assert_allclose(
        outer_corners(made.affine, made.shape), outer_corners(original.affine, original.shape), atol=1e-4
    )
    data = made.get_fdata()
    assert data.min() >= 0
    assert data.std() > 50
    assert not (tmp_path / "home" / "metasr").exists(), "a folder needs no registry"


def test_upscale_to_a_spacing_goes_through_the_thick_slices_and_says_so(metasr, places, tmp_path):
    result = tmp_path / "out.nii"
    given = ["-i", places / "volume.nii.gz", "-o", result, "--model", places / "bundle"]
    outcome = metasr("upscale", *given, "--spacing", "0.5", "0.6", "1")
    assert (outcome.code, outcome.err) == (0, "")
    assert "10 x 12 x 4 -> 20 x 24 x 12 voxels of 0.5025 x 0.6083 x 1 mm; " in outcome.out
    assert outcome.out.endswith("axial slices (across k, 3 mm), and through them\n")
    made, original = nib.load(result), nib.load(places / "volume.nii.gz")
    assert made.shape == (20, 24, 12)
    np.testing.assert_allclose(
        outer_corners(made.affine, made.shape), outer_corners(original.affine, original.shape), atol=1e-4
    )


def test_upscale_takes_a_plane_and_a_scale_for_each_of_its_axes(metasr, places, tmp_path):
    result = tmp_path / "out.nii"
    given = ["-i", places / "volume.nii.gz", "-o", result, "--model", places / "bundle"]
    outcome = metasr("upscale", *given, "--scale", "2x3.3", "--plane", "sagittal")
    assert outcome.code == 0
    assert outcome.out.endswith("sagittal slices (across i, 1.005 mm)\n")
    assert nib.load(result).shape == (10, 40, 8)


@pytest.mark.parametrize(("scale", "warned"), [("4", False), ("4.5", True), ("1", False)])
def test_upscale_warns_outside_the_trained_scales(metasr, places, tmp_path, scale, warned):
    result = tmp_path / "out.nii"
    outcome = metasr(
        "upscale", "-i", places / "volume.nii.gz", "-o", result, "--scale", scale, "--model", places / "bundle"
    )
    assert outcome.code == 0
    assert ("warning: outside the scales that the model was trained on, 1.1 to 4.0: 4.5" in outcome.out) is warned
    assert nib.load(result).shape == (int(10 * float(scale)), int(12 * float(scale)), 4)
