"""Champions one after the other in a real MLflow: interrupted, by hand, two at once, and back again."""

import json
import subprocess
import sys

import pytest

from cluster.config import GateConfig, TrackingConfig
from cluster.registry import CHAMPION, EVALUATION, Registry, history, promote, rollback
from cluster.registry.verdict import GATE as VERDICT
from metasr.errors import CheckpointError, FormatError, RegistryError
from tests.cluster.registered import FORCED, GATE, flip, record, refused, scores, stored_bundle
from tests.cluster.tracked import MlflowServer, start
from tests.patience import PATIENCE_S


@pytest.fixture
def told():
    return []


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


def test_what_a_later_version_of_the_program_recorded_is_refused_by_name(config, client, registry, versions):
    """Whether it changed the champion cannot be known: to pass over it could undo it."""
    promote(registry, "1", GATE, print)
    name = f"{config.model}.promotions"
    entry = client.get_model_version(name, "1").tags["metasr.promotion"]
    client.set_model_version_tag(name, "1", "metasr.promotion", entry.replace('"format":1', '"format":2'))
    for command in (lambda: promote(registry, "2", GATE, print), lambda: rollback(registry, print)):
        with pytest.raises(
            FormatError, match=r"version 1 of .*promotions: it has format 2.*Use the version of metasr"
        ):
            command()
    client.set_model_version_tag(name, "1", "metasr.promotion", entry.replace('"format":1,', ""))
    evaluation = registry.version("2").tags[EVALUATION]
    client.set_model_version_tag(config.model, "2", EVALUATION, evaluation.replace('"format": 1', '"format": 2'))
    with pytest.raises(FormatError, match=r"the evaluation of version 2: it has format 2.*Use the version of metasr"):
        promote(registry, "2", GATE, print)
    client.set_model_version_tag(config.model, "2", EVALUATION, evaluation.replace('"format": 1, ', ""))
    assert promote(registry, "2", GATE, print) == ("2", "1")


def test_rolling_back_twice_goes_back_two(registry, versions, champion):
    for version in versions:
        promote(registry, version, GATE, print)
    assert rollback(registry, print) == ("2", "3")
    assert champion() == "2"
    assert rollback(registry, print) == ("1", "2")
    assert champion() == "1"
    assert ["rolled back" in line for line in history(registry)] == [False] * 3 + [True] * 2
    with pytest.raises(RegistryError, match="no previous champion"):
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
    with pytest.raises(RegistryError, match="no previous champion"):
        rollback(registry, print)


def test_a_rollback_to_a_damaged_bundle_is_refused(config, client, registry, versions, champion):
    for version in versions[:2]:
        promote(registry, version, GATE, print)
    flip(stored_bundle(client, config, "1") / "generator.safetensors")
    with pytest.raises(CheckpointError, match=r"generator\.safetensors differs"):
        rollback(registry, print)
    assert champion() == "2"


# Interrupted

UNATTAINABLE = GateConfig(scales=("16",))


class Interruption:
    """Ends a command right before or right after one of its writes to MLflow, as Ctrl-C may."""

    def __init__(self, registry, method, when):
        self._client, self._method, self._when = registry.client, method, when

    def __enter__(self):
        write = getattr(self._client, self._method)

        def interrupted(*arguments, **options):
            if VERDICT in arguments:  # the verdict, which is noted before the promotion begins
                return write(*arguments, **options)
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
    ("method", "when", "force"),
    [*((*write, None) for write in WRITES), (*WRITES[1], "because"), (*WRITES[3], "because")],
)
def test_a_promotion_that_was_interrupted_is_finished_by_the_same_command(
    config, client, registry, versions, champion, method, when, force
):
    promote(registry, "1", GATE, print)
    gate = GATE if force is None else UNATTAINABLE
    with Interruption(registry, method, when), pytest.raises(KeyboardInterrupt):
        promote(registry, "2", gate, print, force=force)
    assert champion() in ("1", "2")
    promote(registry, "2", gate, print, force=force)
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


def test_where_the_alias_was_deleted_by_hand_versions_are_judged_against_the_champion_of_the_history(
    config, client, registry, versions, champion, told
):
    promote(registry, "2", GATE, print)
    client.delete_registered_model_alias(config.model, CHAMPION)
    assert "it was deleted" in history(registry)[-1]
    refused(registry, "1", "below the champion")
    assert champion() is None
    assert promote(registry, "3", GATE, told.append) == ("3", "2")
    assert "deleted by hand; it was version 2" in told[0]
    assert "version 3 instead of 2" in history(registry)[-1]
    client.delete_registered_model_alias(config.model, CHAMPION)
    assert rollback(registry, print) == ("2", "3")
    assert "version 2 instead of 3" in history(registry)[-1]
    assert champion() == "2"


def test_to_promote_the_champion_puts_back_an_alias_that_was_deleted_by_hand(
    config, client, registry, versions, champion
):
    promote(registry, "1", GATE, print)
    client.delete_registered_model_alias(config.model, CHAMPION)
    assert promote(registry, "1", GATE, print) == ("1", "1")
    assert champion() == "1"
    assert len(history(registry)) == 1


def test_an_interrupted_promotion_is_finished_where_the_alias_was_deleted_by_hand(
    config, client, registry, versions, champion
):
    promote(registry, "1", GATE, print)
    with Interruption(registry, "set_registered_model_alias", "before"), pytest.raises(KeyboardInterrupt):
        promote(registry, "2", GATE, print)
    client.delete_registered_model_alias(config.model, CHAMPION)
    assert promote(registry, "3", GATE, print) == ("3", "2")
    assert rollback(registry, print) == ("2", "3")
    assert champion() == "2"


def test_a_champion_that_was_deleted_by_hand_is_told_and_replaced(config, client, registry, versions, champion, told):
    promote(registry, "2", GATE, print)
    client.delete_model_version(config.model, "2")
    assert promote(registry, "1", GATE, told.append) == ("1", "2")
    assert "version 2, the champion, was deleted in MLflow: no comparison with it" in told
    assert champion() == "1"
    assert "version 1 instead of 2" in history(registry)[-1]


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
    promote(Registry(TrackingConfig(uri=uri, model=model)), version, GateConfig(scales=("2",)), tell)
except RegistryError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def server(tmp_path):
    server = MlflowServer(tmp_path)
    yield server
    server.kill()


@pytest.mark.slow
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
        errors = {version: process.communicate(timeout=PATIENCE_S)[1] for version, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    winner, loser = sorted(processes, key=lambda version: processes[version].returncode)
    assert [processes[version].returncode for version in (winner, loser)] == [0, 1], errors
    assert f"made version {winner} the champion meanwhile" in errors[loser]
    assert str(registry.version(CHAMPION).version) == winner
    assert len(history(registry)) == 2


def test_a_rollback_to_a_champion_that_the_gate_did_not_want_says_so(registry, versions, told):
    promote(registry, "3", GATE, print)
    promote(registry, "1", GATE, print, force="the readers like it")
    promote(registry, "2", GATE, print)
    rollback(registry, told.append)
    assert told == ["version 1 was promoted against the gate, with the reason: the readers like it"]
    told.clear()
    rollback(registry, told.append)
    assert told == []
