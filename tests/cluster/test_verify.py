"""`metasr prepare --verify`: a data set is read again, all of it."""

import json

import pytest

from cluster.prepare import verify
from cluster.shards import INDEX, Index
from cluster.store import open_store
from metasr.errors import DataError, StoreError
from tests.cluster.patients import shard_file


def test_a_whole_data_set_is_said_to_be_whole(original):
    lines = []
    index = verify(open_store(str(original)), lines.append)
    assert [line.partition(":")[0] for line in lines] == [shard.name for shard in index.shards]
    assert len(lines) > 2


@pytest.mark.parametrize("shard", ["train-000001", "val-000000"])
def test_a_damaged_shard_is_named_whichever_split_it_is_of(damaged, shard):
    path = shard_file(damaged, shard)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises((DataError, StoreError), match=path.name):
        verify(open_store(str(damaged)), lambda line: None)


def test_a_missing_shard_is_named(damaged):
    path = shard_file(damaged, "val-000000")
    path.unlink()
    with pytest.raises(StoreError, match=path.name):
        verify(open_store(str(damaged)), lambda line: None)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_statistics_that_are_not_those_of_the_images_are_found(damaged, name):
    index = json.loads((damaged / INDEX).read_text())
    index[name] *= 1.001
    (damaged / INDEX).write_bytes(Index.model_validate(index).to_bytes())
    with pytest.raises(DataError, match=f"its {name} is"):
        verify(open_store(str(damaged)), lambda line: None)
