"""What a spool keeps for MLflow: through kills, torn lines and a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.outbox.records import BusyError, Spool
from cluster.redaction import without_password

ROOT = Path(__file__).parents[2]


def test_records_outlive_the_process_in_order_with_the_time_they_were_made(tmp_path):
    first = Spool(tmp_path)
    for step in range(5):
        first.add("metrics", {"step": step, "values": {"loss": step}})
    made = [record.time_ms for record in first.pending()]
    again = Spool(tmp_path)
    assert [record.payload["step"] for record in again.pending()] == list(range(5))
    assert [record.time_ms for record in again.pending()] == made
    assert again.remaining() == 5


@pytest.mark.parametrize("lost", [1, 2, 10])
def test_a_line_that_a_kill_has_torn_is_left_out_and_no_other(tmp_path, lost):
    spool = Spool(tmp_path)
    for step in range(3):
        spool.add("metrics", {"step": step, "values": {}})
    os.truncate(tmp_path / "records.jsonl", (tmp_path / "records.jsonl").stat().st_size - lost)
    again = Spool(tmp_path)
    again.add("status", {"status": "FINISHED"})
    assert [record.kind for record in again.pending()] == ["metrics", "metrics", "status"]


def test_what_was_sent_does_not_come_again_and_takes_no_room(tmp_path):
    spool = Spool(tmp_path)
    for step in range(3):
        spool.add("metrics", {"step": step, "values": {}})
    spool.mark_sent(spool.pending()[:2])
    assert [record.payload["step"] for record in Spool(tmp_path).pending()] == [2]
    spool.compact()
    assert Spool(tmp_path).remaining() == 1
    spool.mark_sent(spool.pending())
    spool.compact()
    assert (tmp_path / "records.jsonl").stat().st_size == 0
    spool.add("tag", {"name": "a", "value": "b"})
    assert [record.kind for record in Spool(tmp_path).pending()] == ["tag"]


def test_a_picture_is_kept_until_it_is_sent(tmp_path):
    spool = Spool(tmp_path)
    spool.add_picture(7, "val/comparison", b"png")
    (record,) = spool.pending()
    assert (tmp_path / record.payload["file"]).read_bytes() == b"png"
    spool.mark_sent([record])
    assert not (tmp_path / record.payload["file"]).exists()


def test_one_process_sends_at_a_time_while_others_may_add(tmp_path):
    first, second = Spool(tmp_path), Spool(tmp_path)
    with first.sending():
        with pytest.raises(BusyError), second.sending():
            pass
        second.add("tag", {})
        assert first.remaining() == 1
    with second.sending():
        pass


FULL_DISK = """
import sys, resource
from pathlib import Path
from cluster.outbox.records import Spool
spool = Spool(Path(sys.argv[1]))
spool.add("start", {"tags": {}})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # a write past it fails; Python ignores the signal
for step in range(1500):
    spool.add("metrics", {"step": step, "values": {"loss": 0.5}})
    if step % 100 == 0:
        spool.add_picture(step, "val", bytes(5000))
spool.add("status", {"status": "FINISHED"})
total = spool.remaining()
kinds, steps = [], []
while pending := spool.pending():
    kinds += [record.kind for record in pending]
    steps += [record.payload["step"] for record in pending if record.kind == "metrics"]
    spool.mark_sent(pending)
assert steps == sorted(set(steps)), steps
assert steps[0] == 0 and steps[-1] == 1499
assert kinds[0] == "start" and kinds[-1] == "status"
assert total == len(kinds)
assert len(steps) + spool.dropped == 1500 + 15, (len(steps), spool.dropped)
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
        spool = Spool(disk / "run")
        (disk / "others").write_bytes(bytes(100 << 10))
        for step in range(3000):
            spool.add("metrics", {"step": step, "values": {"loss": 0.5, "learning_rate": 1e-4}})
        spool.add("status", {"status": "FINISHED"})
        assert spool.dropped > 0
        again = Spool(disk / "run")  # as after a kill: what was in memory alone is gone
        while pending := again.pending():
            last = pending[-1]
            again.mark_sent(pending)
        assert last.payload == {"status": "FINISHED"}
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_folder_that_cannot_be_written_to_stops_nobody(tmp_path):
    (tmp_path / "file").write_text("in the way")
    spool = Spool(tmp_path / "file" / "run")
    spool.add("tag", {"name": "a", "value": "b"})
    with spool.sending():
        spool.mark_sent(spool.pending())
    assert spool.remaining() == 0


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
