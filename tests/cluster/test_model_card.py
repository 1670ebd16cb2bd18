"""The card of a version: its numbers computed again, its failures by name, its copy in a real MLflow."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cluster.registry import EVALUATION, Evidence
from cluster.registry.card import description, model_card
from cluster.registry.evidence import evaluation_of
from metasr.errors import DataError, RegistryError
from metasr.evaluation import Score
from metasr.evaluation.downstream import Outcome
from metasr.evaluation.regions import REGIONS
from metasr.inference.bundle import load_bundle
from metasr.scale import Scale
from tests.cluster.registered import ABOUT, DATA, IDENTITY, TINY, record, scores
from tests.cluster.tracked import artifact

REFERENCE = "models:/meta-srgan/3"
LOSER = "BraTS19_2013_29_1"


def evidence(rows, **changes):
    values = {
        "bundle_sha256": "b" * 64,
        "data_sha256": DATA,
        "data_url": "/data/t1ce",
        "scales": tuple(dict.fromkeys(str(row.scale) for row in rows)),
        "slices_per_subject": 4,
        "regions": REGIONS,
        "degradation": "kspace",
        "noise": 0.02,
        "code_version": "fedcba",
    }
    return Evidence(**{**values, **changes})


def card_of(rows, about=ABOUT, outcomes=(), **changes):
    return model_card(REFERENCE, about, evidence(rows, **changes), rows, outcomes)


def section(card, title):
    return re.search(rf"## {title}\n\n(.*?)(?=\n\n## |\Z)", card, re.DOTALL)[1].strip()


def tables(text):
    """Return the tables in a text, each a list of rows of cells; every row as wide as the first."""
    found = []
    for lines in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        rows = [line.strip("|").split("|") for line in lines.splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert set(rows.pop(1)) == {"---"}
        found.append([[cell.strip() for cell in row] for row in rows])
    return found


def random_scores(num_patients=8, num_slices=3):
    """PSNR and SSIM of bicubic and the model `[scale, patient, slice, measure, method]`, and the same as scores."""
    random = np.random.default_rng(5)
    values = random.normal([[30, 30.3], [0.9, 0.903]], [[0.5], [0.004]], (2, num_patients, num_slices, 2, 2))
    values[1, 2, :, :, 1] -= [[3.0, 0.03]]  # one who loses at scale 4 by far
    names = [LOSER if patient == 2 else f"BraTS19_2013_{patient}_1" for patient in range(num_patients)]
    rows = [
        Score(names[patient], number, Scale.parse(scale), method, "whole", *of_slice[:, which], 0.1)
        for scale, of_scale in zip(("2", "4"), values, strict=True)
        for patient, of_patient in enumerate(of_scale)
        for number, of_slice in enumerate(of_patient)
        for which, method in enumerate(("bicubic", "model"))
    ]
    # What the model does elsewhere counts for nothing here.
    return values, [*rows, *(replace(row, region="brain", psnr=0.0) for row in rows if row.method == "model")]


def test_its_numbers_are_those_that_numpy_and_scipy_find_in_the_scores():
    values, rows = random_scores()
    ((_, *shown),) = tables(section(card_of(rows), "Scale by scale"))
    for cells, of_scale in zip(shown, values, strict=True):
        patients = of_scale.mean(axis=1)  # [patient, measure, method]
        assert cells[-1] == "8"
        for measure, digits in enumerate((3, 5)):
            bicubic, model, gain = cells[1 + 3 * measure : 4 + 3 * measure]
            step = 0.51 * 10.0**-digits
            gains = patients[:, measure, 1] - patients[:, measure, 0]
            mean, low, high = map(float, re.findall(r"[+-][0-9.]+", gain))
            assert (float(bicubic), float(model)) == pytest.approx(tuple(patients[:, measure].mean(axis=0)), abs=step)
            assert mean == pytest.approx(gains.mean(), abs=step)
            # Of other resamples than ours: the intervals are alike, not the same.
            other = stats.bootstrap((gains,), np.mean, n_resamples=10_000, method="percentile", rng=9)
            interval = other.confidence_interval
            assert (low, high) == pytest.approx(tuple(interval), abs=0.05 * (interval.high - interval.low))


def test_what_is_below_bicubic_is_counted_and_the_worst_slices_are_named():
    values, rows = random_scores()
    counts, worst = tables(section(card_of(rows), "Where it fails"))
    gains = values[..., 1] - values[..., 0]  # [scale, patient, slice, measure]
    patients, means = (gains.mean(axis=2) < 0).any(axis=0).sum(axis=0), gains.mean(axis=(1, 2))
    slices = (gains < 0).any(axis=0).sum(axis=(0, 1))
    assert 0 < patients[0] < 8
    assert 0 < slices[0] < 24
    assert counts[1][1:] == [f"{number} of 8" for number in patients]
    assert counts[2][1:] == [f"{number} of 24" for number in slices]
    names = [[name for name, mean in zip("24", column, strict=True) if mean < 0] for column in means.T]
    assert counts[3][1:] == [", ".join(found) or "none" for found in names]
    order = np.argsort(gains[1, 2, :, 0])
    expected = [[LOSER, str(n), "4", f"{gains[1, 2, n, 0]:+.3f} dB", f"{gains[1, 2, n, 1]:+.5f}"] for n in order]
    assert worst[1:] == expected


def test_where_nothing_fails_it_says_so_and_one_patient_has_no_interval():
    card = card_of(scores({"2": 0.5}, patients=1))
    assert "No slice is below bicubic in PSNR." in card
    ((_, row),) = tables(section(card, "Scale by scale"))
    assert row == ["2", "30.000", "30.500", "+0.500", "0.90000", "0.91000", "+0.01000", "1"]


def test_a_score_that_is_not_a_number_is_the_worst_failure():
    rows = [replace(row, psnr=float("nan")) if row.subject == "patient1" else row for row in scores({"2": [-1, 2]})]
    counts, worst = tables(section(card_of(rows), "Where it fails"))
    assert counts[1][1] == "2 of 2"
    assert counts[3][1] == "2"
    assert [row[0] for row in worst[1:]] == ["patient1", "patient0"]


def test_it_says_what_the_model_is_and_what_was_not_measured(tmp_path, bundles):
    bundle = load_bundle(bundles[1], "cpu")
    rows = scores({"2": 0.5, "3.3x8": 0.5, "1x4": 0.5})
    card = model_card(REFERENCE, bundle.about, evidence(rows), rows)
    parameters = sum(weights.numel() for weights in bundle.generator.parameters())
    assert card.startswith("# meta-srgan version 3\n\nResearch use only, not a medical device.\n")
    assert f"{parameters:,} parameters\n- trained for 2 steps on scales 1.1 to 4\n" in card
    assert f"run {IDENTITY.run_name}, code {IDENTITY.code_version}\n- training data: index {DATA}" in card
    assert "Beyond scales 1.1 to 4 is extrapolation; measured here: 3.3x8." in card
    assert "LR was made by kspace with noise 0.02: other degradations" in card
    assert "Adversarial training (weight 0.001) can invent structure" in card
    assert "- 2 patients, 2 slices, at most 4 of a subject\n- validation subjects of the training data" in card


BEFORE = "There was no adversarial training in this run, but there may have been before it"


@pytest.mark.parametrize(
    ("weight", "step", "origin", "says"),
    [
        (0.001, 11, {}, "Adversarial training (weight 0.001) can invent structure"),
        (0.001, 10, {}, "There was no adversarial training, which"),
        (0, 11, {}, "There was no adversarial training, which"),
        (0, 11, {"initial_bundle": "f" * 64}, BEFORE),
        (0.001, 10, {"forked_from": "brats-1@5"}, BEFORE),
        (0.001, 11, {"forked_from": "brats-1@5"}, "Adversarial training (weight 0.001) can invent structure"),
    ],
)
def test_it_says_whether_there_was_adversarial_training_up_to_the_step_that_was_kept(weight, step, origin, says):
    config = TINY.model_dump(mode="json")
    config["loss"]["adversarial"], config["train"]["pixel_only_steps"] = weight, 10
    card = card_of(scores({"2": 0.5}), {**ABOUT, "config": config, "step": step, **origin})
    assert says in section(card, "Limits")


def test_it_says_what_the_network_was_before_its_run():
    rows = scores({"2": 0.5})
    assert "initialised from" not in card_of(rows)
    for origin, told in (
        ({"initial_bundle": "f" * 64}, f"initialised from the bundle with manifest {'f' * 64}, whose"),
        ({"forked_from": "brats-1@500"}, "initialised from run brats-1@500, whose training data is not listed here"),
    ):
        card = card_of(rows, {**ABOUT, **origin})
        assert told in html.unescape(section(card, "What it is"))
        assert f"training data of this run: index {DATA}" in section(card, "Provenance")


def test_hashes_come_after_what_people_read():
    card = card_of(scores({"2": 0.5}), code_version="fedcba9876543210")
    before, _, after = card.partition("## Provenance")
    for digest in ("b" * 64, DATA, "fedcba9876543210", IDENTITY.code_version):
        assert digest in after
        assert digest not in before


def test_where_ssim_of_slice_and_brain_disagree_it_says_why():
    rows = scores({"2": 0.5})
    whole = [row for row in rows if row.region == "whole"]
    brain = [replace(row, region="brain", ssim=0.9 if row.method == "model" else 0.901) for row in whole]
    told = "At scale 2 SSIM is above bicubic on the slice and below it in the brain"
    assert told in section(card_of([*whole, *brain]), "Where it fails")
    assert "At scale" not in card_of(whole)


def test_it_does_not_say_that_patients_were_not_trained_on_where_that_is_not_known():
    rows = scores({"2": 0.5})
    unknown = "it is not known whether"
    assert unknown not in card_of(rows)
    other = section(card_of(rows, data_sha256="e" * 64), "What was measured")
    assert f"an index other than that of the training data: {unknown} some were trained on" in other
    began = section(card_of(rows, {**ABOUT, "forked_from": "brats-1@500"}), "What was measured")
    assert f"the training data of this run: {unknown} the initial weights were trained on some" in began


def test_the_command_that_it_gives_is_one_that_upscale_takes(capsys):
    from jobs.upscale import main

    command = section(card_of(scores({"2": 0.5})), "How to load it").split()
    assert command[:4] == ["metasr", "upscale", "--model", REFERENCE]
    with pytest.raises(DataError, match=r"in\.nii\.gz"):  # all that is missing is the file
        main(command[2:])


def test_downstream_is_told_by_its_least_gain():
    rows = scores({"2": 0.5, "4": 0.5})
    found = [
        Outcome("tissue", f"patient{patient}", Scale.parse(scale), method, label, "dice", 0.8 + gain)
        for patient in range(2)
        for label in ("a", "b")
        for scale, gains in (("2", (0, 0.05)), ("4", (0, -0.02)))
        for method, gain in zip(("bicubic", "model"), gains, strict=True)
    ]
    card = card_of(rows, outcomes=found, downstream=("tissue",))
    assert "Downstream (tissue): smallest gain in mean Dice against HR at scale 4, -0.0200: bicubic 0.8000" in card
    assert "Downstream tasks were not measured." in card_of(rows)


@pytest.mark.parametrize(
    "name", ["a|b|c", "a\n| x | y |\n\n# T", "<script>alert(1)</script>", "`a` [b](c) *d* \\| &lt;"]
)
def test_a_name_that_would_be_markup_is_text_in_a_table_of_the_same_shape(name):
    rows = [replace(row, subject=name) if row.subject == "patient0" else row for row in scores({"2": [-1, 1]})]
    plain = [replace(row, subject="abc") if row.subject == name else row for row in rows]
    hostile = card_of(rows, about={**ABOUT, "run_name": name}, code_version=name)
    assert not set("<`*\\") & set(hostile)
    assert len(hostile.splitlines()) == len(card_of(plain).splitlines())
    (_, worst) = tables(section(hostile, "Where it fails"))
    assert html.unescape(worst[1][0]) == " ".join(name.split())


def test_it_is_sealed_with_the_scores_and_is_the_description_of_the_version(
    config, client, registry, versions, tmp_path
):
    record(registry, "2", scores({"2": [0.5, -0.5]}), tmp_path / "again")
    version = client.get_model_version(config.model, "2")
    name = json.loads(version.tags[EVALUATION])["artifact"]
    kept = artifact(client, version.run_id, f"{name}/model_card.md", tmp_path)
    assert version.description == kept.decode()
    assert f"# {config.model} version 2\n" in version.description
    assert "| patient1 | 7 | 2 | -0.500 dB |" in version.description

    stored = Path(client.get_run(version.run_id).info.artifact_uri.removeprefix("file://")) / name / "model_card.md"
    stored.write_text(version.description.replace("-0.500 dB", "+0.500 dB"))
    with pytest.raises(RegistryError, match=r"model_card\.md differs"):
        evaluation_of(registry, version)


def test_a_card_that_is_too_long_for_mlflow_loses_rows_of_its_last_table_and_says_where_they_are():
    rows = scores({f"{tenths / 10:g}": 0.5 for tenths in range(11, 71)})
    card = card_of(rows)
    assert len(card) > 5000
    kept = description(card, "evaluation-version-3-abc")
    assert len(kept) <= 5000
    *lines, last = kept.rstrip().split("\n")
    assert card.startswith("\n".join(lines[:-1]) + "\n")
    assert tables(section(kept, "Scale by scale"))
    assert "model_card.md in the run's artifact evaluation-version-3-abc" in last


def test_it_says_what_the_training_data_was_like_where_the_bundle_does():
    rows = scores({"2": 0.5})
    said = {"kind": "volumes", "contrasts": ["flair", "t1"], "spacing_mm": [0.8, 1.0], "skull_stripped": True}
    text = section(card_of(rows, ABOUT | {"trained_on": said}), "What it is")
    assert html.unescape(text.splitlines()[-1]) == (
        "- its training data: volumes; flair, t1; pixels of 0.8 to 1 mm; a constant around the brain"
    )
    assert "its training data" not in card_of(rows, ABOUT | {"trained_on": {}})
