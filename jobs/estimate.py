"""metasr estimate: train a few steps, and estimate the time and cost of the whole training."""

import math
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cluster.config import JobConfig
from cluster.inputs import check_training
from jobs.cli import Parser, add_recipe, add_settings, json_output, run, say, settings
from jobs.start import ended_at_once
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from cluster.planning.forecast import Estimate

DESCRIPTION = """Train a few steps of a recipe on the requested workers, and estimate what the whole training needs:
time, data, storage and, if prices are given, money.

The steps are real: on Ray, with checkpoint and validation, as a separate run in storage.url that is removed
afterwards. Nothing is sent to MLflow. With train.pixel_only_steps both kinds of steps are measured. Prices are in
any currency.

  metasr estimate --recipe smoke --data.url ~/data/t1ce
  metasr estimate --recipe paper --data.url s3://bucket/t1ce --resources.num-workers 4 --resources.gpu true \\
      --price-per-hour 2.50 --storage-price 0.023"""
NOT_INCLUDED = """not included: waiting for machines, images and nodes to start; restarts after faults; a higher load
on machines or stores; MLflow's records and artifacts; a cloud's charges for requests and transfer;
metasr evaluate."""
GB, MB = 1e9, 1e6


def main(arguments: Sequence[str]) -> int:
    """Measure; return the exit code."""
    parser = Parser(prog="metasr estimate", description=DESCRIPTION)
    add_recipe(parser)
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps to measure of each kind [20]")
    parser.add_argument(
        "--price-per-hour", type=_price, metavar="P", help="price of one worker for an hour [no price is shown]"
    )
    parser.add_argument(
        "--storage-price", type=_price, metavar="P", help="price of a GB in storage.url for a month [none is shown]"
    )
    parser.add_argument("--json", action="store_true", help="print the estimate as JSON")
    add_settings(parser, JobConfig)
    known = parser.parse_known(arguments)
    resolved = settings(JobConfig, known, known.recipe)
    if known.steps < 2:
        raise ConfigError(
            f"--steps {known.steps}", "one step shows nothing about the next", "Give 2 or more, such as 20"
        )
    check_training(resolved.config)

    with ended_at_once():
        from cluster.planning.estimate import estimate
        from cluster.training.identify import RunSpec

    spec = RunSpec(resolved, known.recipe)
    with json_output(known.json) as show:
        found = estimate(spec, say, steps=known.steps)
        money = _money(found, known.price_per_hour, known.storage_price)
        if known.json:
            show(asdict(found) | money)
        else:
            say(_text(found, money))
    return 0


def _price(text: str) -> float:
    """Return a finite price of at least 0."""
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not math.isfinite(price) or price < 0:
        raise ArgumentTypeError(f"{text!r} is not a price: give a number of at least 0, such as 2.50")
    return price


def _money(found: "Estimate", worker_hour: float | None, gb_month: float | None) -> dict[str, float]:
    money = {}
    if worker_hour is not None:
        money["workers_price"] = found.worker_hours * worker_hour
    if gb_month is not None:
        money["storage_price_per_month"] = found.storage_bytes / GB * gb_month
    return money


def _text(found: "Estimate", money: dict[str, float]) -> str:
    lines = [f"first step     {_time(found.first_step_s)} after the start"]
    for phase in found.phases:
        kind = {"pixel": "the pixel loss only", "full": "all losses"}[phase.name]
        lines.append(f"step           {phase.step_s:.3f} s with {kind}, {phase.steps} of them")
    lines += [
        f"throughput     {found.samples_per_s:.1f} samples/s on {found.num_workers} workers; "
        f"{found.waiting_share:.0%} of the time waits for data",
        f"validation     {found.validation_s:.1f} s, {found.num_validations} of them",
        f"checkpoint     {found.checkpoint_s:.2f} s and {found.checkpoint_bytes / MB:.1f} MB, "
        f"{found.num_validations} of them; {found.upload_s:.1f} s to the store while training goes on",
        f"start and end  {_time(found.once_s)}",
        f"total          {_time(found.total_s)}, {found.worker_hours:.2f} worker hours",
        f"data read      at most {found.read_bytes / GB:.2f} GB, {found.read_how}",
        f"storage        {found.storage_bytes / GB:.3f} GB of checkpoints, the newest and the best",
    ]
    if "workers_price" in money:
        lines.append(f"price          {money['workers_price']:.2f} for the workers: hours x workers x price per hour")
    if "storage_price_per_month" in money:
        lines.append(f"price          {money['storage_price_per_month']:.4f} a month for the checkpoints")
    return "\n".join([*lines, f"{found.measured_steps} steps of each kind were measured", NOT_INCLUDED])


def _time(seconds: float) -> str:
    """Return a time in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


if __name__ == "__main__":
    run(main)
