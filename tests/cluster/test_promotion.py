"""Who becomes champion in a real MLflow: by evidence, against it, interrupted, two at once, and back again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.config import GateConfig, TrackingConfig
from cluster.registry import CHALLENGER, CHAMPION, EVALUATION, Registry, history, promote, rollback
from metasr.errors import CheckpointError, RegistryError
from tests.cluster.registered import flip, make_bundle, record, scores
from tests.cluster.tracked import MlflowServer, artifact, start

GATE = GateConfig()
FORCED = "metasr.promotion_forced"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    return [make_bundle(tmp_path_factory.mktemp("bundles") / str(step), step) for step in (1, 2, 3)]


@pytest.fixture
def registry(config):
    return Registry(config)


@pytest.fixture
def versions(config, registry, bundles, tmp_path):
    """Three evaluated versions, 1, 2 and 3, each better than the one before."""
    for number, bundle in enumerate(bundles, start=1):
        version = registry.register(bundle, start(config, f"run-{number}"))
        record(registry, version, scores({"2": number, "3": number}, number / 100), tmp_path / f"results-{number}")
    return ["1", "2", "3"]


@pytest.fixture
def told():
    return []


@pytest.fixture
def champion(client, config):
    """Where the alias points, as MLflow says."""

    def look():
        version = client.get_registered_model(config.model).aliases.get(CHAMPION)
        return None if version is None else str(version)

    return look


def refused(registry, version, *words, **options):
    with pytest.raises(RegistryError) as caught:
        promote(registry, version, GATE, lambda line: None, **options)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


# The evidence


def test_an_evaluation_is_kept_with_its_version_and_its_run(config, client, registry, versions, tmp_path):
    rows = scores({"2": 0.5, "3": 0.25, "2x3.3": 1.0})
    digest = record(registry, "2", rows, tmp_path / "again")
    found = client.get_model_version(config.model, "2")
    metrics = client.get_run(found.run_id).data.metrics
    assert metrics["eval_psnr_model_x2"] == pytest.approx(31.0)
    assert metrics["eval_psnr_bicubic_x3"] == pytest.approx(30.5)
    assert metrics["eval_ssim_model_x2x3.3"] == pytest.approx(0.91)
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
    refused(registry, "1", "it is that of another bundle")
    assert champion() is None


def test_scores_at_other_scales_than_they_say_are_refused(registry, versions, champion, tmp_path):
    record(registry, "1", scores({"2": 1.0}), tmp_path / "few", scales=("2", "3"))
    refused(registry, "1", "its scores are not at the scales that it names")
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
    rows = scores({"2": 2.0}, 0.02)
    record(registry, "2", rows, tmp_path / "other", slices_per_subject=20)
    refused(registry, "2", "different scales and slices", "--eval.scales 2 --eval.slices-per-subject 20`")
    record(registry, "1", scores({"2": 1.0}, 0.01), tmp_path / "champion", slices_per_subject=20)
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


def stored_bundle(client, config, version):
    return Path(client.get_model_version(config.model, version).source.removeprefix("file://"))


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


def test_a_version_that_passed_is_not_marked_as_forced(config, client, registry, versions):
    promote(registry, "1", GATE, print)
    assert FORCED not in client.get_model_version(config.model, "1").tags


# The history


def test_the_history_says_who_was_champion_when_and_why(registry, versions, monkeypatch):
    monkeypatch.setenv("LOGNAME", "ada")
    for version in versions:
        promote(registry, version, GATE, print)
    first, second, third = history(registry)
    assert "version 1 as the first, by ada on " in first
    assert "version 2 instead of 1" in second
    evaluation = json.loads(registry.version("3").tags[EVALUATION])["sha256"]
    assert f"evaluation {evaluation[:12]}" in third


def test_promoting_the_champion_again_changes_nothing(registry, versions, champion):
    promote(registry, "1", GATE, print)
    assert promote(registry, "1", GATE, print) == ("1", "1")
    assert len(history(registry)) == 1


def test_a_champion_from_before_there_was_a_history_is_the_first(config, client, registry, versions, champion):
    client.set_registered_model_alias(config.model, CHAMPION, "1")
    promote(registry, "2", GATE, print)
    assert "version 2 instead of 1" in history(registry)[0]
    assert rollback(registry, print) == ("1", "2")
    assert champion() == "1"


def test_rolling_back_twice_goes_back_two(registry, versions, champion):
    for version in versions:
        promote(registry, version, GATE, print)
    assert rollback(registry, print) == ("2", "3")
    assert champion() == "2"
    assert rollback(registry, print) == ("1", "2")
    assert champion() == "1"
    assert ["rolled back" in line for line in history(registry)] == [False] * 3 + [True] * 2
    with pytest.raises(RegistryError, match="no champion before"):
        rollback(registry, print)


def test_a_promotion_after_a_rollback_rolls_back_to_where_it_began(registry, versions, champion):
    for version in versions[:2]:
        promote(registry, version, GATE, print)
    rollback(registry, print)
    promote(registry, "3", GATE, print)
    assert rollback(registry, print) == ("1", "3")
    assert champion() == "1"


def test_there_is_nothing_to_roll_back_to_on_a_first_day(registry):
    assert history(registry) == []
    with pytest.raises(RegistryError, match="no champion before"):
        rollback(registry, print)


def test_a_rollback_to_a_damaged_bundle_is_refused(config, client, registry, versions, champion):
    for version in versions[:2]:
        promote(registry, version, GATE, print)
    flip(stored_bundle(client, config, "1") / "generator.safetensors")
    with pytest.raises(CheckpointError, match=r"generator\.safetensors differs"):
        rollback(registry, print)
    assert champion() == "2"


# Interrupted


class Interruption:
    """Ends a command right before or right after one of its writes to MLflow, as Ctrl-C may."""

    def __init__(self, registry, method, when):
        self._client, self._method, self._when = registry.client, method, when

    def __enter__(self):
        write = getattr(self._client, self._method)

        def interrupted(*arguments, **options):
            if self._when == "after":
                write(*arguments, **options)
            raise KeyboardInterrupt

        setattr(self._client, self._method, interrupted)

    def __exit__(self, *_):
        delattr(self._client, self._method)


WRITES = [
    ("create_model_version", "before"),
    ("create_model_version", "after"),
    ("set_registered_model_alias", "before"),
    ("set_registered_model_alias", "after"),
    ("set_model_version_tag", "before"),
    ("set_model_version_tag", "after"),
]


@pytest.mark.parametrize(
    ("method", "when", "force"), [*((*write, None) for write in WRITES), (*WRITES[1], "because")]
)
def test_a_promotion_that_was_interrupted_is_finished_by_the_same_command(
    config, client, registry, versions, champion, method, when, force
):
    promote(registry, "1", GATE, print)
    with Interruption(registry, method, when), pytest.raises(KeyboardInterrupt):
        promote(registry, "2", GATE, print, force=force)
    assert champion() in ("1", "2")
    promote(registry, "2", GATE, print, force=force)
    assert champion() == "2"
    assert ["version 2 instead of 1" in line for line in history(registry)] == [False, True]
    assert "not finished" not in history(registry)[-1]
    assert client.get_model_version(config.model, "2").tags.get(FORCED) == force


@pytest.mark.parametrize(("method", "when"), WRITES[1:])
def test_the_next_promotion_finishes_one_that_was_interrupted_and_is_judged_against_it(
    registry, versions, champion, told, method, when
):
    promote(registry, "1", GATE, print)
    with Interruption(registry, method, when), pytest.raises(KeyboardInterrupt):
        promote(registry, "2", GATE, print)
    assert promote(registry, "3", GATE, told.append) == ("3", "2")
    is_noted = (method, when) == WRITES[-1]
    assert any("version 2 becomes the champion" in line for line in told) is not is_noted
    assert champion() == "3"


@pytest.mark.parametrize(("method", "when"), WRITES[:-1])
def test_a_rollback_that_was_interrupted_goes_back_one_in_the_end(registry, versions, champion, method, when):
    for version in versions:
        promote(registry, version, GATE, print)
    with Interruption(registry, method, when), pytest.raises(KeyboardInterrupt):
        rollback(registry, print)
    assert rollback(registry, print) == ("2", "3")
    assert champion() == "2"
    assert len(history(registry)) == 4


# By hand


def test_an_alias_that_was_moved_by_hand_is_told_and_stays(config, client, registry, versions, champion):
    promote(registry, "1", GATE, print)
    client.set_registered_model_alias(config.model, CHAMPION, "3")
    refused(registry, "2", "moved by hand", "points at version 3", "says 1", "metasr promote --model 3")
    refused(registry, "2", "moved by hand", force="because")
    with pytest.raises(RegistryError, match="moved by hand"):
        rollback(registry, print)
    assert champion() == "3"
    assert "moved by hand: it points at version 3" in history(registry)[-1]


def test_a_move_by_hand_can_be_accepted_if_it_passes_the_gate(config, client, registry, versions, champion):
    promote(registry, "2", GATE, print)
    client.set_registered_model_alias(config.model, CHAMPION, "1")
    refused(registry, "1", "below the champion")
    client.set_registered_model_alias(config.model, CHAMPION, "3")
    assert promote(registry, "3", GATE, print) == ("3", "2")
    assert rollback(registry, print) == ("2", "3")
    assert champion() == "2"


def test_a_move_by_hand_during_a_promotion_is_not_overwritten(config, client, registry, versions, champion):
    promote(registry, "1", GATE, print)
    with Interruption(registry, "create_model_version", "after"), pytest.raises(KeyboardInterrupt):
        promote(registry, "2", GATE, print)
    client.set_registered_model_alias(config.model, CHAMPION, "3")
    refused(registry, "2", "moved by hand")
    assert champion() == "3"
    assert promote(registry, "3", GATE, print)[0] == "3"
    assert rollback(registry, print)[0] == "1"  # 2 never was the champion


def test_a_move_by_hand_while_a_promotion_compares_is_not_overwritten(config, client, registry, versions, champion):
    promote(registry, "1", GATE, print)
    with pytest.raises(RegistryError, match="moved by hand"):
        promote(registry, "2", GATE, lambda line: client.set_registered_model_alias(config.model, CHAMPION, "3"))
    assert champion() == "3"
    assert "not finished" in history(registry)[-2]
    assert "moved by hand: it points at version 3" in history(registry)[-1]


def test_an_alias_that_was_deleted_by_hand_is_told_and_set_anew(config, client, registry, versions, champion, told):
    promote(registry, "2", GATE, print)
    client.delete_registered_model_alias(config.model, CHAMPION)
    assert "it is gone" in history(registry)[-1]
    assert promote(registry, "1", GATE, told.append) == ("1", None)
    assert "deleted by hand; it was version 2" in told[0]
    assert champion() == "1"


# Two at once


def test_of_two_promotions_that_saw_the_same_champion_one_wins_and_the_other_is_told(
    config, registry, versions, champion
):
    promote(registry, "1", GATE, print)
    rival = []

    def interfere(line):
        if not rival:
            rival.append(promote(Registry(config), "2", GATE, print))

    with pytest.raises(RegistryError, match="made version 2 the champion meanwhile"):
        promote(registry, "3", GATE, interfere)
    assert rival == [("2", "1")]
    assert champion() == "2"
    assert len(history(registry)) == 2
    assert promote(registry, "3", GATE, print) == ("3", "2")


def test_a_promoter_that_wakes_up_late_does_not_take_the_champion_back(config, registry, versions, champion):
    """It is frozen right before it writes the alias, when it has looked at everything for the last time."""
    promote(registry, "1", GATE, print)
    write = registry.client.set_registered_model_alias
    later = []

    def frozen(*arguments):
        if not later:
            later.append(promote(Registry(config), "3", GATE, print))
            assert champion() == "3"
        write(*arguments)

    registry.client.set_registered_model_alias = frozen
    promote(registry, "2", GATE, print)
    assert later == [("3", "2")]
    assert champion() == "3"
    assert [line.split(", by")[0].split("version ")[1] for line in history(registry)] == [
        "1 as the first",
        "2 instead of 1",
        "3 instead of 2",
    ]


PROMOTE = """
import sys, time
from pathlib import Path
from cluster.config import GateConfig, TrackingConfig
from cluster.registry import Registry, promote
from metasr.errors import RegistryError

uri, model, version, folder, rival = sys.argv[1:]

def tell(line):
    '''Wait until both have looked.'''
    Path(folder, version).touch()
    while not Path(folder, rival).exists():
        time.sleep(0.01)

try:
    promote(Registry(TrackingConfig(uri=uri, model=model)), version, GateConfig(), tell)
except RegistryError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def server(tmp_path):
    server = MlflowServer(tmp_path)
    yield server
    server.kill()


def test_two_processes_promoting_at_once_on_a_server(server, bundles, tmp_path):
    config = TrackingConfig(uri=server.uri)
    registry = Registry(config)
    for number, bundle in enumerate(bundles, start=1):
        version = registry.register(bundle, start(config, f"run-{number}"))
        record(registry, version, scores({"2": number}, number / 100), tmp_path / f"results-{number}")
    promote(registry, "1", GATE, print)
    (tmp_path / "met").mkdir()
    command = [sys.executable, "-c", PROMOTE, server.uri, config.model]
    processes = {
        mine: subprocess.Popen([*command, mine, tmp_path / "met", other], stderr=subprocess.PIPE, text=True)
        for mine, other in (("2", "3"), ("3", "2"))
    }
    try:
        errors = {version: process.communicate(timeout=200)[1] for version, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    winner, loser = sorted(processes, key=lambda version: processes[version].returncode)
    assert [processes[version].returncode for version in (winner, loser)] == [0, 1], errors
    assert f"made version {winner} the champion meanwhile" in errors[loser]
    assert str(registry.version(CHAMPION).version) == winner
    assert len(history(registry)) == 2
