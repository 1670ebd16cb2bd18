"""A trial: a training run inside an actor of Ray Tune."""

import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayError

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig
from cluster.recipes import Resolved
from cluster.redaction import one_line
from cluster.store import Store, UnavailableError, open_store
from cluster.store.lease import RunTakenError
from cluster.sweep.objective import Objective
from cluster.sweep.record import Point
from cluster.sweep.space import SweepPlan
from cluster.sweep.waits import StoreWaits
from cluster.training.driver import InSweep, train
from cluster.training.identify import RunSpec
from cluster.training.naming import stored_run_name
from cluster.training.stop import Stop
from metasr.context import Request
from metasr.errors import MetaSRError, StoreError
from metasr.events import Event
from metasr.training.state import LOG

POLL_S = 0.5
RETRY_S = 5.0
CLEANUP_S = 240.0
MEMBER, FORK = "trial", "fork"
"""Keys of a population member's config besides its settings: its number, and its fork."""
REPEATED, HAS_WORKERS, IDLE_S = "repeated", "has_workers", "idle_s"
TELL = partial(print, flush=True)
COLLAPSED = ("the generator has collapsed", "the discriminator has won")
Outcome = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class SweepContext:
    """What all trials of a sweep share.

    Attributes:
        sweep: Name of the sweep.
        plan: Turns the settings of a trial into a config.
        objective: Of the sweep.
        data_digest: SHA-256 of the data's index.
        mailbox: Of the sweep's driver: it says whether to stop.
    """

    sweep: str
    plan: SweepPlan
    objective: Objective
    data_digest: str
    mailbox: ActorHandle[Any]


@dataclass(frozen=True)
class Ended:
    """How a trial ended, and why."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Workers:
    """Whether a trial has workers from now on: it has none while it waits for room, for its run or for the store.

    Attributes:
        are_there: Whether it has.
        idle_s: Seconds until now in which it had none, or in which they waited for a store, though that was counted.
    """

    are_there: bool
    idle_s: float = 0.0


class TrialRun(tune.Trainable):
    """Runs `cluster.training.driver.train` in a thread, and gives Tune one result for each validation.

    A result has `step`, `objective` (of the best checkpoint so far), `point` (the validation, as JSON), `repeated`
    (whether the validation was made before this start) and, in a population, the number of the trial. The last one
    has `done`, `outcome` and `reason`; one about its workers has `has_workers` and `idle_s`. The same settings are
    the same run: a restarted trial repeats the results of its run, and resumes from its newest checkpoint.
    """

    def setup(self, config: Mapping[str, Any], context: SweepContext) -> None:  # type: ignore[override]
        """Take the settings that the searcher chose. Training starts with the first call of `step`.

        Args:
            config: The settings; of a population member also its number and its fork.
            context: Bound by `tune.with_parameters`, which the annotations of Tune leave out.
        """
        self._context, self._settings, self._fork = context, context.plan.tidy(config), config.get(FORK)
        self._member = {MEMBER: config[MEMBER]} if MEMBER in config else {}
        self._updates: queue.Queue[Point | Workers | Ended] = queue.Queue()
        self._stop = Stop(TELL)
        self._thread: threading.Thread | None = None
        self._failure = ""
        self._heard_s: float | None = None
        self._waits = StoreWaits(time.monotonic)
        self._history: dict[int, Point] = {}
        self._reported: set[int] = set()
        self._past: set[int] = set()

    def step(self) -> dict[str, Any]:
        """Wait for the next validation, or for the end."""
        self._check_stop_request()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
            self._thread.start()
        update = self._next()
        while isinstance(update, Point) and update.step == self._last_step:  # goes with the end
            self._history[update.step] = update
            update = self._next()
        if isinstance(update, Ended):
            return self._end(update)
        if isinstance(update, Workers):
            return {**self._member, HAS_WORKERS: update.are_there, IDLE_S: update.idle_s}
        self._history[update.step] = update
        return self._result(update)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write the settings. Runs have their own checkpoints: those of Tune have nothing to restore."""
        (Path(checkpoint_dir) / "trial.json").write_text(json.dumps(self._settings))

    def load_checkpoint(self, checkpoint: object) -> None:
        """Do nothing: settings and fork say which run this is."""

    def cleanup(self) -> None:
        """Stop gracefully when the scheduler ends the trial: with a checkpoint, and a status in MLflow."""
        self._stop.request("the scheduler of the sweep")
        if self._thread is not None:
            self._thread.join(CLEANUP_S)

    @property
    def _last_step(self) -> int:
        return self._context.plan.config.train.steps

    def _next(self) -> Point | Workers | Ended:
        while True:
            try:
                return self._updates.get(timeout=POLL_S)
            except queue.Empty:
                self._check_stop_request()

    def _check_stop_request(self) -> None:
        """Stop if the sweep is to stop, or its driver is gone."""
        try:
            request = cast(Request, ray.get(self._context.mailbox.requested.remote()))
        except RayError:
            request = Request.STOP
        if request == Request.STOP:
            self._stop.request("the sweep")

    def _result(self, point: Point) -> dict[str, Any]:
        best = max(self._history.values(), key=lambda one: one.metrics.get("selection_score", one.objective))
        return {
            **self._member,
            "step": point.step,
            "objective": best.objective,
            "point": point.model_dump_json(),
            REPEATED: point.step in self._past,
        }

    def _end(self, ended: Ended) -> dict[str, Any]:
        last = self._history.get(self._last_step)
        found = self._result(last) if last else {}
        return {**found, "done": True, "outcome": ended.outcome, "reason": ended.reason}

    def _run(self) -> None:
        """Train, and put the results into the queue."""
        if self._stop.signal:
            self._updates.put(Ended("stopped"))
            return
        try:
            resolved = self._context.plan.trial(self._settings)
            self._updates.put(self._train(resolved, open_store(resolved.config.storage.url)))
        except BaseException as error:
            self._updates.put(Ended("failed", reason_of(error)))

    def _train(self, resolved: Resolved[JobConfig], storage: Store) -> Ended:
        """Train. Wait while another process has the run, which may be about to end, or the store is away."""
        sweep = InSweep(self._context.sweep, self._on_event, self._stop)
        recipe, digest = self._context.plan.recipe, self._context.data_digest
        start = str(self._fork) if self._fork else ""
        spec = RunSpec(resolved, recipe, fork=self._fork, data_digest=digest)
        while True:
            try:
                name = stored_run_name(resolved.config, recipe, digest, start)
                self._report_past(storage, name)
                trained = train(spec, TELL, sweep=sweep)
                self._report_past(storage, name)  # by another driver that had the run meanwhile
                break
            except (RunTakenError, UnavailableError) as error:
                if self._stop.signal:
                    return Ended("stopped")
                TELL(str(error))
                self._release_workers()
                time.sleep(RETRY_S)
        self._release_workers()
        if self._failure:
            return Ended("failed", self._failure)
        return Ended("stopped" if trained.stopped_by else "finished")

    def _report_past(self, storage: Store, name: str) -> None:
        """Report validations in the run's log that this process has not reported."""
        for point in past_points(storage, name, self._context.objective):
            if point.step not in self._reported and (self._fork is None or point.step > self._fork.step):
                self._past.add(point.step)
                self._report(point)

    def _report(self, point: Point) -> None:
        self._reported.add(point.step)
        self._updates.put(point)

    def _note_workers(self, event: Event) -> None:
        """Note that there are workers, and since when: a group that is started again may have waited for room.

        Time in which they waited for a store that was away does not count either.
        """
        now, waited_s = time.monotonic(), self._waits.see(event)
        if self._heard_s is None:
            self._updates.put(Workers(True))
        elif event.kind == "group":
            self._updates.put(Workers(True, now - self._heard_s))
        elif waited_s:
            self._updates.put(Workers(True, waited_s))
        self._heard_s = now

    def _release_workers(self) -> None:
        """Note that there are none any more, since the last that was heard of them."""
        idle_s = 0.0 if self._heard_s is None else time.monotonic() - self._heard_s
        self._heard_s = None
        self._updates.put(Workers(False, idle_s))

    def _on_event(self, event: Event) -> dict[str, float]:
        """Handle an event of the run; return its objective, for MLflow."""
        self._note_workers(event)
        if event.kind == "warning" and event.text.startswith(COLLAPSED):
            self._give_up(event.text)
        if event.kind != "validated":
            return {}
        point = self._context.objective.point(event.step, event.values)
        if point is None:
            self._give_up(f"the objective at step {event.step} is not a number")
            return {}
        self._report(point)
        return {"objective": point.objective}

    def _give_up(self, reason: str) -> None:
        self._failure = reason
        self._stop.request(f"the sweep: {reason}", status="FAILED")


def past_points(storage: Store, run: str, objective: Objective) -> Iterator[Point]:
    """Yield the validations of a run up to its newest checkpoint, from the log in that checkpoint.

    Raises:
        StoreError: The store is away.
    """
    entries = RunCheckpoints(storage, run).entries()
    if not entries or LOG not in entries[0].files:
        return
    sha256, num_bytes = entries[0].files[LOG]
    try:
        log = storage.get(f"{run}/{entries[0].folder}/{LOG}", sha256=sha256, num_bytes=num_bytes)
    except UnavailableError:
        raise
    except StoreError:
        return  # damaged: training takes an older checkpoint
    for line in log.decode().splitlines():
        values = json.loads(line)
        if "selection_score" in values and (point := objective.point(int(values["step"]), values)):
            yield point


def reason_of(error: BaseException) -> str:
    """Return in one line why a trial failed."""
    if isinstance(error, MetaSRError):
        return f"{error.what}: {error.why}" if error.why else error.what
    return f"{type(error).__name__}: {one_line(error)}"
