"""The commands of the README, word for word and one after the other, as a newcomer types them."""

import re
import shlex
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.jobs.command import METASR, start

README = Path(__file__).parents[2] / "README.md"
SMALL = ["--train.steps", "4", "--train.checkpoint-every-steps", "2", "--data.patch-px", "40"]
SMALL += ["--model.num-features", "8", "--model.num-blocks", "1", "--resources.num-workers", "1"]
# Four steps make no champion: the README's own gate must refuse it, which is checked too.
ADDED = {
    "prepare": ["--crop-px", "40"],
    "doctor": [*SMALL, "--loss.perceptual", "0"],
    "estimate": SMALL,
    "train": SMALL,
    "tune": [*SMALL, "--trials", "1"],
    "evaluate": ["--workers", "1"],
    "promote": [],
    "runs": [],
    "report": [],
    "upscale": [],
}
PHOTO_SIZE = (96, 80)


def _commands(title):
    """Return the commands of a section, each as its verb and its arguments, but for `view`, which stays."""
    section = README.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^    metasr (.*)$", section, re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines]
    assert commands
    return [command for command in commands if command[0] != "view"]  # tests/jobs/test_view.py


@pytest.fixture
def newcomer(tmp_path, subjects_folder):
    """A folder with what the commands name, and a home of its own."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(subjects_folder, tmp_path / "BraTS")
    (tmp_path / "DIV2K").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (*PHOTO_SIZE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "DIV2K" / f"{number:04d}.png")
    volume = next((tmp_path / "BraTS").rglob("*t1ce*"))
    shutil.copy(volume, tmp_path / "in.nii.gz")
    voxels = np.asarray(nib.load(volume).dataobj)
    nib.save(nib.Nifti1Image(voxels[..., ::3], np.diag([-1.0, -1.0, 6.0, 1.0])), tmp_path / "thick.nii.gz")
    return tmp_path


def test_the_model_that_ships_does_what_the_readme_shows_first(newcomer):
    for verb, *arguments in _commands("Use it"):
        outcome = start(METASR, verb, *arguments, folder=newcomer)
        assert outcome.code == 0, (verb, outcome)
    assert nib.load(newcomer / "thin.nii.gz").header.get_zooms()[2] == pytest.approx(1, rel=0.05)


@pytest.mark.slow
def test_the_commands_of_the_readme_work_one_after_the_other(newcomer):
    verbs = []
    for verb, *arguments in _commands("On your data"):
        if "DIV2K/" in arguments:
            arguments += ["--crop-px", "64"]
        if verb == "upscale":
            arguments += ["--model", "challenger"]
        added = [] if "DIV2K/" in arguments else ADDED[verb]
        arguments = [text.replace("~", str(newcomer / "home")) for text in arguments]
        outcome = start(METASR, verb, *arguments, *added, folder=newcomer)
        if verb == "promote":
            assert outcome.code == 2, outcome
            assert "FAILED" in outcome.out or "not better" in outcome.err, outcome
        else:
            assert outcome.code == 0, (verb, outcome)
        assert "Traceback" not in outcome.err
        verbs.append(verb)
    assert set(verbs) == set(ADDED)
