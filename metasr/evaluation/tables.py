"""Scores as text: tables for people, and CSV for programs."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from io import StringIO
from math import isnan
from typing import TYPE_CHECKING

from metasr.evaluation.cost import Cost
from metasr.evaluation.methods import BICUBIC_NAME, LANCZOS_NAME, MODEL_NAME
from metasr.evaluation.protocol import Score
from metasr.evaluation.regions import REGIONS, RegionName
from metasr.evaluation.statistics import MIN_PATIENTS_FOR_TEST, PairedDifference, differences, mean_by_scale
from metasr.scale import Scale

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SIGNIFICANT = 0.05
LONGEST_NAME = 24
SOME = ("patient", "covered")
"""Columns of models with a calibration, and of subjects whose names do not tell the patient."""


def comparison_table(scores: Sequence[Score], rival: str = BICUBIC_NAME) -> str:
    """Return a row per scale: a rival, the model, and their difference with its 95 % interval, on whole slices.

    A star marks a significant difference by Wilcoxon's test (p < 0.05 after Holm's correction).
    """
    means = mean_by_scale(scores)
    gains = {measure: differences(scores, rival, measure) for measure in ("psnr", "ssim")}
    methods = [rival, LANCZOS_NAME, MODEL_NAME] if rival == BICUBIC_NAME else [rival, MODEL_NAME]
    methods = [method for method in methods if any(method == name for _, name in means)]
    rows = [["scale", *(shortened(method) for method in methods), "PSNR gain", "SSIM gain"]]
    for psnr, ssim in zip(gains["psnr"], gains["ssim"], strict=True):
        cells = [means[psnr.scale, method] for method in methods]
        rows.append(
            [
                str(psnr.scale),
                *(f"{mean.psnr:.2f} / {mean.ssim:.4f}" for mean in cells),
                _gain(psnr, 2),
                _gain(ssim, 4),
            ]
        )
    return grid(rows)


def patients_table(scores: Sequence[Score], rival: str = BICUBIC_NAME) -> str:
    """Return a row per scale with each patient's gain, PSNR / SSIM; empty for one patient, or enough for a test."""
    pairs = list(zip(*(differences(scores, rival, measure) for measure in ("psnr", "ssim")), strict=True))
    patients = sorted({name for psnr, _ in pairs for name in psnr.by_patient})
    if not 1 < len(patients) < MIN_PATIENTS_FOR_TEST:
        return ""
    rows = [["scale", *(shortened(name) for name in patients)]]
    for psnr, ssim in pairs:
        gains = [f"{psnr.by_patient[name]:+.2f} / {ssim.by_patient[name]:+.4f}" for name in patients]
        rows.append([str(psnr.scale), *gains])
    return grid(rows)


def regions_table(scores: Sequence[Score]) -> str:
    """Return a row per scale: bicubic and the model inside the brain and on the 128 x 128 crop, PSNR / SSIM."""
    means = [mean_by_scale(scores, region) for region in ("brain", "crop128")]
    methods = BICUBIC_NAME, MODEL_NAME
    rows = [["scale", *(f"{region} {method}" for region in ("brain", "crop128") for method in methods)]]
    for scale in sorted({scale for of_region in means for scale, _ in of_region}):
        cells = [of_region.get((scale, method)) for of_region in means for method in methods]
        rows.append([str(scale), *(f"{cell.psnr:.2f} / {cell.ssim:.4f}" if cell else "-" for cell in cells)])
    return grid(rows)


def measures_table(scores: Sequence[Score]) -> str:
    """Return a row per scale: the secondary measures of bicubic and the model on whole slices."""
    means = mean_by_scale(scores)
    formats = {
        "nrmse": ("NRMSE", ".4f"),
        "consistency": ("consistency", ".2f"),
        "mismatch": ("mismatch", ".1%"),
        "perceptual": ("perceptual", ".4f"),
        "covered": ("covered", ".1%"),
    }
    columns = [
        (name, method)
        for name in formats
        for method in (BICUBIC_NAME, MODEL_NAME)
        if not all(isnan(getattr(mean, name)) for (_, of), mean in means.items() if of == method)
    ]
    rows = [["scale", *(f"{formats[name][0]} {method}" for name, method in columns)]]
    for scale in sorted({scale for scale, _ in means}):
        cells = [(getattr(means[scale, method], name), formats[name][1]) for name, method in columns]
        rows.append([str(scale), *(format(value, form) for value, form in cells)])
    return grid(rows)


def cost_table(costs: Sequence[Cost]) -> str:
    """Return a row per scale: seconds of each method, and for networks GMAC and seconds per volume."""
    found = {(cost.scale, cost.method): cost for cost in costs}
    networks = {cost.method: cost.parameters is not None for cost in costs}
    names = ("s",), ("GMAC", "s", "s a volume")
    rows = [["scale", *(f"{shortened(method)} {name}" for method in networks for name in names[networks[method]])]]
    for scale in sorted({scale for scale, _ in found}):
        cells: list[str] = []
        for method, is_network in networks.items():
            cost = found.get((scale, method))
            if cost is None:
                cells += ["-"] * len(names[is_network])
                continue
            cells.append(f"{cost.seconds_per_slice:.3g}")
            if cost.macs is not None:
                cells = [*cells[:-1], f"{cost.macs / 1e9:.2f}", cells[-1], f"{cost.seconds_per_volume:.3g}"]
        rows.append([str(scale), *cells])
    return grid(rows)


def to_csv(scores: Sequence[Score]) -> str:
    """Return the scores as tidy CSV, one row per subject, slice, scale, method and region; empty: not measured."""
    return rows_to_csv(Score, [asdict(score) | {"scale": str(score.scale)} for score in scores])


def rows_to_csv(kind: type["DataclassInstance"], rows: Sequence[Mapping[str, object]]) -> str:
    """Return rows as CSV, with a dataclass's fields as columns; some only where a row has them, see `SOME`."""
    text = StringIO()
    names = [field.name for field in fields(kind)]
    names = [name for name in names if name not in SOME or any(row.get(name) not in ("", None) for row in rows)]
    writer = csv.DictWriter(text, names, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def from_csv(text: str) -> list[Score]:
    """Parse scores written by `to_csv`.

    Raises:
        ValueError, KeyError, TypeError: The text was not written by `to_csv`.
    """
    regions: dict[str, RegionName] = {region: region for region in REGIONS}
    return [
        Score(
            row["subject"],
            int(row["slice"]),
            Scale.parse(row["scale"]),
            row["method"],
            regions[row["region"]],
            float(row["psnr"]),
            float(row["ssim"]),
            float(row["nrmse"]),
            float(row["consistency"]) if row["consistency"] else None,
            float(row["perceptual"]) if row["perceptual"] else None,
            float(row["mismatch"]) if row.get("mismatch") else None,
            float(row["covered"]) if row.get("covered") else None,
            row.get("patient", ""),
        )
        for row in csv.DictReader(StringIO(text))
    ]


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines, the first column left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip())
    return "\n".join(lines)


def shortened(name: str) -> str:
    """Return a name, cut at its start if it is too long for a column."""
    return name if len(name) <= LONGEST_NAME else f"...{name[3 - LONGEST_NAME :]}"


def _gain(difference: PairedDifference, digits: int) -> str:
    text = f"{difference.mean:+.{digits}f}"
    if difference.interval:
        low, high = difference.interval
        text += f" [{low:+.{digits}f}, {high:+.{digits}f}]"
    if difference.p_value is not None:
        text += "*" if difference.p_value < SIGNIFICANT else " "
    return text
