"""The page of a run that has not been evaluated: its learning curves, and what to do next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metasr.report.content import Curves
from metasr.report.figures import learning_charts
from metasr.report.template import render

HERE = Path(__file__).parent


@dataclass(frozen=True)
class RunReport:
    """The content of the page.

    Attributes:
        title: Name of the run.
        state: How it is, such as `finished`.
        curves: What it measured.
        commands: What to do, and the command that does it.
    """

    title: str
    state: str
    curves: Curves
    commands: Sequence[tuple[str, str]] = ()


def write_run_report(path: Path, report: RunReport) -> None:
    """Write the page to a file; the same bytes for the same content."""
    page = render(HERE, "run.html", report=report, learning=learning_charts(report.curves))
    path.write_text(page, encoding="utf-8")
