"""Which code is running, asked of real git repositories, whole and stripped."""

import os
import shutil
import subprocess

import pytest

from cluster.runtime.code_version import code_version
from metasr import __version__


@pytest.fixture(autouse=True)
def _no_git_settings(monkeypatch):
    """Neither the user's settings nor a hook that runs these tests has a say."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, os.devnull)


def git(folder, *arguments):
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder, content):
    (folder / "code.py").write_text(content)
    git(folder, "add", "code.py")
    git(folder, "commit", "-m", content)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path):
    """A repository with another commit on a branch whose name ends like ours."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "--initial-branch", "old/main")
    commit(folder, "one")
    git(folder, "tag", "-a", "v1", "-m", "a tag has a commit of its own")
    git(folder, "checkout", "-b", "main")
    commit(folder, "two")
    return folder


def head(folder):
    return git(folder, "rev-parse", "HEAD")


def strip(folder):
    """Leave of `.git` what a submitted job gets."""
    for name in ("objects", "hooks", "logs"):
        shutil.rmtree(folder / ".git" / name, ignore_errors=True)


def test_a_clean_checkout_is_its_commit(checkout):
    assert code_version(checkout) == head(checkout)


def test_a_changed_file_is_said(checkout):
    (checkout / "code.py").write_text("changed")
    assert code_version(checkout) == f"{head(checkout)}+changes"
    git(checkout, "add", "code.py")
    assert code_version(checkout) == f"{head(checkout)}+changes"


def test_a_deleted_file_is_a_change(checkout):
    (checkout / "code.py").unlink()
    assert code_version(checkout) == f"{head(checkout)}+changes"


def test_files_that_git_does_not_know_are_no_change(checkout):
    (checkout / "notes.txt").write_text("a result")
    assert code_version(checkout) == head(checkout)


def test_the_folder_one_is_in_does_not_matter(checkout, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert code_version(checkout) == head(checkout)


@pytest.mark.parametrize("detached", [False, True], ids=["on a branch", "detached"])
@pytest.mark.parametrize("packed", [False, True], ids=["loose refs", "packed refs"])
def test_the_commit_is_found_without_the_objects(checkout, packed, detached):
    expected = head(checkout)
    if detached:
        git(checkout, "checkout", "--detach")
    if packed:
        git(checkout, "pack-refs", "--all")
        assert not (checkout / ".git" / "refs" / "heads" / "main").exists()
    strip(checkout)
    assert code_version(checkout) == expected


def test_a_loose_ref_is_newer_than_a_packed_one(checkout):
    git(checkout, "pack-refs", "--all")
    expected = commit(checkout, "three")
    strip(checkout)
    assert code_version(checkout) == expected


def test_the_commit_is_found_without_the_program_git(checkout, monkeypatch, tmp_path):
    expected = head(checkout)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_version(checkout) == expected


def test_a_linked_worktree_has_a_commit_of_its_own(checkout, tmp_path):
    git(checkout, "worktree", "add", str(tmp_path / "linked"), "old/main")
    assert code_version(tmp_path / "linked") == head(tmp_path / "linked") != head(checkout)


def test_without_git_it_is_the_version_of_the_package(tmp_path):
    assert code_version(tmp_path) == __version__


def test_without_git_in_an_upload_of_ray_it_has_the_hash_of_that_on_driver_and_nodes(tmp_path):
    (tmp_path / "_ray_pkg_0123abcd").mkdir()
    assert code_version(tmp_path / "_ray_pkg_0123abcd") == f"{__version__}+0123abcd"


def test_a_repository_around_an_installed_package_does_not_count(checkout):
    (checkout / "site-packages").mkdir()
    assert code_version(checkout / "site-packages") == __version__


def test_a_repository_without_commits_has_no_commit(tmp_path):
    git(tmp_path, "init")
    assert code_version(tmp_path) == __version__


@pytest.mark.parametrize("content", ["", "ref: refs/heads/gone"])
def test_a_head_that_names_no_commit_is_not_believed(checkout, content):
    strip(checkout)
    (checkout / ".git" / "HEAD").write_text(content)
    assert code_version(checkout) == __version__
