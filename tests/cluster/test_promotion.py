"""Who becomes champion in a real MLflow: by evidence, and against it."""

import json
from pathlib import Path

import pytest

from cluster.registry import CHALLENGER, CHAMPION, EVALUATION, history, promote, rollback
from metasr.errors import CheckpointError, RegistryError
from tests.cluster.registered import FORCED, GATE, flip, record, refused, scores, stored_bundle
from tests.cluster.tracked import artifact, start


@pytest.fixture
def told():
    return []


# The evidence


def test_an_evaluation_is_kept_with_its_version_and_its_run(config, client, registry, versions, tmp_path):
    rows = scores({"2": 0.5, "3": 0.25, "2x3.3": 1.0})
    digest = record(registry, "2", rows, tmp_path / "again")
    found = client.get_model_version(config.model, "2")
    metrics = client.get_run(found.run_id).data.metrics
    assert metrics["evaluation/psnr_model_x2"] == pytest.approx(31.0)
    assert metrics["evaluation/psnr_bicubic_x3"] == pytest.approx(30.5)
    assert metrics["evaluation/ssim_model_x2x3.3"] == pytest.approx(0.91)
    assert metrics["evaluation/gain_psnr_db"] == pytest.approx((0.5 + 0.25 + 1.0) / 3)
    assert metrics["evaluation/gain_ssim"] == pytest.approx(0.01)
    tag = json.loads(found.tags[EVALUATION])
    assert tag["sha256"] == digest
    for file in (tmp_path / "again").iterdir():
        assert artifact(client, found.run_id, f"{tag['artifact']}/{file.name}", tmp_path) == file.read_bytes()


def test_the_evaluation_of_another_bundle_is_not_recorded(config, client, registry, versions, tmp_path):
    before = client.get_model_version(config.model, "1").tags[EVALUATION]
    with pytest.raises(RegistryError, match="another bundle was evaluated"):
        record(registry, "1", scores({"2": 9.0}), tmp_path / "other", bundle_sha256="0" * 64)
    assert client.get_model_version(config.model, "1").tags[EVALUATION] == before


def test_a_version_that_was_not_evaluated_is_not_promoted(config, registry, bundles, champion):
    registry.register(bundles[0], start(config))
    refused(registry, CHALLENGER, "has not been evaluated", f"metasr evaluate --model models:/{config.model}/1")
    assert champion() is None


def results_of(client, config, version):
    found = client.get_model_version(config.model, version)
    run = client.get_run(found.run_id)
    return Path(run.info.artifact_uri.removeprefix("file://")) / json.loads(found.tags[EVALUATION])["artifact"]


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


TAMPERING = {
    "a score": (lambda results: change(results / "scores.csv", "31.0", "39.0"), "scores.csv differs"),
    "a picture": (lambda results: flip(results / "comparison.png"), "comparison.png differs"),
    "the data": (lambda results: change(results / "manifest.json", "ddd", "ddf"), "not the one that was recorded"),
    "no scores": (lambda results: (results / "scores.csv").unlink(), "scores.csv is missing"),
    "no manifest": (lambda results: (results / "manifest.json").unlink(), "manifest.json cannot be read"),
    "nothing left": (lambda results: [file.unlink() for file in results.iterdir()], "manifest.json cannot be read"),
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_evidence_that_was_changed_afterwards_is_refused_by_name(config, client, registry, versions, champion, kind):
    tamper, reason = TAMPERING[kind]
    tamper(results_of(client, config, "1"))
    refused(registry, "1", "the evaluation of version 1", reason, "metasr evaluate")
    assert champion() is None


def test_the_evidence_of_another_version_does_not_count(config, client, registry, versions, champion):
    """Also where the results are copied along, so that every hash in them is right."""
    foreign = client.get_model_version(config.model, "3").tags[EVALUATION]
    client.log_artifacts(
        client.get_model_version(config.model, "1").run_id,
        str(results_of(client, config, "3")),
        json.loads(foreign)["artifact"],
    )
    client.set_model_version_tag(config.model, "1", EVALUATION, foreign)
    refused(registry, "1", "it belongs to another bundle")
    assert champion() is None


def test_scores_at_other_scales_than_they_say_are_refused(registry, versions, champion, tmp_path):
    record(registry, "1", scores({"2": 1.0}), tmp_path / "few", scales=("2", "3"))
    refused(registry, "1", "its scores are not at the scales that its manifest names")
    assert champion() is None


@pytest.mark.parametrize("tag", ["{", "[]", '{"bundle_sha256": "00", "psnr": {}}'])
def test_a_record_from_before_there_were_hashes_is_refused(config, client, registry, versions, tag):
    client.set_model_version_tag(config.model, "1", EVALUATION, tag)
    refused(registry, "1", "without its SHA-256", "metasr evaluate")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_sha256": "e" * 64}, "different data"),
        ({"slices_per_subject": 20}, "different slices of each subject"),
        ({"regions": ("whole",)}, "different regions"),
    ],
)
def test_versions_evaluated_differently_are_not_compared(registry, versions, champion, tmp_path, changes, reason):
    promote(registry, "1", GATE, print)
    record(registry, "2", scores({"2": 2.0, "3": 2.0}, 0.02), tmp_path / "other", **changes)
    refused(
        registry, "2", reason, f"`metasr evaluate --model models:/{registry.config.model}/1 --data.url /data/t1ce "
    )
    assert champion() == "1"


def test_what_to_run_makes_them_comparable(registry, versions, tmp_path):
    promote(registry, "1", GATE, print)
    rows = scores({"2": 2.0, "3": 2.0, "4": 2.0}, 0.02)
    record(registry, "2", rows, tmp_path / "other", slices_per_subject=20)
    refused(
        registry,
        "2",
        "different scales and slices",
        f"--model models:/{registry.config.model}/1 ",
        f"--eval.scales 2,3,4 --eval.slices-per-subject 20 --tracking.uri {registry.config.uri}",
    )
    champions = scores({"2": 1.0, "3": 1.0, "4": 1.0}, 0.01)
    record(registry, "1", champions, tmp_path / "champion", slices_per_subject=20)
    assert promote(registry, "2", GATE, print) == ("2", "1")


def test_versions_scored_on_other_patients_are_not_compared(registry, versions, champion, tmp_path):
    promote(registry, "1", GATE, print)
    record(registry, "2", scores({"2": 2.0, "3": 2.0}, 0.02, patients=3), tmp_path / "other")
    refused(registry, "2", "different slices")
    assert champion() == "1"


def test_versions_for_different_degradations_cannot_be_compared(registry, versions, champion, tmp_path):
    promote(registry, "1", GATE, print)
    record(registry, "2", scores({"2": 2.0, "3": 2.0}, 0.02), tmp_path / "other", degradation="kspace")
    refused(registry, "2", "kspace, noise 0, and bicubic, noise 0", "--force")
    assert champion() == "1"


# The gate


def test_old_and_new_and_every_rule_are_told_before_anything_moves(registry, versions, champion):
    promote(registry, "1", GATE, print)
    lines = []

    def tell(line):
        assert champion() == "1"
        lines.append(line)

    assert promote(registry, "2", GATE, tell) == ("2", "1")
    text = "\n".join(lines)
    assert "31.50 / 0.9100" in text  # the champion at scale 2
    assert "32.50 / 0.9200" in text
    assert text.count("passed  ") == 6
    assert champion() == "2"


def test_a_version_worse_than_the_champion_is_not_promoted(registry, versions, champion):
    promote(registry, "3", GATE, print)
    refused(
        registry, "2", "version 2 is not promoted", "PSNR nowhere more than 0.05 dB below", "-1.000 dB", "--force"
    )
    assert champion() == "3"
    assert len(history(registry)) == 1


def test_a_version_below_bicubic_is_not_promoted(registry, versions, champion, tmp_path):
    record(registry, "1", scores({"2": 1.0, "3": -0.01}), tmp_path / "bad")
    refused(registry, "1", "PSNR nowhere below bicubic: least at scale 3, -0.010 dB")
    assert champion() is None


@pytest.mark.parametrize("options", [{}, {"force": "because"}])
def test_a_version_whose_bundle_was_tampered_with_is_not_promoted(
    config, client, registry, versions, champion, options
):
    flip(stored_bundle(client, config, "1") / "generator.safetensors")
    with pytest.raises(CheckpointError, match=r"generator\.safetensors differs"):
        promote(registry, "1", GATE, print, **options)
    assert champion() is None


def test_a_version_that_does_not_exist_is_not_promoted(registry):
    refused(registry, CHALLENGER, "metasr train")


# Against the gate


def test_force_promotes_against_the_evidence_and_keeps_the_reason(config, client, registry, versions, champion):
    promote(registry, "3", GATE, print)
    assert promote(registry, "1", GATE, print, force="sharper, say the readers") == ("1", "3")
    assert champion() == "1"
    assert client.get_model_version(config.model, "1").tags[FORCED] == "sharper, say the readers"
    assert "forced: sharper, say the readers" in history(registry)[-1]


def test_force_promotes_without_evidence_and_says_so(config, registry, bundles, champion, told):
    registry.register(bundles[0], start(config))
    assert promote(registry, "1", GATE, told.append, force="a trial") == ("1", None)
    assert champion() == "1"
    assert "has not been evaluated" in told[-1]


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_force_without_a_reason_is_refused(registry, versions, champion, reason):
    refused(registry, "1", "--force without a reason", force=reason)
    assert champion() is None


@pytest.mark.parametrize("options", [{}, {"force": "because"}])
def test_a_version_that_passed_is_not_marked_as_forced(config, client, registry, versions, options):
    promote(registry, "1", GATE, print, **options)
    assert FORCED not in client.get_model_version(config.model, "1").tags
    assert "forced" not in history(registry)[-1]


def test_a_version_that_the_gate_lets_through_later_is_no_longer_marked_as_forced(
    config, client, registry, versions, tmp_path
):
    promote(registry, "2", GATE, print)
    promote(registry, "1", GATE, print, force="a trial")
    rollback(registry, print)
    assert client.get_model_version(config.model, "1").tags[FORCED] == "a trial"
    record(registry, "1", scores({"2": 5.0, "3": 5.0}, 0.05), tmp_path / "again")
    promote(registry, "1", GATE, print)
    assert FORCED not in client.get_model_version(config.model, "1").tags


def test_a_forced_version_that_did_not_become_the_champion_is_not_marked(
    config, client, registry, versions, champion
):
    promote(registry, "3", GATE, print)
    with pytest.raises(RegistryError, match="moved by hand"):
        promote(
            registry,
            "1",
            GATE,
            lambda line: client.set_registered_model_alias(config.model, CHAMPION, "2"),
            force="a trial",
        )
    assert champion() == "2"
    assert FORCED not in client.get_model_version(config.model, "1").tags
