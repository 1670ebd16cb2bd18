"""What a person sees of a run: the lines of a job's log, and a bar on a real (pseudo) terminal."""

import fcntl
import os
import pty
import re
import struct
import termios
from itertools import pairwise

import pytest

from cluster.watch.lines import Watch
from metasr.events import Event

MINUTE = 60.0
BELL = "\a"


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Log:
    """The lines of a job without a terminal."""

    def __init__(self, num_steps):
        self.clock, self.lines = Clock(), []
        self.watch = Watch(num_steps, self.lines.append, clock=self.clock)

    def see(self, kind, step=0, text="", after=0.0, rank=0, **values):
        """Show an event that comes some seconds after the one before, and return the lines it made."""
        before = len(self.lines)
        self.clock.now += after
        self.watch.see(Event(kind, step, values, text, rank=rank))
        return self.lines[before:]


def interval(**others):
    return {"loss_total": 0.01234, "steps_per_s": 10.0, "samples_per_s": 80.0, "waiting_share": 0.03} | others


def test_an_interval_of_steps_is_a_line():
    log = Log(400)
    log.see("resumed", 0)
    assert log.see("steps", 150, after=15, **interval()) == [
        "step 150/400  loss 0.0123  10 steps/s  80 samples/s  waiting 3 %  ETA 0:00:25"
    ]


def test_only_what_is_known_is_said():
    assert Log(400).see("steps", 50, loss_total=0.5) == ["step 50/400  loss 0.5"]


def test_a_short_run_shows_every_interval_at_once():
    log = Log(400)
    for step in range(50, 401, 50):
        log.see("steps", step, after=0.1, **interval())
    assert [line.split()[1] for line in log.lines] == [f"{step}/400" for step in range(50, 401, 50)]


def test_the_log_of_a_long_run_stays_short_and_never_silent_for_long():
    """360,000 steps, told of ten by ten: 25 hours at 4 steps a second."""
    log, told_at = Log(360_000), []
    for step in range(10, 360_001, 10):
        if log.see("steps", step, after=2.5, **interval(steps_per_s=4.0)):
            told_at.append(log.clock.now)
    assert len(log.lines) < 4000
    assert max(b - a for a, b in pairwise(told_at)) <= 33
    assert log.lines[-1].startswith("step 360000/360000")


def test_the_newest_steps_are_told_when_a_run_ends_early():
    log = Log(1000)
    for step in range(1, 100):
        log.see("steps", step, after=0.1, **interval())
    assert not log.lines[-1].startswith("step 99/")
    log.watch.close()
    assert log.lines[-1].startswith("step 99/1000")
    before = list(log.lines)
    log.watch.close()
    assert log.lines == before


def test_the_first_steps_after_a_restart_are_told_at_once():
    log = Log(1000)
    for step in range(1, 100):
        log.see("steps", step, after=0.1, **interval())
    log.see("group", num_workers=2)
    log.see("resumed", 50)
    assert log.see("steps", 51, after=0.1, **interval())[0].startswith("step 51/1000")


# The time to the end


def eta_s(lines):
    hours, minutes, seconds = re.search(r"ETA (\d+):(\d\d):(\d\d)$", lines[-1]).groups()
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds)


def test_eta_counts_validation_and_checkpoints():
    """A hundred steps take 10 s and what comes after them another 10 s."""
    log = Log(10_000)
    log.see("resumed", 0)
    for step in range(100, 5001, 100):
        log.see("steps", step, after=20, **interval())
    left = 10_000 - int(re.match(r"step (\d+)", log.lines[-1])[1])
    assert eta_s(log.lines) == pytest.approx(left * 0.2, rel=0.05)


def test_eta_follows_when_steps_become_slower():
    log = Log(100_000)
    log.see("resumed", 0)
    for step in range(100, 1001, 100):
        log.see("steps", step, after=10, **interval())
    for step in range(1100, 4001, 100):
        log.see("steps", step, after=40, **interval(steps_per_s=2.5))
    assert eta_s(log.lines) == pytest.approx(96_000 * 0.4, rel=0.1)


def test_eta_forgets_a_restart():
    log = Log(1000)
    log.see("resumed", 0)
    log.see("steps", 100, after=10, **interval())
    log.see("group", after=20 * MINUTE, num_workers=2)
    log.see("resumed", 50)
    assert eta_s(log.see("steps", 100, after=5, **interval())) == 90


def test_events_that_come_all_at_once_give_no_false_eta():
    """The driver looks every half second: several events may bear the same time."""
    log = Log(1000)
    log.see("resumed", 0)
    for step in (100, 200, 300):
        log.see("steps", step, **interval())
    assert eta_s(log.lines) == 70
    log.see("steps", 400, after=30, **interval())
    assert eta_s(log.lines) == 60


def test_a_time_beyond_reason_is_not_said():
    assert "ETA" not in Log(10**9).see("steps", 1, **interval(steps_per_s=1e-9))[0]


# What else is said


def test_events_that_matter_have_a_line_each():
    log = Log(400)
    assert log.see("group", num_workers=1) == ["1 worker ready"]
    assert log.see("resumed", 0) == ["step 0/400  starting"]
    assert log.see("validated", 200, val_psnr_gain=1.234, selection_score=1.234, seconds=12.34) == [
        "step 200/400  validation: +1.23 dB over bicubic in 12.3 s"
    ]
    assert log.see("validated", 200, selection_score=0.5) == ["step 200/400  validation: score 0.5"]
    assert log.see("kept", 200, seconds=0.1, bytes=9e6) == []
    assert log.see("uploaded", 200, seconds=0.44, bytes=12_345_678, pending=2) == [
        "step 200/400  checkpoint uploaded: 12.3 MB in 0.4 s, 2 more to upload"
    ]
    assert log.see("skipped", 210) == ["step 210/400  update skipped: NaN or Inf (1 so far)"]
    assert log.see("substituted", 220, "a.tar, b.tar") == ["step 220/400  damaged shards replaced: a.tar, b.tar"]
    assert log.see("warning", 230, "the store is slow") == ["step 230/400  warning: the store is slow"]
    assert log.see("warning", 230, "it is slow", rank=3) == ["step 230/400  warning: worker 3: it is slow"]
    assert log.see("stopping", 240, "SIGTERM") == ["step 240/400  stopping: SIGTERM"]


def test_a_restart_says_who_goes_on_and_from_where():
    log = Log(400)
    log.see("group", num_workers=4)
    assert log.see("group", 150, num_workers=3) == ["restart 1: 3 workers ready"]
    assert log.see("resumed", 100, "step 150 (truncated)") == [
        "step 100/400  resuming from the checkpoint of this step; bad checkpoints skipped: step 150 (truncated)"
    ]


def test_other_arithmetic_is_told_once_however_often_workers_start_again():
    log, text = Log(400), "arithmetic 1 thread; after step 100: 2 threads"
    said = f"step 100/400  code or arithmetic changed, so the bits may differ: {text}"
    assert log.see("changed", 100, text) == [said]
    assert log.see("changed", 150, text) == []
    assert len(log.see("changed", 150, f"{text}; after step 150: 1 thread")) == 1


def test_retries_are_told_only_when_they_grow():
    log = Log(400)
    log.see("group", num_workers=2)
    assert log.see("retries", 50, timeout=0, reset=0) == []
    assert log.see("retries", 50, timeout=2, reset=0) == ["step 50/400  requests retried so far: timeout 2"]
    assert log.see("retries", 60, timeout=2, reset=0) == []
    assert log.see("retries", 70, timeout=2, reset=1) == ["step 70/400  requests retried so far: timeout 2, reset 1"]
    assert log.see("retries", 70, timeout=1, rank=1) == ["step 70/400  requests retried so far: timeout 3, reset 1"]
    log.see("group", num_workers=2)
    assert log.see("retries", 50, timeout=1) == ["step 50/400  requests retried so far: timeout 1"]


@pytest.mark.parametrize("kind", ["retries", "skipped", "warning"])
def test_a_flood_is_held_back_and_counted(kind):
    log = Log(100_000)
    for step in range(3600):
        log.see(kind, step, "again", after=1.0, timeout=step + 1)
    assert len(log.lines) < 150
    assert any("more not shown" in line for line in log.lines)
    log.watch.close()
    held_back = sum(int(a or b) for a, b in re.findall(r"\((\d+) more not|not shown: (\d+)", "\n".join(log.lines)))
    assert held_back + len([line for line in log.lines if line.startswith("step")]) == 3600


def test_what_comes_from_elsewhere_stays_one_line_and_moves_no_cursor():
    (line,) = Log(400).see("warning", 1, "first\nsecond\r\x1b[2Jthird\tend")
    assert line == "step 1/400  warning: first second [2Jthird end"


# What must not go wrong

ODD_NUMBERS = [float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e308]


@pytest.mark.parametrize("number", ODD_NUMBERS)
@pytest.mark.parametrize("num_steps", [0, 400])
@pytest.mark.parametrize("terminal", [False, True])
def test_odd_numbers_are_shown_and_break_nothing(number, num_steps, terminal, tmp_path):
    lines, clock = [], Clock()
    with (tmp_path / "screen").open("w") as screen:
        watch = Watch(num_steps, lines.append, terminal=screen if terminal else None, clock=clock)
        odd = dict.fromkeys(
            ["loss_total", "steps_per_s", "samples_per_s", "waiting_share", "val_psnr_gain", "seconds", "bytes"],
            number,
        )
        for kind in ("group", "resumed", "steps", "steps", "validated", "kept", "uploaded", "retries", "skipped"):
            watch.see(Event(kind, 400, odd | {"num_workers": number, "pending": number}))
        watch.close()
    shown = (tmp_path / "screen").read_text() if terminal else "\n".join(lines)
    assert f"step 400/{num_steps}" in shown


def test_a_run_resumed_at_its_last_step_ends_in_peace():
    log = Log(400)
    log.see("group", num_workers=2)
    log.see("resumed", 400)
    log.watch.close()
    assert log.lines == ["2 workers ready", "step 400/400  resuming from the checkpoint of this step"]


def test_steps_that_go_back_without_a_word_break_nothing():
    log = Log(400)
    log.see("steps", 200, after=1, **interval())
    log.see("steps", 50, after=1, **interval())
    assert eta_s(log.see("steps", 100, after=5, **interval())) == 30


def test_a_log_has_no_marks_of_a_terminal():
    log = Log(400)
    for kind in ("group", "resumed", "steps", "validated", "uploaded", "warning", "stopping"):
        log.see(kind, 100, "text", **interval(), num_workers=2)
    log.watch.close()
    assert len(log.lines) == 7
    assert "".join(log.lines).isprintable()


# On a terminal


class Screen:
    """A pseudo terminal of some width, and what a person sees on it: rows, wrapped where lines are too long."""

    def __init__(self, columns):
        self._reader, writer = pty.openpty()
        self.terminal = os.fdopen(writer, "w")
        self.resize(columns)
        self._rows, self._column = [""], 0

    def resize(self, columns):
        self.columns = columns
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def tell(self, line):
        print(line, file=self.terminal, flush=True)

    def rows(self):
        """Return the rows so far, as a terminal would have them after what was written."""
        print(BELL, end="", file=self.terminal, flush=True)
        written = b""
        while not written.endswith(BELL.encode()):  # a terminal takes its time
            written += os.read(self._reader, 1 << 16)
        for mark in re.findall(r"\x1b\[K|[\s\S]", written.decode().removesuffix(BELL)):
            self._write(mark)
        return self._rows

    def _write(self, mark):
        if mark == "\n":
            self._rows.append("")
        elif mark == "\r":
            self._column = 0
        elif mark == "\x1b[K":
            self._rows[-1] = self._rows[-1][: self._column]
        else:
            assert mark.isprintable(), mark
            if self._column >= self.columns:
                self._rows.append("")
                self._column = 0
            row = self._rows[-1]
            self._rows[-1] = row[: self._column] + mark + row[self._column + 1 :]
            self._column += 1

    def close(self):
        self.terminal.close()
        os.close(self._reader)


@pytest.fixture
def screen():
    screen = Screen(120)
    yield screen
    screen.close()


def test_the_bar_stays_in_place_and_lines_stay_above_it(screen):
    clock = Clock()
    watch = Watch(400, screen.tell, terminal=screen.terminal, clock=clock)
    watch.see(Event("resumed", 0))
    watch.see(Event("steps", 100, interval()))
    watch.see(Event("warning", 100, text="the store is slow"))
    assert screen.rows()[-1].startswith("step 100/400  [")
    watch.see(Event("steps", 200, interval()))
    assert screen.rows() == [
        "step 0/400  starting",
        "step 100/400  warning: the store is slow",
        f"step 200/400  [{'#' * 15}{'.' * 15}]  ETA 0:00:20  loss 0.0123  10 steps/s  80 samples/s  waiting 3 %",
    ]
    watch.close()
    screen.tell("finished")
    assert screen.rows()[2].startswith("step 200/400  [")
    assert screen.rows()[3:] == ["finished", ""]


@pytest.mark.parametrize("columns", [1, 5, 12, 20, 33, 47, 60, 79, 80, 100, 200])
def test_the_bar_never_wraps(screen, columns):
    screen.resize(columns)
    watch = Watch(360_000, screen.tell, terminal=screen.terminal, clock=Clock())
    for step in (1000, 100_000, 360_000):
        watch.see(Event("steps", step, interval(loss_total=1.234e-5)))
    (row,) = screen.rows()
    assert len(row) < columns
    assert row.startswith("step 360000/360000"[: columns - 1])


def test_a_narrow_terminal_shows_the_most_important(screen):
    screen.resize(40)
    watch = Watch(400, screen.tell, terminal=screen.terminal, clock=Clock())
    watch.see(Event("steps", 100, interval()))
    assert screen.rows() == ["step 100/400  ETA 0:00:30  loss 0.0123"]


def test_the_bar_follows_a_resize(screen):
    watch = Watch(400, screen.tell, terminal=screen.terminal, clock=Clock())
    watch.see(Event("steps", 100, interval()))
    assert len(screen.rows()[-1]) > 100
    screen.resize(30)
    watch.see(Event("steps", 200, interval()))
    assert screen.rows() == ["step 200/400  ETA 0:00:20"]
    screen.resize(120)
    watch.see(Event("steps", 300, interval()))
    assert "waiting 3 %" in screen.rows()[-1]
