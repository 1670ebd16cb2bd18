"""A preparation that was killed goes on where it was, and writes what it would have written."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.store import open_store
from tests.cluster.patients import brain, shard_file, write_volume

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
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120)
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
