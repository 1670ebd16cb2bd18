"""The notebook runs from its first cell to its last, as a reader runs it.

Its cells are executed in this process: the packages that run notebooks as such (nbclient, and with it Jupyter's
kernel) are more than two dozen, and nothing else here needs them.
"""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "jobs" / "volume-to-figure.ipynb"


def test_the_notebook_makes_its_figure_and_its_volume(places, tmp_path, monkeypatch):
    pytest.importorskip("nilearn", reason="the template that the notebook enlarges ships with nilearn")
    monkeypatch.setenv("METASR_MODEL", str(places / "bundle"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}, cell {number}", "exec"), names)  # noqa: S102
    with Image.open("volume-to-figure.png") as figure:
        assert np.asarray(figure.convert("L")).std() > 30
    assert names["sr"].shape == names["hr"].shape
    assert names["scores"]["bicubic"] > 20
    made = nib.load("enlarged.nii.gz")
    assert made.shape[2] == names["image"].shape[2]
    np.testing.assert_allclose(made.header.get_zooms()[:2], 0.8, rtol=0.02)


def test_the_notebook_is_kept_without_results():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
