"""metasr demo: the whole workflow on one healthy brain."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from jobs import evaluate, prepare, promote, train, upscale
from jobs.cli import Parser, run, say

SCALE = 2.5
NUM_SUBJECTS = 4
HELD_OUT = 1
# Not 1.1: after so few steps the network's noise on the black background lowers SSIM there.
EVALUATED_SCALES = "1.5,2,3,4"
DESCRIPTION = f"""Run the whole workflow on one healthy brain.

The ICBM 2009a T1 template that ships with nilearn (an average of 152 healthy adults) is deformed and recoloured
into {NUM_SUBJECTS} synthetic patients. They are prepared into shards, a tiny recipe is trained on 2 workers, the
model is evaluated, registered and promoted, and a volume is super-resolved at scale {SCALE:g}. This shows that
everything works. It says nothing about real patients, and the model has no practical use.

  metasr demo -o demo/"""


def main(arguments: Sequence[str]) -> None:
    """Run the demo."""
    parser = Parser(prog="metasr demo", description=DESCRIPTION)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("demo"), metavar="FOLDER", help="folder to work in [demo]"
    )
    home: Path = parser.parse_known(arguments).output.absolute()
    started = time.monotonic()
    tracking = ["--tracking.uri", f"sqlite:///{home}/mlflow.db", "--tracking.artifacts", f"{home}/artifacts"]

    say(f"[1/6] synthetic patients: one healthy template, deformed and recoloured, in {home}/brats")
    original, low_resolution, upscaled = (
        home / f"{name}.nii.gz" for name in ("original", "low-resolution", "upscaled")
    )
    held_out = _make_patients(home, original, low_resolution)
    which = ["--modality", "t1ce", "--slice-step", "2", "--val-subjects", held_out]
    _step(2, prepare, "-i", f"{home}/brats", "-o", f"{home}/store", *which)
    _step(3, train, "--recipe", "demo", "--data.url", f"{home}/store", "--storage.url", f"{home}/runs", *tracking)
    few = ["--eval.scales", EVALUATED_SCALES, "--eval.slices-per-subject", "6"]
    _step(4, evaluate, "-o", f"{home}/evaluation", *few, *tracking)
    _step(5, promote, "--gate.scales", EVALUATED_SCALES, *tracking)
    _step(6, upscale, "-i", str(low_resolution), "-o", str(upscaled), "--scale", str(SCALE), "--force", *tracking)

    say(f"\ndone in {time.monotonic() - started:.0f} s. On a healthy template, not on patients:\n")
    say((home / "evaluation" / "table.txt").read_text())
    say(
        f"pictures (LR | bicubic | SR | HR | error): {home}/evaluation/comparison.png\n"
        f"volumes of {held_out}, which was not trained on, to compare side by side or as an overlay:\n"
        f"  {low_resolution}   the input\n"
        f"  {upscaled}         the output\n"
        f"  {original}         the ground truth, on the same grid\n"
        f"runs and models: mlflow ui --backend-store-uri sqlite:///{home}/mlflow.db"
    )


def _step(number: int, job: ModuleType, *arguments: str) -> None:
    """Print a command, and run it."""
    verb = job.__name__.rpartition(".")[2]
    say(f"\n[{number}/6] metasr {shlex.join([verb, *arguments])}")
    job.main(arguments)


def _make_patients(home: Path, original: Path, low_resolution: Path) -> str:
    """Write the synthetic patients, and the original and low-resolution volumes of one; return its name."""
    from metasr.data.synthetic import cut_to_scale, load_template, write_low_resolution, write_subjects

    files = write_subjects(home / "brats", *load_template(), num_subjects=NUM_SUBJECTS)
    held_out = files[HELD_OUT]
    cut_to_scale(held_out, original, SCALE)
    write_low_resolution(original, low_resolution, SCALE)
    return held_out.parent.name


if __name__ == "__main__":
    run(main)
