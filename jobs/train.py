"""metasr train: train a generator with Ray Train, or go on with it, and register the best."""

import sys
from collections.abc import Sequence

from cluster.command import command
from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings

DESCRIPTION = """Train a generator with Ray Train, track it in MLflow, and register the best checkpoint's generator.

The same command again continues where it stopped: after Ctrl-C or SIGTERM, which keep a checkpoint first, and after
any fault. With RAY_ADDRESS set, as in `ray job submit`, it trains on that
cluster; without, it starts Ray on this machine.

  metasr train --recipe smoke --data.url ~/data/t1ce
  metasr train --recipe paper --data.url s3://bucket/t1ce --resources.num-workers 4 --resources.gpu true
  metasr train --recipe photos --data.url ~/data/photos      (then, on MRI, from what that learned:)
  metasr train --recipe brats --data.url ~/data/t1ce --init-from challenger
  metasr train --recipe brats --data.url ~/data/t1ce --fork brats-0123456789@10000 --loss.adversarial 0.002
  metasr train --recipe smoke --train.steps 500 --print-config
  metasr train --recipe smoke --data.url ~/data/t1ce --dry-run"""


def main(arguments: Sequence[str]) -> int:
    """Train; return the exit code."""
    parser = Parser(prog="metasr train", description=DESCRIPTION)
    parser.add_argument(
        "--recipe", default="default", help="name of a recipe in jobs/recipes, or a YAML file [default]"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--init-from",
        default="",
        metavar="MODEL",
        help="start from the weights of this alias, version, models:/... or bundle folder [random weights]",
    )
    start.add_argument(
        "--fork",
        default="",
        metavar="RUN@STEP",
        help="go on from this checkpoint of another run in storage.url, with these settings, as a run of its own",
    )
    parser.add_argument("--print-config", action="store_true", help="print every setting and its source, and stop")
    parser.add_argument(
        "--dry-run", action="store_true", help="read a first batch, say what training would do, and stop"
    )
    add_settings(parser, JobConfig)
    known = parser.parse_known(arguments)
    resolved = settings(JobConfig, known, known.recipe)
    if known.print_config:
        print(resolved.text())
        return 0

    from cluster.checkpoints.fork import Fork
    from cluster.training.identify import RunSpec

    fork = Fork.parse(known.fork) if known.fork else None
    spec = RunSpec(resolved, known.recipe, init_from=known.init_from, fork=fork)
    if known.dry_run:
        from cluster.planning.dry_run import dry_run

        say("\n".join(dry_run(spec)))
        return 0

    from cluster.training.driver import train

    terminal = sys.stdout if sys.stdout.isatty() else None
    trained = train(spec, say, terminal=terminal)
    tracking = resolved.config.tracking
    if trained.records_not_sent:
        sync = command("sync", tracking=tracking)
        say(f"MLflow has not got {trained.records_not_sent} records yet: `{sync}` sends them")
    if trained.stopped_by:
        say(f"run {trained.run_name} stopped at step {trained.step}: run the same command again to continue")
        return 128 + trained.stopped_by
    state = "was already finished" if trained.already_done else "finished"
    say(f"run {trained.run_name} {state}: its best generator is the challenger of {tracking.model}")
    if trained.already_done:
        say("the same settings on the same data are the same run; change --train.seed to train another")
    say(f"next: {command('evaluate', tracking=tracking)}")
    say(f"then: {command('promote', tracking=tracking)}")
    return 0


if __name__ == "__main__":
    run(main)
