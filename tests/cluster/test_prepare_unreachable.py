"""A file that a node cannot reach says nothing about the subject: nobody is left out for it."""

import pytest

from cluster.prepare import outline, prepare
from cluster.shards import INDEX
from cluster.store import open_store
from metasr.errors import UnreachableError
from tests.cluster.patients import OPTIONS, SUBJECTS, make_volumes, volume_file
from tests.cluster.preparing import contents

SMALL = OPTIONS.model_copy(update={"shard_mb": 0.03})  # as `original` was prepared


@pytest.fixture
def away(tmp_path):
    """A folder whose last volume goes away once the first is read, and how to bring it back."""
    folder = make_volumes(tmp_path / "volumes")
    file, elsewhere = volume_file(folder, SUBJECTS[3]), tmp_path / "elsewhere"

    def go(line):
        if "val, 1 of" in line:
            file.rename(elsewhere)

    return folder, go, lambda: elsewhere.rename(file)


@pytest.fixture
def pauses(monkeypatch):
    """What is done instead of a pause."""
    instead = []
    monkeypatch.setattr("cluster.prepare.build.sleep", lambda pause_s: instead and instead.pop()())
    return instead


def test_a_volume_that_has_gone_stops_all_and_the_same_command_goes_on_when_it_is_back(
    away, pauses, original, tmp_path
):
    folder, go, bring_back = away
    store, told, taken = open_store(str(tmp_path / "store")), [], []
    with pytest.raises(UnreachableError, match=rf"{SUBJECTS[3]}.*no such file.*the same command then continues"):
        prepare(folder, store, SMALL, told.append, progress=go)
    assert told == []
    assert not store.exists(INDEX)
    bring_back()
    assert prepare(folder, store, SMALL, told.append, progress=taken.append).refused == {}
    assert [line.partition(":")[0] for line in taken] == [SUBJECTS[3]]
    assert contents(tmp_path / "store") == contents(original)


def test_a_volume_that_is_back_when_it_is_tried_again_changes_nothing(away, pauses, original, tmp_path):
    folder, go, bring_back = away
    pauses.append(bring_back)
    assert prepare(folder, open_store(str(tmp_path / "store")), SMALL, print, progress=go).refused == {}
    assert contents(tmp_path / "store") == contents(original)


def test_a_disk_that_fails_leaves_nobody_out(pauses, tmp_path):
    folder = make_volumes(tmp_path / "volumes")
    volume_file(folder, SUBJECTS[2]).unlink()
    volume_file(folder, SUBJECTS[2]).symlink_to("/proc/self/mem")  # its first byte cannot be read
    store = open_store(str(tmp_path / "store"))
    for prepared in (lambda: prepare(folder, store, OPTIONS, print), lambda: outline(folder, OPTIONS)):
        with pytest.raises(UnreachableError, match=rf"{SUBJECTS[2]}.*Input/output error"):
            prepared()
    assert not store.exists(INDEX)
