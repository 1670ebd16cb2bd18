"""What an evaluation leaves behind: tables for people, JSON for programs, the paper's table and its pictures."""

import json
import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from metasr.data.degrade import Degradation
from metasr.errors import ScaleError
from metasr.evaluation import BICUBIC, LANCZOS, Evaluation, HeldOutSlice, Method, Score, evaluate
from metasr.evaluation.folder import write_paper, write_results
from metasr.evaluation.paper import paper_table, zoom
from metasr.evaluation.report import Circumstances, report, summary
from metasr.evaluation.tables import comparison_table, patients_table
from metasr.models import SRGAN, Generator
from metasr.scale import Scale
from tests.unit.reports import ABOUT


def numbers(line):
    return [float(number) for number in re.findall(r"[-+]?\d+\.?\d*", line)]


def score(patient, scale, method, psnr, ssim, region="whole", number=1):
    return Score(patient, number, Scale.parse(scale), method, region, psnr, ssim, 0.1, 45.0)


def scores_of(gains, scales=("2", "1x4"), rival="bicubic"):
    """Scores of len(gains) patients, the model better than the rival by their gain."""
    return [
        score(f"patient-{number}", scale, method, 30 + added, 0.9 + added / 100, region)
        for number, gain in enumerate(gains)
        for scale in scales
        for method, added in ((rival, 0.0), ("model", gain))
        for region in ("whole", "brain", "crop128")
    ]


def written(scores, **changes):
    return report(Evaluation(scores, [], {}), [], Circumstances(**{**vars(ABOUT), **changes}))


def test_the_table_has_a_row_per_scale_with_all_methods_and_the_gain():
    scores = [
        score("a", 4, "bicubic", 29.644, 0.89187),
        score("a", 4, "model", 30.701, 0.89714),
        score("a", 4, "lanczos", 29.9, 0.894),
        score("a", 1.1, "bicubic", 41.13, 0.9909),
        score("a", 1.1, "model", 39.48, 0.9894),
        score("a", 1.1, "lanczos", 41.3, 0.991),
    ]
    header, *rows = comparison_table(scores).splitlines()
    assert header.split() == ["scale", "bicubic", "lanczos", "model", "PSNR", "gain", "SSIM", "gain"]
    assert [numbers(row) for row in rows] == [
        [1.1, 41.13, 0.9909, 41.30, 0.9910, 39.48, 0.9894, -1.65, -0.0015],
        [4, 29.64, 0.8919, 29.90, 0.8940, 30.70, 0.8971, 1.06, 0.0053],
    ]
    assert len({len(row) for row in rows}) == 1


def test_with_several_patients_the_gain_has_an_interval():
    row = comparison_table(scores_of([0.5, 1.5], scales=["2"])).splitlines()[1]
    assert "+1.00 [+0.50, +1.50]" in row
    assert "+0.0100 [+0.0050, +0.0150]" in row


@pytest.mark.parametrize("num_patients", [1, 2, 5, 6, 40])
def test_the_report_says_what_its_patients_allow(num_patients):
    text = written(scores_of(np.linspace(0.5, 1.5, num_patients)))
    few = num_patients < 6
    assert ("too few for a test" in text) is few
    assert ("95 % interval" in text) is (num_patients > 1)
    assert ("*" in text) is not few
    assert ("for each patient" in text) is (1 < num_patients < 6)
    assert max(map(len, text.splitlines())) <= 110


def test_few_patients_are_all_printed():
    header, *rows = patients_table(scores_of([0.5, -1.5, 0.0])).splitlines()
    assert header.split() == ["scale", "patient-0", "patient-1", "patient-2"]
    assert [row.split()[0] for row in rows] == ["1x4", "2"]
    assert numbers(rows[1]) == [2, 0.5, 0.005, -1.5, -0.015, 0, 0]


def test_the_full_report_of_many_scales_and_long_names_is_readable_at_110_columns():
    rival = "models:/a-model-with-a-very-long-name/17"
    scales = ("1.4142135", "2x3.3", "4")
    scores = scores_of(np.linspace(-1.5, 1.5, 7), scales) + [
        row for row in scores_of(np.linspace(-1.5, 1.5, 7), scales, rival) if row.method == rival
    ]
    scores += [score(f"patient-{n}", scale, "lanczos", 30, 0.9) for n in range(7) for scale in scales]
    text = written(scores)
    assert f"over {rival}" in text
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    ("scale", "outside"),
    [("5", True), ("1.05", True), ("4", False), ("1x4", False), ("2x8", True), ("3.14159", False)],
)
def test_scales_outside_the_trained_range_are_named(scale, outside):
    assert ("outside the scales" in written(scores_of([1.0], [scale]))) is outside
    assert "outside" not in written(scores_of([1.0], [scale]), trained_scales=(1.0, 16.0))


def test_the_json_holds_means_statistics_cost_and_circumstances():
    found = json.loads(summary(Evaluation(scores_of([0.5, 1.5]), [], {}), [], ABOUT))
    assert {key: found[key] for key in ("bundle_sha256", "data_sha256", "date", "device", "min_brain")} == {
        "bundle_sha256": "b" * 64,
        "data_sha256": "d" * 64,
        "date": "2020-01-01T00:00:00+00:00",
        "device": "a machine",
        "min_brain": 0.05,
    }
    assert found["versions"]["torch"] == torch.__version__
    assert {(m["scale"], m["method"], m["region"]) for m in found["means"]} == {
        (scale, method, region)
        for scale in ("2", "1x4")
        for method in ("bicubic", "model")
        for region in ("whole", "brain", "crop128")
    }
    gain = next(d for d in found["differences"] if (d["scale"], d["measure"]) == ("2", "psnr"))
    assert gain["mean"] == pytest.approx(1)
    assert gain["interval"] == pytest.approx([0.5, 1.5])
    assert gain["by_patient"] == pytest.approx({"patient-0": 0.5, "patient-1": 1.5})
    assert "psnr" in found["conventions"]


def test_numbers_that_are_not_finite_are_still_json():
    def refuse(constant):
        raise AssertionError(constant)

    text = summary(Evaluation(scores_of([math.inf, 1.0]), [], {}), [], ABOUT)
    found = json.loads(text, parse_constant=refuse)
    assert any(mean["psnr"] == "inf" for mean in found["means"])


@pytest.fixture(scope="module")
def evaluation():
    """A small evaluation with everything, and its methods."""
    torch.manual_seed(0)
    held = [HeldOutSlice(name, 5, torch.rand(1, 1, 80, 92)) for name in ("anna", "berta")]
    rival = Method("srgan", SRGAN(num_features=4, num_blocks=1))
    model = Method("model", Generator(num_features=4, num_blocks=1))
    scales = (Scale(2, 2), Scale(1, 2.5))
    result = evaluate(model.network, held, scales, rivals=[LANCZOS, rival], pictured=held[:1])
    return result, [BICUBIC, LANCZOS, rival, model], held


def test_the_folder_holds_tables_scores_and_pictures(evaluation, tmp_path):
    result, methods, held = evaluation
    text = write_results(tmp_path, result, methods, ABOUT)
    assert (tmp_path / "table.txt").read_text() == text + "\n"
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + len(result.scores)
    cost = json.loads((tmp_path / "scores.json").read_text())["cost"]
    assert {(row["method"], row["scale"]) for row in cost} == {
        *((method, scale) for method in ("bicubic", "lanczos", "model") for scale in ("2", "1x2.5")),
        ("srgan", "2"),
    }
    with Image.open(tmp_path / "comparison.png") as picture:
        assert picture.width > picture.height
    table = write_paper(tmp_path, result, methods, held[0], Degradation())
    assert (tmp_path / "paper_table.txt").read_text() == table + "\n"
    with Image.open(tmp_path / "paper_scales.png") as picture:
        assert picture.height > 2 * 80


def test_table_1_has_mean_and_standard_deviation_over_the_slices_crops(evaluation):
    result, methods, _ = evaluation
    table = paper_table(result.scores, {method.name: method.parameters for method in methods})
    title, names, header, mean, std, parameters = table.splitlines()
    assert title == "x2 upsampling task, 128 x 128 crops of 2 slices"
    assert names.split() == ["bicubic", "lanczos", "srgan", "model"]
    assert header.split() == ["PSNR", "(dB)", "SSIM"] * 4
    crops = [s for s in result.scores if s.region == "crop128" and s.scale == Scale(2, 2)]
    values = [[s.psnr, s.ssim] for name in names.split() for s in crops if s.method == name]
    values = np.array(values).reshape(4, 2, 2)
    assert numbers(mean) == pytest.approx(values.mean(axis=1).flatten(), abs=0.005)
    assert numbers(std) == pytest.approx(values.std(axis=1).flatten(), abs=0.0005)
    counts = [sum(p.numel() for p in method.network.parameters()) for method in methods[2:]]
    assert parameters.split() == ["#parameters", "-", "-", *(f"{count / 1e6:.3f}M" for count in counts)]


def test_table_1_needs_its_scale(evaluation):
    with pytest.raises(ScaleError, match=r"scale 3 was not evaluated\. Add 3 to --eval\.scales"):
        paper_table(evaluation[0].scores, {"bicubic": None}, Scale(3, 3))


def test_figure_8_needs_a_slice_that_is_large_enough():
    small = HeldOutSlice("anna", 5, torch.rand(1, 1, 40, 92))
    with pytest.raises(ScaleError, match=r"scale 1\.1: slice 5 of anna, 40 x 92 pixels, is too small"):
        zoom([BICUBIC], small, Degradation())


def test_figure_8_enlarges_one_quarter_image_to_growing_sizes(evaluation):
    _, methods, held = evaluation
    found = zoom(methods, held[0], Degradation())
    assert [str(c.scale) for c in found] == ["1.1", "1.5", "2.2", "3", "3.5", "4"]
    assert all(torch.equal(c.lr, found[0].lr) for c in found)
    assert [tuple(c.hr.shape[2:]) for c in found] == [
        (round(20 * c.scale.rows), round(23 * c.scale.rows)) for c in found
    ]
    assert torch.equal(found[-1].hr, held[0].image)
    lr = np.asarray(Image.fromarray(held[0].image[0, 0].numpy(), "F").resize((23, 20), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(found[0].lr[0, 0].numpy(), lr, atol=1e-5)
    target = np.asarray(Image.fromarray(held[0].image[0, 0].numpy(), "F").resize((69, 60), Image.Resampling.BICUBIC))
    assert peak_signal_noise_ratio(target, found[3].hr[0, 0].numpy(), data_range=1) > 90
    assert set(found[0].images) == {"bicubic", "lanczos", "model"}


def with_brain(whole, brain, scale="2"):
    """Scores of one patient, of whom the model gains so much SSIM on the slice and in the brain."""
    return [
        score("anna", scale, method, 30.0, 0.9 + gain * (method == "model"), region)
        for region, gain in (("whole", whole), ("brain", brain), ("crop128", brain))
        for method in ("bicubic", "model")
    ]


def test_where_ssim_of_slice_and_brain_disagree_the_report_says_why():
    said = " ".join(written(with_brain(-0.002, 0.001, "1.1")).split())
    assert "At scale 1.1 SSIM is below bicubic on the slice and above it in the brain: " in said
    assert "black background" in said
    several = [*with_brain(0.002, -0.001), *with_brain(0.003, -0.001, "3"), *with_brain(0.003, 0.001, "4")]
    said = " ".join(written(several).split())
    assert "At scales 2, 3 SSIM is above bicubic on the slice and below it in the brain: " in said
    assert "At scale" not in written(with_brain(0.002, 0.001)) + written(with_brain(-0.002, -0.001))
