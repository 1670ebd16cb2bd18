"""What is done to which files, and where each result goes: known before anything is computed."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from metasr.data import bids
from metasr.data.inputs import Input
from metasr.errors import ConfigError
from metasr.inference.output import ENDINGS
from metasr.inference.request import Request

if TYPE_CHECKING:
    from metasr.inference.bundle import Bundle

NanTo = float | Literal["background"]


@dataclass(frozen=True)
class Options:
    """What is done to every file.

    Attributes:
        request: The scale, voxel size or grid that is wanted.
        labels: Whether the volumes are label maps, which are enlarged by nearest label; None where that is not known,
            and what looks like one is refused.
        nan_to: What replaces NaN and infinity.
        ensemble: Average over flips and turns.
        force: Replace results that exist.
        trust: Also write where the result is to be believed.
    """

    request: Request
    labels: bool | None = None
    nan_to: NanTo | None = None
    ensemble: bool = False
    force: bool = False
    trust: bool = False


@dataclass(frozen=True)
class ModelInUse:
    """A model and where it came from.

    Attributes:
        bundle: Loaded, on the device to compute on.
        version: Of the registered model, such as `meta-srgan 3`; empty where it is none.
        bfloat16: Whether its convolutions are computed in bfloat16 instead of float32.
    """

    bundle: "Bundle"
    version: str = ""
    bfloat16: bool = False


@dataclass(frozen=True)
class Task:
    """An input and the path of its result."""

    input: Input
    output: Path

    @property
    def sidecar(self) -> Path:
        """The JSON file beside the result."""
        name = self.output.name
        stem = next((name[: -len(end)] for end in ENDINGS if name.lower().endswith(end)), name)
        return self.output.with_name(f"{stem}.json" if self.input.dataset else f"{stem}.metasr.json")


def split_output(paths: Sequence[Path]) -> tuple[list[Path], Path | None]:
    """Return inputs and output of `IN... [OUT]`: the last of several is OUT if it is a folder, or not there yet.

    Raises:
        ConfigError: Of two files that are both there, which one is meant is not clear.
    """
    *inputs, last = paths
    if not inputs or set("*?[") & set(last.name):
        return list(paths), None
    try:
        if last.is_dir() or not last.exists():
            return inputs, last
    except OSError:  # such as a name that is too long: told when it is checked
        return inputs, last
    if len(paths) == 2:
        raise ConfigError(
            f"{inputs[0]} {last}",
            "both are there: the second may be an input or an output to replace",
            f"Give `-o {last}` for an output, or `-i {inputs[0]} {last}` for two inputs",
        )
    return list(paths), None


def plan(inputs: Sequence[Input], output: Path | None, request: Request) -> list[Task]:
    """Return which result is made of which input.

    Without `output` a result lies beside its input, with the scale in its name; those of a BIDS data set in its
    `derivatives/metasr`. With a folder they lie in it as the inputs lie in the folder that was named.

    Raises:
        ConfigError: Several results would be one file.
    """
    if output and _is_file_name(output):
        if len(inputs) > 1:
            raise ConfigError(
                f"output {output}", f"it is one file, and there are {len(inputs)} inputs", "Give a folder with -o"
            )
        return [Task(inputs[0], output)]
    tasks = [Task(each, _place(each, output, request.label)) for each in _apart(inputs)]
    seen: dict[Path, Input] = {}
    for task in tasks:
        if other := seen.get(task.output):
            raise ConfigError(
                f"output {task.output}", f"it would be that of {other.path} and of {task.input.path}", "Rename one"
            )
        seen[task.output] = task.input
    return tasks


def _apart(inputs: Sequence[Input]) -> list[Input]:
    """Return inputs, those of one name with the folders below the one that they have in common."""
    count = Counter(each.below for each in inputs)
    common = os.path.commonpath([each.path.parent.absolute() for each in inputs])
    return [
        each if count[each.below] == 1 else replace(each, below=each.path.absolute().relative_to(common))
        for each in inputs
    ]


def _is_file_name(path: Path) -> bool:
    try:
        return not path.is_dir() and (path.is_file() or bool(path.suffix))
    except OSError:  # such as a name that is too long: told when it is checked
        return True


def _place(item: Input, folder: Path | None, label: str) -> Path:
    ending = item.path.suffix.lower() if item.kind == "picture" else ".nii.gz"
    if item.path.name.lower().endswith(".nii"):
        ending = ".nii"
    if item.dataset:
        name = bids.derived_name(item.path.name, label)
        return (folder or bids.derivatives(item.dataset)) / item.below.with_name(name)
    if folder:
        return folder / item.below.parent / f"{item.stem}{ending}"
    return item.path.with_name(f"{item.stem}_{label}{ending}")
