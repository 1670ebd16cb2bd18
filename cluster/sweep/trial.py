"""A trial: a training run like any other, inside an actor of Ray Tune."""

import json
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayError

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig
from cluster.recipes import Resolved
from cluster.store import Store, UnavailableError, open_store
from cluster.store.lease import RunTakenError
from cluster.sweep.objective import Objective
from cluster.sweep.record import Point
from cluster.sweep.space import SweepPlan
from cluster.training.driver import InSweep, train
from cluster.training.group import Stop
from cluster.training.naming import stored_run_name
from cluster.watch import Event
from metasr.context import Wish
from metasr.errors import MetaSRError, StoreError
from metasr.training.state import LOG

POLL_S = 0.5
TRY_AGAIN_S = 5.0
CLEANUP_S = 240.0
MEMBER, FORK = "trial", "fork"
"""What the config of a trial of a population has besides its settings: its number, and what it branches off from."""
AGAIN, WAITED_S = "again", "waited_s"
TELL = partial(print, flush=True)
COLLAPSED = ("the generator has collapsed", "the discriminator has won")
Outcome = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class SweepContext:
    """What the driver of a sweep sends to every trial.

    Attributes:
        sweep: Name of the sweep.
        plan: Makes a config of a trial's settings.
        objective: Of the sweep.
        data_digest: SHA-256 of the data's index.
        box: The sweep's mailbox, which has its wish.
    """

    sweep: str
    plan: SweepPlan
    objective: Objective
    data_digest: str
    box: ActorHandle


@dataclass(frozen=True)
class Ended:
    """How a trial ended, and why."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Waited:
    """How long a trial had no workers, as another driver had its run, or the store was away."""

    seconds: float


class TrialRun(tune.Trainable):
    """Runs `cluster.training.driver.train` in a thread, and gives Tune one result for each validation.

    A result has `step`, `objective` (of the generator that the run would keep if it ended here), `point` (the
    validation, as JSON), `again` (whether the run had it without this start) and, in a population, the number of the
    trial. The last one has `done`, `outcome` and `reason`; one after a wait has `waited_s` alone. The same settings
    are the same run: a trial that is started again goes on from its newest checkpoint, after it has told again what
    it had found until then.
    """

    def setup(self, config: Mapping[str, Any], work: SweepContext) -> None:
        """Take the settings that the searcher chose; training starts with the first step."""
        self._work, self._settings, self._fork = work, work.plan.tidy(config), config.get(FORK)
        self._member = {MEMBER: config[MEMBER]} if MEMBER in config else {}
        self._told: queue.Queue[Point | Waited | Ended] = queue.Queue()
        self._stop = Stop(TELL)
        self._thread: threading.Thread | None = None
        self._hopeless, self._has_workers = "", False
        self._history: dict[int, Point] = {}
        self._seen: set[int] = set()
        self._past: set[int] = set()

    def step(self) -> dict[str, Any]:
        """Wait for the next validation, or for the end."""
        self._look_for_wish()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="trial", daemon=True)
            self._thread.start()
        told = self._next()
        while isinstance(told, Point) and told.step == self._last_step:  # there is nothing to decide any more
            self._history[told.step] = told
            told = self._next()
        if isinstance(told, Ended):
            return self._end(told)
        if isinstance(told, Waited):
            return {WAITED_S: told.seconds}
        self._history[told.step] = told
        return self._result(told)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Note who this is. A run keeps its own checkpoints: Tune's have nothing to restore."""
        (Path(checkpoint_dir) / "trial.json").write_text(json.dumps(self._settings))

    def load_checkpoint(self, checkpoint: str | None) -> None:
        """Do nothing: settings and branch say which run this is."""

    def cleanup(self) -> None:
        """End in order where the scheduler stops the trial: with a checkpoint, and with word to MLflow."""
        self._stop.request("the scheduler of the sweep")
        if self._thread is not None:
            self._thread.join(CLEANUP_S)

    @property
    def _last_step(self) -> int:
        return self._work.plan.config.train.steps

    def _next(self) -> Point | Waited | Ended:
        while True:
            try:
                return self._told.get(timeout=POLL_S)
            except queue.Empty:
                self._look_for_wish()

    def _look_for_wish(self) -> None:
        """Stop where the sweep is to stop."""
        try:
            wish = ray.get(self._work.box.wish.remote())
        except RayError:  # its driver has gone
            wish = Wish.STOP
        if wish == Wish.STOP:
            self._stop.request("the sweep")

    def _result(self, point: Point) -> dict[str, Any]:
        best = max(self._history.values(), key=lambda one: one.metrics.get("selection_score", one.objective))
        return {
            **self._member,
            "step": point.step,
            "objective": best.objective,
            "point": point.model_dump_json(),
            AGAIN: point.step in self._past,
        }

    def _end(self, ended: Ended) -> dict[str, Any]:
        last = self._history.get(self._last_step)
        found = self._result(last) if last else {}
        return {**found, "done": True, "outcome": ended.outcome, "reason": ended.reason}

    def _run(self) -> None:
        """Train, and put what comes of it into the queue."""
        if self._stop.signal:
            self._told.put(Ended("stopped"))
            return
        try:
            resolved = self._work.plan.trial(self._settings)
            self._told.put(self._train(resolved, open_store(resolved.config.storage.url)))
        except BaseException as error:
            self._told.put(Ended("failed", reason_of(error)))

    def _train(self, resolved: Resolved[JobConfig], storage: Store) -> Ended:
        """Train; wait while another has the run, such as a process that is about to end, or the store is away."""
        sweep = InSweep(self._work.sweep, self._see, self._stop, self._work.data_digest)
        plan, data_digest, start = self._work.plan, self._work.data_digest, str(self._fork) if self._fork else ""
        while True:
            began, self._has_workers = time.monotonic(), False
            try:
                name = stored_run_name(resolved.config, plan.recipe, data_digest, start)
                self._tell_past(storage, name)
                trained = train(resolved, plan.recipe, TELL, fork=self._fork, sweep=sweep)
                self._tell_past(storage, name)  # of another who had the run meanwhile, perhaps to its end
                break
            except (RunTakenError, UnavailableError) as error:
                if self._stop.signal:
                    return Ended("stopped")
                TELL(str(error))
                time.sleep(TRY_AGAIN_S)
                if not self._has_workers:
                    self._told.put(Waited(time.monotonic() - began))
        if self._hopeless:
            return Ended("failed", self._hopeless)
        return Ended("stopped" if trained.stopped_by else "finished")

    def _tell_past(self, storage: Store, name: str) -> None:
        """Tell what the run has found so far, and this process has not."""
        for point in past_points(storage, name, self._work.objective):
            if point.step not in self._seen and (self._fork is None or point.step > self._fork.step):
                self._past.add(point.step)
                self._tell(point)

    def _tell(self, point: Point) -> None:
        self._seen.add(point.step)
        self._told.put(point)

    def _see(self, event: Event) -> dict[str, float]:
        """Take an event of the run; return its objective, for MLflow."""
        self._has_workers = True
        if event.kind == "warning" and event.text.startswith(COLLAPSED):
            self._give_up(event.text)
        if event.kind != "validated":
            return {}
        point = self._work.objective.point(event.step, event.values)
        if point is None:
            self._give_up(f"the validation of step {event.step} gave no number for the objective")
            return {}
        self._tell(point)
        return {"objective": point.objective}

    def _give_up(self, reason: str) -> None:
        self._hopeless = reason
        self._stop.request(f"the sweep: {reason}", status="FAILED")


def past_points(storage: Store, run: str, objective: Objective) -> Iterator[Point]:
    """Yield what the validations of a run found until its newest checkpoint, by the log in there.

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
        return  # training will find out what is wrong with it
    for line in log.decode().splitlines():
        values = json.loads(line)
        if "selection_score" in values and (point := objective.point(int(values["step"]), values)):
            yield point


def reason_of(error: BaseException) -> str:
    """Return in one line why a trial failed."""
    if isinstance(error, MetaSRError):
        return f"{error.what}: {error.why}" if error.why else error.what
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"{type(error).__name__}: {text}"[:300]
