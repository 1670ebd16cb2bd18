"""Every locked dependency has a licence, advisories are understood, and the model that ships is what was released."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from infra import advisories
from metasr.errors import CheckpointError
from metasr.manifest import unseal
from metasr.sources import released_bundle, released_models
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


ADVISORY = """
id: PYSEC-1
aliases: [CVE-1]
modified: 2026-01-02T00:00:00Z
affected:
- package: {ecosystem: PyPI, name: Some_Package}
  ranges:
  - {type: GIT, events: [{introduced: "0"}]}
  - {type: ECOSYSTEM, events: [{introduced: "0"}, {fixed: 1.2.10}, {introduced: "2"}, {last_affected: 2.5}]}
  versions: ["3.0"]
"""


@pytest.mark.parametrize(
    ("version", "is_found"),
    [
        ("0.1", 1),
        ("1.2.9", 1),
        ("1.2.10", 0),
        ("1.9", 0),
        ("2.0rc1", 0),
        ("2.5", 1),
        ("2.5.1", 0),
        ("3", 1),
        ("3.1", 0),
    ],
)
def test_a_locked_version_that_an_advisory_names_is_found(tmp_path, capsys, version, is_found):
    (tmp_path / "vulns" / "some-package").mkdir(parents=True)
    (tmp_path / "vulns" / "some-package" / "PYSEC-1.yaml").write_text(ADVISORY)
    lock = tmp_path / "lock"
    lock.write_text(f"some.package[extra]=={version}\nother==1.0\n")
    assert advisories.main(tmp_path, lock) == is_found
    said = capsys.readouterr().out
    assert said.startswith("2 packages, 1 advisories, the newest of 2026-01-02")
    assert ("some-package " in said) == bool(is_found)
    assert ("PYSEC-1, CVE-1; mended in 1.2.10" in said) == bool(is_found)


ELSEWHERE = {"package": {"ecosystem": "npm", "name": "some-package"}, "versions": ["1.0"]}


@pytest.mark.parametrize("change", [{"withdrawn": "2026-02-01"}, {"affected": [ELSEWHERE]}])
def test_a_withdrawn_advisory_or_one_for_another_ecosystem_is_passed_over(tmp_path, capsys, change):
    package = {"ecosystem": "PyPI", "name": "some-package"}
    about = {"id": "GHSA-1", "affected": [{"package": package, "versions": ["1.0"]}]}
    lock = tmp_path / "lock"
    lock.write_text("some-package==1.0\n")
    for content, code in ((about, 1), (about | change, 0)):
        (tmp_path / "one.json").write_text(json.dumps(content))
        (tmp_path / "two.json").write_text(json.dumps({"id": "GHSA-2", "affected": []}))
        assert advisories.main(tmp_path, lock) == code
    assert "GHSA-1; no version mends it" in capsys.readouterr().out


def test_a_folder_without_advisories_is_no_clean_bill(tmp_path, capsys):
    assert advisories.main(tmp_path, ROOT / "requirements.lock") == 2
    assert "no advisories" in capsys.readouterr().err


@pytest.mark.parametrize("name", released_models())
def test_a_released_bundle_has_the_sums_of_its_manifest(name):
    folder = released_bundle(name)
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
