"""Make the moving picture of the page that the top README shows: `python -m tests.browser.moving`.

The ICBM template as in `tests.browser.picture`: its voxels beside SR, while the zoom grows. Only frames at rest are
taken, so that it shows what the page shows, and not how fast.
"""

import argparse
import subprocess
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from metasr.sources import released_bundle
from tests.browser.chromium import launch
from tests.browser.conftest import METASR
from tests.browser.picture import make_volume

MOVING = Path(__file__).parents[2] / "metasr" / "viewer" / "page.gif"
SIZE = {"width": 900, "height": 560}
ZOOMS = [round(1.5 * 1.12**n, 2) for n in range(13)]
WIDTH_PX = 500
COLOURS, FRAME_MS, LAST_MS = 72, 140, 1600
MOST_BYTES = 1_500_000


def frames(page: Page, address: str) -> list[Image.Image]:
    """Return what the page shows at each zoom, once it is super-resolved."""
    found = []
    for zoom in ZOOMS:
        what = f"plane=sagittal&voxel=46,52,84&zoom={zoom}&mode=side&with=nearest"
        page.goto("about:blank")
        page.goto(f"{address}#{what}")
        page.wait_for_selector("#stage[data-shown=sr]", timeout=600_000)
        page.wait_for_timeout(300)  # what was read is painted
        image = Image.open(BytesIO(page.locator("#stage").screenshot())).convert("RGB")
        found.append(image.resize((WIDTH_PX, WIDTH_PX * image.height // image.width), Image.Resampling.LANCZOS))
    return found


def save(path: Path, images: list[Image.Image]) -> None:
    """Write frames to a GIF, forth and back, in the colours of the last."""
    palette = images[-1].quantize(COLOURS)
    there = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    every = [*there, *reversed(there[1:-1])]
    times = [LAST_MS if image in (there[0], there[-1]) else FRAME_MS for image in every]
    every[0].save(path, save_all=True, append_images=every[1:], duration=times, loop=0, optimize=True)


def main() -> None:
    """Make it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=MOVING)
    known = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        volume = Path(folder) / "icbm-2mm.nii.gz"
        make_volume(volume)
        command = [METASR, "view", volume, "--model", released_bundle(), "--no-open", "--port", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            browser = launch(playwright)
            page = browser.new_page(viewport=SIZE, color_scheme="dark")
            images = frames(page, server.stdout.readline().strip())
            browser.close()
            server.terminate()
    save(known.output, images)
    size = known.output.stat().st_size
    print(f"{known.output}: {len(images)} views, {size / 1e6:.2f} MB")
    if size > MOST_BYTES:
        raise SystemExit(f"it is larger than {MOST_BYTES / 1e6:g} MB")


if __name__ == "__main__":
    main()
