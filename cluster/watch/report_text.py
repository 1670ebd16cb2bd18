"""The report of a run as text."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

Report = Mapping[str, Any]
PARTS: Mapping[str, str] = MappingProxyType(
    {
        "connected": "start of Ray",
        "fit": "look at the nodes",
        "group": "start of the workers and their imports",
        "data": "opening the data",
        "first_step": "the step itself",
    }
)
"""What the parts of the way to the first step are, for a person."""


def describe(report: Report) -> list[str]:
    """Return the lines of a report, see `cluster.watch.report`."""
    return [*_course(report), *_restarts(report), *_data(report), *_checkpoints(report), *_trouble(report)]


def _course(report: Report) -> Iterator[str]:
    wall = timedelta(seconds=round(report["wall_s"]))
    yield f"{report['outcome']} after {wall}, {report['useful_share']:.0%} of it for saved steps"
    steps = report["steps"]
    again = f", {steps['again']} repeated" if steps["again"] else ""
    unsaved = f", the last {steps['unsaved']} in no checkpoint" if steps["unsaved"] else ""
    yield f"steps {steps['from']} to {steps['to']}{again}{unsaved}"
    first = report["first_step"]
    if first["seconds"] is not None:
        parts = ", ".join(f"{PARTS.get(name, name)} {seconds:.1f}" for name, seconds in first["parts_s"].items())
        yield f"first step after {first['seconds']:.1f} s: {parts}"
    speed = report["throughput"]
    if speed["step_s_p50"] is not None:
        samples = f", {speed['samples_per_s_p50']:.3g} samples/s" if speed["samples_per_s_p50"] else ""
        yield f"a step took {speed['step_s_p50']:.3g} s (median), {speed['step_s_p99']:.3g} s (p99){samples}"


def _restarts(report: Report) -> Iterator[str]:
    for number, restart in enumerate(report["restarts"], 1):
        came_to = "not resumed" if restart["resumed_step"] is None else f"resumed at step {restart['resumed_step']}"
        rto = "no step since" if restart["rto_s"] is None else f"a new step after {restart['rto_s']:.1f} s"
        lost, workers = restart["lost_at_step"], restart["num_workers"]
        yield f"restart {number}: lost at step {lost}, {came_to}, {rto}, num_workers {workers}"


def _data(report: Report) -> Iterator[str]:
    waiting = report["waiting"]
    if waiting["seconds"] > 0:
        count, together, longest = waiting["stalls"], waiting["stalls_s"], waiting["longest_stall_s"]
        stalls = f"; stalls: {count}, total {together:.1f} s, longest {longest:.1f} s" if count else ""
        yield f"waited {waiting['seconds']:.1f} s for data{stalls}"
    if report["retries"]:
        yield f"requests retried: {', '.join(f'{reason} {n}' for reason, n in sorted(report['retries'].items()))}"


def _checkpoints(report: Report) -> Iterator[str]:
    kept, uploaded, validated = report["kept"], report["uploaded"], report["validated"]
    if kept["count"] or uploaded["count"]:
        left = f", {report['not_uploaded']} not uploaded" if report["not_uploaded"] else ""
        yield f"checkpoints: {_amount(kept)} kept, {_amount(uploaded)} uploaded{left}"
    if validated["count"]:
        yield f"validations: {validated['count']} in {validated['seconds']:.1f} s"


def _amount(total: Mapping[str, float]) -> str:
    size = f"{total['bytes'] / 1e6:.1f} MB, " if "bytes" in total else ""
    return f"{total['count']} ({size}{total['seconds']:.1f} s)"


def _trouble(report: Report) -> Iterator[str]:
    if report["skipped_updates"]:
        yield f"updates skipped, NaN or Inf: {report['skipped_updates']}"
    if report["substituted_shards"]:
        yield f"damaged shards replaced: {', '.join(report['substituted_shards'])}"
    if report["changed"]:
        yield f"code or arithmetic changed: {report['changed']}"
    yield from (f"bad checkpoints skipped: {text}" for text in report["bad_checkpoints"])
    if report["records_not_sent"]:
        yield f"records not sent to MLflow: {report['records_not_sent']}"
