"""A sweep as one HTML page: the best settings, how certain that is, and pictures.

It shares its style and its rules with the report of an evaluation (`metasr/report`), and has no scripts.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.sweep import page_charts as charts
from cluster.sweep import page_findings as findings
from cluster.sweep.page_settings import Setting, settings_of, value_text
from cluster.sweep.page_standings import Standing, duration_text, pareto_front, standings_of
from cluster.sweep.record import SweepRecord
from metasr.charts import MINUS
from metasr.report.template import NONE, png_url, render


def write_page(folder: Path, record: SweepRecord, pictures: Mapping[str, bytes]) -> Path:
    """Write `index.html` into a folder: one file, the same bytes for the same sweep.

    Args:
        folder: Made if it is not there.
        record: Of a sweep, which need not be finished.
        pictures: PNG files of the best trial, by what they show.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    path.write_text(_render(record, pictures), encoding="utf-8")
    return path


def _render(record: SweepRecord, pictures: Mapping[str, bytes]) -> str:
    standings, settings = standings_of(record), settings_of(record)
    best = standings[0] if standings and standings[0].is_best else None
    return render(
        Path(__file__).parent,
        "page.html",
        duration=duration_text,
        value=value_text,
        record=record,
        standings=standings,
        best=best,
        headline=findings.headline(standings),
        warnings=_warnings(record),
        counts=findings.counts(standings),
        searched=_searched(settings, best),
        scores=findings.scores_by_scale(best, record.scales) if best else [],
        pictures=_pictures(pictures, best),
        **_charts(settings, standings),
    )


def _warnings(record: SweepRecord) -> list[str]:
    """Return what a reader should know before believing the best trial."""
    found = [record.shortfall, record.best.decline if record.best else ""]
    return [f"{text[0].upper()}{text[1:].replace('-', MINUS)}." for text in found if text]


def _searched(settings: Sequence[Setting], best: Standing | None) -> list[dict[str, str]]:
    """Return a row for each setting: its domain, the best value, and a warning if that is at the edge."""
    chosen = best.trial.settings if best else {}
    return [
        {
            "name": setting.name,
            "domain": setting.domain,
            "chosen": value_text(chosen[setting.name]) if setting.name in chosen else NONE,
            "warning": findings.at_edge(setting, chosen.get(setting.name)),
        }
        for setting in settings
    ]


def _charts(settings: Sequence[Setting], standings: Sequence[Standing]) -> dict[str, Any]:
    """Return the charts; None instead of one that would be empty."""
    said = f"{findings.counts(standings)}. {findings.headline(standings)}"
    has_curves = any(standing.trial.history for standing in standings)
    measured = [standing for standing in standings if standing.trade_off]
    front = pareto_front(measured)
    trends = [findings.trend(setting, standings) for setting in settings]
    names = ", ".join(f"trial {standing.trial.number}" for standing in front)
    return {
        "parallel": charts.parallel_coordinates(settings, standings, f"Settings and objective of {said}")
        if settings and standings
        else None,
        "against": [
            (
                charts.objective_against(
                    setting, standings, f"against-{n}", f"Objective over {setting.name}. {trend}"
                ),
                trend,
            )
            for n, (setting, trend) in enumerate(zip(settings, trends, strict=True))
            if standings
        ],
        "curves": charts.learning_curves(standings, f"Objective over steps of {said}") if has_curves else None,
        "trade_off": charts.trade_off(measured, front, f"PSNR gain over perceptual gain; on the front: {names}")
        if measured
        else None,
        "front": front,
    }


def _pictures(pictures: Mapping[str, bytes], best: Standing | None) -> list[dict[str, str]]:
    """Return the pictures as data URLs, with names and text alternatives."""
    whose = f"trial {best.trial.number}" if best else "the best trial"
    return [
        {
            "name": name,
            "alt": f"Pictures of {whose}: {name}",
            "url": png_url(png),
        }
        for name, png in pictures.items()
    ]
