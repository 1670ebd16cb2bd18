"""How quickly `metasr view` shows a volume of 240 x 240 x 155 voxels, and zooms into it, in a real browser.

A stand-in brain of that size, the network of the default recipe, a picture of 512 x 512 pixels. The zoom goes from 2
to 8 and back, a step at each frame of the screen. Weights are random unless --model names a bundle.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from playwright.sync_api import sync_playwright

from metasr.config import ExperimentConfig
from metasr.data.synthetic import load_template
from metasr.data.volume import load_volume
from metasr.identity import RunIdentity
from metasr.inference.bundle import load_bundle, save_bundle
from metasr.models import build_generator
from metasr.viewer.decoder import Decoder
from metasr.viewer.scene import Scene
from metasr.viewer.window import Span
from tests.browser.chromium import launch

METASR = Path(sys.executable).with_name("metasr")
SIDE = 512
SHAPE = (240, 240, 155)
MIDDLE = 70
SCALES = ((23, 11), (22, 7), (4, 1), (17, 3), (8, 1), (517, 240), (1237, 240))
"""As the page asks for while something moves; the last two at rest, where kernels hardly repeat."""
SWEEP = """(seconds) => new Promise((done) => {
  const zoom = document.getElementById("zoom");
  const stage = document.getElementById("stage");
  const frames = [];
  let screens = 0;
  const note = ({ detail }) => frames.push({ at: performance.now(), ...detail });
  stage.addEventListener("frame", note);
  const began = performance.now();
  const step = () => {
    const part = (performance.now() - began) / 1000 / seconds;
    if (part >= 1) {
      stage.removeEventListener("frame", note);
      done({ frames, screens, ms: performance.now() - began });
      return;
    }
    screens++;
    zoom.value = 1 / 3 + (2 / 3) * (part < 0.5 ? 2 * part : 2 - 2 * part);
    zoom.dispatchEvent(new Event("input"));
    requestAnimationFrame(step);
  };
  step();
})"""


def make_volume(path: Path) -> None:
    """Write the template on the grid of BraTS."""
    template, affine = load_template()
    data = np.zeros(SHAPE, np.int16)
    part = (1000 * template / template.max()).astype(np.int16)[:, :, 15 : 15 + SHAPE[2]]
    data[20 : 20 + part.shape[0], 3 : 3 + part.shape[1]] = part
    nib.save(nib.Nifti1Image(data, affine), path)


def make_bundle(folder: Path) -> None:
    """Write the network of the default recipe with random weights."""
    config = ExperimentConfig()
    identity = RunIdentity("benchmark", "none", "file:///nowhere", "0" * 64)
    save_bundle(folder, build_generator(config.model), config, identity, step=0, metrics={})


def measure(volume: Path, bundle: Path, seconds: float) -> dict:
    """Open the page, zoom, and return what it took."""
    began = time.perf_counter()
    command = [METASR, "view", volume, "--model", bundle, "--no-open", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        address = server.stdout.readline().strip()
        listening = time.perf_counter() - began
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": 900, "height": 620})
        page.set_default_timeout(600_000)
        page.goto(f"{address}#zoom=2&mode=sr")
        page.wait_for_selector("#stage[data-shown=sr]")
        marks = page.evaluate("performance.getEntriesByType('mark').map(({ name, startTime }) => [name, startTime])")
        box = page.locator("#stage").bounding_box()
        page.set_viewport_size(
            {"width": round(900 + SIDE - box["width"]), "height": round(620 + SIDE - box["height"])}
        )
        page.evaluate(SWEEP, 2)  # the kernels of the scales on the way are made, as they are in use
        found = page.evaluate(SWEEP, seconds)
        size = page.evaluate("(({ width, height }) => [width, height])(document.getElementById('picture'))")
        browser.close()
        server.terminate()
    return {"listening": listening, "marks": dict(marks), "size": size, **found}


def print_costs(volume: Path, bundle: Path) -> None:
    """Print the CPU time of the server's work on one thread, which other work on the machine hardly changes."""
    torch.set_num_threads(1)
    decoder = Decoder(load_bundle(bundle, torch.device("cpu")), Scene.of(load_volume(volume)))
    print("CPU milliseconds of a window of 512 x 512 pixels on one thread, medians of 5\n")
    print(f"encode a slice, once              {_cpu_ms(lambda: _window(decoder, 8, 1)):6.0f}")
    for numerator, denominator in SCALES:
        made = _cpu_ms(lambda p=numerator, q=denominator: _window(decoder, p, q))
        kept = [_cpu_ms(lambda p=numerator, q=denominator: _window(decoder, p, q)) for _ in range(5)]
        print(
            f"x{numerator / denominator:<6.3f} first time, and again      {made:6.0f} {statistics.median(kept):6.0f}"
        )
    print()


def _window(decoder: Decoder, numerator: int, denominator: int) -> None:
    size = SHAPE[0] * numerator // denominator
    first = max(0, (size - SIDE) // 2)
    span = Span(numerator, denominator, first, min(size, first + SIDE))
    decoder.decode("axial", MIDDLE, span, span)


def _cpu_ms(call: Callable[[], None]) -> float:
    began = time.process_time()
    call()
    return 1000 * (time.process_time() - began)


def report(found: dict) -> None:
    """Print it."""
    frames, seconds = found["frames"], found["ms"] / 1000
    middle = statistics.median
    print(f"{time.strftime('%Y-%m-%d')}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores,")
    print(f"load {os.getloadavg()[0]:.1f}; picture of {found['size'][0]} x {found['size'][1]} pixels\n")
    print(f"command to address printed        {found['listening']:.2f} s")
    print(f"page opened to first picture      {found['marks']['first-picture'] / 1000:.2f} s")
    print(f"page opened to first SR           {found['marks']['first-sr'] / 1000:.2f} s")
    if not frames:
        print(f"no SR picture came within {seconds:.0f} s of zooming")
        return
    print(f"SR pictures a second, zooming     {len(frames) / seconds:.1f} (screen {found['screens'] / seconds:.1f})")
    print(f"pixels computed for each, median  {middle(frame['pixels'] for frame in frames) / SIDE**2:.2f} of all")
    print(f"asked to painted, median          {middle(frame['ms'] for frame in frames):.1f} ms")
    for stage in ("wait", "encode", "decode", "pack"):
        took = [frame["stages"].get(stage, 0.0) for frame in frames]
        print(f"  on the server, {stage:<8} median {middle(took):6.1f} ms, longest {max(took):6.1f} ms")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a bundle [random weights]")
    parser.add_argument("--seconds", type=float, default=8, help="of zooming")
    parser.add_argument("--json", action="store_true", help="print all that was measured")
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        volume, bundle = Path(folder) / "brain.nii.gz", known.model or Path(folder) / "bundle"
        make_volume(volume)
        if not known.model:
            make_bundle(bundle)
        if not known.json:
            print_costs(volume, bundle)
        found = measure(volume, bundle, known.seconds)
    if known.json:
        print(json.dumps(found))
    else:
        report(found)


if __name__ == "__main__":
    main()
