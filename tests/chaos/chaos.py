"""A training on this machine that faults of all kinds happen to, at random by seed, and what came of it.

    make chaos                                          # five minutes, seed 0
    .venv/bin/python -m tests.chaos.chaos --minutes 30 --seed 7 --output chaos

Made-up patients, a real S3 server behind a proxy that can break requests, a real MLflow server, and a training on two
workers as a process of its own, whose driver is started again whenever it ends before the run has. Faults come until
the time is up (`schedule.py` says which, and the same seed gives the same ones); then the run may end in peace. The
same training without faults, in one process, says which bits must have come out.

The report is `report.md`, and `report.json` for programs. Exit code 0: the same bits, and MLflow has everything once.
1: not so. The folder keeps the logs of all that took part.
"""

import argparse
import heapq
import json
import shutil
import signal
import sys
import time
from itertools import count
from pathlib import Path

from cluster.compare.states import state_digest
from cluster.config import TrackingConfig
from cluster.outbox.sync import sync
from tests.chaos.account import account_of, as_page
from tests.chaos.schedule import schedule
from tests.chaos.world import World
from tests.cluster.training import newest_digest, train_locally

TRIAL_STEPS = 40
USEFUL_SHARE = 0.3  # of the time, as a guess: steps are chosen so that the run ends about when the faults do
END_TIMEOUT_S = 900
LOOK_EVERY_S = 0.1


def main():
    """Let it happen; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="how long faults happen")
    parser.add_argument("--seed", type=int, default=0, help="decides which faults, and when")
    parser.add_argument("--output", type=Path, default=Path("chaos"), help="folder for one folder for each seed")
    parser.add_argument("--steps", type=int, help="of the training; without it, as many as take about that long")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which ends all that was started
    folder = options.output.absolute() / f"seed-{options.seed}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    faults = schedule(options.seed, 60 * options.minutes)
    with World(folder, options.seed) as world:
        steps = options.steps or steps_for(world, 60 * options.minutes)
        settings = settings_of(steps)
        print(f"{len(faults)} faults in {options.minutes:g} minutes, {steps} steps", flush=True)
        world.train(settings)
        began = time.time()
        happened = happen(world, faults)
        wall_s = time.time() - began
        tracking = TrackingConfig(uri=world.mlflow.uri, spool=str(folder / "records"))
        sync(tracking, print, uri_is_given=True)  # what the end of the run had no MLflow for
        step, digest = newest_digest(world.checkpoints())
        expected = state_digest(train_locally(folder / "undisturbed", world.data_url, settings))
        account = account_of(world, happened, wall_s) | {
            "seed": options.seed,
            "minutes": options.minutes,
            "steps": steps,
            "newest_step": step,
            "digest": digest,
            "digest_undisturbed": expected,
            "digests_equal": digest == expected,
        }
    (folder / "report.json").write_text(json.dumps(account, indent=1) + "\n")
    (folder / "report.md").write_text(page := as_page(account))
    print(page)
    return 0 if account["digests_equal"] and account["mlflow"]["is_complete"] else 1


def settings_of(steps):
    """Return the settings of a training of so many steps."""
    return {
        "train.steps": steps,
        "train.checkpoint_every_steps": max(10, steps // 20),
        "train.pixel_only_steps": max(0, steps - 20),  # later ones take long: the discriminator is large
        "train.virtual_shards": 4,
        "resources.num_workers": 2,
    }


def steps_for(world, length_s):
    """Return how many steps a training does in a time, with faults, judged by a short one."""
    begin = time.monotonic()
    train_locally(
        world.folder / "trial", world.data_url, settings_of(TRIAL_STEPS) | {"train.pixel_only_steps": TRIAL_STEPS}
    )
    rate = TRIAL_STEPS / (time.monotonic() - begin)
    return max(100, 10 * round(USEFUL_SHARE * rate * length_s / 10))


def happen(world, faults):
    """Let faults happen from the first step on, and wait for the end of the run; return what was done when."""
    number, happened = count(), []
    while " loss " not in world.said():
        if world.look_after():
            return happened
        time.sleep(LOOK_EVERY_S)
    began, due = time.monotonic(), [(fault.at_s, next(number), fault) for fault in faults]
    while not world.look_after():
        now = time.monotonic() - began
        while due and due[0][0] <= now:
            _, _, what = heapq.heappop(due)
            if callable(what):
                what()
                continue
            when = time.time()
            done, end = world.strike(what)
            if end is not None:
                heapq.heappush(due, (now + what.lasts_s, next(number), end))
            happened.append(what._asdict() | {"time": when, "done": done})
            print(f"{now:6.1f} s  {what.kind}: {done}", flush=True)
        if now > max([fault.at_s for fault in faults], default=0) + END_TIMEOUT_S:
            raise TimeoutError(f"the run has not ended: {world.folder}/training.log")
        time.sleep(LOOK_EVERY_S)
    for _, _, what in sorted(due):
        if callable(what):
            what()
    world.calm_down()
    return happened


if __name__ == "__main__":
    sys.exit(main())
