"""Evaluation: the scores are what Pillow and scikit-image say, and the patient is the unit."""

import csv
import math
import re
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from metasr.evaluation import HeldOutSlice, Score, compare, evaluate, mean_by_scale, table, to_csv
from metasr.models import Generator

SCALES = (1.5, 2.0, 2.7)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Images this small are only slowed down by threads that wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_generator(**arguments):
    torch.manual_seed(0)
    return Generator(num_features=4, num_blocks=1, **arguments)


def held_out(subject, number, shape=(43, 58)):
    """Return a slice with structure at several sizes, partly outside [0, 1]."""
    random = np.random.default_rng([number, *subject.encode()])
    rows, columns = np.indices(shape)
    image = 0.5 + 0.4 * np.sin(rows / 3 + number) * np.cos(columns / 4) + 0.1 * random.normal(size=shape)
    return HeldOutSlice(subject, number, torch.from_numpy(image.astype(np.float32))[None, None])


SLICES = [held_out("anna", 3), held_out("berta", 1), held_out("anna", 9)]


def resized(image, size):
    return np.asarray(Image.fromarray(image, "F").resize(size[::-1], Image.Resampling.BICUBIC))


def by_pillow_and_skimage(image, scale, tenths):
    """Score bicubic interpolation of a slice; scale is tenths / 10."""
    divisor = math.gcd(tenths, 10)
    p, q = tenths // divisor, 10 // divisor
    rows, columns = (length // p for length in image.shape)
    top, left = (image.shape[0] - rows * p) // 2, (image.shape[1] - columns * p) // 2
    hr = image[top : top + rows * p, left : left + columns * p]
    enlarged = resized(resized(hr, (rows * q, columns * q)), hr.shape)
    border = math.ceil(scale)
    inner = (slice(border, -border), slice(border, -border))
    hr, enlarged = hr[inner].astype(np.float64), enlarged[inner].astype(np.float64)
    similarity = structural_similarity(
        hr, enlarged, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return peak_signal_noise_ratio(hr, enlarged, data_range=1.0), similarity


def score(subject, number, scale, method, psnr, ssim=0.5):
    return Score(subject, number, scale, method, psnr, ssim)


def test_every_subject_slice_scale_and_method_has_one_row():
    scores = evaluate(tiny_generator(), SLICES, SCALES).scores
    keys = [(s.subject, s.slice, s.scale, s.method) for s in scores]
    expected = {
        (held.subject, held.number, scale, method)
        for held in SLICES
        for scale in SCALES
        for method in ("bicubic", "model")
    }
    assert len(keys) == len(SLICES) * len(SCALES) * 2
    assert set(keys) == expected


def test_bicubic_scores_are_those_of_pillow_and_scikit_image():
    images = {(held.subject, held.number): held.image[0, 0].numpy() for held in SLICES}
    scores = [s for s in evaluate(tiny_generator(), SLICES, SCALES).scores if s.method == "bicubic"]
    assert len(scores) == len(SLICES) * len(SCALES)
    for s in scores:
        expected = by_pillow_and_skimage(images[s.subject, s.slice], s.scale, round(s.scale * 10))
        assert (s.psnr, s.ssim) == pytest.approx(expected, abs=1e-4)


def test_a_generator_that_is_bicubic_scores_as_bicubic_does():
    generator = tiny_generator(skip="bicubic", norm="none")
    torch.nn.init.zeros_(generator.upscale.kernel.weight)
    scores = evaluate(generator, SLICES, SCALES).scores
    bicubic, model = (
        {(s.subject, s.slice, s.scale): s for s in scores if s.method == m} for m in ("bicubic", "model")
    )
    for key, row in bicubic.items():
        assert (model[key].psnr, model[key].ssim) == pytest.approx((row.psnr, row.ssim), abs=1e-6)


def test_the_models_scores_are_those_of_its_own_images():
    evaluation = evaluate(tiny_generator(), SLICES[:1], (2.0,))
    comparison = evaluation.comparisons[0]
    hr, sr = (image[0, 0, 2:-2, 2:-2].double().numpy() for image in (comparison.hr, comparison.sr))
    model = next(s for s in evaluation.scores if s.method == "model")
    assert model.psnr == pytest.approx(peak_signal_noise_ratio(hr, sr, data_range=1.0), abs=1e-6)
    bicubic = next(s for s in evaluation.scores if s.method == "bicubic")
    assert model.psnr != pytest.approx(bicubic.psnr, abs=0.1)


@pytest.mark.parametrize(
    ("scale", "hr", "lr"),
    [(1.1, (33, 55), (30, 50)), (1.5, (42, 57), (28, 38)), (2, (42, 58), (21, 29)), (2.7, (27, 54), (10, 20))],
)
def test_slices_are_cropped_in_the_middle_to_an_exact_ratio(scale, hr, lr):
    comparison = compare(tiny_generator().eval(), SLICES[0], scale)
    assert comparison.hr.shape == (1, 1, *hr)
    assert comparison.lr.shape == (1, 1, *lr)
    assert comparison.sr.shape == comparison.bicubic.shape == comparison.hr.shape
    top, left = (43 - hr[0]) // 2, (58 - hr[1]) // 2
    assert torch.equal(comparison.hr, SLICES[0].image[..., top : top + hr[0], left : left + hr[1]])


def test_the_comparisons_belong_to_the_scores_in_order():
    evaluation = evaluate(tiny_generator(), SLICES, (1.5, 2.0))
    keys = [(c.slice.subject, c.slice.number, c.scale) for c in evaluation.comparisons]
    assert keys == [(s.subject, s.slice, s.scale) for s in evaluation.scores if s.method == "model"]
    assert not any(c.sr.requires_grad for c in evaluation.comparisons)


@pytest.mark.parametrize("training", [True, False])
def test_the_generator_keeps_its_mode_and_its_running_statistics(training):
    generator = tiny_generator(norm="batch").train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    evaluate(generator, SLICES[:1], (2.0,))
    assert generator.training is training
    assert all(module.training is training for module in generator.modules())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_batch_norm_evaluates_with_running_statistics():
    generator = tiny_generator(norm="batch").train()
    alone = evaluate(generator, SLICES[:1], (2.0,)).comparisons[0].sr
    with torch.no_grad():
        expected = generator.eval()(evaluate(generator, SLICES[:1], (2.0,)).comparisons[0].lr, (42, 58))
    assert torch.equal(alone, expected)


def test_the_mean_is_over_patients_not_over_slices():
    scores = [
        score("anna", 1, 2.0, "model", 30, 0.9),
        score("berta", 1, 2.0, "model", 40, 0.5),
        score("anna", 2, 2.0, "model", 32, 0.7),
        score("anna", 3, 2.0, "model", 34, 0.8),
        score("anna", 1, 2.0, "bicubic", 20, 0.1),
        score("anna", 1, 3.0, "model", 10, 0.2),
    ]
    means = mean_by_scale(scores)
    assert set(means) == {(2.0, "model"), (2.0, "bicubic"), (3.0, "model")}
    assert means[2.0, "model"] == pytest.approx(((32 + 40) / 2, (0.8 + 0.5) / 2))
    assert means[2.0, "bicubic"] == pytest.approx((20, 0.1))
    assert means[3.0, "model"] == pytest.approx((10, 0.2))


def test_the_mean_does_not_depend_on_the_order_of_the_rows():
    scores = evaluate(tiny_generator(), SLICES, (1.5, 2.0)).scores
    shuffled = [scores[i] for i in np.random.default_rng(0).permutation(len(scores))]
    means, again = mean_by_scale(scores), mean_by_scale(shuffled)
    assert means.keys() == again.keys()
    assert all(again[key] == pytest.approx(mean) for key, mean in means.items())


def test_the_table_has_a_row_per_scale_with_both_methods_and_their_difference():
    scores = [
        score("a", 1, 4.0, "bicubic", 29.644, 0.89187),
        score("a", 1, 4.0, "model", 30.701, 0.89714),
        score("a", 1, 1.1, "bicubic", 41.13, 0.9909),
        score("a", 1, 1.1, "model", 39.48, 0.9894),
    ]
    header, *rows = table(scores).splitlines()
    assert header.split() == [
        "scale",
        *("bicubic", "PSNR", "/", "SSIM"),
        *("model", "PSNR", "/", "SSIM"),
        "difference",
    ]
    numbers = [[float(number) for number in re.findall(r"[-+]?\d+\.?\d*", row)] for row in rows]
    assert numbers == [
        [1.1, 41.13, 0.9909, 39.48, 0.9894, -1.65, -0.0015],
        [4, 29.64, 0.8919, 30.70, 0.8971, 1.06, 0.0053],
    ]
    assert rows[0].startswith("x1.1 ")
    assert len({len(row) for row in rows}) == 1


def test_the_csv_gives_every_score_back():
    scores = [
        *evaluate(tiny_generator(), SLICES[:2], (1.5,)).scores,
        score('odd, "quoted"\nname', 5, math.pi, "model", 1 / 3, math.inf),
    ]
    rows = list(csv.DictReader(StringIO(to_csv(scores))))
    assert list(rows[0]) == ["subject", "slice", "scale", "method", "psnr", "ssim"]
    read = [
        Score(r["subject"], int(r["slice"]), float(r["scale"]), r["method"], float(r["psnr"]), float(r["ssim"]))
        for r in rows
    ]
    assert read == scores


def test_no_slices_give_no_rows():
    evaluation = evaluate(tiny_generator(), [], (2.0,))
    assert evaluation.scores == []
    assert len(to_csv([]).splitlines()) == 1
    assert mean_by_scale([]) == {}
