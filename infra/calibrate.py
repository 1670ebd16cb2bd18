"""Calibrate what a model's doubt means, for `metasr upscale --trust`, on the validation subjects of a data set.

    python infra/calibrate.py BUNDLE DATA OUTPUT

BUNDLE is the folder of a bundle, DATA the URL that `metasr prepare` wrote; OUTPUT becomes a copy of the bundle with
`trust.json` and this table (`trust.txt`), sealed. Whole slices are degraded and enlarged as in `metasr evaluate`.
Each patient is left out once, to measure on patients that were not calibrated on:

    within     share of the brain's pixels whose error is within the bound; the stated coverage is 90 %
    believed   share of the brain that the mask would have
    right      share of those whose error is within the tolerance

What is written was calibrated on all of them, or on those of --only: the others are tested then, and not calibrated
on. A scale in brackets is not calibrated, but interpolated.
"""

import argparse
import hashlib
import shutil
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cluster.evaluation.tasks import shares
from cluster.store import open_store
from cluster.stream import read_index, slices_of
from metasr import manifest
from metasr.data.patients import patient_of_row
from metasr.evaluation import Method
from metasr.evaluation.coverage import doubts_and_errors
from metasr.evaluation.methods import MODEL_NAME
from metasr.evaluation.protocol import HeldOutSlice, compare
from metasr.evaluation.tables import grid
from metasr.inference.bundle import TRUST, WEIGHTS, Bundle, load_bundle
from metasr.scale import REPORTED_SCALES, Scale
from metasr.trust.conformal import COVERAGE, TOLERANCE, Bounds, Calibration

TABLE = "trust.txt"
BETWEEN = (Scale(2.7, 2.7),)
PIXELS = 50_000  # of a patient at a scale; patients count alike


class Pixels(NamedTuple):
    """Doubt and error of pixels in the brain."""

    scores: np.ndarray
    errors: np.ndarray


def main() -> None:
    """Measure, and write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("data")
    parser.add_argument("output", type=Path)
    parser.add_argument("--slices", type=int, default=6, help="of each subject, evenly spread [6]")
    parser.add_argument("--only", default="", help="patients to calibrate on, separated by commas [all]")
    options = parser.parse_args()
    if options.output.exists():
        parser.error(f"{options.output} exists")
    bundle = load_bundle(options.bundle, torch.device("cpu"))
    only = [name for name in options.only.split(",") if name]
    seen = measured(bundle, options.data, options.slices)
    weights = hashlib.sha256((options.bundle / WEIGHTS).read_bytes()).hexdigest()
    if unknown := set(only) - set(seen):
        parser.error(f"no such patients: {', '.join(sorted(unknown))}")
    chosen = only or list(seen)
    table = left_out(seen, chosen, weights)
    print(table)
    shutil.copytree(options.bundle, options.output)
    (options.output / TRUST).write_text(calibrated(seen, chosen, weights).to_json())
    (options.output / TABLE).write_text(table + "\n")
    manifest.seal(options.output, "bundle", manifest.unseal(options.bundle, "bundle"))
    print(options.output)


def measured(bundle: Bundle, url: str, slices_per_subject: int) -> dict[str, dict[Scale, Pixels]]:
    """Return doubt and error of each patient at each scale."""
    store = open_store(url)
    index, model = read_index(store), Method(MODEL_NAME, bundle.generator)
    found: dict[str, dict[Scale, list[Pixels]]] = defaultdict(lambda: defaultdict(list))
    for share in shares(store, index, slices_per_subject):
        if share.number:
            continue  # all slices of a subject are read with its first part
        for held_out in slices_of(store, index, share.shard, share.subject, slices_per_subject):
            for scale in (*REPORTED_SCALES, *BETWEEN):
                found[patient_of_row(held_out)][scale].append(_pixels(held_out, scale, model, bundle))
    return {patient: {scale: _thinned(parts) for scale, parts in scales.items()} for patient, scales in found.items()}


def _pixels(held_out: HeldOutSlice, scale: Scale, model: Method, bundle: Bundle) -> Pixels:
    comparison = compare([model], held_out, scale, bundle.degradation)
    return Pixels(*doubts_and_errors(comparison.images[MODEL_NAME], comparison.lr, comparison.hr))


def _thinned(parts: list[Pixels]) -> Pixels:
    """Return the pixels of a patient's slices, at most `PIXELS` of them, evenly spread."""
    scores, errors = (np.concatenate(each) for each in zip(*parts, strict=True))
    chosen = np.unique(np.linspace(0, len(scores) - 1, min(PIXELS, len(scores))).astype(int))
    return Pixels(scores[chosen], errors[chosen])


def calibrated(seen: dict[str, dict[Scale, Pixels]], patients: list[str], weights: str) -> Calibration:
    """Return the calibration of some patients."""
    bounds = {}
    for scale in REPORTED_SCALES:
        pixels = [seen[patient][scale] for patient in patients]
        bounds[scale.rows] = Bounds.fit(*(np.concatenate(each) for each in zip(*pixels, strict=True)))
    return Calibration(weights, len(patients), COVERAGE, TOLERANCE, bounds)


def left_out(seen: dict[str, dict[Scale, Pixels]], chosen: list[str], weights: str) -> str:
    """Return a row for each patient, calibrated on the others of `chosen`: within / believed / right."""
    scales = sorted((*REPORTED_SCALES, *BETWEEN))
    rows = [["left out", *(f"({scale})" if scale in BETWEEN else str(scale) for scale in scales)]]
    for patient in seen:
        calibration = calibrated(seen, [other for other in chosen if other != patient], weights)
        cells = []
        for scale in scales:
            scores, errors = seen[patient][scale]
            bound = calibration.bound(scores, scale.rows)
            believed = bound <= calibration.tolerance
            right = f"{(errors[believed] <= calibration.tolerance).mean():.3f}" if believed.any() else "-"
            cells.append(f"{(errors <= bound).mean():.3f} / {believed.mean():.2f} / {right}")
        rows.append([patient, *cells])
    return grid(rows)


if __name__ == "__main__":
    main()
