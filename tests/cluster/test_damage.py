"""Stores that were damaged or made by someone else: refused by name, nothing in them is executed."""

import contextlib
import hashlib
import io
import json
import os
import tarfile
import uuid

import numpy as np
import pytest

from cluster.shards import INDEX
from cluster.store import open_store
from cluster.stream import read_index
from metasr.errors import DataError, StoreError
from tests.cluster.patients import SUBJECTS, read_all, run_prepare, shard_file, training_crops


def assert_refused(folder, *words):
    with pytest.raises((DataError, StoreError)) as caught:
        read_all(open_store(str(folder)))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shard", ["train-000001", "val-000000"])
@pytest.mark.parametrize("position", [0, 600, 20_000, -1])
def test_a_flipped_bit_is_found_and_its_shard_named(damaged, shard, position):
    path = shard_file(damaged, shard)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    assert_refused(damaged, path.name)


def member_starts(path):
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


@pytest.mark.parametrize("where", ["nowhere", "middle", "sample", "within sample", "last byte"])
def test_a_truncated_shard_is_found_and_named(damaged, where):
    path = shard_file(damaged, "train-000001")
    starts, size = member_starts(path), path.stat().st_size
    end = {"nowhere": 0, "middle": 5000, "sample": starts[-2], "within sample": starts[-1], "last byte": size - 1}
    os.truncate(path, end[where])
    assert_refused(damaged, path.name)


@pytest.mark.parametrize("back", [1, 2], ids=["within a sample", "between samples"])
def test_a_shard_cut_between_members_and_closed_again_is_found(damaged, back):
    path = shard_file(damaged, "train-000001")
    data = path.read_bytes()
    path.write_bytes(data[: member_starts(path)[-back]].ljust(len(data), b"\0"))
    assert_refused(damaged, path.name)


def test_bytes_after_the_end_of_a_shard_are_found(damaged):
    path = shard_file(damaged, "val-000000")
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    assert_refused(damaged, path.name)


def test_two_shards_in_each_others_place_are_found(damaged):
    one, other = (shard_file(damaged, place) for place in ("train-000000", "train-000001"))
    one.rename(damaged / "between")
    other.rename(one)
    (damaged / "between").rename(other)
    assert_refused(damaged, "train-00000")  # whichever is read first


def test_a_missing_shard_is_named(damaged):
    path = shard_file(damaged, "train-000001")
    path.unlink()
    assert_refused(damaged, path.name)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: os.truncate(path, 5000)])
@pytest.mark.parametrize("subjects", [[], ["a"], ["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "e", "f\n", "g"]])
def test_of_a_shard_that_cannot_be_used_the_error_says_whose_samples_are_lost(damaged, damage, subjects):
    edit_index(damaged, lambda index: index["shards"][1].update(subjects=subjects))
    damage(shard_file(damaged, "train-000001"))
    whose = {0: ")", 1: " of a)", 5: " of a, b, c, d, e)", 7: " of a, b, c, d, e and 2 more)"}[len(subjects)]
    assert_refused(damaged, f"(it should hold 8 samples{whose}")


def test_a_missing_shard_on_s3_is_named(volumes, s3_url):
    store = open_store(f"{s3_url}/{uuid.uuid4().hex}")
    run_prepare(volumes, store)
    index = read_index(store)
    name = next(shard.name for shard in index.shards if shard.split == "train")
    store.delete(name)
    with pytest.raises(StoreError, match=name):
        training_crops(store, index)


def test_a_store_without_an_index_holds_no_data_set(damaged):
    (damaged / INDEX).unlink()
    assert_refused(damaged, "it has no index.json", "metasr prepare")


def test_a_folder_that_is_not_there_is_no_store(tmp_path):
    assert_refused(tmp_path / "absent", "the folder does not exist")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'"text"', b"null"])
def test_an_index_that_is_none_is_named(damaged, content):
    (damaged / INDEX).write_bytes(content)
    assert_refused(damaged, "index.json", "cannot be read")


def test_a_flipped_bit_in_the_index_is_found_or_changes_nothing_it_says(damaged):
    store, whole = open_store(str(damaged)), (damaged / INDEX).read_bytes()
    index, refused = read_index(store), 0
    for position in range(0, len(whole), 19):
        (damaged / INDEX).write_bytes(whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :])
        try:
            assert read_index(store) == index, position
        except DataError:
            refused += 1
    assert refused > len(whole) / 19 / 2


def test_the_damaged_index_is_restored_from_where_its_error_says(damaged):
    content = (damaged / INDEX).read_bytes()
    at = content.index(b'"mean": 0.') + len(b'"mean": 0.')
    (damaged / INDEX).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(DataError, match="it is damaged") as caught:
        read_index(open_store(str(damaged)))
    (kept,) = (damaged / "indexes").iterdir()
    assert f"Restore it from indexes/{kept.name}" in str(caught.value)
    assert kept.read_bytes() == content


def edit_index(folder, edit):
    """Edit the index of a store, which is then like an older one: without a SHA-256."""
    index = json.loads((folder / INDEX).read_text())
    del index["sha256"]
    edit(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("key", "value"), [("num_bytes", 1), ("num_samples", 1), ("num_samples", -1), ("sha256", "0" * 64)]
)
def test_an_index_edited_against_a_shard_is_found_and_the_shard_named(damaged, key, value):
    edit_index(damaged, lambda index: index["shards"][1].update({key: value}))
    assert_refused(damaged, "train-000001-")


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/passwd", "a/../../outside.tar", ""])
def test_an_index_cannot_point_out_of_its_store(damaged, name):
    edit_index(damaged, lambda index: index["shards"][0].update(name=name))
    assert_refused(damaged, "cannot use the key")


@pytest.mark.parametrize(
    "change",
    [
        {"std": 0},
        {"mean": "NaN"},
        {"extra": 1},
        {"shards": []},
        {"subjects": {"train": [SUBJECTS[0]]}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_index_that_cannot_be_trained_on_is_refused(damaged, change):
    edit_index(damaged, lambda index: index.update(change))
    assert_refused(damaged)


def test_a_subject_in_both_splits_is_refused(damaged):
    edit_index(damaged, lambda index: index["subjects"]["val"].append(SUBJECTS[0]))
    assert_refused(damaged, SUBJECTS[0], "in training and in validation")


def test_a_subject_taken_out_of_the_index_is_missed(damaged):
    edit_index(damaged, lambda index: index["subjects"]["train"].remove(SUBJECTS[0]))
    assert_refused(damaged, "the train split", "not those it was made with")


def test_a_shard_moved_to_the_other_split_is_refused(damaged):
    edit_index(damaged, lambda index: index["shards"][0].update(split="val"))
    assert_refused(damaged, "train-000000-")


# Tars that were not made here, with an index that vouches for them


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(array):
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


IMAGE = npy(np.ones((32, 32), np.float16))
META = json.dumps({"subject": SUBJECTS[0], "slice": 1}).encode()


def tar_of(*members):
    """A tar of `(name, bytes)`; a name with `->` is a symbolic link."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            name, _, target = name.partition("->")
            info = tarfile.TarInfo(name)
            if target:
                info.type, info.linkname = tarfile.SYMTYPE, target
            info.size = 0 if target else len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def plant(folder, data):
    """Put a tar that claims one sample in the place of the training shards."""
    (folder / "planted.tar").write_bytes(data)
    facts = {"num_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "num_samples": 1}

    def edit(index):
        val = [shard for shard in index["shards"] if shard["split"] == "val"]
        index["shards"] = [{"name": "planted.tar", "split": "train", **facts}, *val]

    edit_index(folder, edit)


def test_a_tar_by_another_program_is_read_if_it_holds_samples(damaged):
    plant(damaged, tar_of(("a.npy", IMAGE), ("a.json", META)))
    assert read_all(open_store(str(damaged)))[0].shape == (1, 1, 32, 32)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("kind", ["object array", "bare pickle"])
@pytest.mark.parametrize("member", ["npy", "json"])
def test_a_planted_pickle_is_refused_and_does_not_execute(damaged, tmp_path, kind, member):
    sprung = tmp_path / "sprung"
    payload = npy(np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    if kind == "bare pickle":
        payload = payload[payload.index(b"\n") + 1 :]
    np.load(io.BytesIO(payload), allow_pickle=True)
    assert sprung.is_dir(), "the trap does not work"
    sprung.rmdir()

    sample = {"npy": IMAGE, "json": META} | {member: payload}
    plant(damaged, tar_of(*((f"a.{ending}", data) for ending, data in sample.items())))
    assert_refused(damaged, "planted.tar")
    assert not sprung.exists()


@pytest.mark.parametrize("ending", ["pkl", "pyd", "pth", "cls"])
def test_a_planted_pickle_under_another_name_does_not_execute(damaged, tmp_path, ending):
    sprung = tmp_path / "sprung"
    payload = npy(np.array([Trap(sprung)], dtype=object), allow_pickle=True)
    plant(damaged, tar_of(("a.npy", IMAGE), ("a.json", META), (f"a.{ending}", payload)))
    with contextlib.suppress(DataError):
        read_all(open_store(str(damaged)))
    assert not sprung.exists()


@pytest.mark.parametrize(
    "tar",
    [
        b"",
        b"hello " * 1000,
        tar_of(),
        tar_of(("a.npy", IMAGE)),
        tar_of(("a.json", META)),
        tar_of(("a.npy", b""), ("a.json", META)),
        tar_of(("a.npy", IMAGE[:-1]), ("a.json", META)),
        tar_of(("a.npy", npz(np.ones(3))), ("a.json", META)),
        tar_of(("a.npy", npy(np.array(["text"]))), ("a.json", META)),
        tar_of(("a.npy", npy(np.ones(32, np.float16))), ("a.json", META)),
        tar_of(("a.npy", IMAGE), ("a.json", b"[]")),
        tar_of(("a.npy", IMAGE), ("a.json", b'{"subject": "a", "slice": 1e999}')),
        tar_of(("a.npy", IMAGE), ("a.json", b'{"subject": "a", "slice": 1}')),
        tar_of(("a.npy", IMAGE), ("a.json", META), ("a.npy", IMAGE)),
        tar_of(("a.npy", IMAGE), ("a.json", META), ("a.txt", b"notes")),
        tar_of(("../a.npy", IMAGE), ("../a.json", META)),
        tar_of(("/a.npy", IMAGE), ("/a.json", META)),
        tar_of(("a.npy->/etc/passwd", b""), ("a.json", META)),
        tar_of(("a.npy", IMAGE), ("a.json", META), ("b.npy->/etc/passwd", b"")),
    ],
    ids=[
        "no bytes",
        "not a tar",
        "no samples",
        "no json",
        "no image",
        "empty image",
        "cut image",
        "zip as image",
        "text as image",
        "a row as image",
        "list as json",
        "endless slice number",
        "unknown subject",
        "duplicate",
        "another kind of member",
        "parent folder",
        "absolute name",
        "link as image",
        "link besides",
    ],
)
def test_a_tar_that_prepare_would_not_write_is_refused_by_name(damaged, tar):
    plant(damaged, tar)
    assert_refused(damaged, "planted.tar")
