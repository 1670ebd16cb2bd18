"""Copies of shards on a node's disk: never trusted, never needed, shared, and bounded."""

import fcntl
import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import xxhash

from cluster.stream import ShardCache
from metasr.errors import StoreError
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
A, B, C, D = (letter * 1000 for letter in (b"a", b"b", b"c", b"d"))


def name_of(data):
    return hashlib.sha256(data).hexdigest()


class Source:
    """Gives its bytes, and counts how often."""

    def __init__(self, data):
        self.data, self.asked = data, 0

    def __call__(self):
        self.asked += 1
        return self.data


def fetches(cache, data, quick=""):
    """How often getting `data` asks its source."""
    source = Source(data)
    assert cache.get(name_of(data), source, quick=quick) == data
    return source.asked


def copies(folder):
    return {path.name for path in folder.iterdir() if path.suffix not in (".lock", ".part")}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "some" / "cache"


def test_what_was_fetched_once_is_not_fetched_again(folder):
    assert fetches(ShardCache(folder, 10_000), A) == 1
    assert fetches(ShardCache(folder, 10_000), A) == 0
    assert (folder / name_of(A)).read_bytes() == A
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damaged", [A[:-1] + b"b", A[:-1], b"", A + b"a"], ids=["flipped", "cut", "empty", "longer"])
@pytest.mark.parametrize("quick", ["", xxhash.xxh3_128_hexdigest(A)], ids=["SHA-256", "XXH3"])
def test_a_damaged_copy_is_found_and_fetched_again(folder, damaged, quick, caplog):
    cache = ShardCache(folder, 10_000)
    fetches(cache, A, quick)
    assert fetches(cache, A, quick) == 0
    (folder / name_of(A)).write_bytes(damaged)
    assert fetches(cache, A, quick) == 1
    assert "is damaged and will be fetched again" in caplog.text
    assert (folder / name_of(A)).read_bytes() == A


def test_files_may_vanish_at_any_time(folder):
    cache = ShardCache(folder, 10_000)
    fetches(cache, A)
    for path in folder.iterdir():
        path.unlink()
    assert fetches(cache, A) == 1
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    assert fetches(cache, A) == 1
    assert fetches(cache, A) == 0


def test_the_copies_that_were_not_used_for_longest_go_first(folder):
    cache = ShardCache(folder, 3_500)
    for age_s, data in ((300, A), (200, B), (100, C)):
        fetches(cache, data)
        os.utime(folder / name_of(data), (time.time() - age_s,) * 2)
    fetches(cache, A)
    fetches(cache, D)
    assert copies(folder) == {name_of(data) for data in (A, C, D)}


def test_copies_never_take_more_than_the_bound(folder):
    cache = ShardCache(folder, 3_500)
    for number in range(20):
        fetches(cache, bytes([number]) * (500 + 100 * number))
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 3_500
        assert len(copies(folder)) > 0


def test_what_is_larger_than_the_bound_removes_nothing(folder):
    cache = ShardCache(folder, 1_500)
    fetches(cache, A)
    assert fetches(cache, B * 2) == 1
    assert copies(folder) == {name_of(A)}


def test_copies_give_way_to_others_the_least_recently_used_first(folder, caplog):
    cache = ShardCache(folder, 10_000)
    cache.give_way(10_000)  # there are none
    for age_s, data in ((300, A), (100, B), (200, C)):
        fetches(cache, data)
        os.utime(folder / name_of(data), (time.time() - age_s,) * 2)
    cache.give_way(1_500)
    assert copies(folder) == {name_of(B)}
    cache.give_way(10_000)
    assert copies(folder) == set()
    assert len(caplog.records) == 2


def test_what_a_killed_process_left_behind_is_removed_after_an_hour(folder):
    folder.mkdir(parents=True)
    for name, age_s in ((".old.part", 3700), (".young.part", 3500)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    fetches(ShardCache(folder, 10_000), A)
    assert {path.name for path in folder.glob("*.part")} == {".young.part"}


def test_files_of_others_in_the_folder_stay(folder):
    folder.mkdir(parents=True)
    (folder / "thesis").write_bytes(b"years" * 1000)
    cache = ShardCache(folder, 1_500)
    for data in (A, B):
        fetches(cache, data)
    assert copies(folder) == {"thesis", name_of(B)}


def test_an_error_of_the_source_is_passed_on_and_locks_nobody_out(folder):
    cache = ShardCache(folder, 10_000)

    def fails():
        raise StoreError("no", "such", "luck")

    with pytest.raises(StoreError, match="luck"):
        cache.get(name_of(A), fails)
    assert fetches(cache, A) == 1


def test_where_no_folder_can_be_made_reading_goes_on_and_says_so_once(tmp_path, caplog):
    (tmp_path / "file").write_text("not a folder")
    cache = ShardCache(tmp_path / "file" / "cache", 10_000)
    for _ in range(2):
        assert fetches(cache, A) == 1
        assert fetches(cache, B) == 1
    assert [record.getMessage().partition(" (")[2] for record in caplog.records] == [
        "Not a directory): going on without copies"
    ]


ON_A_SMALL_DISK = """
import errno, hashlib, logging, subprocess, sys
from pathlib import Path
from cluster.stream import ShardCache

logging.basicConfig(format="%(message)s", stream=sys.stdout)
disk = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
cache = ShardCache(disk / "cache", 10_000_000)

def get(data):
    assert cache.get(hashlib.sha256(data).hexdigest(), lambda: data) == data

for number in range(6):
    get(bytes([number]) * 300_000)
print(sorted(path.read_bytes()[0] for path in (disk / "cache").iterdir() if path.stat().st_size))
get(b"x" * 2_000_000)
get(b"y" * 2_000_000)
get(b"z" * 300_000)
get(b"z" * 300_000)
print([path.name for path in (disk / "cache").glob(".*")])
"""


def test_on_a_full_disk_old_copies_give_way_and_then_the_cache_does(tmp_path):
    own_mounts = ["unshare", "--map-root-user", "--mount"]
    probe = f"mount -t tmpfs none {tmp_path}"
    if subprocess.run([*own_mounts, "sh", "-c", probe], capture_output=True).returncode:
        pytest.skip("needs a disk of its own, which this machine does not allow")
    command = [*own_mounts, sys.executable, "-c", ON_A_SMALL_DISK, str(tmp_path)]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert outcome.returncode == 0, outcome.stderr
    kept, warning, leftovers = outcome.stdout.splitlines()
    assert kept == "[3, 4, 5]"
    assert warning.endswith("(No space left on device): going on without copies")
    assert leftovers == "[]"


# Several processes


GET = """
import hashlib, sys
from pathlib import Path
from cluster.stream import ShardCache

def fetch():
    print("fetching", flush=True)
    sys.stdin.readline()
    return data

data = b"a" * 1000
print("asking", flush=True)
assert ShardCache(Path(sys.argv[1]), 10_000).get(hashlib.sha256(data).hexdigest(), fetch) == data
print("done", flush=True)
"""


@pytest.fixture
def start(folder):
    """Start processes that get A from a cache, and fetch it only when they are told to."""
    processes = []

    def start_one():
        command = [sys.executable, "-c", GET, str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.kill()
        process.communicate()


def is_locked(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name_of(A)[:2]}.lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_two_processes_share_one_download(start, folder):
    one, other = start(), start()
    assert one.stdout.readline() == other.stdout.readline() == "asking\n"
    deadline = time.monotonic() + PATIENCE_S
    while not is_locked(folder):
        assert time.monotonic() < deadline
    said = []
    for process in (one, other):
        process.stdin.write("\n\n")
        process.stdin.flush()
    for process in (one, other):
        said += process.stdout.read().splitlines()
        assert process.wait(PATIENCE_S) == 0
    assert sorted(said) == ["done", "done", "fetching"]


def test_a_process_that_is_killed_while_it_fetches_locks_nobody_out(start, folder):
    process = start()
    assert [process.stdout.readline() for _ in range(2)] == ["asking\n", "fetching\n"]
    assert is_locked(folder)
    process.kill()
    assert fetches(ShardCache(folder, 10_000), A) == 1


def test_copies_that_others_remove_while_the_cache_makes_room_do_not_stop_it(folder, caplog):
    cache, ended = ShardCache(folder, 2_500), threading.Event()

    def remove_all():
        while not ended.is_set():
            for path in folder.glob("[0-9a-f]*"):
                if path.suffix != ".lock":
                    path.unlink(missing_ok=True)

    other = threading.Thread(target=remove_all)
    other.start()
    try:
        for _ in range(50):
            for data in (A, B, C, D):
                fetches(cache, data)
    finally:
        ended.set()
        other.join()
    assert caplog.messages == []
