"""The real command, and a real browser that looks at its page."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from metasr.config import ExperimentConfig, ModelConfig
from metasr.identity import RunIdentity
from metasr.inference.bundle import save_bundle
from metasr.models import build_generator
from tests.patience import PATIENCE_S

METASR = Path(sys.executable).with_name("metasr")
SHAPE = (44, 52, 20)
AFFINE = np.array([[-2.0, 0, 0, 44], [0, -2.0, 0, 52], [0, 0, 3.0, -30], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window. Where it runs, so does an event loop: others have theirs again after the module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    from tests.browser.chromium import find, launch

    if find() is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with playwright.sync_playwright() as running:
        opened = launch(running)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def volume(tmp_path_factory):
    """A ball with stripes, int16, on background 0."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    data = np.where(i**2 + j**2 + 0.3 * k**2 < 0.8, 500 + 300 * np.sin(9 * i) * np.cos(7 * j) + 100 * k, 0)
    path = tmp_path_factory.mktemp("volume") / "ball.nii.gz"
    nib.save(nib.Nifti1Image(data.astype(np.int16), AFFINE), path)
    return path


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A network that is exactly bicubic interpolation."""
    folder = tmp_path_factory.mktemp("bundle") / "bicubic"
    config = ExperimentConfig(model=ModelConfig(num_features=8, num_blocks=1, skip="bicubic"))
    generator = build_generator(config.model)
    torch.nn.init.zeros_(generator.upscale.kernel.weight)
    torch.nn.init.zeros_(generator.upscale.kernel.bias)
    save_bundle(
        folder, generator, config, RunIdentity("run", "code", "file:///nowhere", "d" * 64), step=1, metrics={}
    )
    return folder


@pytest.fixture(scope="session")
def address(volume, bundle, tmp_path_factory):
    """Where the page is, while the session lasts."""
    command = [METASR, "view", volume, "--model", bundle, "--no-open", "--port", "0"]
    home = tmp_path_factory.mktemp("home")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=home, env=os.environ | {"HOME": str(home)}
    ) as server:
        yield server.stdout.readline().strip()
        server.terminate()


@pytest.fixture
def show(browser, address):
    """Open the page, with an address that goes on as given; it must complain of nothing and ask nobody else."""
    complaints, asked, contexts = [], [], []

    def open_page(rest="", width=900, height=700, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + rest)
        settled(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
    assert all(url.startswith((address, "blob:", "data:")) for url in asked)


def settled(page):
    """Wait until the picture is super-resolved as it is shown."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    page.wait_for_selector("#stage[data-shown=sr]")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def picture(page):
    """Return the grey values of the picture, `[rows, columns]`."""
    read = """() => {
      const canvas = document.getElementById("picture");
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return [canvas.width, [...data.filter((_, n) => n % 4 === 0)]];
    }"""
    width, grey = page.evaluate(read)
    return np.array(grey).reshape(-1, width)
