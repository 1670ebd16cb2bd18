"""metasr evaluate: compare a model with interpolation and other models on the validation subjects."""

import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings
from metasr.errors import ConfigError

if TYPE_CHECKING:
    from cluster.recipes import Resolved
    from cluster.registry import Evidence, Located, Registry
    from cluster.shards import Index
    from metasr.evaluation.report import Circumstances
    from metasr.inference.bundle import Bundle
    from metasr.scale import Scale

DESCRIPTION = """Compare a model with bicubic and Lanczos interpolation, and with other models, on the validation
subjects of the data it was trained on.

Whole slices are degraded as in training, super-resolved and scored. Means are over patients, the difference to
bicubic has a 95 % interval, and from 6 patients on a test; metasr/README.md states the protocol. For a registered
version the result is recorded with it, for `metasr promote`.

Without --eval.scales: 1.1, 1.5, 2, 2.5, 3, 3.5 and 4, or the one scale that the network is for. The protocol's other
scales: 1.4142135, 2.7182818, 3.1415927 (never trained on); 5, 6, 8 (beyond the trained range); 1x4, 2x3.3 (rows x
columns).

  metasr evaluate
  metasr evaluate --model models:/meta-srgan/3 --against champion --eval.scales 1.4142135,2,5,1x4
  metasr evaluate --model path/to/bundle --data.url ~/data/other --all-scales -o results/"""


def main(arguments: Sequence[str]) -> None:
    """Evaluate."""
    known = _parser().parse_known(arguments)
    resolved = settings(JobConfig, known)
    config = resolved.config

    from cluster.registry import Registry, record_evaluation
    from cluster.store import open_store
    from cluster.stream import held_out_slices, read_index
    from metasr.evaluation import BICUBIC, LANCZOS, Method, evaluate
    from metasr.evaluation.folder import write_paper, write_results
    from metasr.perceptual_distance import load_perceptual_distance

    registry = Registry(config.tracking)
    located, bundle = _load(registry, known.model)
    rivals = [LANCZOS]
    for reference in _distinct(known.against):
        name = f"version {reference}" if reference.isdigit() else reference
        rivals.append(Method(name, _load(registry, reference)[1].generator))
    distance = load_perceptual_distance(file=known.perceptual_weights) if known.perceptual_weights else None
    store = open_store(config.data.url or bundle.about["data_url"])
    index = read_index(store)
    slices = held_out_slices(store, index, config.eval.slices_per_subject)
    middle = slices[len(slices) // 2]
    scales = _scales(known.all_scales, resolved, bundle)
    methods = [BICUBIC, *rivals, Method("model", bundle.generator)]
    result = evaluate(
        bundle.generator,
        slices,
        scales,
        bundle.degradation,
        rivals=rivals,
        distance=distance,
        pictured=[middle],
    )
    about = _circumstances(known.model, bundle, store.url, index, len(slices), "vgg16" if distance else "")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say(write_results(folder, result, methods, about))
        if known.paper_table:
            say("\n" + write_paper(folder, result, methods, middle, bundle.degradation))
        if known.output:
            shutil.copytree(folder, known.output, dirs_exist_ok=True)
            say(f"scores and pictures: {known.output}")
        if located.version:
            reference = f"models:/{located.model}/{located.version}"
            evidence = _evidence(about, scales, config.eval.slices_per_subject)
            record_evaluation(registry, reference, evidence, folder)
            own = located.model == config.tracking.model
            say(
                f"recorded with version {located.version}; next: metasr promote --model "
                f"{located.version if own else reference}"
            )


def _circumstances(
    model: str, bundle: "Bundle", data: str, index: "Index", num_slices: int, perceptual_network: str
) -> "Circumstances":
    """Return everything that the results depend on."""
    from metasr.evaluation.report import Circumstances, device_name
    from metasr.inference.bundle import default_device

    return Circumstances(
        model=model,
        bundle_sha256=bundle.digest,
        trained_scales=bundle.trained_scales,
        data=data,
        data_sha256=index.digest(),
        degradation=bundle.degradation.kind,
        noise=bundle.degradation.noise,
        min_brain=index.options.get("min_brain"),
        num_slices=num_slices,
        perceptual_network=perceptual_network,
        device=device_name(default_device()),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _evidence(about: "Circumstances", scales: "Sequence[Scale]", slices_per_subject: int) -> "Evidence":
    """Return what a promotion has to know of an evaluation."""
    from cluster.provenance import code_version
    from cluster.registry import Evidence
    from metasr.evaluation.regions import REGIONS

    return Evidence(
        bundle_sha256=about.bundle_sha256,
        data_sha256=about.data_sha256,
        data_url=about.data,
        scales=tuple(map(str, sorted(set(scales)))),
        slices_per_subject=slices_per_subject,
        regions=REGIONS,
        degradation=about.degradation,
        noise=about.noise,
        code_version=code_version(),
    )


def _parser() -> Parser:
    parser = Parser(prog="metasr evaluate", description=DESCRIPTION)
    parser.add_argument(
        "--model", default="challenger", help="alias, version, models:/... or bundle folder [challenger]"
    )
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="REF",
        help="another model to compare with, named like --model; may be given again",
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
        help="also measure a perceptual distance, in VGG-16 with these weights (as for loss.vgg_weights)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="keep tables, scores (CSV, JSON) and pictures here"
    )
    add_settings(parser, JobConfig, "data.url", "eval", "tracking")
    return parser


def _load(registry: "Registry", reference: str) -> "tuple[Located, Bundle]":
    """Find a model and load it."""
    from metasr.inference.bundle import default_device, load_bundle

    with tempfile.TemporaryDirectory() as download:
        located = registry.locate(reference, Path(download))
        return located, load_bundle(located.folder, default_device())


def _distinct(references: Sequence[str]) -> Sequence[str]:
    """Return the references if each can be the name of a method."""
    if len({"bicubic", "lanczos", "model", *references}) < 3 + len(references):
        raise ConfigError(
            f"--against {' --against '.join(references)}",
            "two methods would have the same name",
            "Give each model once; bicubic and lanczos are always compared",
        )
    return references


def _scales(all_scales: bool, resolved: "Resolved[JobConfig]", bundle: "Bundle") -> "Sequence[Scale]":
    """Return the scales that were asked for, else the one the model is for, else those that are reported."""
    from metasr.scale import ALL_SCALES, REPORTED_SCALES, Scale

    asked = resolved.origins["eval.scales"] != "default"
    if all_scales and asked:
        raise ConfigError("--all-scales and --eval.scales", "they ask for different scales", "Give one of them")
    if asked:
        return resolved.config.eval.scales
    low, high = bundle.trained_scales
    if low == high:
        return (Scale(low, high),)
    return ALL_SCALES if all_scales else REPORTED_SCALES


if __name__ == "__main__":
    run(main)
