"""What simulated runs have cost, as a table for a person."""

STORE = ("get", "get_range", "put", "put_new", "replace", "delete", "exists", "stat")


def rows_of(run, seen, counts):
    """Return the cells of a run by their row."""
    wall_s, groups = counts["wall s"], len(seen.groups)
    messages = _below(counts, "message ")
    requests = {kind: counts[f"store {kind}"] for kind in STORE}
    started = max(1, counts["start workers"])
    return {
        "workers": f"{run.num_workers}",
        "steps; s in all": f"{run.steps}; {wall_s:.0f}",
        "groups of workers, smallest to largest; drivers": f"{groups}, {min(seen.groups)} to {max(seen.groups)}; "
        f"{len(seen.fences)}",
        "driver: s of CPU; MB": _pair(counts["driver CPU s"], counts["driver peak MB"]),
        "mailbox: s of CPU; MB": _pair(counts["mailbox CPU s"], counts["mailbox peak MB"]),
        "messages to the mailbox; a second": f"{_sum_and_words(messages)}; {sum(messages.values()) / wall_s:.0f}",
        "events that the driver saw": f"{seen.events}",
        "store: requests": _sum_and_words(requests),
        "store: conflicts; requests made again": f"{counts['store conflicts']}; "
        f"{sum(_below(counts, 'store retried: ').values())}",
        "store: MB read; written": _pair(counts["store bytes read"] / 1e6, counts["store bytes written"] / 1e6),
        "store: reads of a worker at the start of a group": f"{counts['start get'] / started:.1f}",
        "start of a group: s": f"{counts['group start ms'] / 1000 / max(1, counts['group starts']):.1f}",
        "MLflow: requests": _sum_and_words(_below(counts, "mlflow ")),
        "MLflow: records; points": f"{_sum_and_words(_below(counts, 'record '))}; {counts['points']}",
        "MLflow: s from the last step until it has all": f"{seen.drain_s:.1f}",
        "all workers, in one process: s of CPU; MB": _pair(counts["workers CPU s"], counts["workers peak MB"]),
    }


def table(runs):
    """Yield the lines of a table with a column for each run."""
    for number, name in enumerate(runs[0]):
        yield f"| {' | '.join([name, *(run[name] for run in runs)])} |"
        if not number:
            yield "|---" * (len(runs) + 1) + "|"


def _pair(one, other):
    return f"{one:,.1f}; {other:,.0f}"


def _below(counts, prefix):
    return {name.removeprefix(prefix): number for name, number in counts.items() if name.startswith(prefix)}


def _sum_and_words(counts):
    words = (f"{name} {number:,.0f}" for name, number in sorted(counts.items(), key=lambda one: -one[1]) if number)
    return f"{sum(counts.values()):,.0f} ({', '.join(words)})"
