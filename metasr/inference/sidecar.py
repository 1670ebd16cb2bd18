"""The description beside a result: what made it of what, and what the tool thinks of the input, as JSON."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metasr import __version__
from metasr.data.volume import Volume
from metasr.errors import DataError
from metasr.formats import FORMAT, FORMAT_KEY, require_format
from metasr.inference.consistency import consistency_db
from metasr.inference.output import write_text
from metasr.inference.plan import ModelInUse, Options, Task
from metasr.inference.suitability import Finding
from metasr.inference.target import Target

KIND = "metasr.upscale"
LIBRARIES = ("torch", "numpy", "nibabel")
PLACES = 4


@dataclass(frozen=True)
class Done:
    """A result that is written.

    Attributes:
        task: Input and output.
        volume: The input.
        target: What was made of it.
        result: The voxels, along the axes of the input.
        seconds: That it took.
    """

    task: Task
    volume: Volume
    target: Target
    result: NDArray[np.floating]
    seconds: float


def describe(done: Done, options: Options, used: ModelInUse | None, found: Sequence[Finding] = ()) -> dict[str, Any]:
    """Return the description of a result as JSON values; `format` is its version.

    Args:
        done: The result.
        options: As asked for.
        used: The model; None for labels.
        found: What the model was not made for.
    """
    task, volume, target = done.task, done.volume, done.target
    spacing_mm = tuple(
        mm * n / m for mm, n, m in zip(volume.spacing_mm, volume.data.shape, target.shape, strict=True)
    )
    warnings = [*found, *(Finding("header", text) for text in volume.warnings)]
    content = {
        FORMAT_KEY: FORMAT,
        "kind": KIND,
        "versions": versions(),
        "input": {**fingerprint(task.input.path), **_grid(volume.data.shape, volume.spacing_mm)},
        "output": {**fingerprint(task.output), **_grid(target.shape, spacing_mm)},
        "scales": [round(scale, PLACES) for scale in target.scales],
        "plane": target.plane,
        **asked(options),
        "seconds": round(done.seconds, 2),
        "model": None if used is None else _model(used),
        "warnings": [asdict(each) for each in warnings],
        "consistency_db": None if used is None else _consistency(done, used),
    }
    if task.input.dataset:  # fields of BIDS
        content["Sources"] = [f"bids:raw:{task.input.below.as_posix()}"]
        content["Resolution"] = f"voxels of {' x '.join(f'{mm:.4g}' for mm in spacing_mm)} mm"
    return content


def asked(options: Options) -> dict[str, Any]:
    """Return what was asked for, as a description says it: the same of the same input makes the same result."""
    request = options.request
    like: Any = None
    if isinstance(request.like, Volume):
        like = {"shape": list(request.like.data.shape), "affine": request.like.affine.tolist()}
    elif request.like:
        like = {"shape": list(request.like)}
    return {
        "request": {
            "scale": request.scale and list(request.scale),
            "spacing_mm": request.spacing_mm and list(request.spacing_mm),
            "like": like,
            "plane": request.plane,
            "resample": request.resample,
        },
        "ensemble": options.ensemble,
        "labels": bool(options.labels),
        "nan_to": options.nan_to,
    }


def write_description(path: Path, content: dict[str, Any]) -> None:
    """Write a description as JSON; the file appears when it is complete.

    Raises:
        DataError: It cannot be written.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_description(path: Path) -> dict[str, Any]:
    """Read the description of a result.

    Raises:
        DataError: It cannot be read, or is none.
        FormatError: A later version of metasr wrote it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}", str(error), "Give the JSON file beside a result") from error
    require_format(content, str(path))
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise DataError(str(path), "it does not describe a result of metasr upscale", "Give another")
    return content


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {"metasr": __version__, "python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def fingerprint(path: Path) -> dict[str, Any]:
    """Return name, SHA-256 and length of a file; of a folder, those of its files in the order of their names."""
    files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
    digest, length = hashlib.sha256(), 0
    for each in files:
        with each.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
                length += len(chunk)
    return {"name": os.fsencode(path.name).decode(errors="replace"), "sha256": digest.hexdigest(), "bytes": length}


def _grid(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> dict[str, Any]:
    return {"shape": list(shape), "spacing_mm": [round(mm, PLACES) for mm in spacing_mm]}


def _model(used: ModelInUse) -> dict[str, Any]:
    about, low_high = used.bundle.about, used.bundle.trained_scales
    return {
        "bundle_sha256": used.bundle.digest,
        "version": used.version or None,
        "run": about.get("run_name"),
        "step": about.get("step"),
        "data_sha256": about.get("data_digest"),
        "code_version": about.get("code_version"),
        "parameters": used.bundle.generator.num_parameters,
        "trained_scales": list(low_high),
        "device": str(used.bundle.generator.mean.device),
        "precision": "bfloat16" if used.bfloat16 else "float32",
    }


def _consistency(done: Done, used: ModelInUse) -> float | None:
    value = consistency_db(done.volume, done.result, done.target.plane, used.bundle.degradation)
    return None if value is None else round(value, 2)
