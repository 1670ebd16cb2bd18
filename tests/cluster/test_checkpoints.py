"""What a run keeps: published whole, found again, never overwritten by one who comes too late."""

import os
import random
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from cluster.checkpoints import RunCheckpoints, SupersededError
from cluster.store import NotThereError, UnavailableError, open_store
from metasr.errors import CheckpointError, TrainingError
from tests.cluster.fault_proxy import Answer, FaultProxy, Refuse, Reset, first
from tests.cluster.sealed import QUICK, Loader, kill_after, make_sealed, names_in, names_known, open_at, steps_of

RUN = "recipe-0123"
ONCE = replace(QUICK, attempts=1)


@pytest.fixture
def claimed(store):
    return RunCheckpoints(store, RUN).claim(1)


@pytest.fixture
def publish(tmp_path):
    """Publish a made-up checkpoint."""

    def publish(checkpoints, step, score=0.0, keep=2, num_bytes=3000):
        folder = make_sealed(tmp_path / uuid.uuid4().hex, step, num_bytes)
        return checkpoints.publish(folder, step, score, keep=keep)

    return publish


def newest_good(checkpoints):
    """Return the step of the newest good checkpoint, and what was told."""
    load, told = Loader(), []
    kept = checkpoints.newest_good(load, told.append)
    assert load.step == (kept and kept.step)
    return load.step, told


# Published and found again


def test_a_published_checkpoint_is_fetched_as_it_was(claimed, store, publish, tmp_path):
    kept = publish(claimed, 100, 1.5)
    assert (kept.step, kept.score) == (100, 1.5)
    again = RunCheckpoints(open_store(store.url), RUN)
    assert again.entries() == (kept,)
    again.fetch(kept, tmp_path / "fetched")
    make_sealed(tmp_path / "expected", 100)
    expected = {path.relative_to(tmp_path / "expected"): path for path in (tmp_path / "expected").rglob("*.*")}
    assert len(expected) == 5
    for name, path in expected.items():
        assert (tmp_path / "fetched" / name).read_bytes() == path.read_bytes()


def test_a_run_without_checkpoints_starts_from_the_beginning(store):
    checkpoints = RunCheckpoints(store, RUN)
    assert checkpoints.entries() == ()
    assert checkpoints.best() is None
    assert checkpoints.finished() is None
    assert newest_good(checkpoints) == (None, [])


def test_the_newest_and_the_best_are_kept_and_nothing_else(claimed, store, publish):
    for step, score in [(100, 1.0), (200, 9.0), (300, 2.0), (400, 3.0), (500, float("nan"))]:
        publish(claimed, step, score)
    assert steps_of(claimed) == [500, 400, 200]
    assert claimed.best().step == 200
    assert claimed.entries()[0].score is None
    assert names_in(store, RUN) == names_known(claimed)


def test_publishing_the_same_step_again_replaces_it(claimed, store, publish):
    publish(claimed, 100, 1.0)
    first_one = publish(claimed, 200, 2.0)
    assert publish(claimed, 200, 2.0) == first_one
    again = claimed.claim(1)
    second_one = publish(again, 200, 0.5)
    assert claimed.entries()[0] == second_one
    assert second_one.folder != first_one.folder
    assert steps_of(again) == [200, 100]
    assert again.best().step == 100
    assert names_in(store, RUN) == names_known(again)


def test_later_steps_that_the_run_did_not_go_on_from_are_let_go(claimed, store, publish):
    for step in (100, 200, 300):
        publish(claimed, step, keep=3)
    again = claimed.claim(1)
    publish(again, 150, keep=3)
    assert steps_of(again) == [150, 100]
    assert names_in(store, RUN) == names_known(again)


def test_the_end_of_a_run_is_told_from_the_store_alone(claimed, store, publish):
    publish(claimed, 100)
    claimed.claim(1).finish({"version": "3"})
    assert RunCheckpoints(store, RUN).finished() == {"version": "3"}
    assert steps_of(RunCheckpoints(store, RUN)) == [100]


def test_a_folder_that_is_no_checkpoint_is_not_published(claimed, tmp_path):
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        claimed.publish(tmp_path / "gone", 100, 0.0, keep=1)
    assert claimed.entries() == ()


# Damage


def damage(store, key, content):
    data = bytearray(content)
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


def test_a_flipped_bit_in_any_file_leads_to_the_one_before(claimed, store, publish):
    publish(claimed, 100)
    newest = publish(claimed, 200)
    assert len(newest.files) == 5
    for name in newest.files:
        key = f"{RUN}/{newest.folder}/{name}"
        content = store.get(key)
        damage(store, key, content)
        step, told = newest_good(claimed)
        assert step == 100
        assert len(told) == 1
        assert "step 200" in told[0]
        assert name in told[0]
        store.put(key, content)
    assert newest_good(claimed) == (200, [])


def test_a_missing_file_leads_to_the_one_before(claimed, store, publish):
    publish(claimed, 100)
    newest = publish(claimed, 200)
    store.delete(f"{RUN}/{newest.folder}/bundle/README.md")
    step, told = newest_good(claimed)
    assert step == 100
    assert "bundle/README.md" in told[0]
    assert "no such object" in told[0]


def test_a_checkpoint_that_does_not_load_leads_to_the_one_before(claimed, publish):
    publish(claimed, 100)
    publish(claimed, 200)
    tried = []

    def load(folder):
        tried.append(int((folder / "bundle" / "README.md").read_text().split()[1]))
        if tried == [200]:
            raise CheckpointError("the optimiser's state", "it is another network's")

    assert claimed.newest_good(load, lambda line: None).step == 100
    assert tried == [200, 100]


def test_if_all_are_bad_it_does_not_start_from_the_beginning(claimed, store, publish):
    for step in (100, 200):
        kept = publish(claimed, step)
        damage(store, key := f"{RUN}/{kept.folder}/manifest.json", store.get(key))
    with pytest.raises(CheckpointError, match=r"no checkpoint of run .* is good") as caught:
        newest_good(claimed)
    assert "step 100" in str(caught.value)
    assert "step 200" in str(caught.value)


def test_another_worker_loads_the_step_it_is_told(claimed, store, publish):
    kept = publish(claimed, 100)
    publish(claimed, 200)
    load = Loader()
    assert claimed.fetch_step(100, load) == kept
    assert load.step == 100
    with pytest.raises(CheckpointError, match="no checkpoint of step 300"):
        claimed.fetch_step(300, load)
    store.delete(f"{RUN}/{kept.folder}/state.safetensors")
    with pytest.raises(CheckpointError, match=r"step 100.*state\.safetensors"):
        claimed.fetch_step(100, load)


def test_a_damaged_ledger_is_an_error(claimed, store, publish):
    publish(claimed, 100)
    key = f"{RUN}/checkpoints.json"
    store.put(key, store.get(key)[:-20])
    with pytest.raises(CheckpointError, match=r"checkpoints\.json.*damaged"):
        newest_good(claimed)


def test_a_store_that_is_gone_is_not_a_damaged_checkpoint(tmp_path, publish):
    store = open_store(str(tmp_path / "store"))
    claimed = RunCheckpoints(store, RUN).claim(1)
    kept = publish(claimed, 100)
    (tmp_path / "store").rename(tmp_path / "not-mounted")
    with pytest.raises(NotThereError, match="folder does not exist"):
        claimed.fetch(kept, tmp_path / "fetched")
    with pytest.raises(NotThereError):
        newest_good(claimed)


# Who comes too late


def test_an_older_claim_changes_nothing(claimed, store, publish):
    publish(claimed, 100)
    newer = claimed.claim(1)
    before = store.get(f"{RUN}/checkpoints.json"), names_in(store, RUN)
    with pytest.raises(SupersededError, match="claimed again") as caught:
        publish(claimed, 200)
    with pytest.raises(SupersededError):
        claimed.finish({})
    assert isinstance(caught.value, TrainingError)
    assert (store.get(f"{RUN}/checkpoints.json"), names_in(store, RUN)) == before
    publish(newer, 200)
    assert steps_of(newer) == [200, 100]


def test_an_older_driver_cannot_claim(claimed):
    claimed.claim(3)
    with pytest.raises(SupersededError, match="newer driver"):
        claimed.claim(2)
    claimed.claim(3)


def test_of_many_that_claim_at_once_the_last_one_can_write(store, publish):
    with ThreadPoolExecutor(8) as threads:
        claims = list(threads.map(lambda _: RunCheckpoints(store, RUN).claim(1), range(8)))
    written = []
    for checkpoints in claims:
        try:
            written.append(publish(checkpoints, 100))
        except SupersededError:
            continue
    assert len(written) == 1
    assert steps_of(claims[0]) == [100]


def test_only_claimed_checkpoints_can_be_changed(claimed, store, publish):
    with pytest.raises(ValueError, match="claimed"):
        publish(RunCheckpoints(store, RUN), 100)


# Faults on the way to a real server


@pytest.fixture
def through(s3_url):
    """Open one prefix through a proxy with a plan, or without faults; give the proxy too."""
    url = f"{s3_url}/{uuid.uuid4().hex}"
    with ExitStack() as proxies:

        def open_through(plan=lambda *_: None, policy=QUICK):
            proxy = proxies.enter_context(FaultProxy(os.environ["AWS_ENDPOINT_URL"], plan))
            return open_at(proxy.url, url, policy), proxy

        yield open_through


def at(number, action):
    """Plan what `action` returns for one request."""
    return lambda asked, method, path: action() if asked == number else None


@pytest.fixture
def num_requests(through, publish):
    """How many requests it takes to publish a checkpoint that pushes another out."""
    store, proxy = through()
    publish(RunCheckpoints(store, "counted").claim(1), 100, keep=1)
    claimed = RunCheckpoints(store, "counted").claim(1)
    before = len(proxy.seen)
    publish(claimed, 200, 1.0, keep=1)
    return len(proxy.seen) - before


# Of the requests each second one, or all.
EVERY = pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
@pytest.mark.parametrize("fault", [Refuse(), Reset()], ids=["before it is done", "when it is done"])
def test_publishing_that_breaks_at_any_request_leaves_a_good_newest_one_and_can_be_done_again(
    through, publish, num_requests, fault, every
):
    plain, _ = through()
    assert num_requests > 10
    for number in range(0, num_requests, every):
        run = f"run-{number}"
        before = RunCheckpoints(plain, run).claim(1)
        publish(before, 100, keep=1)
        store, _ = through(at(number, lambda: fault), ONCE)
        broken = RunCheckpoints(store, run, before._fence)
        with pytest.raises(UnavailableError):
            publish(broken, 200, 1.0, keep=1)
        assert newest_good(before) in [(100, []), (200, [])]
        publish(before, 200, 1.0, keep=1)
        assert newest_good(before) == (200, [])
        assert steps_of(before) == [200]
        assert names_in(plain, run) == names_known(before)


@EVERY
def test_a_worker_that_was_frozen_at_any_request_overwrites_nothing_of_its_successor(
    through, publish, num_requests, every
):
    plain, _ = through()
    for number in range(1 % every, num_requests, every):
        run = f"run-{number}"
        frozen = RunCheckpoints(plain, run).claim(1)
        publish(frozen, 100, keep=1)

        def succeed(run=run):
            successor = RunCheckpoints(plain, run).claim(1)
            publish(successor, 200, 3.0, keep=1)
            publish(successor, 300, 2.0, keep=1)

        store, proxy = through(at(number, succeed))
        with pytest.raises(SupersededError):
            publish(RunCheckpoints(store, run, frozen._fence), 200, 1.0, keep=1, num_bytes=2000)
        assert len(proxy.seen) > number
        assert steps_of(frozen) == [300, 200]
        assert newest_good(frozen) == (300, [])
        assert RunCheckpoints(plain, run).fetch_step(200, Loader()).score == 3.0


def test_a_claim_waits_for_the_store(through, publish):
    store, _ = through(first(9, Answer(503)))
    told = []
    claimed = RunCheckpoints(store, RUN).claim(1, told.append)
    away, back = told
    assert away.startswith("waiting for the store: ")
    assert back.startswith(f"{store.url} is back after ")
    publish(claimed, 100)
    assert steps_of(claimed) == [100]


def test_an_outage_is_waited_for_and_never_taken_for_damage(through, publish):
    plain, _ = through()
    claimed = RunCheckpoints(plain, RUN).claim(1)
    for step in (100, 200):
        publish(claimed, step)
    for plan in (first(9, Answer(503)), lambda number, *_: Refuse() if 1 <= number < 14 else None):
        store, proxy = through(plan)
        step, told = newest_good(RunCheckpoints(store, RUN))
        assert step == 200
        assert len(told) <= 4
        assert all(line.startswith("waiting for the store: ") for line in told[::2])
        assert all(line.startswith(f"{store.url} is back after ") for line in told[1::2])
        assert len(proxy.seen) > 10


# Killed

PUBLISHING = """
import sys, uuid
from pathlib import Path
from cluster.checkpoints import RunCheckpoints
from cluster.store import open_store
from tests.cluster.sealed import make_sealed

checkpoints = RunCheckpoints(open_store(sys.argv[1]), "killed").claim(1)
start = max((kept.step for kept in checkpoints.entries()), default=0)
for step in range(start + 1, start + 1000):
    checkpoints.publish(make_sealed(Path(sys.argv[2]) / uuid.uuid4().hex, step), step, -step, keep=2)
    print(step, flush=True)
"""


def test_killed_at_any_moment_a_run_finds_all_that_was_published(store, tmp_path, publish):
    draw = random.Random(5)
    for _ in range(5):
        last = int(kill_after(PUBLISHING, [store.url, tmp_path / "made"], draw.uniform(0, 0.2)))
        checkpoints = RunCheckpoints(store, "killed").claim(1)
        step, told = newest_good(checkpoints)
        assert told == []
        assert step - last in (0, 1)
        assert all(checkpoints.fetch_step(kept, Loader()) for kept in steps_of(checkpoints))
        publish(checkpoints, step + 1, -step - 1)
        assert set(steps_of(checkpoints)) == {1, step, step + 1}  # the best, and the two newest
        assert names_in(store, "killed") == names_known(checkpoints)
