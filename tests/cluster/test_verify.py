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


def verify_edited(folder, **values):
    """Verify a store whose index says something else, as if `prepare` had been wrong."""
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_bytes(Index.model_validate(index | values).sealed().to_bytes())
    verify(open_store(str(folder)), lambda line: None)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_statistics_that_are_not_those_of_the_images_are_found(damaged, name):
    index = json.loads((damaged / INDEX).read_text())
    with pytest.raises(DataError, match=f"its {name} is"):
        verify_edited(damaged, **{name: 1.001 * index[name]})


WRONG = {
    "subjects": lambda names: names[:-1],
    "array_offsets": lambda offsets: [*offsets[:-1], offsets[-1] + 2],
    "array_bytes": lambda sizes: [*sizes[:-1], sizes[-1] - 2],
    "xxh3_128": lambda checksum: checksum[::-1],
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_index_says_wrongly_of_a_shard_is_found(damaged, name):
    shards = json.loads((damaged / INDEX).read_text())["shards"]
    shards[-1][name] = WRONG[name](shards[-1][name])
    with pytest.raises(DataError, match=f"shard {shards[-1]['name']}: its {name} is not what the index says"):
        verify_edited(damaged, shards=shards)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_subject_that_is_in_no_shard_is_named(damaged, split):
    subjects = json.loads((damaged / INDEX).read_text())["subjects"]
    subjects[split].append("nobody")
    with pytest.raises(DataError, match=f"subject nobody has no samples in the {split} split"):
        verify_edited(damaged, subjects=subjects, split_sha256={})


def test_options_that_are_not_those_of_the_recipe_are_found(damaged):
    options = json.loads((damaged / INDEX).read_text())["options"]
    with pytest.raises(DataError, match="recipe_sha256"):
        verify_edited(damaged, options=options | {"slice_step": 2})
