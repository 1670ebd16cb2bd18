"""A folder as a store: what an object is while it is written, and what is left of a write that fails or is killed."""

import copy
import errno
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from cluster.store import NotThereError, UnavailableError, open_store
from metasr.errors import StoreError
from tests.patience import PATIENCE_S

KEY = "train/000001.tar"


@pytest.fixture
def folder_store(tmp_path):
    return open_store(str(tmp_path / "store"))


def files_under(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_object_alone(folder_store, tmp_path, monkeypatch, step):
    folder_store.put(KEY, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(StoreError, match="No space left on device"):
        folder_store.put(KEY, b"new")
    assert folder_store.get(KEY) == b"old"
    assert files_under(tmp_path) == ["000001.tar"]


def test_an_interrupted_write_leaves_nothing(folder_store, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        folder_store.put(KEY, b"new")
    assert files_under(tmp_path) == []


# Writes part of an object, and is killed.
KILLED = """
import os, signal, sys
from cluster.store import open_store

os.fsync = lambda file: os.kill(os.getpid(), signal.SIGKILL)
open_store(sys.argv[1]).put(sys.argv[2], b"part of it")
"""


def test_what_a_killed_write_has_left_is_removed_when_it_is_old(folder_store, tmp_path):
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, folder_store.url, KEY], timeout=PATIENCE_S)
        assert killed.returncode == -signal.SIGKILL
    old, new = (tmp_path / "store" / "train").glob(".*.part")
    notes = old.with_name(".notes.part")
    notes.touch()
    for path in (old, notes):
        os.utime(path, (0, 0))
    folder_store.put(KEY, b"whole")
    assert sorted(files_under(tmp_path)) == sorted([new.name, notes.name, "000001.tar"])


def test_an_object_appears_under_its_name_only_when_whole(folder_store, tmp_path, monkeypatch):
    def check(source, target):
        assert not os.path.exists(target)
        assert os.path.dirname(source) == os.path.dirname(target)
        assert open_store(os.path.dirname(source)).get(os.path.basename(source)) == b"whole"
        replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", check)
    folder_store.put(KEY, b"whole")
    assert files_under(tmp_path) == ["000001.tar"]


def test_objects_are_readable_by_whom_the_umask_allows(folder_store, tmp_path):
    umask = os.umask(0o022)
    try:
        folder_store.put(KEY, b"x")
        folder_store.put_new("new", b"x")
    finally:
        os.umask(umask)
    for key in (KEY, "new"):
        assert (tmp_path / "store" / key).stat().st_mode & 0o777 == 0o644


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    store = open_store(str(tmp_path / "file"))
    for use in (store.require, lambda: store.get(KEY), lambda: store.put(KEY, b"x")):
        with pytest.raises(StoreError):
            use()


@pytest.mark.parametrize("mount_point_stays", [False, True])
def test_a_folder_that_was_there_and_has_gone_is_waited_for_and_not_made_anew(
    folder_store, tmp_path, mount_point_stays
):
    folder_store.put(KEY, b"old")
    begun = copy.copy(open_store(str(tmp_path / "store"), has_begun=True))  # as it goes to a worker
    away, root = tmp_path / "away", tmp_path / "store"
    root.rename(away)
    if mount_point_stays:
        root.mkdir()
    for act in (begun.require, partial(begun.get, KEY), partial(begun.exists, KEY), partial(begun.put, KEY, b"new")):
        with pytest.raises(UnavailableError, match="the folder is missing or empty"):
            act()
    assert files_under(tmp_path) == [Path(KEY).name]
    if mount_point_stays:
        root.rmdir()
    away.rename(root)
    assert begun.get(KEY) == b"old"
    assert not begun.exists("another")


def test_a_folder_that_was_never_there_is_a_plain_error(folder_store):
    with pytest.raises(NotThereError, match="the folder does not exist"):
        folder_store.get(KEY)


def test_a_file_system_whose_server_has_gone_is_waited_for(tmp_path, monkeypatch):
    begun = open_store(str(tmp_path), has_begun=True)
    file = tmp_path / "object"
    file.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(UnavailableError, match="Stale file handle"):
        begun.get("object")
