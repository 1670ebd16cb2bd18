"""The findings of a sweep, as sentences and table rows."""

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median

from scipy.stats import spearmanr

from cluster.sweep.page_settings import Setting
from cluster.sweep.page_standings import Standing
from metasr.report.template import number_text

FEWEST_FOR_TREND = 6
METHODS = "bicubic", "model"


def headline(standings: Sequence[Standing]) -> str:
    """Return the best trial, and its lead."""
    ranked = [standing for standing in standings if standing.place]
    if not ranked:
        ended = any(standing.trial.has_ended for standing in standings)
        return "No trial has an objective: there is no best one." if ended else "No trial has ended yet."
    best = ranked[0]
    sentence = f"Trial {best.trial.number} is the best: objective {number_text(best.objective)}"
    sentence += f" at step {best.trial.best_step:,}"
    if len(ranked) == 1:
        return f"{sentence}. It is the only one that can be compared."
    second, middle = ranked[1], median(standing.objective or 0.0 for standing in ranked)
    return (
        f"{sentence}. The second, trial {second.trial.number}, has {number_text(second.objective)}; "
        f"the middle of {len(ranked)} is {number_text(middle)}."
    )


def counts(standings: Sequence[Standing]) -> str:
    """Return how many trials there are, and how they ended."""
    found = Counter(standing.trial.status for standing in standings)
    trials = "1 trial" if len(standings) == 1 else f"{len(standings)} trials"
    return f"{trials}: {', '.join(f'{count} {status}' for status, count in found.items())}" if found else "no trials"


def at_edge(setting: Setting, value: object) -> str:
    """Return a warning where the best value of a setting lies at an end of its range; empty otherwise."""
    return "at the edge of the range: better ones may lie beyond" if setting.is_at_edge(value) else ""


def trend(setting: Setting, standings: Sequence[Standing]) -> str:
    """Return how the objective depends on a setting: a rank correlation, or the median of each choice."""
    placed = [
        (setting.position(standing.trial.settings.get(setting.name)), standing.objective)
        for standing in standings
        if standing.place and standing.objective is not None
    ]
    pairs = [(place, objective) for place, objective in placed if not math.isnan(place)]
    if setting.axis.choices:
        return _medians(setting.axis.choices, pairs)
    places, objectives = [place for place, _ in pairs], [objective for _, objective in pairs]
    if len(pairs) < FEWEST_FOR_TREND or len(set(places)) < 2 or len(set(objectives)) < 2:
        return "Too few trials for a trend."
    correlation = float(spearmanr(places, objectives).statistic)
    chance = 1.96 / math.sqrt(len(pairs) - 1)
    said = f"(rank correlation {number_text(correlation, 2)}, {len(pairs)} trials; chance alone gives ±{chance:.2f})"
    if abs(correlation) < chance:
        return f"No clear trend {said}."
    return f"{'Higher' if correlation > 0 else 'Lower'} values went with a better objective {said}."


def scores_by_scale(standing: Standing, scales: Sequence[str]) -> list[list[str]]:
    """Return a row per scale of PSNR and SSIM of the kept checkpoint: bicubic, the model, the gain."""
    metrics = standing.trial.best.metrics if standing.trial.best else {}
    rows = []
    for scale in scales:
        row = [scale]
        for metric, digits in (("psnr", 2), ("ssim", 4)):
            bicubic, model = (metrics.get(f"val_{metric}_{method}_x{scale}", math.nan) for method in METHODS)
            row += [number_text(value, digits) for value in (bicubic, model, model - bicubic)]
        rows.append(row)
    return rows


def _medians(choices: Sequence[str], pairs: Sequence[tuple[float, float]]) -> str:
    """Return the median of each choice, the best first."""
    groups = {choice: [one for place, one in pairs if place == at] for at, choice in enumerate(choices)}
    medians = sorted(((median(group), choice, len(group)) for choice, group in groups.items() if group), reverse=True)
    said = "; ".join(f"{choice}: {number_text(middle)} ({count})" for middle, choice, count in medians)
    return f"Median objective (trials): {said}." if said else "Too few trials for a trend."
