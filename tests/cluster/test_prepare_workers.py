"""Subjects read by many at once, on Ray: the same bytes as one after the other, whatever happens to the readers."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.cluster.preparing import BROKEN, contents, finish, make_patients, start
from tests.cluster.ray_nodes import working
from tests.patience import PATIENCE_S

TWO = ("--workers", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_patients(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """What one process writes and says, which could join no Ray."""
    store = tmp_path_factory.mktemp("alone")
    return prepared(folder, store, {**os.environ, "RAY_ADDRESS": "nowhere:1"}, "--workers", "1")


def prepared(folder, store, environment, *more):
    return result(start(folder, store, *more, env=environment), store)


def result(process, store, said=""):
    """Return what a preparation has written and said in the end."""
    out, err, code = finish(process)
    assert (err, code) == ("", 0)
    return contents(store), (said + out).replace(str(store), "STORE")


def test_two_workers_write_the_same_bytes_as_one_and_say_the_same(cluster, folder, alone, tmp_path):
    two = prepared(folder, tmp_path / "store", cluster[1], *TWO)
    assert two == alone
    assert len(two[0]) == 7  # six shards and the index
    assert len(re.findall(f"^{BROKEN}: left out", two[1], re.MULTILINE)) == 1


def until(process, text):
    """Return what a process says up to a line with a text."""
    said = ""
    while text not in said:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        said += line
    return said


def test_a_worker_that_is_killed_at_a_subject_changes_nothing(cluster, folder, alone, tmp_path):
    head, environment = cluster
    store = tmp_path / "store"
    process = start(folder, store, *TWO, env=environment)
    said = until(process, "val, 2 of 2")
    while not (victims := working(head)):
        assert process.poll() is None, "nobody was at work"
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    written, lines = result(process, store, said)
    assert written == alone[0]
    assert [line for line in lines.splitlines() if "(raylet)" not in line] == alone[1].splitlines()
    assert "(raylet)" in lines  # Ray says who died


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_a_signal_ends_it_and_the_same_command_goes_on(cluster, folder, alone, tmp_path, number, code):
    process = start(folder, tmp_path / "store", *TWO, env=cluster[1])
    until(process, "train, 3 of 8")
    process.send_signal(number)
    _, err, returned = finish(process)
    assert returned == code, err
    assert "Traceback" not in err
    assert "SIGTERM received" not in err  # by Ray, which would abort a process that is slow to end
    assert "index.json" not in contents(tmp_path / "store")
    written, said = prepared(folder, tmp_path / "store", cluster[1], *TWO)
    finished = re.search(r"\n(\d+) shards with (\d+) subjects are finished: continuing after them\n", said)
    assert int(finished[1]) >= 3  # it may have finished another before it was told
    assert int(finished[2]) >= 4
    assert written == alone[0]


# In a process of its own, because Ray leaves processes behind for Python to complain about.
DIES_SOMETIMES = """
import json, os, sys
from functools import partial
from pathlib import Path
from cluster.runtime.ordered_map import in_order

def dies_sometimes(marker, number):
    "Tenfold, but the process dies of 2, and of 4 the first time."
    if number == 2 or (number == 4 and not marker.exists()):
        marker.touch()
        os._exit(1)
    return 10 * number

with in_order(3, 6) as map_in_order:
    numbers = [str(result) for result in map_in_order(partial(dies_sometimes, Path(sys.argv[1])), range(6))]
print(json.dumps(numbers))
"""


def test_what_kills_whoever_reads_it_is_given_up_and_never_stops_the_rest(cluster, tmp_path):
    command = [sys.executable, "-c", DIES_SOMETIMES, tmp_path / "marker"]
    outcome = subprocess.run(command, env=cluster[1], capture_output=True, text=True, timeout=PATIENCE_S)
    assert outcome.returncode == 0, outcome.stderr
    numbers = json.loads(outcome.stdout.splitlines()[-1])
    assert numbers[2].startswith("the process that read it died")
    assert [numbers[number] for number in (0, 1, 3, 4, 5)] == ["0", "10", "30", "40", "50"]
