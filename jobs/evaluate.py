"""metasr evaluate: compare a model with bicubic interpolation on the validation subjects."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cluster.config import JobConfig
from jobs.cli import Parser, add_settings, run, say, settings

DESCRIPTION = """Compare a model with bicubic interpolation on the validation subjects of the data it was trained on.

Whole slices are degraded as in training, super-resolved and scored (PSNR and SSIM, data range 1, border of
ceil(scale) left out); the table shows means over patients. For a registered version the result is recorded with it,
for `metasr promote`.

  metasr evaluate
  metasr evaluate --model models:/meta-srgan/3 --eval.scales 1.1,2,4
  metasr evaluate --model path/to/bundle --data.url ~/data/other -o results/"""


def main(arguments: Sequence[str]) -> None:
    """Evaluate."""
    parser = Parser(prog="metasr evaluate", description=DESCRIPTION)
    parser.add_argument(
        "--model", default="challenger", help="alias, version, models:/... or bundle folder [challenger]"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="keep scores (CSV, JSON) and pictures here"
    )
    add_settings(parser, JobConfig, "data.url", "eval", "tracking")
    known = parser.parse_known(arguments)
    config = settings(JobConfig, known).config

    from cluster.registry import Registry
    from cluster.store import open_store
    from cluster.stream import held_out_slices, read_index
    from metasr.evaluation import evaluate, mean_by_scale, table, to_csv
    from metasr.inference.bundle import default_device, load_bundle
    from metasr.pictures import comparison_panel

    registry = Registry(config.tracking)
    with tempfile.TemporaryDirectory() as download:
        located = registry.locate(known.model, Path(download))
        bundle = load_bundle(located.folder, default_device())
    store = open_store(config.data.url or bundle.about["data_url"])
    index = read_index(store)
    slices = held_out_slices(store, index, config.eval.slices_per_subject)
    result = evaluate(bundle.generator, slices, config.eval.scales, bundle.degradation)

    say(
        f"model {known.model}, data {store.url}, degradation {bundle.about['config']['data']['degradation']}: "
        f"{len(slices)} slices of {', '.join(index.subjects['val'])}"
    )
    say(table(result.scores))
    if known.output:
        known.output.mkdir(parents=True, exist_ok=True)
        (known.output / "table.txt").write_text(table(result.scores) + "\n")
        (known.output / "scores.csv").write_text(to_csv(result.scores))
        means = [
            {"scale": scale, "method": method, "psnr": mean.psnr, "ssim": mean.ssim}
            for (scale, method), mean in mean_by_scale(result.scores).items()
        ]
        summary = {"bundle_sha256": bundle.digest, "data_sha256": index.digest(), "means": means}
        (known.output / "scores.json").write_text(json.dumps(summary, indent=1) + "\n")
        middle = slices[len(slices) // 2]
        comparison_panel([c for c in result.comparisons if c.slice is middle]).save(known.output / "comparison.png")
        say(f"scores and pictures: {known.output}")
    if located.version:
        reference = f"models:/{located.model}/{located.version}"
        registry.record_evaluation(reference, result.scores, index.digest())
        own = located.model == config.tracking.model
        say(
            f"recorded with version {located.version}; next: metasr promote --model "
            f"{located.version if own else reference}"
        )


if __name__ == "__main__":
    run(main)
