"""Training whose processes are killed or frozen comes to the same bits."""

import os
import signal
import time

import pytest

from tests.chaos.killer import Killer, send, until
from tests.chaos.runs import (
    RESUMING,
    SETTINGS,
    STARTING,
    UPLOADED,
    check_restarts,
    digest_of,
    ended,
    report_of,
    running,
)
from tests.cluster.training import ROOT, line_with, only_run
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def machine(machines):
    """A machine with room for two workers."""
    machine = machines.add(num_cpus=2)
    yield machine
    machines.lose(machine)


def spooling(home):
    """Return whether a checkpoint is being written to the worker's disk."""
    return any((home / "spool").glob("*/.step-*.part/checkpoint/*"))


def uploading(home, before=()):
    """Return whether a checkpoint that was not there before has some of its files in the store, and not all."""
    folders = set((home / "runs").glob("*/step-*")) - set(before)
    return any(any(folder.rglob("*.safetensors")) and not (folder / "manifest.json").exists() for folder in folders)


def test_workers_killed_at_any_moment(machines, machine, home, store_url, uninterrupted):
    killer = Killer(7, machines.workers)
    with running(home, store_url, SETTINGS, **machines.environment) as process:
        line_with(process, STARTING)
        killer.kill_all_at(lambda: uploading(home), PATIENCE_S, "an upload")
        line_with(process, RESUMING)
        killer.kill_all_at(lambda: spooling(home), PATIENCE_S, "a checkpoint being written")
        assert spooling(home)
        for _ in range(2):
            line_with(process, RESUMING)
            print(killer.strike(within_s=1))
        line_with(process, RESUMING)
        ended(process)
    check_restarts(report_of(home), at_least=4)
    assert digest_of(home) == uninterrupted
    assert not list((home / "spool").glob("*/.*"))  # nothing torn is left


def test_a_frozen_worker_is_found_and_harms_nothing_when_it_wakes_up(
    machines, machine, home, store_url, uninterrupted
):
    with running(home, store_url, SETTINGS, **machines.environment) as process:
        line_with(process, UPLOADED)
        frozen = machines.workers()[:1]
        began = time.monotonic()
        send(signal.SIGSTOP, frozen)
        until(lambda: not set(machines.workers()) - set(frozen), PATIENCE_S, "the end of the others", every_s=0.5)
        found_s = time.monotonic() - began
        line_with(process, RESUMING)
        send(signal.SIGCONT, frozen)
        ended(process)
    print(f"found after {found_s:.1f} s")
    assert found_s < 60
    check_restarts(report_of(home), at_least=1)
    assert digest_of(home) == uninterrupted
    assert "Timeout (0:00:20)!" in machines.logs_of_workers()
    assert "in gather" in machines.logs_of_workers()


# Replaces the step of the generator in every process that is started with this on its path.
STEP = """
import os
import sys
import threading
from importlib.machinery import PathFinder
from pathlib import Path

def put(module):
    real, steps = module.generator_step, []

    def generator_step(*arguments, **options):
        steps.append(1)
        before = Path(__file__).parent / "before"
        if os.environ["RANK"] == "1" and len(steps) == 5 and len(list(before.iterdir())) < {times}:
            (before / str(os.getpid())).touch()
            {what}
        return real(*arguments, **options)

    module.generator_step = generator_step

class Finder:
    def find_spec(name, path, target=None):
        if name != "metasr.training.steps":
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (execute(module), put(module))
        return spec

sys.meta_path.insert(0, Finder)
"""


def running_with(home, store_url, what, times):
    """Start a run on this machine whose second worker does `what` at the fifth step of a group, so many times."""
    (home / "step" / "before").mkdir(parents=True)
    (home / "step" / "sitecustomize.py").write_text(STEP.format(what=what, times=times))
    return running(home, store_url, SETTINGS, PYTHONPATH=f"{home / 'step'}{os.pathsep}{ROOT}")


def test_the_second_worker_may_die_often_before_the_first_checkpoint(home, store_url, uninterrupted):
    with running_with(home, store_url, "os.kill(os.getpid(), 9)", times=4) as process:
        ended(process)
    restarts = report_of(home)["restarts"]
    assert len(restarts) == 4
    assert not any(restart["resumed_step"] for restart in restarts)
    assert digest_of(home) == uninterrupted


def test_a_worker_whose_training_hangs_is_found(home, store_url, uninterrupted):
    hang = 'sys.modules["cluster.training.progress"].HANG_S = 2.0; threading.Event().wait()'
    with running_with(home, store_url, hang, times=1) as process:
        output = ended(process)
    assert "no progress for " in output
    assert len(report_of(home)["restarts"]) == 1
    assert digest_of(home) == uninterrupted


def test_an_unknown_error_of_one_worker_that_comes_again_and_again_ends_the_run(home, store_url):
    with running_with(home, store_url, 'raise ZeroDivisionError("a bug")', times=100) as process:
        output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, output
    assert "Traceback" not in output, output
    assert "error: training failed 3 times in the same way: ZeroDivisionError: a bug (worker 1)" in output
    assert len(report_of(home)["restarts"]) == 2
    _, run = only_run(home)
    assert run.info.status == "FAILED"
