"""Every locked dependency has a licence, and the model that ships is what was released."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from metasr.errors import CheckpointError
from metasr.manifest import unseal
from metasr.sources import released_bundle
from tests.cluster.training import ROOT

SCRIPT = ROOT / "infra" / "licences.py"


def licences(output, lock=ROOT / "requirements.lock", packages=""):
    """Run the script, which also finds packages in another folder."""
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    return subprocess.run([sys.executable, SCRIPT, output, lock], env=environment, capture_output=True, text=True)


def package(folder, name, *lines):
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines]))


def test_every_locked_dependency_names_its_licence(tmp_path):
    done = licences(tmp_path / "licences.md")
    assert done.returncode == 0, done.stderr
    assert "| numpy |" in (tmp_path / "licences.md").read_text()


def test_a_dependency_without_a_licence_fails_by_name(tmp_path):
    package(tmp_path, "nameless")
    package(tmp_path, "unsure", "License: UNKNOWN")
    package(tmp_path, "known", "License-Expression: MIT")
    (tmp_path / "lock").write_text("nameless==1.0\nunsure==1.0\nknown==1.0\nabsent==1.0\n")
    done = licences(tmp_path / "licences.md", tmp_path / "lock", tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "no licence is named by: nameless, unsure"
    assert "| known | 1.0 | MIT |" in (tmp_path / "licences.md").read_text()


def test_the_released_bundle_has_the_sums_of_its_manifest():
    folder = released_bundle()
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    found = [file for file in folder.iterdir() if file.name != "manifest.json"]
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}
    assert sums == {name: about["sha256"] for name, about in listed.items()}


@pytest.mark.parametrize("name", ["generator.safetensors", "README.md"])
def test_a_released_bundle_with_a_changed_byte_is_refused(tmp_path, name):
    folder = shutil.copytree(released_bundle(), tmp_path / "bundle")
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        unseal(folder, "bundle")
