"""What an outbox keeps for MLflow: through kills, torn lines and a full disk."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.outbox.outbox import Outbox, SendingError
from cluster.redaction import without_password

ROOT = Path(__file__).parents[2]


def test_records_outlive_the_process_in_order_with_the_time_they_were_made(tmp_path):
    first = Outbox(tmp_path)
    for step in range(5):
        first.add("metrics", {"step": step, "values": {"loss": step}})
    made = [record.time_ms for record in first.pending()]
    again = Outbox(tmp_path)
    assert [record.payload["step"] for record in again.pending()] == list(range(5))
    assert [record.time_ms for record in again.pending()] == made
    assert again.remaining() == 5


@pytest.mark.parametrize("lost", [1, 2, 10])
def test_a_line_that_a_kill_has_torn_is_left_out_and_no_other(tmp_path, lost):
    outbox = Outbox(tmp_path)
    for step in range(3):
        outbox.add("metrics", {"step": step, "values": {}})
    os.truncate(tmp_path / "records.jsonl", (tmp_path / "records.jsonl").stat().st_size - lost)
    again = Outbox(tmp_path)
    again.add("status", {"status": "FINISHED"})
    assert [record.kind for record in again.pending()] == ["metrics", "metrics", "status"]


def test_what_was_sent_does_not_come_again_and_takes_no_room(tmp_path):
    outbox = Outbox(tmp_path)
    for step in range(3):
        outbox.add("metrics", {"step": step, "values": {}})
    outbox.mark_sent(outbox.pending()[:2])
    with Outbox(tmp_path) as again:
        assert [record.payload["step"] for record in again.pending()] == [2]
    assert outbox.remaining() == 1
    with Outbox(tmp_path) as again:
        again.mark_sent(again.pending())
    assert (tmp_path / "records.jsonl").stat().st_size == 0
    outbox.add("tag", {"name": "a", "value": "b"})
    assert [record.kind for record in Outbox(tmp_path).pending()] == ["tag"]


def test_a_folder_goes_when_all_is_sent_and_the_last_who_has_it_open_closes_it(tmp_path):
    folder = tmp_path / "run"
    with Outbox(folder) as first:
        first.add("tag", {"name": "a", "value": "b"})
    assert folder.is_dir()  # not sent
    first, second = Outbox(folder), Outbox(folder)
    first.mark_sent(first.pending())
    first.close()
    assert folder.is_dir()  # in use
    with second.sending():
        second.close()
    assert folder.is_dir()  # a request is under way
    Outbox(folder).close()
    assert list(tmp_path.iterdir()) == []


def test_refused_records_keep_their_folder(tmp_path):
    with Outbox(tmp_path / "run") as outbox:
        outbox.add("tag", {"name": "a", "value": "b"})
        (record,) = outbox.pending()
        outbox.refuse(record, "not a name")
        outbox.mark_sent([record])
    with Outbox(tmp_path / "run") as again:
        assert (again.remaining(), len(again.refusals())) == (0, 1)


def test_no_record_is_lost_to_a_folder_that_another_removes_at_that_moment(tmp_path):
    """Eight threads open, add and close, while others send and remove."""
    folder, sent, ended = tmp_path / "run", [], threading.Event()

    def add(first):
        for number in range(first, first + 100):
            with Outbox(folder) as outbox:
                outbox.add("tag", {"number": number})

    def send():
        while not ended.is_set():
            with suppress(SendingError), Outbox(folder) as outbox, outbox.sending():
                if records := outbox.pending():
                    sent.extend(record.payload["number"] for record in records)
                    outbox.mark_sent(records)

    senders = [threading.Thread(target=send) for _ in range(3)]
    for thread in senders:
        thread.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(0, 800, 100)))
    ended.set()
    for thread in senders:
        thread.join()
    with Outbox(folder) as outbox:
        sent += [record.payload["number"] for record in outbox.pending()]
    assert sorted(sent) == list(range(800))


def test_who_opens_a_folder_while_it_is_removed_gets_a_new_one(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with (folder / "in_use").open("w") as remover, ThreadPoolExecutor(1) as pool:
        fcntl.flock(remover, fcntl.LOCK_EX)
        opening = pool.submit(Outbox, folder)
        while not is_waited_for(remover):
            time.sleep(0.01)
        folder.rename(tmp_path / "run+removed")
        third = Outbox(folder)
        fcntl.flock(remover, fcntl.LOCK_UN)
        with opening.result() as outbox:
            third.close()  # leaves the folder to the one that has it open
            outbox.add("tag", {"name": "a", "value": "b"})
    assert Outbox(folder).remaining() == 1


def test_who_reads_while_another_compacts_misses_no_record_added_after_that(tmp_path):
    folder = tmp_path / "run"
    with Outbox(folder) as outbox:
        for number in range(2):
            outbox.add("tag", {"number": number})
        lines = (folder / "records.jsonl").read_bytes()
        first = lines.index(b"\n") + 1
        (folder / "sent").write_text(f"{first:020d}")
        with (folder / "records.jsonl").open("rb") as compacting, ThreadPoolExecutor(1) as pool:
            fcntl.flock(compacting, fcntl.LOCK_EX)
            reading = pool.submit(outbox.pending)
            while not is_waited_for(compacting):
                time.sleep(0.01)
            (folder / "sent").write_text("0" * 20)
            (folder / "records.jsonl").write_bytes(lines)
            fcntl.flock(compacting, fcntl.LOCK_UN)
            assert [record.payload["number"] for record in reading.result()] == [0, 1]


def is_waited_for(file):
    """Whether another waits for the lock of a file."""
    inode = f":{os.fstat(file.fileno()).st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_closing_leaves_no_file_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        with Outbox(tmp_path / str(number)) as outbox:
            outbox.add("tag", {"name": "a", "value": "b"})
            outbox.remaining()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_picture_is_kept_until_it_is_sent(tmp_path):
    outbox = Outbox(tmp_path)
    outbox.add_picture(7, "val/comparison", b"png")
    (record,) = outbox.pending()
    assert (tmp_path / record.payload["file"]).read_bytes() == b"png"
    outbox.mark_sent([record])
    assert not (tmp_path / record.payload["file"]).exists()


def test_one_process_sends_at_a_time_while_others_may_add(tmp_path):
    first, second = Outbox(tmp_path), Outbox(tmp_path)
    with first.sending():
        with pytest.raises(SendingError), second.sending():
            pass
        second.add("tag", {})
        assert first.remaining() == 1
    with second.sending():
        pass


FULL_DISK = """
import sys, resource
from pathlib import Path
from cluster.outbox.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
outbox.add("start", {"tags": {}})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # a write past it fails; Python ignores the signal
for step in range(1500):
    outbox.add("metrics", {"step": step, "values": {"loss": 0.5}})
    if step % 100 == 0:
        outbox.add_picture(step, "val", bytes(5000))
outbox.add("status", {"status": "FINISHED", "note": "longer than metrics, so that it does not fit either"})
total = outbox.remaining()
kinds, steps = [], []
while pending := outbox.pending():
    kinds += [record.kind for record in pending]
    steps += [record.payload["step"] for record in pending if record.kind == "metrics"]
    outbox.mark_sent(pending)
assert steps == sorted(set(steps)), steps
assert steps[0] == 0 and steps[-1] == 1499
assert kinds[0] == "start" and kinds[-1] == "status"
assert total == len(kinds)
assert len(steps) + outbox.dropped == 1500 + 15, (len(steps), outbox.dropped)
assert len(steps) > 1000
"""


def test_a_full_disk_costs_old_metrics_and_pictures_and_is_said_once(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written") == 1


def test_a_full_disk_keeps_room_for_how_the_run_ended(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        outbox = Outbox(disk / "run")
        (disk / "others").write_bytes(bytes(100 << 10))
        for step in range(3000):
            outbox.add("metrics", {"step": step, "values": {"loss": 0.5, "learning_rate": 1e-4}})
        outbox.add("status", {"status": "FINISHED"})
        assert outbox.dropped > 0
        again = Outbox(disk / "run")  # as after a kill: what was in memory alone is gone
        while pending := again.pending():
            last = pending[-1]
            again.mark_sent(pending)
        assert last.payload == {"status": "FINISHED"}
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_folder_that_cannot_be_written_to_stops_nobody(tmp_path):
    (tmp_path / "file").write_text("in the way")
    outbox = Outbox(tmp_path / "file" / "run")
    outbox.add("tag", {"name": "a", "value": "b"})
    with outbox.sending():
        outbox.mark_sent(outbox.pending())
    assert outbox.remaining() == 0


@pytest.mark.parametrize(
    "text",
    [
        "http://me:hush@host/x",
        "http://me:hu@hush@host",
        "postgresql://host/db?password=hush&x=1",
        '{"a": "http://me:hush@host"}',
    ],
)
def test_passwords_are_taken_out_of_addresses(text):
    assert "hush" not in without_password(text)
    assert "host" in without_password(text)


def test_a_text_with_an_address_and_an_at_sign_stays():
    text = '{"a":"http://host","b":"me@home"}'
    assert without_password(text) == text
