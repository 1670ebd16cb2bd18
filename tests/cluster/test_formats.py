"""Files that a later version wrote: refused by name, with what to do, and never taken for damage."""

import json

import pytest

from cluster.checkpoints import RunCheckpoints
from cluster.checkpoints.spool import Spool
from cluster.prepare.journal import Journal
from cluster.store import open_store
from cluster.store.lease import Lease
from cluster.stream import read_index
from metasr.errors import FormatError
from tests.cluster.sealed import Loader, save_sealed

RUN = "recipe-0123"
LATER = json.dumps({"format": 2, "new": []}).encode()


@pytest.fixture
def folder_store(tmp_path):
    return open_store(str(tmp_path / "store"))


READS = {
    f"{RUN}/checkpoints.json": lambda store: RunCheckpoints(store, RUN).entries(),
    f"{RUN}/lease.json": lambda store: Lease.acquire(store, RUN, print),
    "prepare/inputs/val-000000.json": lambda store: Journal(store, "inputs").read(print, print),
    "index.json": read_index,
}


@pytest.mark.parametrize(("key", "read"), READS.items(), ids=READS)
def test_an_object_of_a_later_format_is_refused_by_name(folder_store, key, read):
    folder_store.put(key, LATER)
    with pytest.raises(FormatError, match=rf"{key}.* format 2, .* reads format 1\. Use the version of metasr"):
        read(folder_store)
    assert folder_store.get(key) == LATER


def test_checkpoints_of_a_later_format_are_not_passed_over_for_older_ones(folder_store, tmp_path):
    claimed = RunCheckpoints(folder_store, RUN).claim(1)
    for step in (1, 2):
        (folder := tmp_path / str(step)).mkdir()
        save_sealed(folder, step)
        if step == 2:
            (folder / "manifest.json").write_text(json.dumps({"format": 2, "files": {}}))
        claimed.publish(folder, step, None, keep=2)
    with pytest.raises(FormatError, match=r"checkpoint .* format 2"):
        claimed.newest_good(Loader())


def test_a_snapshot_of_a_later_format_stays_where_it_is(tmp_path):
    spool = Spool(tmp_path)
    snapshot = spool.write(lambda folder: save_sealed(folder, 1), 1, None)
    (snapshot.folder / "about.json").write_bytes(LATER)
    with pytest.raises(FormatError, match=f"snapshot {snapshot.folder}"):
        spool.adopt(print)
    assert snapshot.checkpoint.is_dir()


@pytest.mark.parametrize("name", ["checkpoints.json", "lease.json"])
def test_what_was_written_before_formats_had_numbers_is_read(folder_store, tmp_path, name):
    claimed = RunCheckpoints(folder_store, RUN).claim(1)
    Lease.acquire(folder_store, RUN, print).release()
    written = json.loads(folder_store.get(f"{RUN}/{name}"))
    assert written.pop("format") == 1
    folder_store.put(f"{RUN}/{name}", json.dumps(written).encode())
    assert claimed.entries() == ()
    with Lease.acquire(folder_store, RUN, print) as lease:
        assert lease.fence == 2
