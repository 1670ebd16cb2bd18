"""Evaluate a model and record the results: the work of `metasr evaluate`."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cluster.config import EvaluateConfig
from cluster.evaluation.measure import EvaluationResults, Progress, measure
from cluster.evaluation.models import load_model, load_rivals
from cluster.evaluation.page import Judged, write_page
from cluster.evaluation.tasks import Setup, Weights, shares
from cluster.redaction import one_line
from cluster.registry import Evidence, Located, Registry, record_evaluation
from cluster.registry.records import Evaluated
from cluster.runtime.code_version import code_version
from cluster.runtime.ordered_map import Needs
from cluster.shards import Index
from cluster.store import open_store
from cluster.stream import read_index
from metasr.evaluation import BICUBIC, LANCZOS, Method
from metasr.evaluation.downstream import Step
from metasr.evaluation.folder import OUTCOMES, write_paper, write_results
from metasr.evaluation.methods import MODEL_NAME
from metasr.evaluation.outcomes import outcomes_table, patients_table, to_csv
from metasr.evaluation.regions import REGIONS
from metasr.evaluation.report import Circumstances
from metasr.evaluation.segmentation import Command
from metasr.evaluation.tissue import Tissue
from metasr.inference.bundle import Bundle
from metasr.report import REPORT
from metasr.scale import ALL_SCALES, REPORTED_SCALES, Scale

Tell = Callable[[str], None]


@dataclass(frozen=True)
class EvaluationRequest:
    """The arguments of an evaluation.

    Attributes:
        model: Alias, version, models:/... or bundle folder.
        against: Other models, named in the same way; `@ALIAS` is an alias of the model's own registered model.
        scales: Scales to evaluate; None: the single scale that the model supports, or the reported scales.
        all_scales: Without `scales`: evaluate 1.1, 1.2 ... 4.
        tissue: Compare intensity classes.
        command: Segmentation command to compare with; empty: none.
        perceptual_weights: Weights file of a perceptual distance.
        paper_table: Also make the paper's table and figure.
        output: Folder for the results.
        workers: Number of parallel tasks, see `measure`.
    """

    model: str
    against: tuple[str, ...] = ()
    scales: tuple[Scale, ...] | None = None
    all_scales: bool = False
    tissue: bool = False
    command: str = ""
    perceptual_weights: Path | None = None
    paper_table: bool = False
    output: Path | None = None
    workers: int | None = None


def evaluate_model(request: EvaluationRequest, config: EvaluateConfig, tell: Tell, progress: Progress) -> Located:
    """Evaluate a model on the validation subjects, report the tables, and record the results with its version.

    Returns:
        The evaluated model.

    Raises:
        MetaSRError: A model, the data or a step cannot be used.
    """
    steps = _steps(request, config)
    registry = Registry(config.tracking, config.storage.url)
    located, bundle = load_model(registry, request.model)
    rivals = load_rivals(registry, located, request.against)
    store = open_store(config.data.url or bundle.about["data_url"])
    index = read_index(store)
    if index.digest() != bundle.about["data_digest"]:
        tell("the data's index is not that of the training data: some of its subjects may have been trained on")
    parts = shares(store, index, config.eval.slices_per_subject)
    subjects = list(dict.fromkeys(part.subject for part in parts))
    setup = Setup(
        store_url=store.url,
        index=index,
        model=Weights.of(bundle),
        rivals={name: Weights.of(rival) for name, rival in rivals.items()},
        scales=tuple(_scales(request, bundle)),
        slices_per_subject=config.eval.slices_per_subject,
        degradation=bundle.degradation,
        perceptual_weights=request.perceptual_weights and request.perceptual_weights.absolute(),
        slice_mm=config.downstream.slice_mm,
        needs=Needs(config.tasks.cpus, config.tasks.gpus),
        pictured=subjects[len(subjects) // 2] if config.tracking.pictures else "",
        trust=bundle.trust,
    )
    measured = measure(setup, parts, steps, workers=request.workers, progress=progress)
    about = _circumstances(request, bundle, setup, measured)
    evidence = _evidence(about, setup, request, steps)
    networks = [Method(name, rival.generator) for name, rival in rivals.items()]
    methods = [BICUBIC, LANCZOS, *networks, Method(MODEL_NAME, bundle.generator)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        text = write_results(folder, measured.result, methods, about)
        tell(text)
        _write_outcomes(folder, measured, steps, tell)
        if request.paper_table:
            pictured = measured.result.comparisons
            middle = pictured[0].slice if pictured else None
            tell("\n" + write_paper(folder, measured.result, methods, middle, bundle.degradation))
        evaluated = Evaluated(evidence, "", measured.result.scores, measured.outcomes)
        _write_page(
            folder / REPORT, registry, Judged(located, bundle, rivals, about, evaluated, text, store.url), tell
        )
        if request.output:
            shutil.copytree(folder, request.output, dirs_exist_ok=True)
            tell(f"scores, pictures and {REPORT}: {request.output}")
        if located.version:
            reference = f"models:/{located.model}/{located.version}"
            record_evaluation(registry, reference, bundle.about, evidence, folder)
    return located


def _write_page(path: Path, registry: Registry, judged: Judged, tell: Tell) -> None:
    """Write the report; hours of scores are not lost for a page that cannot be drawn, which is said in a line."""
    try:
        write_page(path, registry, judged)
    except Exception as error:
        path.unlink(missing_ok=True)
        tell(f"there is no {REPORT}: {one_line(error)}. Once that is fixed, `metasr report` writes it")


def _steps(request: EvaluationRequest, config: EvaluateConfig) -> list[Step]:
    steps: list[Step] = [Tissue()] if request.tissue else []
    if request.command:
        steps.append(Command(request.command, config.downstream.timeout_s))
    return steps


def _scales(request: EvaluationRequest, bundle: Bundle) -> Sequence[Scale]:
    """Return the requested scales, else the single scale that the model supports, else the reported scales."""
    if request.scales is not None:
        return request.scales
    low, high = bundle.trained_scales
    if low == high:
        return (Scale(low, high),)
    return ALL_SCALES if request.all_scales else REPORTED_SCALES


def _write_outcomes(folder: Path, measured: EvaluationResults, steps: Sequence[Step], tell: Tell) -> None:
    """Write `downstream.csv` and `downstream.txt`, and report the latter, if there were steps."""
    if not steps:
        return
    (folder / OUTCOMES).write_text(to_csv(measured.outcomes))
    tables = [f(measured.outcomes, step.name) for step in steps for f in (outcomes_table, patients_table)]
    text = "\n\n".join(tables)
    (folder / "downstream.txt").write_text(text + "\n")
    tell("\n" + text)


def _circumstances(
    request: EvaluationRequest, bundle: Bundle, setup: Setup, measured: EvaluationResults
) -> Circumstances:
    """Return the circumstances that the results depend on."""
    index: Index = setup.index
    return Circumstances(
        model=request.model,
        bundle_sha256=bundle.digest,
        trained_scales=bundle.trained_scales,
        data=setup.store_url,
        data_sha256=index.digest(),
        degradation=bundle.degradation.kind,
        noise=bundle.degradation.noise,
        min_brain=index.options.get("min_brain"),
        num_slices=len({(score.subject, score.slice) for score in measured.result.scores}),
        perceptual_network="vgg16" if setup.perceptual_weights else "",
        device=measured.device,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _evidence(about: Circumstances, setup: Setup, request: EvaluationRequest, steps: Sequence[Step]) -> Evidence:
    """Return the evidence that a promotion needs."""
    return Evidence(
        bundle_sha256=about.bundle_sha256,
        data_sha256=about.data_sha256,
        data_url=about.data,
        scales=tuple(map(str, sorted(set(setup.scales)))),
        slices_per_subject=setup.slices_per_subject,
        regions=REGIONS,
        degradation=about.degradation,
        noise=about.noise,
        code_version=code_version(),
        downstream=tuple(step.name for step in steps),
        downstream_command=request.command,
        downstream_slice_mm=setup.slice_mm,
    )
