"""The end of a sweep: register the best trial; write the table, the page and the artifacts."""

import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig
from cluster.outbox.run_log import RunLog, ids_of_children
from cluster.recipes import flatten
from cluster.store import open_store
from cluster.stream import read_index, shard_cache, validation_slices
from cluster.sweep.record import SweepRecord, Trial
from cluster.sweep.space import SweepPlan
from cluster.training.identify import RunSpec
from cluster.training.observers import OUTCOME
from cluster.training.registration import Sent, register_trial
from metasr.config import EvalConfig
from metasr.errors import ConfigError, MetaSRError, StoreError
from metasr.evaluation import Conditions, evaluate
from metasr.evaluation.pictures import comparison_panel, png_bytes
from metasr.inference.bundle import load_bundle

RECORD, PAGE, PAGE_FILE = "sweep.json", "sweep.html", "index.html"
LAST_RECORDS_S = 20.0
Tell = Callable[[str], None]


def conclude(
    plan: SweepPlan, record: SweepRecord, data_digest: str, log: RunLog, tell: Tell, output: Path | None
) -> tuple[SweepRecord, Sent]:
    """Register the best trial, write the record and its page, and report the result.

    Args:
        plan: Of the sweep.
        record: Of the sweep.
        data_digest: SHA-256 of the index of its data.
        log: Of the sweep's run in MLflow.
        tell: Called with lines of output.
        output: Folder for the page and the record, besides MLflow.

    Returns:
        The record, with the ids of the runs in MLflow, and what MLflow has got of the best trial.

    Raises:
        MetaSRError: The best trial has no usable checkpoint, or another driver is training it.
    """
    from cluster.sweep.page import write_page  # imports matplotlib, which no trial and no dry run needs

    for trial in record.trials:
        if trial.status == "failed":
            _mark_failed(plan, record, trial)
    best, pictures, sent = record.best, {}, Sent()
    if best is not None:
        resolved = plan.trial(best.settings)
        spec = RunSpec(resolved, plan.recipe, fork=best.fork, data_digest=data_digest)
        sent = register_trial(spec, record.name, tell)
        log.tag("metasr.best_run", best.run_name)
        pictures = best_pictures(resolved.config, best, tell)
    record = _with_ids(plan, record, tell)
    with tempfile.TemporaryDirectory() as folder:
        place = output or Path(folder)
        page = write_page(place, record, pictures)
        (place / RECORD).write_text(record.to_json())
        log.text(RECORD, record.to_json())
        log.text(PAGE, page.read_text(encoding="utf-8"))
    for line in table(record):
        tell(line)
    if output is not None:
        tell(f"page: {output / PAGE_FILE}")
    return record, sent


def table(record: SweepRecord) -> list[str]:
    """Return a line for each trial: the ranked ones, the best first, then the others."""
    ranked = record.ranking
    others = [trial for trial in record.trials if trial not in ranked]
    rows = [["trial", "objective", "step", "status", *record.space, "reason"]]
    for trial in (*ranked, *others):
        objective = "" if trial.best_objective is None else f"{trial.best_objective:+.4f}"
        settings = [str(trial.settings.get(name, "")) for name in record.space]
        step = str(trial.history[-1].step) if trial.history else "0"
        rows.append([str(trial.number), objective, step, trial.status, *settings, trial.reason])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def as_flags(trial: Trial) -> str:
    """Return the settings of a trial, and its fork, as arguments of `metasr train`."""
    flags = [
        part
        for name, value in trial.settings.items()
        for part in (f"--{name.replace('_', '-')}", value if isinstance(value, str) else json.dumps(value))
    ]
    return shlex.join([*flags, "--fork", str(trial.fork)] if trial.fork else flags)


def best_pictures(config: JobConfig, trial: Trial, tell: Tell) -> dict[str, bytes]:
    """Return pictures of a validation slice at every scale, upscaled by the best generator of a trial, as PNG.

    Args:
        config: Storage, and whether pictures are kept.
        trial: With a checkpoint, whose bundle names data and scales.
        tell: Called with why there are none.
    """
    if not config.tracking.pictures:
        return {}
    checkpoints = RunCheckpoints(open_store(config.storage.url), trial.run_name)
    try:
        best = checkpoints.best()
        if best is None:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            checkpoints.fetch(best, Path(folder))
            bundle = load_bundle(Path(folder) / "bundle", torch.device("cpu"))
        data = open_store(bundle.about["data_url"])
        index = read_index(data, bundle.about["data_digest"])
        cache = shard_cache(data, config.storage.cache, config.storage.cache_gb)
        slices = validation_slices(data, index, 1, cache)
        scales = EvalConfig.model_validate(bundle.about["config"]["eval"]).scales
        found = evaluate(bundle.generator, slices, scales, Conditions(bundle.degradation))
    except MetaSRError as error:
        tell(f"the page has no pictures: {error}")
        return {}
    return {f"x{one.scale}": png_bytes(comparison_panel([one])) for one in found.comparisons}


def _with_ids(plan: SweepPlan, record: SweepRecord, tell: Tell) -> SweepRecord:
    try:
        ids = ids_of_children(plan.config.tracking, record.name)
    except StoreError as error:
        tell(f"the record has no run ids of MLflow: {error}")
        return record
    trials = (trial.model_copy(update={"run_id": ids.get(trial.run_name, "")}) for trial in record.trials)
    return record.model_copy(update={"trials": tuple(trials)})


def _mark_failed(plan: SweepPlan, record: SweepRecord, trial: Trial) -> None:
    """Mark a trial as failed in MLflow, as its process may have died, or failed before its run was made there."""
    try:
        params = flatten(plan.trial(trial.settings).config)
    except ConfigError:
        params = dict(trial.settings)
    with RunLog(plan.config.tracking, trial.run_name, params, {}, parent=record.name) as log:
        log.tag(OUTCOME, f"failed: {trial.reason}")
        log.status("FAILED")
        log.drain(LAST_RECORDS_S)
