"""Take the picture of the page that its README shows: `python -m tests.browser.picture`.

It shows the ICBM template that ships with nilearn, shrunk in its axial slices.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
from playwright.sync_api import Browser, sync_playwright

from metasr.data.synthetic import load_template, write_low_resolution
from metasr.sources import released_bundle
from tests.browser.chromium import launch
from tests.browser.conftest import METASR

PICTURE = Path(__file__).parents[2] / "metasr" / "viewer" / "page.png"
SHRUNK = 2.0
WHAT = "plane=sagittal&voxel=46,52,84&zoom=4&mode=side&with=nearest"
SIZE = {"width": 1280, "height": 800}


def make_volume(path: Path) -> None:
    """Write the template as a scanner with larger pixels would see it."""
    template, affine = load_template()
    whole = path.with_name("whole.nii.gz")
    nib.save(nib.Nifti1Image((1000 * template / template.max()).astype(np.int16), affine), whole)
    write_low_resolution(whole, path, SHRUNK)


def take(browser: Browser, address: str, picture: Path) -> None:
    """Save what the page shows once it is super-resolved, with the cursor on the brain."""
    page = browser.new_page(viewport=SIZE, color_scheme="dark")
    page.goto(f"{address}#{WHAT}")
    page.wait_for_selector("#stage[data-shown=sr]", timeout=600_000)
    for key in "+-":  # the latency that is shown is that of a slice that has been encoded
        page.keyboard.press(key)
        page.wait_for_timeout(400)
        page.wait_for_selector("#stage[data-shown=sr]", timeout=600_000)
    page.mouse.move(SIZE["width"] * 0.5, SIZE["height"] * 0.55)
    page.screenshot(path=picture)


def main() -> None:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=released_bundle(), help="a bundle [the one that ships]")
    parser.add_argument("--output", type=Path, default=PICTURE)
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        volume = Path(folder) / "icbm-2mm.nii.gz"
        make_volume(volume)
        command = [METASR, "view", volume, "--model", known.model, "--no-open", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            browser = launch(playwright)
            take(browser, server.stdout.readline().strip(), known.output)
            browser.close()
            server.terminate()


if __name__ == "__main__":
    main()
