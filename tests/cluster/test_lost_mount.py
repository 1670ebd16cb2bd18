"""A training whose data disappears in the middle, as a lost mount does, and comes back."""

import logging
import shutil
import threading

import pytest

from cluster.compare.states import state_digest
from cluster.config import JobConfig
from cluster.recipes import Layer, resolve
from cluster.store import RetryPolicy, open_store
from cluster.stream import ShardCrops, read_index, validation_slices
from metasr.context import LocalContext
from metasr.identity import RunIdentity
from metasr.training.loop import TrainingData, fit
from tests.cluster.training import TINY

STEPS, LOST_AT = 12, 4
IDENTITY = RunIdentity("run", "", "file:///data", "d" * 64)


class Mount:
    """A folder that can be taken away, and is put back by the first line that says it is waited for."""

    def __init__(self, folder, *, leaves_empty):
        self.folder, self._elsewhere = folder, folder.with_name("elsewhere")
        self._leaves_empty, self.told, self._lock = leaves_empty, [], threading.Lock()

    def take_away(self):
        self.folder.rename(self._elsewhere)
        if self._leaves_empty:
            self.folder.mkdir()

    def hear(self, record):
        with self._lock:
            self.told.append(record.getMessage())
            if "waiting for the store" in self.told[-1]:
                if self._leaves_empty:
                    self.folder.rmdir()
                self._elsewhere.rename(self.folder)
        return True


class Context(LocalContext):
    """One in which something happens at a step."""

    def __init__(self, folder, act):
        super().__init__(folder)
        self._act, self._step = act, 0

    def requested(self):
        self._step += 1
        if self._step == LOST_AT:
            self._act()
        return super().requested()


@pytest.fixture
def heard():
    """Have the warnings of the stream heard by somebody as well."""
    log, filters = logging.getLogger("cluster.stream.source"), []

    def hear(by):
        filters.append(by)
        log.addFilter(by)

    yield hear
    for one in filters:
        log.removeFilter(one)


def train(folder, home, act, on_corrupt="stop"):
    """Train with two of three shards in memory; return the digest of what comes of it, and the crops."""
    settings = {**TINY, "train.steps": STEPS, "train.pixel_only_steps": STEPS, "data.on_corrupt": on_corrupt}
    one_after_the_other = {"train.virtual_shards": 1, "data.shuffle_shards": 1}
    config = resolve(JobConfig, [Layer("test", settings | one_after_the_other)]).config
    store = open_store(str(folder), RetryPolicy(max_pause_s=0.05), has_begun=True)
    index = read_index(store)
    crops = ShardCrops(store, index, on_corrupt=on_corrupt, keep_bytes=0, num_threads=1)
    held_out = validation_slices(store, index, 1)
    fit(config, TrainingData(crops, index.mean, index.std, held_out), IDENTITY, Context(home, act))
    return state_digest(home / f"step-{STEPS}"), crops


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("leaves_empty", [False, True], ids=["missing", "an empty mount point"])
@pytest.mark.parametrize("on_corrupt", ["stop", "skip"])
def test_data_that_disappears_in_the_middle_is_waited_for_and_changes_no_bit(
    original, tmp_path, heard, leaves_empty, on_corrupt
):
    mount = Mount(shutil.copytree(original, tmp_path / "data"), leaves_empty=leaves_empty)
    undisturbed, _ = train(mount.folder, tmp_path / "undisturbed", lambda: None, on_corrupt)
    heard(mount.hear)
    digest, crops = train(mount.folder, tmp_path / "run", mount.take_away, on_corrupt)
    away, back = mount.told
    assert "waiting for the store" in away
    assert "the folder is missing or empty" in away
    assert "is back after" in back
    assert digest == undisturbed
    assert crops.substituted == []
