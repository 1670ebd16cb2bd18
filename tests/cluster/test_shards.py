"""Volumes into shards and back: nibabel, numpy and plain webdataset are the independent references."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
import uuid
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import webdataset

from cluster.config import PrepareConfig
from cluster.prepare import prepare
from cluster.shards import INDEX, Index
from cluster.store import FolderStore, open_store
from cluster.stream import held_out_slices, read_index, read_samples, training_crops
from metasr.errors import DataError, StoreError

SHAPE = (40, 44, 12)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # how BraTS stores its voxels
SUBJECTS = [f"BraTS20_Training_{number:03d}" for number in range(1, 5)]
OPTIONS = PrepareConfig(modality="t1ce", crop_px=32, val_subjects=(SUBJECTS[1],))
CANARY = "Jane-Doe-1970"


def brain(seed, shape=SHAPE):
    """Integers from 100 to 400 in an ellipsoid off the middle, 0 around it."""
    centre = (np.array(shape) - 1) / 2 + (2, -1, 0)
    radius = np.sqrt((((np.indices(shape).T - centre) / (0.4 * np.array(shape))) ** 2).sum(-1)).T
    return np.where(radius < 1, np.random.default_rng(seed).integers(100, 400, shape), 0).astype(np.int16)


def write_volume(path, data, affine=LPS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)


def volume_file(folder, subject):
    return folder / subject / f"{subject}_t1ce.nii.gz"


def make_volumes(folder):
    for seed, subject in enumerate(SUBJECTS):
        write_volume(volume_file(folder, subject), brain(seed), LPS if seed % 2 else np.eye(4))
    return folder


def run_prepare(folder, store, options=OPTIONS):
    return prepare(folder, store, options, lambda line: None)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_all(store):
    """Read everything a store holds, as training and evaluation do."""
    index = read_index(store)
    return training_crops(store, index), held_out_slices(store, index, 0)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return make_volumes(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def original(volumes, tmp_path_factory):
    """The folder of a prepared store, with several training shards. Not to be written to."""
    folder = tmp_path_factory.mktemp("store")
    run_prepare(volumes, open_store(str(folder)), OPTIONS.model_copy(update={"shard_mb": 0.03}))
    return folder


@pytest.fixture
def damaged(original, tmp_path):
    """A copy of the prepared store, to be damaged."""
    return shutil.copytree(original, tmp_path / "damaged")


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    if request.param == "folder":
        return open_store(str(tmp_path / "store"))
    return open_store(f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}")


# What is in the shards


def expected_slices(path):
    """Return `{slice: image}` of a volume, front at the top and the patient's left on the left, brain in [0, 1]."""
    image = nib.as_closest_canonical(nib.load(path))
    data = image.get_fdata()
    unit = data / np.percentile(data[data > 0], 99.9)
    slices = {k: np.flipud(unit[:, :, k].T).astype(np.float16) for k in range(data.shape[2])}
    return {k: image for k, image in slices.items() if (image > 0).mean() >= 0.1}


def read_with_webdataset(shards):
    """Return `{(subject, slice): image}` from local tars with nothing of ours, in their order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves closing its files to Python
        found = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False, empty_check=False))
    samples = {}
    for sample in found:
        assert {name for name in sample if not name.startswith("__")} == {"npy", "json"}
        meta = json.loads(sample["json"])
        samples[meta["subject"], meta["slice"]] = np.load(io.BytesIO(sample["npy"]), allow_pickle=False)
    return samples


def assert_is_fullest_window(crop, whole, side):
    windows = np.lib.stride_tricks.sliding_window_view(whole, (side, side))
    fullness = (windows > 0).sum(axis=(2, 3))
    same = (windows == crop).all(axis=(2, 3))
    assert crop.shape == (side, side)
    assert fullness[same].max() == fullness.max()


def test_plain_webdataset_reads_what_nibabel_sees(volumes, store, tmp_path):
    report = run_prepare(volumes, store)
    index = json.loads(store.get("index.json"))
    local = tmp_path / "local"
    local.mkdir()
    for shard in index["shards"]:
        (local / shard["name"]).write_bytes(store.get(shard["name"]))
    for split, subjects in (("train", [SUBJECTS[0], *SUBJECTS[2:]]), ("val", [SUBJECTS[1]])):
        samples = read_with_webdataset([local / s["name"] for s in index["shards"] if s["split"] == split])
        expected = {(s, k): image for s in subjects for k, image in expected_slices(volume_file(volumes, s)).items()}
        assert list(samples) == sorted(expected)
        assert index["subjects"][split] == subjects
        for key, image in samples.items():
            assert image.dtype == np.float16
            if split == "val":
                np.testing.assert_array_equal(image, expected[key])
            else:
                assert_is_fullest_window(image, expected[key], 32)
    assert report.index == read_index(store)
    assert report.refused == {}


def test_the_index_names_every_shard_with_its_bytes_and_samples(original):
    index = json.loads((original / "index.json").read_text())
    assert sorted(path.name for path in original.iterdir()) == sorted([INDEX, *(s["name"] for s in index["shards"])])
    for shard in index["shards"]:
        data = (original / shard["name"]).read_bytes()
        assert shard["num_bytes"] == len(data)
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
        assert shard["num_samples"] == len(read_with_webdataset([original / shard["name"]]))


def test_preparing_again_another_day_gives_the_same_bytes(volumes, tmp_path, monkeypatch):
    run_prepare(volumes, open_store(str(tmp_path / "today")))
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 86_400)
    run_prepare(shutil.copytree(volumes, tmp_path / "elsewhere"), open_store(str(tmp_path / "tomorrow")))
    assert contents(tmp_path / "today") == contents(tmp_path / "tomorrow")


def test_a_full_shard_is_closed_and_another_begun(original, volumes, tmp_path):
    index = read_index(open_store(str(original)))
    train = [shard for shard in index.shards if shard.split == "train"]
    assert [shard.name for shard in train] == [f"train-{number:06d}.tar" for number in range(len(train))]
    assert len(train) > 2
    assert all(30_000 <= shard.num_bytes < 60_000 for shard in train[:-1])
    report = run_prepare(volumes, open_store(str(tmp_path / "one")))
    assert [shard.name for shard in report.index.shards] == ["train-000000.tar", "val-000000.tar"]
    assert report.index.shards[0].num_samples == sum(shard.num_samples for shard in train)


def test_small_and_large_shards_hold_the_same_samples(original, volumes, tmp_path):
    run_prepare(volumes, open_store(str(tmp_path / "one")))
    several, one = (read_all(open_store(str(folder))) for folder in (original, tmp_path / "one"))
    assert several[0].equal(one[0])
    assert [s.number for s in several[1]] == [s.number for s in one[1]]


def test_mean_and_deviation_are_those_of_all_training_crops(original):
    index = json.loads((original / "index.json").read_text())
    shards = [original / shard["name"] for shard in index["shards"] if shard["split"] == "train"]
    crops = np.stack(list(read_with_webdataset(shards).values())).astype(np.float64)
    assert index["mean"] == pytest.approx(crops.mean(), rel=1e-9)
    assert index["std"] == pytest.approx(crops.std(), rel=1e-9)


def test_one_hot_voxel_does_not_end_the_preparation(tmp_path):
    folder = make_volumes(tmp_path / "volumes")
    data = brain(0).astype(np.float32)
    data[20, 22, 6] = 1e9
    write_volume(volume_file(folder, SUBJECTS[0]), data)
    report = run_prepare(folder, open_store(str(tmp_path / "store")))
    assert np.isfinite(training_crops(open_store(str(tmp_path / "store")), report.index).numpy()).all()


def test_neither_paths_nor_header_texts_reach_the_store(tmp_path):
    folder = make_volumes(tmp_path / f"ward-of-{CANARY}")
    for subject in SUBJECTS:
        image = nib.load(volume_file(folder, subject))
        data = np.asarray(image.dataobj)
        image = nib.Nifti1Image(data, image.affine)
        image.header["descrip"] = image.header["intent_name"] = image.header["db_name"] = CANARY[:10].encode()
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY.encode()))
        nib.save(image, volume_file(folder, subject))
    run_prepare(folder, open_store(str(tmp_path / "store")))
    for data in contents(tmp_path / "store").values():
        for secret in (CANARY[:10], str(tmp_path), str(Path.home()), ".nii", "ward-of"):
            assert secret.encode() not in data


@pytest.mark.parametrize("name", ["sub 01", "été", "sub-01_run.2", "__sub__", "BraTS", "s" * 120])
def test_subjects_keep_their_names(tmp_path, name):
    write_volume(tmp_path / "volumes" / f"{name}.nii.gz", brain(0))
    write_volume(tmp_path / "volumes" / "val.nii.gz", brain(1))
    store = open_store(str(tmp_path / "store"))
    report = run_prepare(tmp_path / "volumes", store, PrepareConfig(crop_px=32, val_subjects=("val",)))
    assert report.index.subjects["train"] == (name,)
    assert [(s.subject, s.slice) for s in read_samples(store, report.index, "train")] == [
        (name, k) for k in range(2, 10)
    ]


def test_subjects_whose_names_differ_in_a_dot_have_keys_of_their_own(tmp_path):
    for seed, name in enumerate(("a.b", "a_b", "c")):
        write_volume(tmp_path / "volumes" / f"{name}.nii.gz", brain(seed))
    options = PrepareConfig(crop_px=32, val_subjects=("c",), slice_step=100)
    run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), options)
    with tarfile.open(tmp_path / "store" / "train-000000.tar") as tar:
        names = tar.getnames()
    assert len(names) == len(set(names)) == 4
    assert len(read_all(open_store(str(tmp_path / "store")))[0]) == 2


# Reading


def test_training_crops_are_read_in_the_order_of_the_index(original):
    store = open_store(str(original))
    index = read_index(store)
    crops = training_crops(store, index)
    samples = list(read_samples(store, index, "train"))
    assert crops.shape == (len(samples), 1, 32, 32)
    assert [(s.subject, s.slice) for s in samples] == sorted((s.subject, s.slice) for s in samples)
    np.testing.assert_array_equal(crops[:, 0].numpy(), np.stack([sample.image for sample in samples]))


@pytest.mark.parametrize("per_subject", [0, 1, 3, 100])
def test_held_out_slices_are_whole_and_evenly_spread(original, volumes, per_subject):
    store = open_store(str(original))
    slices = held_out_slices(store, read_index(store), per_subject)
    expected = expected_slices(volume_file(volumes, SUBJECTS[1]))
    numbers = sorted(expected)
    chosen = {1: [numbers[len(numbers) // 2]], 3: [numbers[i] for i in (1, 4, 6)]}.get(per_subject, numbers)
    assert len(numbers) == 8
    assert [(s.subject, s.number) for s in slices] == [(SUBJECTS[1], number) for number in chosen]
    for held_out in slices:
        np.testing.assert_array_equal(held_out.image[0, 0].numpy(), expected[held_out.number].astype(np.float32))


# Damage


def assert_refused(folder, *words):
    with pytest.raises((DataError, StoreError)) as caught:
        read_all(open_store(str(folder)))
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shard", ["train-000001.tar", "val-000000.tar"])
@pytest.mark.parametrize("position", [0, 600, 20_000, -1])
def test_a_flipped_bit_is_found_and_its_shard_named(damaged, shard, position):
    data = bytearray((damaged / shard).read_bytes())
    data[position] ^= 1
    (damaged / shard).write_bytes(data)
    assert_refused(damaged, shard)


def member_starts(path):
    with tarfile.open(path) as tar:
        return [member.offset for member in tar]


@pytest.mark.parametrize("where", ["nowhere", "middle", "sample", "within sample", "last byte"])
def test_a_truncated_shard_is_found_and_named(damaged, where):
    path = damaged / "train-000001.tar"
    starts, size = member_starts(path), path.stat().st_size
    end = {"nowhere": 0, "middle": 5000, "sample": starts[-2], "within sample": starts[-1], "last byte": size - 1}
    os.truncate(path, end[where])
    assert_refused(damaged, path.name)


@pytest.mark.parametrize("back", [1, 2], ids=["within a sample", "between samples"])
def test_a_shard_cut_between_members_and_closed_again_is_found(damaged, back):
    path = damaged / "train-000001.tar"
    data = path.read_bytes()
    path.write_bytes(data[: member_starts(path)[-back]].ljust(len(data), b"\0"))
    assert_refused(damaged, path.name)


def test_bytes_after_the_end_of_a_shard_are_found(damaged):
    path = damaged / "val-000000.tar"
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    assert_refused(damaged, path.name)


def test_two_shards_in_each_others_place_are_found(damaged):
    one, other = damaged / "train-000000.tar", damaged / "train-000001.tar"
    one.rename(damaged / "between")
    other.rename(one)
    (damaged / "between").rename(other)
    assert_refused(damaged, one.name)


def test_a_missing_shard_is_named(damaged):
    (damaged / "train-000001.tar").unlink()
    assert_refused(damaged, "train-000001.tar")


def test_a_missing_shard_on_s3_is_named(volumes, s3_url):
    store = open_store(f"{s3_url}/{uuid.uuid4().hex}")
    run_prepare(volumes, store)
    index = read_index(store)
    store._client.delete_object(**store._object("train-000000.tar"))
    with pytest.raises(StoreError, match=r"train-000000\.tar"):
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


def edit_index(folder, edit):
    index = json.loads((folder / INDEX).read_text())
    edit(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("key", "value"), [("num_bytes", 1), ("num_samples", 1), ("num_samples", -1), ("sha256", "0" * 64)]
)
def test_an_index_edited_against_a_shard_is_found_and_the_shard_named(damaged, key, value):
    edit_index(damaged, lambda index: index["shards"][1].update({key: value}))
    assert_refused(damaged, "train-000001.tar")


@pytest.mark.parametrize("name", ["../outside.tar", "/etc/passwd", "a/../../outside.tar", ""])
def test_an_index_cannot_point_out_of_its_store(damaged, name):
    edit_index(damaged, lambda index: index["shards"][0].update(name=name))
    assert_refused(damaged, "cannot use the key")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
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


def test_a_shard_moved_to_the_other_split_is_refused(damaged):
    edit_index(damaged, lambda index: index["shards"][0].update(split="val"))
    assert_refused(damaged, "train-000000.tar")


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


# Preparing


class FailingStore(FolderStore):
    """A folder on a disk that is full after some objects."""

    def __init__(self, root, room):
        super().__init__(root)
        self.room, self.keys = room, []

    def put(self, key, data):
        if len(self.keys) == self.room:
            raise StoreError(f"cannot write {key!r}", "no space left on device")
        self.keys.append(key)
        super().put(key, data)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_preparation_that_fails_leaves_no_index(volumes, tmp_path, room):
    store = FailingStore(tmp_path / "store", room)
    with pytest.raises(StoreError, match="no space left"):
        run_prepare(volumes, store)
    assert not store.exists(INDEX)
    assert len(store.keys) == room


def test_the_index_is_written_last(volumes, tmp_path):
    store = FailingStore(tmp_path / "store", room=99)
    run_prepare(volumes, store)
    assert store.keys == ["train-000000.tar", "val-000000.tar", INDEX]


BROKEN = {
    "no NIfTI": lambda path: path.write_text("a text file"),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "not finite": lambda path: write_volume(path, np.where(brain(0) > 0, np.nan, 0).astype(np.float32)),
    "constant": lambda path: write_volume(path, np.ones(SHAPE, np.int16)),
    "no brain": lambda path: write_volume(path, brain(0) * (np.indices(SHAPE).sum(0) < 26)),
    "four dimensions": lambda path: write_volume(path, np.stack([brain(0)] * 2, axis=-1)),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_volume_that_cannot_be_used_is_named_and_the_others_go_on(tmp_path, kind):
    folder = make_volumes(tmp_path / "volumes")
    BROKEN[kind](volume_file(folder, SUBJECTS[2]))
    told = []
    store = open_store(str(tmp_path / "store"))
    report = prepare(folder, store, OPTIONS, told.append)
    assert list(report.refused) == [SUBJECTS[2]]
    assert str(volume_file(folder, SUBJECTS[2])) in report.refused[SUBJECTS[2]]
    assert [line for line in told if "left out" in line] == [
        f"{SUBJECTS[2]}: left out. {report.refused[SUBJECTS[2]]}"
    ]
    assert report.index.subjects == {"train": (SUBJECTS[0], SUBJECTS[3]), "val": (SUBJECTS[1],)}
    assert {sample.subject for sample in read_samples(store, report.index, "train")} == {SUBJECTS[0], SUBJECTS[3]}


@pytest.mark.parametrize("broken", SUBJECTS)
def test_the_others_go_on_whichever_of_them_would_have_validated(tmp_path, broken):
    folder = make_volumes(tmp_path / "volumes")
    volume_file(folder, broken).write_text("a text file")
    options = PrepareConfig(modality="t1ce", crop_px=32)
    report = run_prepare(folder, open_store(str(tmp_path / "store")), options)
    assert list(report.refused) == [broken]
    used = [name for names in report.index.subjects.values() for name in names]
    assert sorted(used) == [name for name in SUBJECTS if name != broken]


def test_nothing_but_broken_volumes_is_an_error_that_leaves_nothing_behind(tmp_path):
    folder = make_volumes(tmp_path / "volumes")
    for subject in SUBJECTS:
        volume_file(folder, subject).write_text("a text file")
    with pytest.raises(DataError, match="too few usable subjects"):
        run_prepare(folder, open_store(str(tmp_path / "store")))
    assert not (tmp_path / "store").exists()


def test_one_subject_cannot_be_split(tmp_path):
    write_volume(volume_file(tmp_path / "volumes", SUBJECTS[0]), brain(0))
    with pytest.raises(DataError, match="at least two subjects"):
        run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), PrepareConfig(modality="t1ce"))


def test_an_unknown_validation_subject_is_named_with_those_there_are(volumes, tmp_path):
    with pytest.raises(DataError, match="subject nobody: it is not in the folder") as caught:
        run_prepare(volumes, open_store(str(tmp_path)), PrepareConfig(modality="t1ce", val_subjects=("nobody",)))
    assert all(subject in str(caught.value) for subject in SUBJECTS)


def test_validating_on_everyone_leaves_nobody_to_train_on(volumes, tmp_path):
    with pytest.raises(DataError, match="training and validation need one each"):
        run_prepare(volumes, open_store(str(tmp_path)), OPTIONS.model_copy(update={"val_subjects": tuple(SUBJECTS)}))


def test_visits_of_one_patient_are_not_divided_between_the_splits(tmp_path):
    """BraTS names a patient's visits BraTS-GLI-<patient>-<visit>."""
    patients = [f"BraTS-GLI-{number:05d}" for number in range(6)]
    for patient in patients:
        for visit in ("000", "001"):
            write_volume(tmp_path / "volumes" / f"{patient}-{visit}-t1c.nii.gz", brain(0))
    options = PrepareConfig(modality="t1c", crop_px=32, slice_step=100, val_fraction=0.5)
    index = run_prepare(tmp_path / "volumes", open_store(str(tmp_path / "store")), options).index
    train, val = ({name.rpartition("-")[0] for name in index.subjects[split]} for split in ("train", "val"))
    assert train | val == set(patients)
    assert not train & val


@pytest.mark.parametrize(("step", "count"), [(1, 8), (3, 3), (100, 1)])
def test_every_nth_slice_is_taken(volumes, tmp_path, step, count):
    report = run_prepare(volumes, open_store(str(tmp_path)), OPTIONS.model_copy(update={"slice_step": step}))
    assert report.index.shards[1].num_samples == count


def test_the_index_keeps_how_it_was_prepared(original):
    index = Index.model_validate_json((original / INDEX).read_bytes())
    assert PrepareConfig.model_validate(index.options) == OPTIONS.model_copy(update={"shard_mb": 0.03})
    assert index.to_bytes() == (original / INDEX).read_bytes()
    assert index.digest() == hashlib.sha256((original / INDEX).read_bytes()).hexdigest()
