"""The training state in a checkpoint: one SHA-256 of all of it, and the differences of two checkpoints."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from metasr.errors import CheckpointError
from metasr.manifest import unseal
from metasr.training.state import LOG, WEIGHTS

PARTS = ("generator", "average", "discriminator", "generator_optimiser", "discriminator_optimiser")
"""Parts of the state in the order of comparison; any others follow."""


class Mismatch(NamedTuple):
    """A difference between two runs.

    Attributes:
        name: Dotted name of a setting, name of a metric or of a tensor.
        about: Its values in A and B, or the size of the difference.
    """

    name: str
    about: dict[str, Any]

    def __str__(self) -> str:
        about = ", ".join(f"{key} {json.dumps(value)}" for key, value in self.about.items())
        return f"{self.name}: {about}" if about else self.name


@dataclass(frozen=True)
class Check:
    """The result of one comparison.

    Attributes:
        name: What was compared.
        equal: Whether it is the same in both.
        differences: The differences; only the first line of the metric log.
        value: The common value, if it is short enough to print.
        since: Step until which they are equal.
    """

    name: str
    equal: bool
    differences: tuple[Mismatch, ...] = ()
    value: str = ""
    since: int = 0


def state_digest(folder: Path) -> str:
    """Return one SHA-256 of the whole training state in a checkpoint; equal only for equal bits.

    It is the SHA-256 of a text with a line `<SHA-256>  <name>` for each part of the state (`generator`, `average` if
    there is one, `discriminator`, `generator_optimiser`, `discriminator_optimiser`) and for `metrics.jsonl`, sorted
    by name. The SHA-256 of the log is that of its bytes. That of a part covers its tensors sorted by name: for each a
    line of JSON, `["<name>", "<dtype>", [<shape>]]` as in safetensors, and its bytes, little-endian.

    Args:
        folder: A checkpoint; its files are verified.

    Raises:
        CheckpointError: It is not a checkpoint, or it is damaged.
    """
    unseal(folder, "checkpoint")
    digests = _digests(folder)
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()


def compare_states(a: Path, b: Path) -> tuple[Check, ...]:
    """Compare the training states in two checkpoints: the metric log, then each part of the state.

    Args:
        a: A checkpoint whose files were verified.
        b: Another.

    Raises:
        CheckpointError: One cannot be read.
    """
    ours, theirs = _digests(a), _digests(b)
    found = (ours.keys() | theirs.keys()) - {LOG}
    checks = []
    for name in (LOG, *(part for part in PARTS if part in found), *sorted(found - set(PARTS))):
        label = "metric log" if name == LOG else name
        if ours.get(name) == theirs.get(name):
            checks.append(Check(label, True, value=ours[name]))
        else:
            differences = (_first_line(a, b),) if name == LOG else tuple(_tensors(a, b, name))
            checks.append(Check(label, False, differences))
    return tuple(checks)


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each part of the state and of the metric log, see `state_digest`."""
    hashes: dict[str, Any] = {}
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as state:
            for name in sorted(state.keys()):
                part = hashes.setdefault(name.partition("/")[0], hashlib.sha256())
                piece = state.get_slice(name)
                part.update(json.dumps([name, piece.get_dtype(), piece.get_shape()]).encode() + b"\n")
                part.update(_bytes(state.get_tensor(name)).numpy())
        hashes[LOG] = hashlib.sha256((folder / LOG).read_bytes())
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"checkpoint {folder}", f"its state cannot be read ({reason})", "Use another"
        ) from error
    return {name: one.hexdigest() for name, one in hashes.items()}


def _first_line(a: Path, b: Path) -> Mismatch:
    """Return the first difference of two metric logs."""
    logs = [(folder / LOG).read_text(errors="replace").splitlines() for folder in (a, b)]
    for number, (ours, theirs) in enumerate(zip_longest(*logs), start=1):
        if ours != theirs:
            return _line(number, _record(ours), _record(theirs))
    return Mismatch("ends of lines", {})


def _line(number: int, ours: dict[str, Any], theirs: dict[str, Any]) -> Mismatch:
    """Return the first metric that differs between two lines; a log that has ended has none."""
    steps = [record["step"] for record in (ours, theirs) if isinstance(record.get("step"), int)]
    place = {"line": number, "step": min(steps, default=None)}
    for name in dict.fromkeys((*ours, *theirs)):
        values = ours.get(name), theirs.get(name)
        if json.dumps(values[0]) != json.dumps(values[1]):  # as text, for NaN differs from itself
            return Mismatch(name, {**place, "A": values[0], "B": values[1]})
    return Mismatch("notation", place)


def _record(line: str | None) -> dict[str, Any]:
    try:
        record = json.loads(line or "{}")
    except ValueError:
        record = None
    return record if isinstance(record, dict) else {"text": line}


def _tensors(a: Path, b: Path, part: str) -> Iterator[Mismatch]:
    """Yield the tensors of a part that differ, by name, with the size of the difference."""
    with ExitStack() as stack:
        states = [stack.enter_context(safe_open(folder / WEIGHTS, framework="pt")) for folder in (a, b)]
        ours, theirs = ([name for name in one.keys() if name.partition("/")[0] == part] for one in states)  # noqa: SIM118
        for name in sorted({*ours, *theirs}):
            kinds = _kind(states[0], name, ours), _kind(states[1], name, theirs)
            if kinds[0] != kinds[1]:
                yield Mismatch(name, {"A": kinds[0], "B": kinds[1]})
            elif about := _distance(*(state.get_tensor(name) for state in states)):
                yield Mismatch(name, about)


def _kind(state: Any, name: str, names: list[str]) -> str | None:
    """Return type and shape of a tensor; None if there is no such tensor."""
    if name not in names:
        return None
    piece = state.get_slice(name)
    return f"{piece.get_dtype()} {piece.get_shape()}"


def _distance(a: Tensor, b: Tensor) -> dict[str, Any]:
    """Return the number of values of two tensors whose bits differ, and the largest difference; empty if none do.

    `relative` is the largest difference divided by the largest value. Non-finite numbers become None.
    """
    differ = (_bytes(a) != _bytes(b)).view(-1, a.element_size()).any(dim=1)
    if not differ.any():
        return {}
    ours, theirs = a.flatten().double(), b.flatten().double()
    furthest = (ours - theirs).abs().max().item()
    largest = torch.maximum(ours.abs(), theirs.abs()).max().item()
    return {
        "values": f"{int(differ.sum())} of {differ.numel()}",
        "max_abs": _rounded(furthest),
        "relative": _rounded(furthest / largest if largest else 0.0),
    }


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if isfinite(value) else None


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)
