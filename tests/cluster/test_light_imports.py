"""What only carries messages, or only reads a command line, does not wait for torch, Ray or MLflow to be imported."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "mlflow")


def imported_by(code):
    """Return which modules a fresh interpreter has imported after running some code."""
    listed = f"import sys\n{code}\nprint('imported:', *sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    return set(outcome.stdout.rpartition("imported:")[2].split())


def test_the_mailbox_between_driver_and_workers_needs_neither_torch_nor_ray_train():
    imported = imported_by("import cluster.training.mailbox")
    assert "cluster.training.mailbox" in imported
    assert not imported & {"torch", "ray.train"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "--no-such-flag"],
        ["train", "--recipe", "missing.yaml"],
        ["upscale", "-i", "missing.nii.gz", "-o", "out.nii.gz"],
        ["prepare", "-i", "missing", "-o", "out"],
    ],
    ids=" ".join,
)
def test_a_command_line_that_cannot_be_run_says_so_without_heavy_imports(arguments, tmp_path):
    imported = imported_by(f"""
import os, jobs.cli
os.chdir({str(tmp_path)!r})
try:
    jobs.cli.run(jobs.cli._dispatch, {arguments!r})
except SystemExit:
    pass
""")
    assert "jobs.cli" in imported
    assert not imported & set(HEAVY)
