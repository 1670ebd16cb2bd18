"""Files in a folder: those behind links too, each once, and a folder that cannot be read is never passed over."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from metasr.data.files import files_in
from metasr.data.find import find_subjects
from metasr.data.photos import find_photos
from metasr.errors import UnreachableError

NOBODY = 65534


@pytest.fixture
def folder(tmp_path):
    """A folder with two patients, and a disk with a third."""
    for place in ("data/A", "data/B", "disk/C"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "scan.nii").touch()
        (tmp_path / place / "photo.png").touch()
    return tmp_path / "data"


@contextmanager
def without_privileges():
    """Be a user whom rights can keep out."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def places(folder):
    return [path.relative_to(folder).as_posix() for path in files_in(folder) if path.suffix == ".nii"]


def test_who_lies_on_another_disk_is_found(folder):
    (folder / "C").symlink_to(folder.parent / "disk" / "C")
    assert places(folder) == ["A/scan.nii", "B/scan.nii", "C/scan.nii"]
    assert [photo.name for photo in find_photos(folder).subjects] == ["A/photo", "B/photo", "C/photo"]


def test_links_that_go_round_or_lead_to_what_was_seen_add_nothing(folder):
    (folder / "A" / "all").symlink_to(folder)
    (folder / "A" / "up").symlink_to(folder.parent)
    (folder / "0").symlink_to(folder / "B")  # comes first by name, and is no second B
    assert places(folder) == ["A/scan.nii", "B/scan.nii"]
    (folder / "C").symlink_to(folder.parent / "disk")
    (folder.parent / "disk" / "back").symlink_to(folder / "A")
    assert places(folder) == ["A/scan.nii", "B/scan.nii", "C/C/scan.nii"]


@pytest.mark.parametrize("find", [lambda folder: find_subjects(folder, ""), find_photos])
def test_a_folder_that_may_not_be_read_is_named(folder, monkeypatch, find):
    monkeypatch.chdir(folder)  # nobody may come here by the way from above
    for place in (Path("."), Path("A")):
        place.chmod(0o755)
    closed = [Path("B"), Path(".snapshot"), Path("lost+found")]
    for place in closed:
        place.mkdir(exist_ok=True)
        place.chmod(0o700 if os.geteuid() == 0 else 0)
    try:
        with without_privileges(), pytest.raises(UnreachableError, match=r"folder \./B: Permission denied"):
            find(Path("."))
        Path("B").chmod(0o755)
        with without_privileges():
            assert len(files_in(Path("."))) == 4
    finally:
        for place in closed:
            place.chmod(0o700)


def test_a_folder_behind_a_link_that_is_not_mounted_is_named(folder):
    (folder / "C").symlink_to(folder.parent / "unmounted" / "C")
    with pytest.raises(UnreachableError, match=r"link .*data/C: its target does not exist"):
        files_in(folder)


@pytest.mark.parametrize("find", [lambda folder: find_subjects(folder, ""), find_photos])
def test_a_link_that_leads_nowhere_costs_that_file_and_is_named(folder, find):
    whole = find(folder).subjects
    for name in ("D.nii", "E.png", ".hidden"):
        (folder / name).symlink_to("absent")
    found = find(folder)
    assert found.subjects == whole
    (name,) = found.left_out["a broken link"]
    assert name in ("D.nii", "E.png")


@pytest.mark.parametrize("find", [lambda folder: find_subjects(folder, ""), find_photos])
def test_a_file_that_may_not_be_read_costs_that_file_and_is_named(folder, monkeypatch, find):
    monkeypatch.chdir(folder)  # nobody may come here by the way from above
    for place in (Path("."), Path("A"), Path("B")):
        place.chmod(0o755)
    for name in ("scan.nii", "photo.png"):
        (Path("A") / name).chmod(0o644)
        (Path("B") / name).chmod(0)
    with without_privileges():
        found = find(Path("."))
    assert [subject.file.parent.name for subject in found.subjects] == ["A"]
    (name,) = found.left_out["not readable by this user"]
    assert name in ("B/scan.nii", "B/photo.png")
