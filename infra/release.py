"""Make a bundle that ships with metasr, from one that was trained and evaluated.

    python infra/release.py BUNDLE EVALUATION metasr/released/NAME [--trust CALIBRATED]

BUNDLE is the folder of a bundle, EVALUATION what `metasr evaluate -o` wrote about it. The weights stay as they are,
and the settings that decide them, without the addresses of the machines that trained. The card, `cards/NAME.md`, says
what it was trained on, how well it does, and what it was not made for.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch

from metasr import manifest
from metasr.config import ExperimentConfig
from metasr.inference.bundle import CARD, TRUST, WEIGHTS, load_bundle
from metasr.trust.conformal import Calibration

TRAINED_ON = {"spacing_mm": [0.87, 1.0], "skull_stripped": True, "contrasts": ["t1ce", "t1"]}
TABLE = "trust.txt"  # of infra/calibrate.py
KEPT = ("metasr_version", "step", "metrics", "run_name", "code_version", "data_digest")
TRUST_TEXT = """\
## Where a result is to be believed

`metasr upscale --trust`, calibrated on the same patients, {patients} of them. Each was left out once and the others
calibrated on: share of the brain's pixels whose error is within the bound (90 % is stated) / share of the brain that
the mask has / share of those whose error is at most {tolerance:.0%} of the range. In brackets: interpolated. A
patient unlike those calibrated on can fall short of what is stated, as TCGA_FG_6692, of another scanner, does at
small scales.

```
{table}
```

"""
CARDS = Path(__file__).with_name("cards")


def main() -> None:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--trust", type=Path, help="the bundle that infra/calibrate.py wrote, for its trust.json")
    options = parser.parse_args()
    about = manifest.unseal(options.bundle, "bundle")
    scores = json.loads((options.evaluation / "scores.json").read_text())
    if scores["bundle_sha256"] != manifest.digest(options.bundle):
        parser.error(f"{options.evaluation} is the evaluation of another bundle")
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    shutil.copyfile(options.bundle / WEIGHTS, options.output / WEIGHTS)
    trust = _with_trust(options.trust, options.output) if options.trust else ""
    known = {name: about["config"][name] for name in ExperimentConfig.model_fields}
    known["data"]["url"] = ""
    released = {name: about[name] for name in KEPT}
    _, table = (options.evaluation / "table.txt").read_text().split("\n", 1)  # the first line names places
    card = (CARDS / f"{options.output.name}.md").read_text().format(table=table.strip(), trust=trust, **released)
    (options.output / CARD).write_text(card)
    manifest.seal(options.output, "bundle", {**released, "config": known, "trained_on": TRAINED_ON})
    load_bundle(options.output, torch.device("cpu"))  # refuses a calibration of other weights
    print(options.output)


def _with_trust(calibrated: Path, output: Path) -> str:
    """Take over a calibration, and return what the card says of it."""
    shutil.copyfile(calibrated / TRUST, output / TRUST)
    found = Calibration.from_json((output / TRUST).read_text())
    table = (calibrated / TABLE).read_text().strip()
    return TRUST_TEXT.format(patients=found.patients, tolerance=found.tolerance, table=table)


if __name__ == "__main__":
    main()
