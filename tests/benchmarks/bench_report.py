"""What the figures come to: floors, ratios and their bounds, tables. Nothing here computes with torch."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from statistics import median
from textwrap import wrap
from typing import Any

MARKERS = re.compile(r"(<!-- bench -->\n).*?(<!-- /bench -->)", re.DOTALL)
Result = Mapping[str, Any]


@dataclass(frozen=True)
class Bound:
    """How large the ratio of two calls of a group may be, in the median over rounds.

    Attributes:
        group: Pattern of names of groups.
        call: The call whose seconds are divided.
        by: The call by whose seconds they are divided.
        at_least: The least ratio in a full run; None for no limit, as below.
        at_most: The largest in a full run.
        quick_at_least: As `at_least`, for the smaller inputs of `--quick`.
        quick_at_most: As `at_most`, for those.
    """

    group: str
    call: str
    by: str
    at_least: float | None = None
    at_most: float | None = None
    quick_at_least: float | None = None
    quick_at_most: float | None = None


def floor_s(work: Mapping[str, float], rates: Mapping[str, float]) -> float:
    """Return the seconds that a call takes at the least: of its products or of its bytes, whichever are longer."""
    return max(work["flops"] / rates["flops_per_s"], work["num_bytes"] / rates["bytes_per_s"])


def ratio(group: Mapping[str, Any], call: str, by: str) -> float:
    """Return the median over rounds of the seconds of one call divided by those of another in the same round."""
    pairs = zip(group["calls"][call]["seconds"], group["calls"][by]["seconds"], strict=True)
    return median(one / other for one, other in pairs)


def check(result: Result, bounds: Sequence[Bound], slack: float) -> Iterator[tuple[bool, str]]:
    """Compare ratios with their bounds: whether each holds, and a line about it.

    Args:
        result: Of a run.
        bounds: What to hold it to. Groups and calls that the run did not have are left out.
        slack: Factor by which a ratio may miss its bound.
    """
    for bound in bounds:
        least, most = bound.at_least, bound.at_most
        if result["quick"]:
            least, most = bound.quick_at_least, bound.quick_at_most
        for group in result["groups"]:
            known = fnmatch(group["name"], bound.group) and {bound.call, bound.by} <= set(group["calls"])
            if not known or (least is None and most is None):
                continue
            found = ratio(group, bound.call, bound.by)
            holds = (least is None or found >= least / slack) and (most is None or found <= most * slack)
            wanted = " and ".join(
                f"at {word} {limit:g}" for word, limit in (("least", least), ("most", most)) if limit is not None
            )
            verdict = "holds" if holds else "BROKEN"
            names = f"{group['name']}: {bound.call} / {bound.by}"
            yield holds, f"{verdict}: {names} is {found:.3g}, to be {wanted} (slack {slack:g})"


def heading(result: Result) -> str:
    """Return where, when and how the figures were made."""
    machine = result["machine"]
    loads = f"load {machine['load_before']} to {machine['load_after']}"
    shared = "" if machine["load_before"] < machine["idle_below"] else ", shared with other work"
    return (
        f"`{result['command']}`, {result['date']}: {machine['arithmetic']}, {machine['cores']} cores "
        f"({loads}{shared}), {machine['instruction_sets']}. Medians of {result['clock']}"
    )


def markdown(result: Result) -> str:
    """Return all figures as tables."""
    rates = result["rates"]
    lines = [
        "# Speed",
        "",
        f"{heading(result)}; milliseconds. The floor is the longer of a call's products at the rate measured for "
        f"square float32 matrices ({rates['flops_per_s'] / 1e9:.0f} GFLOP/s) and its bytes at that of copies "
        f"({rates['bytes_per_s'] / 1e9:.1f} GB/s). The last column divides by the first call of the table, round by "
        "round.",
    ]
    for group in result["groups"]:
        first = next(iter(group["calls"]))
        lines += ["", f"## {group['name']}", "", f"{group['inputs']}, {group['rounds']} rounds", ""]
        lines += [f"| | ms | floor | times {first} |", "|---|---|---|---|"]
        for name, call in group["calls"].items():
            ms, floor = _ms(median(call["seconds"])), _ms(floor_s(call["work"], rates))
            lines.append(f"| {name} | {ms} | {floor} | {_digits(ratio(group, name, first))} |")
    batches = [group for group in result["groups"] if group["name"].startswith("batch ")]
    if batches:
        times = sorted(ratio(group, "decode, per-pixel", "decode") for group in batches)
        lines += [
            "",
            "## All batches",
            "",
            f"The per-pixel form takes {times[0]:.0f} to {times[-1]:.0f} times as long as `decode`, "
            f"{median(times):.0f} in the median of {len(times)} scales; "
            f"at least 100 times at {sum(value >= 100 for value in times)}.",
        ]
    return "\n".join(lines) + "\n"


def readme_table(result: Result) -> str:
    """Return the short table of the front page."""
    groups = {group["name"]: group for group in result["groups"]}
    networks, one_slice, rates = groups["networks"], groups["slice"], result["rates"]
    words = (
        f"{heading(result)} ([all of them](tests/benchmarks/bench.md)). The floor is arithmetic and bytes at the "
        "rates measured for matrix products and copies. `per-pixel` is meta-upscale as others compute it, a kernel "
        "for each pixel:"
    )
    lines = [
        *wrap(words, 118, break_long_words=False, break_on_hyphens=False),
        "",
        "| | ms | floor, ms | |",
        "|---|---|---|---|",
    ]
    first = next(iter(networks["calls"]))
    for name, call in networks["calls"].items():
        if name.endswith(", plain"):
            continue  # at this scale as fast as the first
        times = "1" if name == first else f"{_digits(ratio(networks, name, first))} times as long"
        lines.append(_row(f"{name}, {networks['inputs']}", call, rates, times))
    for name in ("encode", "decode at 2.7", "decode at pi"):
        share = "" if name == "encode" else f"{ratio(one_slice, name, 'encode'):.0%} of encode"
        lines.append(_row(f"{name}, {one_slice['inputs']}", one_slice["calls"][name], rates, share))
    return "\n".join(lines) + "\n"


def with_table(text: str, table: str) -> str:
    """Return a Markdown text with a new table between its markers.

    Raises:
        ValueError: It has no markers.
    """
    if not MARKERS.search(text):
        raise ValueError("there is no <!-- bench --> followed by <!-- /bench --> to write between")
    return MARKERS.sub(lambda match: f"{match[1]}{table}{match[2]}", text)


def _row(name: str, call: Mapping[str, Any], rates: Mapping[str, float], last: str) -> str:
    return f"| {name} | {_ms(median(call['seconds']))} | {_ms(floor_s(call['work'], rates))} | {last} |"


def _ms(seconds: float) -> str:
    return _digits(seconds * 1e3)


def _digits(value: float) -> str:
    """Three digits, or all before the point, without an exponent from 0.0001 on."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
