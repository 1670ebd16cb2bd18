"""metasr evaluate: compare a model with interpolation and other models on the validation subjects."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from cluster.command import command
from cluster.config import EvaluateConfig, TrackingConfig
from cluster.inputs import check_data, check_weights
from cluster.watch.bar import Bar
from jobs.cli import Parser, add_settings, json_output, run, say, settings
from jobs.start import ended_at_once
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from cluster.registry import Located

DESCRIPTION = """Compare a model with bicubic and Lanczos interpolation, and with other models, on the validation
subjects of its training data. A message says if that data has changed.

Whole slices are degraded as in training, super-resolved and scored. Means are over patients. The difference to
bicubic has a 95 % interval and, with 6 patients or more, a significance test; metasr/README.md describes the
protocol. The results for a registered version are recorded with it, for `metasr promote`.

Subjects are evaluated in parallel, on the Ray of RAY_ADDRESS, or on a local Ray that is started only for long work.
--downstream tissue compares intensity classes in HR and SR; --downstream-command compares the labels of your own
program, which runs on each volume without a shell.

Default of --eval.scales: 1.1, 1.5, 2, 2.5, 3, 3.5 and 4, or the single scale that the network supports. Other scales
of the protocol: 1.4142135, 2.7182818, 3.1415927 (never trained on); 5, 6, 8 (beyond the trained range); 1x4, 2x3.3
(rows x columns).

  metasr evaluate
  metasr evaluate models:/meta-srgan@challenger --against @champion
  metasr evaluate 3 --against champion --eval.scales 1.4142135,2,5,1x4
  metasr evaluate path/to/bundle --data.url ~/data/other --all-scales -o results/
  metasr evaluate smoke-0a1b2c3d4e --json > results.json
  metasr evaluate --downstream tissue --downstream-command "segment --in {input} --out {output}"
"""


def main(arguments: Sequence[str]) -> None:
    """Evaluate a model, and record the results."""
    known = _parser().parse_known(arguments)
    resolved = settings(EvaluateConfig, known)
    if known.workers is not None and known.workers < 1:
        raise ConfigError(f"--workers {known.workers}", "at least one is needed", "Give 1 or more")
    if known.model and known.named:
        raise ConfigError(f"{known.named} and --model {known.model}", "two models are given", "Give one")
    asked = resolved.origins["eval.scales"] != "default"
    if known.all_scales and asked:
        raise ConfigError("--all-scales and --eval.scales", "both set the scales", "Give one of them")
    if url := resolved.config.data.url:
        check_data(url)
    check_weights(known.perceptual_weights)

    with ended_at_once():
        from cluster.evaluation import EvaluationRequest, evaluate_model

    with json_output(known.json) as show, TemporaryDirectory() as temporary:
        folder = known.output or Path(temporary)
        request = EvaluationRequest(
            model=known.named or known.model or "challenger",
            against=tuple(known.against),
            scales=resolved.config.eval.scales if asked else None,
            all_scales=known.all_scales,
            tissue="tissue" in known.downstream,
            command=known.downstream_command,
            perceptual_weights=known.perceptual_weights,
            paper_table=known.paper_table,
            output=folder if known.output or known.json else None,
            workers=known.workers,
        )
        bar = Bar(sys.stdout)
        try:
            located = evaluate_model(request, resolved.config, _above(bar), _progress(bar))
        finally:
            bar.clear()
        if located.version:
            _say_next(located, resolved.config.tracking)
        if known.json:
            scores = json.loads((folder / "scores.json").read_text())
            show({"registered_model": located.model, "version": located.version, **scores})


def _say_next(located: "Located", tracking: TrackingConfig) -> None:
    """Say what the evaluation was recorded with, and what to do next."""
    reference = located.version if located.model == tracking.model else f"models:/{located.model}/{located.version}"
    promote = command("promote", "--model", str(reference), tracking=tracking)
    say(f"recorded with version {located.version}; next: {promote}")


def _progress(bar: Bar) -> Callable[[str, float], None]:
    """Return a function that shows progress: in place on a terminal, else as lines."""
    return (lambda text, part: bar.draw([text], part)) if sys.stdout.isatty() else (lambda text, part: say(text))


def _above(bar: Bar) -> Callable[[str], None]:
    """Return a function that prints permanent text above the bar."""

    def tell(text: str) -> None:
        bar.clear()
        say(text)

    return tell


def _parser() -> Parser:
    parser = Parser(prog="metasr evaluate", description=DESCRIPTION)
    parser.add_argument(
        "named",
        nargs="?",
        metavar="MODEL",
        help="alias, version, models:/..., folder or URL of a bundle or a run, or name of a run [challenger]",
    )
    parser.add_argument("--model", metavar="MODEL", help="the same as MODEL")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="REF",
        help="another model to compare with, named like MODEL, or @ALIAS of the same model; can be repeated",
    )
    parser.add_argument("--all-scales", action="store_true", help="evaluate 1.1, 1.2 ... 4.0, for a curve")
    parser.add_argument(
        "--paper-table",
        action="store_true",
        help="also print the paper's Table 1 and draw the images of its Fig. 8 (paper_scales.png)",
    )
    parser.add_argument(
        "--perceptual-weights",
        type=Path,
        metavar="FILE",
        help="also measure a perceptual distance, by VGG-16 with these weights (as for loss.vgg_weights)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="write tables, scores (CSV, JSON) and pictures here"
    )
    parser.add_argument(
        "--downstream",
        action="append",
        default=[],
        choices=["tissue"],
        help="compare intensity classes in the brain of HR and SR (Gaussian mixture, Dice)",
    )
    parser.add_argument(
        "--downstream-command",
        default="",
        metavar="COMMAND",
        help="compare this command's labels of HR and SR (Dice, Hausdorff): it reads {input}, writes {output}",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="number of parallel tasks; 1 runs without Ray [as many as fit]"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON, and all else on stderr")
    add_settings(parser, EvaluateConfig, "data.url", "storage.url", "eval", "tasks", "downstream", "tracking")
    return parser


if __name__ == "__main__":
    run(main)
