"""What only carries messages, or only reads a command line, does not wait for torch, Ray or MLflow to be imported."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "mlflow")


def imported_by(code):
    """Return which modules a fresh interpreter has imported after running some code, and what that printed."""
    listed = f"import sys\n{code}\nprint('imported:', *sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    printed, _, modules = outcome.stdout.rpartition("imported:")
    return set(modules.split()), printed + outcome.stderr


def test_the_mailbox_between_driver_and_workers_needs_neither_torch_nor_ray_train():
    imported, _ = imported_by("import cluster.training.mailbox")
    assert "cluster.training.mailbox" in imported
    assert not imported & {"torch", "ray.train"}


def test_the_controller_of_ray_train_which_starts_the_workers_needs_no_torch():
    imported, _ = imported_by("import cluster.training.job, cluster.training.listener, cluster.training.trainer")
    assert "cluster.training.trainer" in imported
    assert "torch" not in imported


def test_a_training_imports_nothing_that_only_evaluations_need():
    imported, _ = imported_by("import cluster.training.driver, cluster.training.worker")
    assert "torch" in imported
    assert not imported & {"scipy.ndimage", "triton", "matplotlib"}


MISTAKES = {
    "--help": "metasr VERB",
    "train --help": "usage: metasr train",
    "train --no-such-flag": "unknown argument --no-such-flag",
    "train --recipe missing.yaml": "recipe missing.yaml: there is no such recipe",
    "train --train.steps 0": "train.steps = 0 (command line): input should be greater than or equal to 1",
    "train --data.url missing": "missing: the folder does not exist",
    "train --data.url . --dry-run": "it has no index.json",
    "train --data.url . --resources.num-workers 99": "resources.num_workers 99: a batch has 4 virtual shards",
    "estimate": "data.url is not set: there is nothing to train on",
    "tune --sweep missing": "sweep missing: there is no such sweep",
    "tune --sweep scale-range --data.url missing": "missing: the folder does not exist",
    "evaluate --data.url missing": "missing: the folder does not exist",
    "evaluate --perceptual-weights missing": "VGG weights missing: there is no such file",
    "doctor --recipe missing": "recipe missing: there is no such recipe",
    "upscale -i missing.nii.gz -o out.nii.gz --scale 2": "missing.nii.gz: there is no such file",
    "view missing.nii.gz": "missing.nii.gz: there is no such file",
    "view in.nii.gz --port many": "'many' is no port",
    "prepare -i missing -o out": "missing: there is no such folder",
}
# One process for all command lines: each is told what it printed, and which of some modules it has imported.
EACH = """
import contextlib, io, json, sys, jobs.cli
lines, heavy = json.loads(sys.argv[1])
told = {}
for line in lines:
    before = set(sys.modules)
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        with contextlib.suppress(SystemExit):
            jobs.cli.run(jobs.cli._dispatch, line.split())
    told[line] = said.getvalue(), sorted((set(sys.modules) - before) & set(heavy))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each command line prints, and which heavy modules it imports."""
    command = [sys.executable, "-c", EACH, json.dumps([list(MISTAKES), HEAVY])]
    done = subprocess.run(command, cwd=tmp_path_factory.mktemp("empty"), capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_command_line_that_cannot_be_run_says_so_without_heavy_imports(arguments, told):
    output, imported = told[arguments]
    assert MISTAKES[arguments] in output
    assert imported == []
