"""A preparation that was killed goes on where it was, and writes what it would have written."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys

import pytest

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.prepare.build import REPLACED
from cluster.prepare.cut import Statistics
from cluster.prepare.journal import FinishedShard, Journal
from cluster.prepare.plan import find, make_plan
from cluster.shards import Shard
from cluster.store import open_store
from tests.cluster.patients import brain, make_volumes, shard_file, write_volume
from tests.patience import PATIENCE_S

NAMES = [f"patient-{number:02}" for number in range(10)]
BROKEN = "patient-05"
OPTIONS = PrepareConfig(crop_px=32, val_subjects=("patient-00", "patient-01"), shard_mb=0.05)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten patients, one of whom cannot be used."""
    folder = tmp_path_factory.mktemp("volumes")
    for seed, name in enumerate(NAMES):
        write_volume(folder / f"{name}.nii.gz", brain(seed))
    (folder / f"{BROKEN}.nii.gz").write_text("a text file")
    return folder


def data_set(folder):
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """What a preparation that nobody disturbs writes."""
    store = tmp_path_factory.mktemp("whole")
    prepare(folder, open_store(str(store)), OPTIONS, lambda line: None)
    return data_set(store)


# Killed

# A process that kills itself when the third training subject is taken, with no time to say good-bye.
KILLED = """
import os, signal, sys
from pathlib import Path
from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.store import open_store

def progress(line):
    if "train, 3 of" in line:
        os.kill(os.getpid(), signal.SIGKILL)

options = PrepareConfig.model_validate_json(sys.argv[3])
prepare(Path(sys.argv[1]), open_store(sys.argv[2]), options, print, progress=progress)
"""


@pytest.fixture(scope="module")
def killed_once(folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("killed") / "store"
    command = [sys.executable, "-c", KILLED, folder, store, OPTIONS.model_dump_json()]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    assert not (store / "index.json").exists()
    return store


@pytest.fixture
def killed(killed_once, tmp_path):
    """The folder of a store whose preparation was killed."""
    return shutil.copytree(killed_once, tmp_path / "store")


def go_on(folder, store, options=OPTIONS):
    """Prepare again; return who was read, and the report."""
    taken = []
    report = prepare(folder, open_store(str(store)), options, lambda line: None, progress=taken.append)
    return [line.partition(":")[0] for line in taken], report


def test_after_a_kill_it_goes_on_after_the_last_finished_shard(killed, folder, whole):
    taken, report = go_on(folder, killed)
    assert taken == ["patient-04", "patient-06", "patient-07", "patient-08", "patient-09"]
    assert list(report.refused) == [BROKEN]
    assert data_set(killed) == whole
    assert go_on(folder, killed)[0] == []
    assert data_set(killed) == whole


def test_a_finished_shard_that_was_damaged_since_is_made_again(killed, folder, whole):
    path = shard_file(killed, "train-000000")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    taken, _ = go_on(folder, killed)
    assert taken == [name for name in NAMES[2:] if name != BROKEN]
    assert data_set(killed) == whole


def test_other_files_or_options_begin_anew(killed, folder, whole, tmp_path):
    folder = shutil.copytree(folder, tmp_path / "volumes")
    os.utime(folder / "patient-09.nii.gz")
    taken, _ = go_on(folder, killed)
    assert taken == [name for name in NAMES if name != BROKEN]
    assert data_set(killed) == whole
    taken, _ = go_on(folder, killed, OPTIONS.model_copy(update={"slice_step": 2}))
    assert taken == [name for name in NAMES if name != BROKEN]


# Chosen anew


class Killed(BaseException):
    """Ends a preparation on the spot: it writes nothing on its way out."""


CHOSEN = PrepareConfig(modality="t1ce", crop_px=32)  # who validates follows from the seed


@pytest.fixture
def validating(tmp_path):
    """A folder of four, and the file of who is chosen to validate: it cannot be used."""
    folder = make_volumes(tmp_path / "volumes")
    (subject,) = make_plan(find(folder, CHOSEN).subjects, CHOSEN).val
    overwrite(subject.file, bytes(subject.file.stat().st_size))
    return folder, subject


def overwrite(file, content):
    """Write other bytes into a file, which keeps its time."""
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    file.write_bytes(content)
    os.utime(file, ns=times)


def kill_after_validation(folder, store):
    def kill(line):
        if "val, 1 of" in line:
            raise Killed

    with pytest.raises(Killed):
        prepare(folder, open_store(str(store)), CHOSEN, print, progress=kill)
    assert shard_file(store, "val-000000")


def test_after_a_kill_who_was_chosen_to_validate_in_place_of_another_still_does(validating, tmp_path):
    folder, subject = validating
    undisturbed = prepare(folder, open_store(str(tmp_path / "undisturbed")), CHOSEN, print)
    kill_after_validation(folder, tmp_path / "killed")
    taken, report = go_on(folder, tmp_path / "killed", CHOSEN)
    assert taken == list(undisturbed.index.subjects["train"])
    assert report == undisturbed
    assert list(report.refused) == [subject.name]
    assert data_set(tmp_path / "killed") == data_set(tmp_path / "undisturbed")


def test_who_can_be_used_after_all_does_not_come_into_both_splits(validating, tmp_path):
    folder, subject = validating
    undisturbed = prepare(folder, open_store(str(tmp_path / "undisturbed")), CHOSEN, print)
    kill_after_validation(folder, tmp_path / "killed")
    whole = make_volumes(tmp_path / "again") / subject.file.relative_to(folder)
    overwrite(subject.file, whole.read_bytes())
    report = go_on(folder, tmp_path / "killed", CHOSEN)[1]
    assert report.refused == {subject.name: REPLACED}
    assert report.index == undisturbed.index


# Many


def test_of_many_finished_shards_those_count_that_come_before_the_first_that_is_damaged(tmp_path):
    store, told, progress = open_store(str(tmp_path)), [], []
    journal = Journal(store, "inputs")
    assert journal.read(told.append, progress.append) == []
    assert told == []
    entries = []
    for number in range(70):
        data = f"shard {number}".encode()
        shard = Shard(
            name=f"train-{number}.tar",
            split="train",
            num_samples=1,
            num_bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        entries.append(FinishedShard(shard=shard, statistics=Statistics(), spacing_mm=None))
        store.put(shard.name, data)
        journal.write(entries[-1], number)
    assert journal.read(told.append, progress.append) == entries
    assert told == ["verifying the finished shards"]
    assert progress == [f"train: {number} finished shards verified" for number in (32, 64)]
    store.put("train-50.tar", b"shard 05")
    assert journal.read(told.append, progress.append) == entries[:50]
