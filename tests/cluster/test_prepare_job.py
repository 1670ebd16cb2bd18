"""The command that prepares, as it is met: on a terminal, in a job's log, stopped in the middle, without room."""

import os
import re
import resource
import signal
import subprocess

import pytest

from jobs.prepare import main
from tests.cluster.patients import brain, write_volume
from tests.cluster.preparing import NAMES, VAL, command, contents, finish, make_patients, start
from tests.patience import PATIENCE_S

ROWS, COLUMNS = 24, 60
ONE = ("--workers", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_patients(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """What a preparation that nobody disturbs writes, and the lines that it says into a pipe."""
    store = tmp_path_factory.mktemp("whole")
    out, err, code = finish(start(folder, store))
    assert (err, code) == ("", 0)
    return contents(store), out.replace(str(store), "STORE").splitlines()


def on_a_terminal(folder, store, at="", typed=b""):
    """Prepare on a terminal of our own; when `at` appears, type. Return all bytes that it got, and the exit code."""
    ours, its = os.openpty()
    environment = {**os.environ, "LINES": str(ROWS), "COLUMNS": str(COLUMNS)}
    process = subprocess.Popen(command(folder, store, *ONE), env=environment, preexec_fn=lambda: os.login_tty(its))
    os.close(its)
    written = b""
    with os.fdopen(ours, "r+b", buffering=0) as terminal:
        while chunk := read_or_end(terminal):
            written += chunk
            if typed and at.encode() in written:
                terminal.write(typed)
                typed = b""
    return written.decode(), process.wait(timeout=PATIENCE_S)


def read_or_end(terminal):
    try:
        return terminal.read(4096)
    except OSError:  # nobody has the terminal open any more
        return b""


def screen(written):
    """Return the lines that can be seen in the end."""
    return [re.split(r"\r\x1b\[K", line)[-1] for line in written.replace("\r\n", "\n").split("\n")[:-1]]


def test_in_a_log_every_subject_has_a_line_and_there_is_nothing_for_terminals(whole):
    _, lines = whole
    assert not any(re.search(r"[\x00-\x1f]", line) for line in lines)
    subjects = [line.partition(":")[0] for line in lines if line.startswith("patient-")]
    assert subjects == NAMES
    assert lines[2] == "patient-02: 34 slices, train, 1 of 8"


def test_on_a_terminal_progress_is_one_line_and_what_is_left_out_stays(folder, whole, tmp_path):
    written, code = on_a_terminal(folder, tmp_path / "store")
    _, lines = whole
    assert code == 0
    stays = [line for line in lines if not re.match(r"patient-\d+: \d+ slices", line)]
    assert screen(written) == [line.replace("STORE", str(tmp_path / "store")) for line in stays]
    assert len(stays) == 4
    for line in set(lines) - set(stays):
        assert f"\x1b[K{line}\r" in written  # and it was there, before it gave way to the next


def test_a_line_of_progress_is_no_longer_than_the_terminal_is_wide(tmp_path):
    for seed, name in enumerate((*VAL, "a" * 90)):
        write_volume(tmp_path / "volumes" / f"{name}.nii", brain(seed))
    written, code = on_a_terminal(tmp_path / "volumes", tmp_path / "store")
    assert code == 0
    assert re.findall("a{10,}", written) == ["a" * (COLUMNS - 1)]


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(folder, tmp_path, assert_goes_on):
    store = tmp_path / "store"
    written, code = on_a_terminal(folder, store, at="train, 3 of 8", typed=b"\x03")
    assert code == 130
    assert screen(written)[-1] == "interrupted: run the same command again to continue"
    assert_goes_on(store, num_shards=3)


def test_a_notice_to_end_ends_it_and_the_same_command_goes_on(folder, tmp_path, assert_goes_on):
    process = start(folder, tmp_path / "store", *ONE)
    while "train, 3 of 8" not in process.stdout.readline():
        assert process.poll() is None
    process.terminate()
    _, err, code = finish(process)
    assert code == 128 + signal.SIGTERM
    assert "run the same command again to continue" in err
    assert_goes_on(tmp_path / "store", num_shards=3)


@pytest.fixture
def assert_goes_on(folder, whole, capsys):
    """Assert that the same command takes only those who are not finished, and writes the rest."""

    def check(store, num_shards):
        assert "index.json" not in contents(store)
        main(command(folder, store, *ONE)[2:])
        out = capsys.readouterr().out
        finished = re.search(r"\n(\d+) shards with (\d+) subjects are finished: continuing after them", out)
        assert int(finished[1]) >= num_shards  # it may have finished another before it was told
        assert int(finished[2]) >= num_shards + (num_shards > 2)
        assert "patient-00: " not in out
        assert "patient-09: 34 slices, train, 8 of 8" in out
        assert contents(store) == whole[0]

    return check


def test_without_room_it_says_so_writes_no_index_and_goes_on_when_there_is_room(
    folder, whole, tmp_path, assert_goes_on
):
    store = tmp_path / "store"
    sizes = [[len(data) for name, data in whole[0].items() if name.startswith(split)] for split in ("val", "train")]
    room = max(sizes[0])
    assert room < max(sizes[1])
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))}
    _, err, code = finish(start(folder, store, *ONE, **limit))
    assert code != 0
    assert re.fullmatch(r"error: cannot write 'train-000000-\w+\.tar' .*File too large.*\n", err)
    assert sorted(contents(store)) == sorted(name for name in whole[0] if name.startswith("val"))
    assert_goes_on(store, num_shards=len(VAL))
