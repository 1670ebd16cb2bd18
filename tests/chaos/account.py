"""What faults have cost a run, and what came out: numbers, and a page for a person.

Steps and times come from the run's curves in MLflow: the driver has put there when it heard of each.
"""

import statistics
from collections import Counter

from mlflow import MlflowClient


def account_of(world, happened, wall_s):
    """Return what is known of a run that has ended.

    Args:
        world: Where it ran.
        happened: The faults, each with the `time` when it happened.
        wall_s: What the run took in all.
    """
    client = MlflowClient(world.mlflow.uri)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    rates, resumed = _points(client, runs, "run/steps_per_s"), _points(client, runs, "run/resumed_at_step")
    useful_s = _useful_s(rates)
    return {
        "wall_s": wall_s,
        "useful_s": useful_s,
        "useful_share": useful_s / wall_s,
        "faults": [fault | {"rto_s": _rto_s(fault["time"], rates)} for fault in happened],
        "starts": len(resumed),
        "steps_again": _steps_again(rates, resumed),
        "driver_ends": dict(Counter(map(str, world.ends))),
        "requests": len(world.proxy.seen),
        "requests_broken": dict(Counter(type(seen.fault).__name__ for seen in world.proxy.seen if seen.fault)),
        "retries": dict(sum((Counter(report["retries"]) for report in world.reports()), Counter())),
        "bad_checkpoints": world.said().count("is bad, trying the one before"),
        "mlflow": _mlflow(client, runs, rates),
    }


def _points(client, runs, name):
    """Return the points of a curve by time: seconds since 1970, step, value."""
    history = [point for run in runs for point in client.get_metric_history(run.info.run_id, name)]
    return sorted((point.timestamp / 1000, point.step, point.value) for point in history)


def _useful_s(rates):
    """Return the time of the steps that count: of an interval that was done again, the last time."""
    seconds, before = {}, 0
    for _, step, rate in rates:
        before = max((known for known in seconds if known < step), default=0)
        seconds[step] = (step - before) / rate
    return sum(seconds.values())


def _rto_s(when, rates):
    """Return the seconds from a moment to the end of the first new interval of steps; None if there was none."""
    reached = max((step for time, step, _ in rates if time <= when), default=0)
    return next((time - when for time, step, _ in rates if time > when and step > reached), None)


def _steps_again(rates, resumed):
    """Return how many steps were done once more, as far as intervals of steps tell."""
    again = 0
    for when, step, _ in resumed:
        again += max(0, max((known for time, known, _ in rates if time < when), default=0) - step)
    return again


def _mlflow(client, runs, rates):
    versions = client.search_model_versions()
    return {
        "runs": len(runs),
        "status": [run.info.status for run in runs],
        "versions": len(versions),
        "is_complete": len(runs) == len(versions) == 1 and runs[0].info.status == "FINISHED",
    }


def as_page(account):
    """Return an account as a page of Markdown."""
    verdict = "the same bits" if account["digests_equal"] else "OTHER BITS"
    began = account["faults"][0]["time"] - account["faults"][0]["at_s"] if account["faults"] else 0
    rows = [_row(fault, fault["time"] - began) for fault in account["faults"]]
    return "\n".join([*_summary(account, verdict), *_TABLE, *rows, ""])


_TABLE = ("", "| at s | what happened | to what | for s | a new step after s |", "|---|---|---|---|---|")


def _row(fault, at_s):
    lasting = f"{fault['lasts_s']:.0f}" if fault["lasts_s"] else ""
    rto = "" if fault["rto_s"] is None else f"{fault['rto_s']:.1f}"
    return f"| {at_s:.1f} | {fault['kind']} | {fault['done']} | {lasting} | {rto} |"


def _summary(account, verdict):
    stops = [fault["rto_s"] for fault in account["faults"] if _stops(fault) and fault["rto_s"] is not None]
    median = f"{statistics.median(stops):.1f} s, at most {max(stops):.1f} s" if stops else "nothing stopped it"
    mlflow = account["mlflow"]
    yield f"# Chaos: {verdict} after {len(account['faults'])} faults"
    yield ""
    yield f"Seed {account['seed']}, {account['steps']} steps, {account['wall_s']:.0f} s."
    yield ""
    yield f"- with faults:    `{account['digest']}`"
    yield f"- without faults: `{account['digest_undisturbed']}`"
    yield f"- useful share of the time: {account['useful_share']:.0%}; steps done again: {account['steps_again']}"
    yield f"- from the fault to a new step, where a process was lost: {median} (median)"
    yield f"- worker groups: {account['starts']}; ends of drivers by exit code: {_counts(account['driver_ends'])}"
    yield f"- requests to the store: {account['requests']}, of which broken: {_counts(account['requests_broken'])}"
    yield f"- requests retried, as far as drivers lived to tell: {_counts(account['retries'])}"
    yield f"- damaged checkpoints that were passed over: {account['bad_checkpoints']}"
    yield f"- MLflow: {mlflow['runs']} run, {', '.join(mlflow['status'])}, {mlflow['versions']} version"


def _stops(fault):
    return fault["kind"].startswith(("worker", "driver", "bit")) and not fault["done"].startswith("there was no")


def _counts(counts):
    return ", ".join(f"{name} {number}" for name, number in sorted(counts.items())) or "none"
