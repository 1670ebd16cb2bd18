"""Evaluation: the scores are what Pillow and scikit-image say, and the patient is the unit."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from metasr.data.degrade import Degradation
from metasr.data.slices import informational_crop
from metasr.errors import ScaleError
from metasr.evaluation import LANCZOS, Conditions, HeldOutSlice, Method, Score, evaluate, mean_by_scale
from metasr.evaluation.methods import resize_lanczos
from metasr.evaluation.tables import from_csv, to_csv
from metasr.models import SRGAN, Generator
from metasr.scale import Scale

SCALES = tuple(map(Scale.parse, (1.5, 2, 2.7)))
TWO = Scale(2, 2)


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


def by_pillow(image, tenths):
    """Degrade the middle of a slice and enlarge it again; the scale is tenths / 10."""
    divisor = math.gcd(tenths, 10)
    p, q = tenths // divisor, 10 // divisor
    rows, columns = (length // p for length in image.shape)
    top, left = (image.shape[0] - rows * p) // 2, (image.shape[1] - columns * p) // 2
    hr = image[top : top + rows * p, left : left + columns * p]
    return hr, resized(resized(hr, (rows * q, columns * q)), hr.shape)


def without_border(image, scale):
    return image[scale:-scale, scale:-scale].astype(np.float64)


def similarity_map(hr, image):
    return structural_similarity(
        hr, image, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )[1][5:-5, 5:-5]


def by_skimage(hr, image):
    """PSNR, SSIM and NRMSE of two images, or of two lists of pixels with nan for SSIM."""
    similarity = similarity_map(hr, image).mean() if hr.ndim == 2 else math.nan
    return (
        peak_signal_noise_ratio(hr, image, data_range=1.0),
        similarity,
        normalized_root_mse(hr, image, normalization="euclidean"),
    )


def figures(score):
    return score.psnr, score.ssim, score.nrmse


def score(subject, number, scale, method, psnr, ssim=0.5, region="whole"):
    return Score(subject, number, Scale.parse(scale), method, region, psnr, ssim, 0.1)


def brain_slice(subject="anna", number=3, shape=(150, 160)):
    """Return a slice with an off-centre brain of structure on a background of 0."""
    held = held_out(subject, number, shape)
    rows, columns = np.indices(shape)
    inside = ((rows - 70) / 55) ** 2 + ((columns - 90) / 45) ** 2 < 1
    return HeldOutSlice(subject, number, held.image.abs() * torch.from_numpy(inside))


def test_every_subject_slice_scale_method_and_region_has_one_row():
    scores = evaluate(tiny_generator(), SLICES, SCALES, rivals=[LANCZOS]).scores
    keys = [(s.subject, s.slice, s.scale, s.method, s.region) for s in scores]
    expected = {
        (held.subject, held.number, scale, method, region)
        for held in SLICES
        for scale in SCALES
        for method in ("bicubic", "lanczos", "model")
        for region in ("whole", "brain", "crop128")
    }
    assert len(keys) == len(expected)
    assert set(keys) == expected


def test_bicubic_scores_are_those_of_pillow_and_scikit_image():
    images = {(held.subject, held.number): held.image[0, 0].numpy() for held in SLICES}
    scores = [s for s in evaluate(tiny_generator(), SLICES, SCALES).scores if s.method == "bicubic"]
    for s in (s for s in scores if s.region == "whole"):
        hr, enlarged = by_pillow(images[s.subject, s.slice], round(s.scale.rows * 10))
        border = math.ceil(s.scale.rows)
        expected = by_skimage(without_border(hr, border), without_border(enlarged, border))
        assert figures(s) == pytest.approx(expected, abs=1e-4)


def rows_of_bicubic(held, scale=TWO):
    """The score of each region, and HR and the bicubic image that they are of, without border."""
    evaluation = evaluate(tiny_generator(), [held], (scale,))
    comparison = evaluation.comparisons[0]
    rows = {s.region: s for s in evaluation.scores if s.method == "bicubic"}
    border = math.ceil(scale.rows)
    pair = (comparison.hr, comparison.images["bicubic"])
    return rows, *(without_border(image[0, 0].numpy(), border) for image in pair)


def test_the_brain_is_where_hr_is_not_background():
    rows, hr, bicubic = rows_of_bicubic(brain_slice())
    brain = hr != 0
    psnr, _, nrmse = by_skimage(hr[brain], bicubic[brain])
    similarity = similarity_map(hr, bicubic)[brain[5:-5, 5:-5]].mean()
    assert figures(rows["brain"]) == pytest.approx((psnr, similarity, nrmse), abs=1e-6)
    assert rows["brain"].psnr < rows["whole"].psnr - 1


def test_the_crop_is_the_papers_window_with_the_most_brain():
    held = brain_slice()
    rows, hr, bicubic = rows_of_bicubic(held)
    whole = held.image[0, 0].numpy()
    crop = informational_crop(whole, 128)
    where = [
        (row, column)
        for row in range(whole.shape[0] - 127)
        for column in range(whole.shape[1] - 127)
        if np.array_equal(whole[row : row + 128, column : column + 128], crop)
    ]
    assert len(where) == 1
    # The border of two pixels is left out where the crop reaches it.
    (top, left), (height, width) = where[0], whole.shape
    window = (
        slice(max(top, 2) - 2, min(top + 128, height - 2) - 2),
        slice(max(left, 2) - 2, min(left + 128, width - 2) - 2),
    )
    assert figures(rows["crop128"]) == pytest.approx(by_skimage(hr[window], bicubic[window]), abs=1e-6)


def test_the_crop_of_a_small_slice_is_the_whole_slice():
    rows, _, _ = rows_of_bicubic(SLICES[0])
    assert figures(rows["crop128"]) == figures(rows["whole"])


def test_a_slice_without_brain_has_no_score_inside_the_brain():
    empty = HeldOutSlice("anna", 1, torch.zeros(1, 1, 43, 58))
    assert {s.region for s in evaluate(tiny_generator(), [empty], (TWO,)).scores} == {"whole", "crop128"}


@pytest.mark.parametrize("degradation", [Degradation(), Degradation("kspace", noise=0.05)])
def test_consistency_is_the_psnr_of_the_degraded_output_against_lr(degradation):
    evaluation = evaluate(tiny_generator(), SLICES[:1], (TWO,), Conditions(degradation))
    comparison = evaluation.comparisons[0]
    for s in evaluation.scores:
        if s.region != "whole":
            assert s.consistency is None
            continue
        again = degradation(comparison.images[s.method], tuple(comparison.lr.shape[2:]), [SLICES[0].seed])
        expected = peak_signal_noise_ratio(comparison.lr.double().numpy(), again.double().numpy(), data_range=1)
        assert s.consistency == pytest.approx(expected, abs=1e-6)


def test_noise_is_the_same_in_every_evaluation_and_another_for_every_slice():
    noisy = Degradation("bicubic", noise=0.1)
    flat = [
        HeldOutSlice(name, number, torch.full((1, 1, 40, 40), 0.5)) for name, number in [("a", 1), ("a", 2), ("b", 1)]
    ]
    first, again = (evaluate(tiny_generator(), flat, (TWO,), Conditions(noisy)).comparisons for _ in range(2))
    assert all(torch.equal(one.lr, other.lr) for one, other in zip(first, again, strict=True))
    assert not any(torch.equal(first[i].lr, first[j].lr) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_a_perceptual_distance_is_measured_on_whole_slices_between_black_and_white():
    seen = []

    def distance(image, reference):
        seen.append((image, reference))
        return (image - reference).abs().mean(dim=(1, 2, 3))

    evaluation = evaluate(tiny_generator(), SLICES[:1], (TWO,), Conditions(distance=distance))
    assert all(image.min() >= 0 and image.max() <= 1 for pair in seen for image in pair)
    measured = [s.perceptual for s in evaluation.scores if s.region == "whole"]
    assert measured == pytest.approx([(a - b).abs().mean().item() for a, b in seen])
    assert all(s.perceptual is None for s in evaluation.scores if s.region != "whole")


def test_a_generator_that_is_bicubic_scores_as_bicubic_does():
    generator = tiny_generator(skip="bicubic", norm="none")
    torch.nn.init.zeros_(generator.upscale.kernel.weight)
    scores = evaluate(generator, SLICES, SCALES).scores
    bicubic, model = (
        {(s.subject, s.slice, s.scale, s.region): s for s in scores if s.method == m} for m in ("bicubic", "model")
    )
    for key, row in bicubic.items():
        assert figures(model[key]) == pytest.approx(figures(row), abs=1e-6)


def test_the_models_scores_are_those_of_its_own_images():
    evaluation = evaluate(tiny_generator(), SLICES[:1], (TWO,))
    comparison = evaluation.comparisons[0]
    hr, sr = (without_border(image[0, 0].numpy(), 2) for image in (comparison.hr, comparison.images["model"]))
    model, bicubic = (
        next(s for s in evaluation.scores if (s.method, s.region) == (name, "whole")) for name in ("model", "bicubic")
    )
    assert figures(model) == pytest.approx(by_skimage(hr, sr), abs=1e-6)
    assert model.psnr != pytest.approx(bicubic.psnr, abs=0.1)


@pytest.mark.parametrize(
    ("scale", "hr", "lr"),
    [
        (1.1, (33, 55), (30, 50)),
        (1.5, (42, 57), (28, 38)),
        (2, (42, 58), (21, 29)),
        (2.7, (27, 54), (10, 20)),
        ("1x4", (43, 56), (43, 14)),
        ("2x1.5", (42, 57), (21, 38)),
        (math.sqrt(2), (42, 58), (30, 41)),
    ],
)
def test_slices_are_cropped_in_the_middle_to_sizes_of_that_ratio(scale, hr, lr):
    comparison = evaluate(tiny_generator(), SLICES[:1], (Scale.parse(scale),)).comparisons[0]
    assert comparison.hr.shape == (1, 1, *hr)
    assert comparison.lr.shape == (1, 1, *lr)
    assert all(image.shape == comparison.hr.shape for image in comparison.images.values())
    top, left = (43 - hr[0]) // 2, (58 - hr[1]) // 2
    assert torch.equal(comparison.hr, SLICES[0].image[..., top : top + hr[0], left : left + hr[1]])


@pytest.mark.parametrize(
    ("new", "old"), [((43, 58), (43, 58)), ((86, 87), (43, 58)), ((61, 100), (11, 30)), ((9, 7), (2, 1))]
)
def test_lanczos_is_that_of_pillow(new, old):
    image = held_out("anna", 3, old).image
    expected = np.asarray(Image.fromarray(image[0, 0].numpy(), "F").resize(new[::-1], Image.Resampling.LANCZOS))
    np.testing.assert_allclose(resize_lanczos(image, new)[0, 0].numpy(), expected, atol=2e-6)


def test_a_network_for_one_scale_takes_part_at_that_scale_alone():
    torch.manual_seed(0)
    rival = Method("srgan", SRGAN(scale=2, num_features=4, num_blocks=1))
    scores = evaluate(tiny_generator(), SLICES[:1], SCALES, rivals=[rival]).scores
    assert {s.scale for s in scores if s.method == "srgan"} == {TWO}
    with pytest.raises(ScaleError, match=r"scale 1\.5: the model supports scale 2 only"):
        evaluate(rival.network, SLICES[:1], SCALES)


@pytest.mark.parametrize("scale", ["16", "16x1"])
def test_a_slice_that_is_too_small_for_a_scale_is_named(scale):
    with pytest.raises(ScaleError, match=rf"scale {scale}: slice 3 of anna, 43 x 58 pixels, is too small"):
        evaluate(tiny_generator(), SLICES[:1], (Scale.parse(scale),))


def test_only_the_images_asked_for_are_kept():
    everything = evaluate(tiny_generator(), SLICES, SCALES).comparisons
    assert [(c.slice.number, c.scale) for c in everything] == [(h.number, s) for h in SLICES for s in SCALES]
    assert not any(c.images["model"].requires_grad for c in everything)
    some = evaluate(tiny_generator(), SLICES, SCALES, pictured=SLICES[1:2]).comparisons
    assert [c.slice for c in some] == [SLICES[1]] * len(SCALES)


def test_every_call_of_every_method_is_timed():
    seconds = evaluate(tiny_generator(), SLICES, SCALES, rivals=[LANCZOS]).seconds
    assert set(seconds) == {(scale, name) for scale in SCALES for name in ("bicubic", "lanczos", "model")}
    assert all(len(times) == len(SLICES) and min(times) > 0 for times in seconds.values())


@pytest.mark.parametrize("training", [True, False])
def test_the_generator_keeps_its_mode_and_its_running_statistics(training):
    generator = tiny_generator(norm="batch").train(training)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    evaluate(generator, SLICES[:1], (TWO,))
    assert generator.training is training
    assert all(module.training is training for module in generator.modules())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_batch_norm_evaluates_with_running_statistics():
    generator = tiny_generator(norm="batch").train()
    alone = evaluate(generator, SLICES[:1], (TWO,)).comparisons[0].images["model"]
    with torch.no_grad():
        expected = generator.eval()(evaluate(generator, SLICES[:1], (TWO,)).comparisons[0].lr, (42, 58))
    assert torch.equal(alone, expected)


def test_the_mean_is_over_patients_not_over_slices_or_visits():
    scores = [
        score("BraTS-GLI-00001-000", 1, 2.0, "model", 30, 0.9),
        score("berta", 1, 2.0, "model", 40, 0.5),
        score("BraTS-GLI-00001-000", 2, 2.0, "model", 32, 0.7),
        score("BraTS-GLI-00001-001", 3, 2.0, "model", 34, 0.8),
        score("anna", 1, 2.0, "bicubic", 20, 0.1),
        score("anna", 1, "1x4", "model", 10, 0.2),
        score("anna", 1, "1x4", "model", 50, 0.9, region="brain"),
    ]
    means = {key: (mean.psnr, mean.ssim) for key, mean in mean_by_scale(scores).items()}
    assert set(means) == {(TWO, "model"), (TWO, "bicubic"), (Scale(1, 4), "model")}
    assert means[TWO, "model"] == pytest.approx(((32 + 40) / 2, (0.8 + 0.5) / 2))
    assert means[TWO, "bicubic"] == pytest.approx((20, 0.1))
    assert means[Scale(1, 4), "model"] == pytest.approx((10, 0.2))
    assert mean_by_scale(scores, "brain")[Scale(1, 4), "model"].psnr == 50


def test_the_mean_does_not_depend_on_the_order_of_the_rows():
    scores = evaluate(tiny_generator(), SLICES, SCALES).scores
    shuffled = [scores[i] for i in np.random.default_rng(0).permutation(len(scores))]
    means, again = mean_by_scale(scores), mean_by_scale(shuffled)
    assert means.keys() == again.keys()
    assert all(again[key] == pytest.approx(mean, nan_ok=True) for key, mean in means.items())


def test_the_csv_gives_every_score_back():
    scores = [
        *evaluate(tiny_generator(), SLICES[:2], (Scale(1.5, 2),)).scores,
        score('odd, "quoted"\nname', 5, math.pi, "model", 1 / 3, math.inf),
    ]
    text = to_csv(scores)
    assert text.splitlines()[0] == "subject,slice,scale,method,region,psnr,ssim,nrmse,consistency,perceptual,mismatch"
    read = from_csv(text)
    assert read[:-1] == scores[:-1]
    assert read[-1].scale.rows == pytest.approx(math.pi, abs=1e-10)
    assert read[-1].ssim == math.inf


@pytest.mark.parametrize(
    "text", ["subject,slice\np,1\n", "{}", to_csv([score("p", 1, 2, "model", 1.0, 1.0)]).replace("whole", "half")]
)
def test_what_is_not_a_table_of_scores_is_not_read(text):
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_csv(text + "\n1,2\n")


def test_no_slices_give_no_rows():
    evaluation = evaluate(tiny_generator(), [], (TWO,))
    assert evaluation.scores == []
    assert len(to_csv([]).splitlines()) == 1
    assert mean_by_scale([]) == {}
