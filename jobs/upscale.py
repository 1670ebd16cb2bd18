"""metasr upscale: super-resolve volumes and pictures."""

import argparse
import functools
import math
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cluster.config import JobConfig
from cluster.model_choice import RELEASED, choose_bundle
from jobs.cli import Parser, add_settings, json_output, run, say, say_error, settings
from metasr.data.planes import PLANES
from metasr.errors import ConfigError, MetaSRError
from metasr.scale import parse_factors

if TYPE_CHECKING:
    from metasr.inference.plan import ModelInUse, Task
    from metasr.inference.request import Request

SOME_FAILED = 1
DESCRIPTION = """Super-resolve volumes and pictures: slices at any scale from 1 to 16, or all axes to a voxel size.

  metasr upscale in.nii.gz out.nii.gz --scale 2.5
  metasr upscale thick.nii.gz out.nii.gz --spacing 1        # finer axes stay as they are
  metasr upscale flair.nii.gz out.nii.gz --like t1.nii.gz   # on the grid of another volume
  metasr upscale scans/ results/ --scale 2 --skip-existing  # a folder; the same command again continues
  metasr upscale bids/ --scale 2                            # a BIDS data set, to bids/derivatives/metasr
  metasr upscale "scans/*_t1ce.nii.gz" dicom/ slice.png --scale 2
  metasr upscale seg.nii.gz out.nii.gz --scale 2 --labels   # by nearest label, without a model

IN is a NIfTI file, a PNG, JPEG or TIFF picture, the folder of a DICOM series, a folder of such files, a BIDS data
set, or a quoted pattern. OUT, the last of several, is a name that is not there yet or a folder; -o says it outright.
Without OUT a result lies beside its input, with the scale in its name.

A volume keeps its field of view: affine, orientation, units and data type; the voxels get smaller. A constant
background stays exactly that constant. Where the axis across the slices gets finer too, the slices along the two
other planes are super-resolved and averaged. A JSON file beside each result says what made it of what, what the tool
thinks of the input, and how well the result, degraded again, agrees with it. Research software, not a medical device.

Exit code: 0 if all results were made, 1 if some of several failed, 2 for an error that you can correct."""
NUMBERS = re.compile(r"-?[\d.]+(?:e-?\d+)?(?:x-?[\d.]+)*|nan|inf", re.IGNORECASE)


def main(arguments: Sequence[str]) -> int:
    """Super-resolve volumes and pictures."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that files begun are removed on the way out
    known = _parser().parse_known(arguments)
    config = settings(JobConfig, known).config
    paths, output = _paths(known)
    known.request = _request(known)
    with json_output(known.json) as show:
        done, failed = _work(_tasks(paths, output, known), known, config)
        if known.json:
            show({"results": done, "failed": failed})
    return SOME_FAILED if failed else 0


def _parser() -> Parser:
    parser = Parser(prog="metasr upscale", description=DESCRIPTION)
    parser.add_argument("paths", nargs="*", type=Path, metavar="IN... [OUT]", help="what to enlarge, and the result")
    parser.add_argument("-i", "--input", type=Path, nargs="+", metavar="IN", help="the same as IN")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="the same as OUT: a file, or a folder")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument(
        "--scale",
        nargs="+",
        metavar="R",
        help="HR size / LR size within the slices, 1 to 16; ROWSxCOLUMNS; or IxJxK along the axes of the array",
    )
    how.add_argument(
        "--spacing",
        nargs="+",
        metavar="MM",
        help="voxel size in mm: one for all axes, or one each for i, j, k of the array; finer axes stay as they are",
    )
    how.add_argument(
        "--like", type=Path, metavar="OTHER", help="the grid of another volume with the same field of view"
    )
    parser.add_argument(
        "--resample", action="store_true", help="bring axes that are finer than --spacing to it, by interpolation"
    )
    parser.add_argument(
        "--plane",
        choices=PLANES,
        help="plane of the slices [axial; with --spacing across the axis with the largest voxels]",
    )
    parser.add_argument(
        "--ensemble", action="store_true", help="average over eight flips and turns: 8 times the time"
    )
    parser.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="the volume is a label map or mask: enlarge it by nearest label; or it is none, whatever it looks like",
    )
    parser.add_argument(
        "--nan-to", type=_nan_to, metavar="X", help="replace NaN and infinity by a number, or by `background`"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="also write OUT_trust.nii.gz: 1 where the result is to be believed, calibrated to a coverage of 90 %%",
    )
    parser.add_argument("--force", action="store_true", help="replace results that exist")
    parser.add_argument("--skip-existing", action="store_true", help="leave out inputs whose result exists")
    parser.add_argument("--device", help="where to compute, such as cpu or cuda:1 [the first GPU, else the CPU]")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the convolutions; auto: bfloat16 where the device computes it natively, else float32 [auto]",
    )
    parser.add_argument("--quiet", action="store_true", help="say only what went wrong")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON")
    parser.add_argument(
        "--model",
        help="alias, version, bundle or run, by folder or URL [champion; else the model that ships with metasr]",
    )
    add_settings(parser, JobConfig, "tracking")
    return parser


def _paths(known: argparse.Namespace) -> tuple[list[Path], Path | None]:
    """Return what was named, also behind `--scale 2` and `--spacing 1`, which take all words that follow."""
    paths = [*(known.input or []), *known.paths]
    for name in ("scale", "spacing"):
        words = getattr(known, name) or []
        count = next((n for n, word in enumerate(words) if n and not NUMBERS.fullmatch(word)), len(words))
        if words:
            setattr(known, name, words[:count])
            paths += map(Path, words[count:])
    if not paths:
        raise ConfigError(
            "metasr upscale", "there is nothing to enlarge", "Name a file: `metasr upscale IN OUT --scale 2`"
        )
    if known.skip_existing and known.force:
        raise ConfigError("--skip-existing and --force", "results that exist are left or replaced", "Give one of two")
    return paths, known.output


def _request(known: argparse.Namespace) -> "Request":
    scale = _factors(known.scale) if known.scale else None
    spacing = _spacing(known.spacing) if known.spacing else None

    from metasr.data.volume import load_volume
    from metasr.inference.request import Request

    like = load_volume(known.like, nan_to=0.0) if known.like else None
    return Request(scale, spacing, like, known.plane, known.resample)


def _factors(words: Sequence[str]) -> tuple[float, ...]:
    """Return the scales of rows and columns, or of the three axes; 1 leaves an axis as it is.

    Raises:
        ConfigError: They are no such numbers.
    """
    text = "x".join(words).lower()
    parts = text.split("x")
    try:
        return tuple(parse_factors(part)[0] for part in parts) if len(parts) == 3 else parse_factors(text)
    except ValueError as error:
        message = f"argument --scale: {error}, or i x j x k along the axes of the array, such as 2x2x1"
        raise ConfigError("metasr upscale", message, "`metasr upscale --help` explains the arguments") from error


def _spacing(words: Sequence[str]) -> tuple[float, float, float]:
    """Return the voxel size along i, j and k; one number is that of all axes."""
    try:
        numbers = [float(word) for part in words for word in part.lower().split("x")]
    except ValueError as error:
        message = f"argument --spacing: {' '.join(words)} is no voxel size in mm"
        raise ConfigError("metasr upscale", message, "`metasr upscale --help` explains the arguments") from error
    if len(numbers) not in (1, 3):
        raise ConfigError(
            f"--spacing of {len(numbers)} numbers", "", "Give one for all axes, or one each for i, j, k"
        )
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]


def _nan_to(text: str) -> "float | Literal['background']":
    if text == "background":
        return "background"
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a finite number nor `background`")
    return number


def _tasks(paths: list[Path], output: Path | None, known: argparse.Namespace) -> "list[Task]":
    """Return what is to be made of what, without results that exist if they are to be skipped."""
    from metasr.data.inputs import find_inputs
    from metasr.inference.plan import plan, split_output

    if output is None and not known.input:
        paths, output = split_output(paths)
    inputs, notes = find_inputs(paths)
    planned = plan(inputs, output, known.request)
    known.is_one = len(planned) == 1
    tasks = [task for task in planned if not (known.skip_existing and task.output.exists())]
    if len(tasks) < len(planned):
        notes.append(f"{len(planned) - len(tasks)} of {len(planned)} results exist, and are left as they are")
    for note in notes:
        _tell(known, note)
    return tasks


def _tell(known: argparse.Namespace, line: str) -> None:
    """Print a line; with --quiet warnings alone."""
    if line.startswith("warning: ") or not known.quiet:
        say(line)


def _work(
    tasks: "list[Task]", known: argparse.Namespace, config: JobConfig
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Work on one after the other; return descriptions of results, and what failed and why.

    An error of the only file ends the command; one of several is told, and the others go on.
    """
    from metasr.inference.files import Told, upscale_file
    from metasr.inference.plan import Options
    from metasr.inference.progress import Progress

    options = Options(known.request, known.labels, known.nan_to, known.ensemble, known.force, known.trust)
    model = functools.cache(lambda: _model(known, config))  # once, and only where one is needed
    if tasks and not (known.is_one or options.labels):
        model()  # without it nothing goes on
    done, failed = [], []
    for number, task in enumerate(tasks, 1):
        label = f"[{number}/{len(tasks)}] {task.input.path.name}: " if not known.is_one else ""
        told = Told(functools.partial(_tell, known), _ignore if known.quiet else Progress(sys.stderr, label=label))
        try:
            done.append(upscale_file(task, options, model, told))
        except MetaSRError as error:
            if known.is_one:
                raise
            failed.append({"input": str(task.input.path), "error": str(error)})
            say_error(str(error))
    if tasks and not known.is_one:
        _tell(known, f"{len(done)} made" + (f", {len(failed)} failed" if failed else ""))
    return done, failed


def _ignore(done: int, total: int) -> None:
    pass


def _model(known: argparse.Namespace, config: JobConfig) -> "ModelInUse":
    """Return the model that was asked for; without a wish the champion, and where there is none the released one."""
    from metasr.api import device_named
    from metasr.arithmetic import half_precision
    from metasr.inference.bundle import load_bundle
    from metasr.inference.plan import ModelInUse

    device = device_named(known.device)
    with tempfile.TemporaryDirectory() as download:
        folder, version = choose_bundle(known.model, config.tracking, Path(download))
        if version == RELEASED:
            _tell(known, "model: the one that ships with metasr")
        return ModelInUse(load_bundle(folder, device), version, half_precision(known.precision, device))


if __name__ == "__main__":
    run(main)
