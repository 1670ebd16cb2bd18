"""Subjects read by many at once, on Ray: the same bytes as one after the other, whatever happens to the readers."""

import json
import subprocess
import sys
from typing import NamedTuple

import pytest

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.store import open_store
from tests.cluster.patients import brain, write_volume

OPTIONS = PrepareConfig(crop_px=32, val_subjects=("patient-0", "patient-3"), shard_mb=0.05)
BROKEN = "patient-1"

# In a process of its own, because Ray leaves processes behind for Python to complain about.
ON_RAY = """
import json, os, sys
from functools import partial
from pathlib import Path
from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.prepare.in_order import in_order
from cluster.store import open_store

def dies_sometimes(marker, number):
    "Tenfold, but the process dies of 2, and of 4 the first time."
    if number == 2 or (number == 4 and not marker.exists()):
        marker.touch()
        os._exit(1)
    return 10 * number

folder, store, marker = map(Path, sys.argv[1:4])
lines = []
prepare(folder, open_store(str(store)), PrepareConfig.model_validate_json(sys.argv[4]), lines.append, workers=2)
with in_order(3, 6) as map_in_order:
    numbers = [str(result) for result in map_in_order(partial(dies_sometimes, marker), range(6))]
print(json.dumps([lines, numbers]))
"""


class OnRay(NamedTuple):
    folder: object
    store: object
    lines: list[str]
    numbers: list[str]


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory):
    """Seven patients, one of whom cannot be used, prepared by two workers; and what became of numbers."""
    home = tmp_path_factory.mktemp("workers")
    for number in range(7):
        write_volume(home / "volumes" / f"patient-{number}.nii.gz", brain(number))
    (home / "volumes" / f"{BROKEN}.nii.gz").write_text("a text file")
    places = [home / "volumes", home / "store", home / "marker"]
    command = [sys.executable, "-c", ON_RAY, *places, OPTIONS.model_dump_json()]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert outcome.returncode == 0, outcome.stderr
    return OnRay(*places[:2], *json.loads(outcome.stdout.splitlines()[-1]))


def test_two_workers_write_the_same_bytes_as_one_and_say_the_same(on_ray, tmp_path):
    lines = []
    prepare(on_ray.folder, open_store(str(tmp_path)), OPTIONS, lines.append)
    one, two = (
        {p.relative_to(s): p.read_bytes() for p in s.rglob("*") if p.is_file()} for s in (tmp_path, on_ray.store)
    )
    assert len(one) == 13  # six shards, their entries in the journal, and the index
    assert one == two
    assert lines == on_ray.lines
    assert len([line for line in lines if line.startswith(f"{BROKEN}: left out. ")]) == 1


def test_what_a_dead_process_was_at_is_done_again_and_never_stops_the_rest(on_ray):
    assert [on_ray.numbers[number] for number in (0, 1, 3, 4, 5)] == ["0", "10", "30", "40", "50"]
    assert on_ray.numbers[2].startswith("the process that read it died")
