"""metasr train: train a generator with Ray Train, or go on with it, and register the best."""

import argparse
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.command import command
from cluster.config import JobConfig, TrackingConfig, expand
from cluster.inputs import check_training
from jobs.cli import Parser, add_recipe, add_settings, flag_layer, json_output, run, say, settings
from jobs.start import ended_at_once
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from cluster.checkpoints.begun import Begun
    from cluster.recipes import Resolved
    from cluster.training.driver import Trained
    from cluster.training.registration import Sent

NOT_REGISTERED = 3
"""Exit code of a training that is finished while MLflow has no version of it."""
DESCRIPTION = """Train a generator with Ray Train, track it in MLflow, and register the best checkpoint's generator.

The same command again continues where it stopped: after Ctrl-C or SIGTERM, which keep a checkpoint first, and after
any fault. So does --resume with the run's name alone: its settings come from its newest checkpoint, and flags may
change what leaves it the same run, such as --resources.num-workers. With RAY_ADDRESS set, as in `ray job submit`, it
trains on that cluster; without, it starts Ray on this machine.

  metasr train --recipe smoke --data.url ~/data/t1ce
  metasr train --resume smoke-0a1b2c3d4e                     (`metasr runs` lists them)
  metasr train --recipe paper --data.url s3://bucket/t1ce --resources.num-workers 4 --resources.gpu true
  metasr train --recipe photos --data.url ~/data/photos      (then, on MRI, from what that learned:)
  metasr train --recipe brats --data.url ~/data/t1ce --init-from challenger
  metasr train --recipe brats --data.url ~/data/t1ce --fork brats-0123456789@10000 --loss.adversarial 0.002
  metasr train --recipe smoke --train.steps 500 --print-config
  metasr train --recipe smoke --data.url ~/data/t1ce --dry-run"""


def main(arguments: Sequence[str]) -> int:
    """Train; return the exit code."""
    known = _parser().parse_known(arguments)
    resolved, begun = _settings(known)
    if known.print_config:
        print(resolved.text())
        return 0
    if not known.fork:  # whether the fork exists is checked first, which needs torch
        check_training(resolved.config)

    with ended_at_once():
        from cluster.checkpoints.fork import Fork
        from cluster.training.driver import train
        from cluster.training.identify import RunSpec

    if begun is not None:
        spec = RunSpec.resumed(resolved, begun)
    else:
        fork = Fork.parse(known.fork) if known.fork else None
        spec = RunSpec(resolved, known.recipe, init_from=known.init_from, fork=fork)
    if known.dry_run:
        from cluster.planning.dry_run import dry_run

        say("\n".join(dry_run(spec)))
        return 0

    with json_output(known.json) as show:
        terminal = sys.stdout if sys.stdout.isatty() else None
        trained = train(spec, say, terminal=terminal)
        if trained.stopped_by:
            if trained.sent.num_waiting:
                say(_what_waits(trained.sent, resolved.config.tracking))
            say(f"run {trained.run_name} stopped at step {trained.step}: run the same command again to continue")
            code = 128 + trained.stopped_by
        else:
            code = _report_result(trained, resolved.config)
        if known.json:
            show(_as_json(trained, resolved.config))
    return code


def _as_json(trained: "Trained", config: JobConfig) -> dict[str, object]:
    return {
        "run": trained.run_name,
        "step": trained.step,
        "steps": config.train.steps,
        "model": config.tracking.model,
        "version": trained.sent.version or None,
        "records_waiting": trained.sent.num_waiting,
        "already_done": trained.already_done,
    }


def _settings(known: argparse.Namespace) -> "tuple[Resolved[JobConfig], Begun | None]":
    """Return the settings, and the run that goes on if one is named."""
    if not known.resume:
        return settings(JobConfig, known, known.recipe), None
    if known.recipe != "default":
        raise ConfigError(
            f"--resume {known.resume} and --recipe {known.recipe}",
            "a run goes on with its own settings",
            "Leave one of them out",
        )
    from cluster.checkpoints.begun import find_begun
    from cluster.training.resume import resumed_settings

    storage = settings(JobConfig, known).config.storage
    begun = find_begun(known.resume, storage.url)
    return resumed_settings(begun, flag_layer(JobConfig, known)), begun


def _parser() -> Parser:
    parser = Parser(prog="metasr train", description=DESCRIPTION)
    add_recipe(parser)
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        default="",
        metavar="RUN",
        help="go on with this run, by its name in storage.url, or its folder or URL, with its own settings",
    )
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
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and progress on stderr")
    parser.add_argument(
        "--dry-run", action="store_true", help="read a first batch, say what training would do, and stop"
    )
    add_settings(parser, JobConfig)
    return parser


def _what_waits(sent: "Sent", tracking: TrackingConfig) -> str:
    """Return where the records wait that MLflow has not received, and why."""
    what = "1 record waits" if sent.num_waiting == 1 else f"{sent.num_waiting} records wait"
    if sent.model_waits:
        what = f"{sent.num_waiting} records and the model wait"
    place, sync = expand(tracking.spool), command("sync", tracking=tracking)
    return f"{what} in {place} on {socket.gethostname()}; `{sync}` there sends them. {sent.why}".rstrip()


def why_not_registered(sent: "Sent", tracking: TrackingConfig) -> str:
    """Return why the generator is not known to be a version of the model."""
    if sent.num_waiting:
        return _what_waits(sent, tracking)
    return f"no version of {tracking.model} is known to be registered. {sent.why}".rstrip()


def _report_result(trained: "Trained", config: JobConfig) -> int:
    """Report the result of a finished run and what to do next; return the exit code."""
    tracking, name, sent = config.tracking, trained.run_name, trained.sent
    if sent.version:
        result = f"its best generator is version {sent.version} of {tracking.model}"
    else:
        result = f"trained; {why_not_registered(sent, tracking)}"
    say(f"run {name} {'was already finished' if trained.already_done else 'finished'}: {result}")
    if trained.already_done:
        say("the same settings on the same data are the same run; change --train.seed to train another")
    if not sent.version:
        say(f"until it is: {command('evaluate', name, storage=config.storage, tracking=tracking)}")
        return NOT_REGISTERED
    say(f"next: {command('evaluate', sent.version, tracking=tracking)}")
    say(f"then: {command('promote', '--model', sent.version, tracking=tracking)}")
    return 0


if __name__ == "__main__":
    run(main)
