"""The report as a page: its numbers are those of the evaluation, names are escaped, nothing comes from elsewhere."""

import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from statistics import fmean

import numpy as np
import pytest
import torch
from PIL import Image

from metasr.evaluation import Comparison, HeldOutSlice, Score, differences, mean_by_scale
from metasr.report import cases_of
from metasr.report.pictures import MAX_BYTES, MAX_PX, error_image, pictured
from metasr.scale import Scale
from tests.unit.reports import EVIL, SCALES, Page, evaluated, page_of, report_of


@pytest.fixture(scope="module")
def result():
    return evaluated()


@pytest.fixture(scope="module")
def text(result, tmp_path_factory):
    return page_of(tmp_path_factory.mktemp("page"), report_of(result))


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def signed(value, digits):
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def score(subject, number, scale, method, psnr, patient=""):
    return Score(subject, number, Scale.parse(scale), method, "whole", psnr, 0.9, 0.1, patient=patient)


def test_the_table_by_scale_has_the_means_and_gains_of_the_evaluation(result, page):
    cells = [" ".join(cell.split()) for cell in page.cells]
    for (_, method), mean in mean_by_scale(result.scores).items():
        assert f"{mean.psnr:.2f} {mean.ssim:.4f}" in cells, method
    for rival in ("bicubic", "champion"):
        for measure, digits in (("psnr", 2), ("ssim", 4)):
            for gain in differences(result.scores, rival, measure):
                low, high = (signed(end, digits) for end in gain.interval)
                assert f"{signed(gain.mean, digits)} {low} to {high}" in cells


def test_the_table_of_patients_has_each_gain_the_lowest_first(result, page):
    cells = [" ".join(cell.split()) for cell in page.cells]
    gains = differences(result.scores, "bicubic", "psnr")
    means = {name: fmean(gain.by_patient[name] for gain in gains) for name in ("anna", EVIL)}
    places = {name: cells.index(name) for name in means}
    assert sorted(places, key=places.get) == sorted(means, key=means.get)
    for name, place in places.items():
        assert cells[place + 1] == signed(means[name], 2)
        assert [cells[place + 2 + n].split()[0] for n in range(len(SCALES))] == [
            signed(gain.by_patient[name], 2) for gain in gains
        ]


def test_the_head_says_where_it_is_below_bicubic_and_what_a_reader_should_know(page, tmp_path):
    assert "Below bicubic in PSNR at scales 2, 3" in page.text  # it is untrained
    assert "2 patients: too few for a significance test" in page.text
    assert "Compared with version 3, the champion." in page.text
    rows = [score("p", 1, "5", method, psnr) for method, psnr in (("bicubic", 30), ("model", 31), ("lanczos", 32))]
    outside = Page(page_of(tmp_path, report_of(evaluated(), scores=rows, pictures=[], outcomes=[], rules=[])))
    assert "Better than bicubic at scale 5: +1.00 dB" in outside.text
    assert "Outside the scales that it was trained on (1.1 to 4): scale 5." in outside.text
    assert "Below Lanczos interpolation in PSNR at scale 5." in outside.text


def test_names_and_texts_from_elsewhere_are_escaped(text, page):
    assert "<script>alert" not in text
    assert page.text.count(EVIL) >= 5
    assert len(page.all("script")) == 1


def test_nothing_is_loaded_from_elsewhere_and_the_page_forbids_it(text, page):
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset", "xlink:href", "data"):
            if name in attributes:
                assert attributes[name].startswith(("#", "data:image/png;base64,")), (tag, attributes[name][:80])
    assert not re.search(r"url\((?!#)|@import|localStorage|sessionStorage|fetch\(|XMLHttp", text)
    assert not page.all("link")
    (policy,) = (meta["content"] for meta in page.all("meta") if meta.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    digest = b64encode(sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_the_same_evaluation_gives_the_same_bytes(result, text, tmp_path):
    assert page_of(tmp_path, report_of(result)) == text


def test_every_picture_of_a_case_shows_the_same_part(result):
    cases = cases_of(result.scores)
    images = {(one.slice.subject, one.slice.number, one.scale): one for one in result.comparisons}
    for one in pictured([(case, images[case.subject, case.slice, case.scale]) for case in cases]):
        assert [picture.name for picture in one.pictures] == [
            "LR",
            "bicubic",
            "champion",
            "SR",
            "HR",
            "error of bicubic",
            "error of SR",
        ]
        shown = [Image.open(BytesIO(b64decode(picture.url.partition(",")[2]))) for picture in one.pictures]
        assert {image.size for image in shown} == {one.shape[::-1]}
        top, left, height, width = one.window
        assert 0 <= top <= 1 - height
        assert 0 <= left <= 1 - width
        comparison = images[one.case.subject, one.case.slice, one.case.scale]
        assert one.pictures[one.first].score.startswith(f"{one.case.psnr['model']:.2f} dB")
        # The part that is shown, found again in the whole slice.
        whole = (comparison.hr[0, 0].clamp(0, 1) * 255).round().byte().numpy()
        windows = np.lib.stride_tricks.sliding_window_view(whole, one.shape)
        assert (windows == np.asarray(shown[4])).all(axis=(2, 3)).any()


def test_large_slices_are_cut_and_there_are_no_more_than_a_page_may_hold():
    torch.manual_seed(0)
    held = HeldOutSlice("anna", 4, torch.rand(1, 1, 700, 500))  # noise, which is as large as a PNG can be
    images = {"bicubic": torch.rand(1, 1, 700, 500), "model": torch.rand(1, 1, 700, 500)}
    comparison = Comparison(held, Scale(2, 2), torch.rand(1, 1, 350, 250), held.image, images, {})
    case = cases_of([score("anna", 4, "2", method, 30.0) for method in images])[0]
    found = pictured([(case, comparison)] * 9)
    assert all(max(one.shape) <= MAX_PX for one in found)
    assert 1 < len(found) < 9
    assert sum(len(picture.url) for one in found for picture in one.pictures) <= MAX_BYTES


def test_an_error_has_no_sign_and_brightens_with_its_size():
    errors = torch.tensor([[[[0.0, 0.05, -0.05, 0.2, 3.0, float("nan")]]]])
    colours = np.asarray(error_image(errors).convert("RGB"))[0].astype(int).sum(axis=1)
    assert colours[0] < 10
    assert colours[0] < colours[1] == colours[2] < colours[3] == colours[4] == colours[5]


def test_the_worst_and_best_are_of_all_slices_and_the_typical_of_a_scale():
    gains = {("a", 1): 0.1, ("a", 2): -0.9, ("b", 1): 0.4, ("b", 2): -0.2, ("c", 1): 2.0, ("c", 2): float("nan")}
    rows = [
        score(subject, number, "2", method, 30 + (gain if method == "model" else 0))
        for (subject, number), gain in gains.items()
        for method in ("bicubic", "model")
    ]
    found = cases_of(rows)
    by_kind = {kind: [(one.subject, one.slice) for one in found if one.kind == kind] for kind in ("worst", "best")}
    assert by_kind["worst"] == [("c", 2), ("a", 2), ("b", 2)]
    assert by_kind["best"] == [("c", 1), ("b", 1)]
    assert [(one.subject, one.slice) for one in found if one.kind == "typical"] == [("a", 1)]


def test_without_pictures_the_page_says_why(result, tmp_path):
    text = page_of(tmp_path, report_of(result, pictures=[], no_pictures="Pictures are turned off."))
    assert "Pictures are turned off." in Page(text).text
    assert "data:image" not in text


def test_the_card_is_part_of_the_page_without_its_links_and_pictures(page):
    assert "What it is" in page.text
    assert "http://a.b/c" not in str(page.all("img"))
    assert not [attributes for attributes in page.all("a") if not attributes["href"].startswith("#")]
    assert {"1", "2"} <= set(page.cells)


def test_curves_are_drawn_where_there_is_something_to_see(page):
    charts = [attributes["aria-label"] for attributes in page.all("svg")]
    assert any(label.startswith("PSNR gain over bicubic, dB over steps: -0.5 at step 100, 0.25") for label in charts)
    assert any("pixel loss" in label for label in charts)
    assert not any("adversarial" in label or "total" in label for label in charts)


def test_a_cohort_of_many_patients_is_cut_and_says_so(tmp_path, result):
    rows = [
        score(f"patient {n}", 1, "2", method, 30 + n * (method == "model"))
        for n in range(130)
        for method in ("bicubic", "model")
    ]
    page = Page(page_of(tmp_path, report_of(result, scores=rows, pictures=[], outcomes=[])))
    assert "30 patients with higher gains are left out" in page.text
    assert "patient 99" in page.cells
    assert "patient 100" not in page.cells


def test_a_single_patient_and_a_rectangular_scale_have_a_report(tmp_path, result):
    rows = [score("anna", 1, scale, method, 30.5) for scale in ("1x4", "2") for method in ("bicubic", "model")]
    page = Page(page_of(tmp_path, replace(report_of(result), scores=rows, pictures=[], outcomes=[], rules=[])))
    assert "1x4" in page.cells
    assert "one patient" in page.text
