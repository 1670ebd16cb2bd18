"""metasr upscale: super-resolve volumes and pictures."""

import argparse
import functools
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.config import UpscaleConfig
from cluster.model_choice import MODEL_HELP, RELEASED, choose_bundle
from jobs.cli import Parser, add_settings, json_output, run, say, say_error, settings
from jobs.interface.sizes import NUMBERS, parse_nan_to, parse_scale, parse_spacing
from metasr.data.planes import PLANES
from metasr.errors import ConfigError, MetaSRError

if TYPE_CHECKING:
    from cluster.cohort import Weights
    from metasr.inference.plan import ModelInUse, Options, Task
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
  metasr upscale s3://bucket/scans s3://bucket/sr --scale 2 # a cohort, shared among the workers of RAY_ADDRESS

IN is a NIfTI file, a PNG, JPEG or TIFF picture, the folder of a DICOM series, a folder of such files, a BIDS data
set, or a quoted pattern. OUT, the last of several, is a name that is not there yet or a folder; -o says it outright.
Without OUT a result lies beside its input, with the scale in its name.

A volume keeps its field of view: affine, orientation, units and data type; the voxels get smaller. A constant
background stays exactly that constant. Where the axis across the slices gets finer too, the slices along the two
other planes are super-resolved and averaged. A JSON file beside each result says what made it of what, what the tool
thinks of the input, and how well the result, degraded again, agrees with it. Research software, not a medical device.

A cohort (a bucket, --workers, or several files with RAY_ADDRESS) is shared among Ray tasks. Results that are there,
and that their JSON files say were made by this model of this input in this way, are not made again: the same command
continues. Nodes must reach folders; of a bucket (s3://) they read NIfTI, pictures and BIDS data sets.

Exit code: 0 if all results were made, 1 if some of several failed, 2 for an error that you can correct."""
Place = Path | str
"""A path, or the URL of a bucket."""


def main(arguments: Sequence[str]) -> int:
    """Super-resolve volumes and pictures."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that files begun are removed on the way out
    known = _parser().parse_known(arguments)
    config = settings(UpscaleConfig, known).config
    paths, output = _paths(known)
    known.request = _request(known)
    with json_output(known.json) as show:
        if _is_cohort(paths, output, known):
            done, failed, skipped = _share(paths, output, known, config)
        else:
            tasks, skipped = _tasks(paths, output, known)
            done, failed = _work(tasks, known, config)
        if known.json:
            show({"results": done, "failed": failed, "skipped": skipped})
    return SOME_FAILED if failed else 0


def _parser() -> Parser:
    parser = Parser(prog="metasr upscale", description=DESCRIPTION)
    _add_places_and_grid(parser)
    _add_what_is_done(parser)
    _add_work(parser)
    add_settings(parser, UpscaleConfig)
    return parser


def _add_places_and_grid(parser: Parser) -> None:
    parser.add_argument(
        "paths", nargs="*", type=_place, metavar="IN... [OUT]", help="what to enlarge, and the result"
    )
    parser.add_argument("-i", "--input", type=_place, nargs="+", metavar="IN", help="the same as IN")
    parser.add_argument("-o", "--output", type=_place, metavar="OUT", help="the same as OUT: a file, or a folder")
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


def _add_what_is_done(parser: Parser) -> None:
    parser.add_argument(
        "--ensemble", action="store_true", help="average over eight flips and turns: 8 times the time"
    )
    parser.add_argument(
        "--labels",
        action=argparse.BooleanOptionalAction,
        help="the volume is a label map or mask: enlarge it by nearest label; or it is none, whatever it looks like",
    )
    parser.add_argument(
        "--nan-to", type=parse_nan_to, metavar="X", help="replace NaN and infinity by a number, or by `background`"
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="also write OUT_trust.nii.gz: 1 where the result is to be believed, if the volume is like those "
        "that the model was calibrated on",
    )


def _add_work(parser: Parser) -> None:
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
    parser.add_argument("--model", help=MODEL_HELP)
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="share a cohort: N volumes at a time, in Ray tasks [with RAY_ADDRESS all that fit, else 1, without Ray]",
    )


def _place(text: str) -> Place:
    return text if text.lower().startswith("s3:") else Path(text)


def _paths(known: argparse.Namespace) -> tuple[list[Place], Place | None]:
    """Return inputs and output, also behind `--scale 2` and `--spacing 1`, which take all words that follow."""
    paths = [*(known.input or []), *known.paths]
    for name in ("scale", "spacing"):
        words = getattr(known, name) or []
        count = next((n for n, word in enumerate(words) if n and not NUMBERS.fullmatch(word)), len(words))
        if words:
            setattr(known, name, words[:count])
            paths += map(_place, words[count:])
    if not paths:
        raise ConfigError(
            "metasr upscale", "there is nothing to enlarge", "Name a file: `metasr upscale IN OUT --scale 2`"
        )
    if known.skip_existing and known.force:
        raise ConfigError("--skip-existing and --force", "results that exist are left or replaced", "Give one of two")
    if known.workers is not None and known.workers < 1:
        raise ConfigError(f"--workers {known.workers}", "nobody would work", "Give 1 or more")
    if known.output is not None or known.input:
        return paths, known.output
    if any(isinstance(place, str) for place in paths):
        return (paths[:-1], paths[-1]) if len(paths) > 1 else (paths, None)

    from metasr.inference.plan import split_output

    inputs, output = split_output([Path(path) for path in paths])
    return list(inputs), output


def _request(known: argparse.Namespace) -> "Request":
    scale = parse_scale(known.scale) if known.scale else None
    spacing = parse_spacing(known.spacing) if known.spacing else None

    from metasr.data.volume import load_volume
    from metasr.inference.request import Request

    like = load_volume(known.like, nan_to=0.0) if known.like else None
    return Request(scale, spacing, like, known.plane, known.resample)


def _is_cohort(paths: list[Place], output: Place | None, known: argparse.Namespace) -> bool:
    """Return whether the work is shared: asked for, with a bucket, or several files where there is a cluster."""
    if known.workers is not None or any(isinstance(place, str) for place in (*paths, output)):
        return True
    are_several = len(paths) > 1 or not Path(paths[0]).is_file()
    return bool(os.environ.get("RAY_ADDRESS")) and are_several


def _share(
    paths: list[Place], output: Place | None, known: argparse.Namespace, config: UpscaleConfig
) -> tuple[list[dict[str, Any]], list[dict[str, str]], list[str]]:
    """Share a cohort among workers; return descriptions of results, what failed and why, and what was there."""
    from cluster.cohort import Setup, find_cohort, upscale_cohort
    from cluster.runtime.ordered_map import Needs
    from metasr.inference.progress import Progress

    cohort = find_cohort(paths, output, known.request)
    for note in cohort.notes:
        _tell(known, note)
    weights = None if known.labels else _weights(known, config)
    setup = Setup(cohort.source, _options(known), weights, known.device, known.precision, known.skip_existing)
    workers = known.workers or (None if os.environ.get("RAY_ADDRESS") else 1)
    needs = Needs(config.tasks.cpus, config.tasks.gpus)
    progress = _ignore if known.quiet else Progress(sys.stderr, things="volumes")
    done: list[dict[str, Any]] = []
    failed, skipped = [], []
    outcomes = upscale_cohort(cohort, setup, functools.partial(_tell, known), workers=workers, needs=needs)
    for number, (item, outcome) in enumerate(outcomes, 1):
        for line in outcome.lines:
            _tell(known, line)
        if outcome.error:
            failed.append({"input": item.name, "error": outcome.error})
            say_error(outcome.error)
        elif outcome.description is None:
            skipped.append(item.name)
        else:
            done.append(outcome.description)
        progress(number, len(cohort.items))
    failures = f", {len(failed)} failed" if failed else ""
    _tell(known, f"{len(done)} made, {len(skipped)} were there" + failures)
    return done, failed, skipped


def _options(known: argparse.Namespace) -> "Options":
    from metasr.inference.plan import Options

    return Options(known.request, known.labels, known.nan_to, known.ensemble, known.force, known.trust)


def _weights(known: argparse.Namespace, config: UpscaleConfig) -> "Weights":
    """Return the model that was asked for, to send to workers."""
    from cluster.cohort import Weights

    with tempfile.TemporaryDirectory() as download:
        return Weights.of(*_chosen(known, config, Path(download)))


def _chosen(known: argparse.Namespace, config: UpscaleConfig, download: Path) -> tuple[Path, str]:
    folder, version = choose_bundle(known.model, config.tracking, download)
    if version == RELEASED:
        _tell(known, "model: the one that ships with metasr")
    return folder, version


def _tasks(paths: list[Place], output: Place | None, known: argparse.Namespace) -> "tuple[list[Task], list[str]]":
    """Return what is to be made of what, and the results that exist if they are to be skipped."""
    from metasr.data.inputs import find_inputs
    from metasr.inference.plan import plan

    inputs, notes = find_inputs([Path(path) for path in paths])
    planned = plan(inputs, None if output is None else Path(output), known.request)
    known.is_one = len(planned) == 1
    skipped = [task for task in planned if known.skip_existing and task.output.exists()]
    if skipped:
        notes.append(f"{len(skipped)} of {len(planned)} results exist, and are left as they are")
    for note in notes:
        _tell(known, note)
    return [task for task in planned if task not in skipped], [str(task.input.path) for task in skipped]


def _tell(known: argparse.Namespace, line: str) -> None:
    """Print a line; with --quiet warnings alone."""
    if line.startswith("warning: ") or not known.quiet:
        say(line)


def _work(
    tasks: "list[Task]", known: argparse.Namespace, config: UpscaleConfig
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Work on one after the other; return descriptions of results, and what failed and why.

    An error of the only file ends the command; one of several is told, and the others go on.
    """
    from metasr.inference.files import Told, upscale_file
    from metasr.inference.progress import Progress

    options = _options(known)
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


def _model(known: argparse.Namespace, config: UpscaleConfig) -> "ModelInUse":
    """Return the model that was asked for; without a wish the champion, and where there is none the released one."""
    from metasr.api import device_named
    from metasr.arithmetic import half_precision
    from metasr.inference.bundle import load_bundle
    from metasr.inference.plan import ModelInUse

    device = device_named(known.device)
    with tempfile.TemporaryDirectory() as download:
        folder, version = _chosen(known, config, Path(download))
        return ModelInUse(load_bundle(folder, device), version, half_precision(known.precision, device))


if __name__ == "__main__":
    run(main)
