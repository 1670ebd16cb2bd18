"""metasr report: the evaluation of a model, the curves of a run, or a sweep, as one HTML file to decide by."""

from collections.abc import Sequence
from pathlib import Path

from cluster.config import JobConfig
from cluster.inputs import check_data
from jobs.cli import Parser, add_settings, json_output, run, say, settings
from metasr.errors import ConfigError, RegistryError

DESCRIPTION = """Write the report of an evaluated model, or of a sweep, as one HTML file that needs no network.

The report of a model has its scores by scale, with intervals, against bicubic and today's champion; each patient; the
worst, typical and best slices, to zoom and blink between LR, bicubic, SR, HR and the errors; learning curves,
downstream Dice, the model card, and the commands that reproduce it. `metasr evaluate` writes it too, beside its other
files in MLflow: this command writes it again, against the champion of now, to a file of yours.

Of a run that has not been evaluated the page has the learning curves alone.

Its pictures are made from the data of the evaluation; --data.url says where that is now. With --tracking.pictures
false the report has none.

  metasr report
  metasr report 3 -o version-3.html
  metasr report smoke-0123456789 -o smoke.html
  metasr report sweep-scale-range-0123456789 -o sweep.html"""
SWEEP = "sweep-"


def main(arguments: Sequence[str]) -> None:
    """Write a report."""
    parser = Parser(prog="metasr report", description=DESCRIPTION)
    parser.add_argument(
        "named",
        nargs="?",
        default="challenger",
        metavar="MODEL|RUN|SWEEP",
        help="alias, version, models:/..., name of a run or of a sweep [challenger]",
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="FILE", help="the file [report.html]"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if there is one")
    parser.add_argument("--json", action="store_true", help="print where the report is as JSON")
    add_settings(parser, JobConfig, "data.url", "storage.url", "tracking")
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known).config
    _check_output(known.output, force=known.force)
    if config.data.url:
        check_data(config.data.url)
    with json_output(known.json) as show:
        if known.named.startswith(SWEEP):
            _of_sweep(known.named, known.output, config)
        else:
            _of_model(known.named, known.output, config)
        size = known.output.stat().st_size
        say(f"report: {known.output} ({size / 1e6:.1f} MB)")
        if known.json:
            show({"report": str(known.output), "bytes": size})


def _of_model(reference: str, output: Path, config: JobConfig) -> None:
    from cluster.evaluation.page import judged_version, write_page
    from cluster.evaluation.unjudged import write_unjudged
    from cluster.registry import RUN_NAME, Registry

    registry = Registry(config.tracking, config.storage.url)
    try:
        judged = judged_version(registry, reference, config.data.url)
    except RegistryError as error:
        if not (RUN_NAME.fullmatch(reference) and write_unjudged(output, reference, config)):
            raise
        say(f"it has the learning curves alone: {error}")
        return
    write_page(output, registry, judged)


def _of_sweep(name: str, output: Path, config: JobConfig) -> None:
    from cluster.sweep.stored import stored_sweep, write_sweep_page

    record = stored_sweep(config, name)
    if record is None:
        raise ConfigError(
            f"sweep {name}",
            f"there is none in {config.storage.url}",
            "`metasr tune` prints its name; give its --storage.url too",
        )
    write_sweep_page(output, config, record, say)


def _check_output(path: Path, *, force: bool) -> None:
    """Raise ConfigError before the work if the file cannot be written."""
    if path.is_dir():
        raise ConfigError(f"--output {path}", "it is a folder", f"Give a file, such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise ConfigError(f"--output {path}", f"there is no folder {path.parent}", "Make it first")
    if path.exists() and not force:
        raise ConfigError(f"--output {path}", "it is there already", "Give another name, or --force")


if __name__ == "__main__":
    run(main)
