"""metasr tune: search the settings of a recipe with Ray Tune, and register the generator of the best trial."""

import math
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.command import command
from cluster.config import JobConfig, SweepConfig
from cluster.inputs import check_data
from jobs.cli import RECIPES, Parser, add_recipe, add_settings, flag_layer, json_output, run, say
from jobs.start import ended_at_once
from jobs.train import NOT_REGISTERED, why_not_registered
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from cluster.sweep.record import SweepRecord, Trial
    from cluster.sweep.sweep import Swept
    from cluster.training.registration import Sent

SWEEPS = Path(__file__).parent / "sweeps"
DESCRIPTION = """Search the settings of a recipe. Each trial is a training run like those of `metasr train`.
Trials run in parallel, poor ones are stopped early, and the best generator becomes the challenger.

Run the same command again to continue: ended trials are not repeated, others resume from their checkpoints. A higher
--trials or another --max-time also continues it. With RAY_ADDRESS set it runs on that cluster.

  metasr tune --sweep loss-weights --recipe brats --data.url ~/data/t1ce --dry-run
  metasr tune --sweep loss-weights --recipe brats --data.url ~/data/t1ce --trials 16 -o sweep
  metasr tune --sweep scale-range --recipe default --data.url s3://bucket/t1ce --max-time 8 --resources.gpu true \\
      --resources.gpus-per-worker 0.25"""
REGISTERED_ALL_THE_SAME = """it is still registered, so that it can be evaluated and inspected;
`metasr promote` accepts no version that is below bicubic. Train longer, or search other settings"""


def main(arguments: Sequence[str]) -> int:
    """Search; return the exit code."""
    parser = Parser(prog="metasr tune", description=DESCRIPTION)
    parser.add_argument(
        "--sweep", required=True, metavar="NAME", help="name of a sweep in jobs/sweeps, or a YAML file"
    )
    add_recipe(parser)
    parser.add_argument("--trials", dest="setting:search.trials", metavar="N", help="the same as --search.trials")
    parser.add_argument(
        "--concurrent", dest="setting:search.concurrent", metavar="N", help="the same as --search.concurrent"
    )
    parser.add_argument("--max-time", type=_positive, default=math.inf, metavar="H", help="stop after H hours")
    parser.add_argument(
        "--max-cost",
        type=_positive,
        default=math.inf,
        metavar="X",
        help="stop when the total cost of all trials is X",
    )
    parser.add_argument("--price-per-hour", type=_positive, metavar="P", help="price of one worker for an hour")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="also write the report page and sweep.json to this folder"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what the sweep would do and cost, and exit")
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and progress on stderr")
    add_settings(parser, SweepConfig)
    known = parser.parse_known(arguments)
    if math.isfinite(known.max_cost) and known.price_per_hour is None:
        raise ConfigError("--max-cost", "the price of a worker is unknown", "Give --price-per-hour too")

    with ended_at_once():
        from cluster.sweep.space import SweepPlan

    plan = SweepPlan.read(known.sweep, SWEEPS, known.recipe, RECIPES, flag_layer(SweepConfig, known))
    check_data(plan.config.data.url)

    with ended_at_once():
        from cluster.sweep.budget import Limits
        from cluster.sweep.sweep import preview, sweep

    limits = Limits(known.max_time, known.max_cost, known.price_per_hour)
    if known.dry_run:
        say("\n".join(preview(plan, limits)))
        return 0
    with json_output(known.json) as show:
        swept = sweep(plan, say, limits=limits, output=known.output)
        code = _report_result(swept, plan.config)
        if known.json:
            show(as_json(swept, plan.config))
    return code


def _report_result(swept: "Swept", config: JobConfig) -> int:
    """Say what a sweep came to; return the exit code."""
    record = swept.record
    if swept.records_not_sent:
        sync = command("sync", tracking=config.tracking)
        say(f"{swept.records_not_sent} records have not reached MLflow yet: `{sync}` sends them")
    if swept.stopped_by:
        ended = sum(trial.has_ended for trial in record.trials)
        say(f"sweep {record.name} stopped, {ended} trials have ended: run the same command again to continue")
        return 128 + swept.stopped_by
    if record.best is None:
        say(f"no trial of sweep {record.name} succeeded: nothing was registered")
        return 1
    say("\n".join(conclusion(record, record.best, swept.best, config)))
    return 0 if swept.best.version else NOT_REGISTERED


def as_json(swept: "Swept", config: JobConfig) -> dict[str, object]:
    """Return the results of a sweep for JSON."""
    record = swept.record
    return {
        "sweep": record.name,
        "model": config.tracking.model,
        "version": swept.best.version or None,
        "best": None if record.best is None else record.best.run_name,
        "records_waiting": swept.records_not_sent,
        "stopped": bool(swept.stopped_by),
        "trials": [
            {
                "run": trial.run_name,
                "status": trial.status,
                "reason": trial.reason or None,
                "settings": trial.settings,
                "objective": None if trial.best is None else trial.best.objective,
                "step": None if trial.best is None else trial.best.step,
            }
            for trial in record.trials
        ],
    }


def conclusion(record: "SweepRecord", best: "Trial", sent: "Sent", config: JobConfig) -> list[str]:
    """Return the results of a sweep with a best trial, and what to do next."""
    from cluster.sweep.outcome import as_flags

    tracking = config.tracking
    if sent.version:
        result = f"is version {sent.version} of {tracking.model}"
        following = [
            f"next: {command('evaluate', sent.version, tracking=tracking)}",
            f"then: {command('promote', '--model', sent.version, tracking=tracking)}",
        ]
    else:
        result = f"is the best; {why_not_registered(sent, tracking)}"
        following = [f"until it is: {command('evaluate', best.run_name, storage=config.storage, tracking=tracking)}"]
    said = [f"sweep {record.name}: trial {best.number} {result}"]
    if record.shortfall:
        said += [f"warning: {record.shortfall}", *([REGISTERED_ALL_THE_SAME] if sent.version else [])]
    return [*said, f"its settings: {as_flags(best)}", *following]


def _positive(text: str) -> float:
    """Return a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


if __name__ == "__main__":
    run(main)
