"""Make the bundle that ships with metasr, from one that was trained and evaluated.

    python infra/release.py BUNDLE EVALUATION metasr/released/fidelity

BUNDLE is the folder of a bundle, EVALUATION what `metasr evaluate -o` wrote about it. The weights stay as they are,
and the settings that decide them, without the addresses of the machines that trained. The card says what it was
trained on, how well it does, and what it was not made for.
"""

import argparse
import json
import shutil
from pathlib import Path

from metasr import manifest
from metasr.config import ExperimentConfig
from metasr.inference.bundle import CARD, WEIGHTS

TRAINED_ON = {"spacing_mm": [0.87, 1.0], "skull_stripped": True, "contrasts": ["t1ce", "t1"]}
KEPT = ("metasr_version", "step", "metrics", "run_name", "forked_from", "code_version", "data_digest")
CARD_TEXT = Path(__file__).with_name("release-card.md")


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    about = manifest.unseal(options.bundle, "bundle")
    scores = json.loads((options.evaluation / "scores.json").read_text())
    if scores["bundle_sha256"] != manifest.digest(options.bundle):
        parser.error(f"{options.evaluation} is the evaluation of another bundle")
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    shutil.copyfile(options.bundle / WEIGHTS, options.output / WEIGHTS)
    known = {name: about["config"][name] for name in ExperimentConfig.model_fields}
    known["data"]["url"] = ""
    released = {name: about[name] for name in KEPT}
    _, table = (options.evaluation / "table.txt").read_text().split("\n", 1)  # the first line names places
    (options.output / CARD).write_text(CARD_TEXT.read_text().format(table=table.strip(), **released))
    manifest.seal(options.output, "bundle", {**released, "config": known, "trained_on": TRAINED_ON})
    print(options.output)


if __name__ == "__main__":
    main()
