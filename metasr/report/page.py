"""Write a report as one HTML file that needs no network, no server and no storage of the browser."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from metasr.data.patients import patient_of_row
from metasr.evaluation.outcomes import gains
from metasr.evaluation.pictures import ERROR_GAIN
from metasr.evaluation.report import CONVENTIONS, rivals_of
from metasr.evaluation.statistics import differences
from metasr.report import figures as charts
from metasr.report import findings, tables
from metasr.report.card import card_html
from metasr.report.content import Report
from metasr.report.pictures import pictured
from metasr.report.template import render, script_hash

REPORT = "report.html"
HERE = Path(__file__).parent


def write_report(path: Path, report: Report) -> None:
    """Write a report to a file; the same bytes for the same content."""
    path.write_text(_render(report), encoding="utf-8")


def _render(report: Report) -> str:
    script = (HERE / "page.js").read_text(encoding="utf-8")
    patients = {patient_of_row(score) for score in report.scores}
    cases = pictured(report.pictures)
    return render(
        HERE,
        "page.html",
        report=report,
        script=Markup(script),
        script_hash=Markup(script_hash(script)),
        headline=findings.headline(report.scores),
        figures=findings.figures(report),
        cautions=findings.cautions(report),
        num_patients=len(patients),
        cases=cases,
        first_case=max((n for n, one in enumerate(cases) if one.case.kind == "typical"), default=0),
        error_gain=ERROR_GAIN,
        max_dots=charts.MAX_DOTS,
        by_scale=tables.by_scale(report.scores),
        by_patient=tables.by_patient(report.scores),
        regions=tables.regions(report.scores),
        detail=tables.detail(report.scores),
        card=card_html(report.card) if report.card else "",
        conventions=CONVENTIONS,
        learning=charts.learning_charts(report.curves),
        **_charts(report),
    )


def _charts(report: Report) -> dict[str, Any]:
    rivals = [name for name in rivals_of(report.scores) if differences(report.scores, name, "psnr")]
    gained = {measure: [differences(report.scores, rival, measure) for rival in rivals] for measure in findings.SHOWN}
    steps = dict.fromkeys(outcome.step for outcome in report.outcomes)
    return {
        "gains": [charts.gains_chart(measure, found) for measure, found in gained.items()],
        "rivals": [(rival, charts.COLOURS[n % len(charts.COLOURS)]) for n, rival in enumerate(rivals)],
        "steps": [
            (
                step,
                charts.dice_chart(step, gains(report.outcomes, step)),
                tables.downstream(report.outcomes, step, of_all=True),
                tables.downstream(report.outcomes, step),
            )
            for step in steps
        ],
    }
