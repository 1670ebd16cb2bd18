"""A pickle that would make a folder, planted in every kind of input: it is refused, or read as what it is not."""

import gzip
import hashlib
import io
import os
import pickle  # noqa: TID251
import tarfile

import numpy as np
import pytest
import torch
import yaml
from nibabel.nifti1 import Nifti1Extension

from cluster.checkpoints import RunCheckpoints
from cluster.config import JobConfig, PrepareConfig
from cluster.prepare import prepare
from cluster.prepare.journal import FOLDER, Journal
from cluster.recipes import leaves, parse_flag, recipe_layer, resolve
from cluster.shards import INDEX, Index, Shard, shard_name
from cluster.store import open_store
from cluster.stream import ShardCache, read_index, read_samples
from metasr import manifest
from metasr.config import ExperimentConfig, ModelConfig, TrainConfig
from metasr.data.photos import load_luminance
from metasr.data.volume import load_volume
from metasr.errors import ConfigError, MetaSRError
from metasr.identity import RunIdentity
from metasr.inference.bundle import WEIGHTS as BUNDLE_WEIGHTS
from metasr.inference.bundle import load_bundle, save_bundle
from metasr.models import build_generator
from metasr.models.convert import load_public_weights
from metasr.training.state import LOG, TrainingState
from metasr.training.state import WEIGHTS as STATE_WEIGHTS
from metasr.vgg import load_vgg
from metasr.vgg_weights import published
from tests.unit.nifti import write

CPU = torch.device("cpu")
CONFIG = ExperimentConfig(model=ModelConfig(num_features=4, num_blocks=1), train=TrainConfig())
IDENTITY = RunIdentity("run", "0", "", "0" * 64)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def torch_file(trap, new):
    buffer = io.BytesIO()
    torch.save({"features.0.weight": trap}, buffer, _use_new_zipfile_serialization=new)  # noqa: TID251
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


PAYLOADS = {
    "pickle": pickle.dumps,
    "pickle in letters": lambda trap: pickle.dumps(trap, 0),
    "torch.save": lambda trap: torch_file(trap, new=True),
    "torch.save of old": lambda trap: torch_file(trap, new=False),
    "array of objects": lambda trap: npy(np.array([[trap]], dtype=object)),
}


def torch_loads(content):
    torch.load(io.BytesIO(content), weights_only=False)  # noqa: TID251


UNSAFE = {
    "pickle": pickle.loads,
    "pickle in letters": pickle.loads,
    "torch.save": torch_loads,
    "torch.save of old": torch_loads,
    "array of objects": lambda content: np.load(io.BytesIO(content), allow_pickle=True),
}


@pytest.mark.parametrize("kind", PAYLOADS)
def test_the_traps_work(tmp_path, kind):
    UNSAFE[kind](PAYLOADS[kind](Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").is_dir()


# Each reads a payload in one place of one kind of input, as the system does.


def shard(*planted):
    """Return a reader of a shard, vouched for by its index, that has the payload in files of these endings."""

    def read(folder, payload):
        good = {"npy": npy(np.ones((4, 4), np.float16)), "json": b'{"subject": "t", "slice": 0}'}
        read_planted(folder, tar_of({**good, **dict.fromkeys(planted, payload)}))

    return read


def tar_of(sample):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for ending, content in sample.items():
            info = tarfile.TarInfo(f"a.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def read_planted(folder, content):
    digest = hashlib.sha256(content).hexdigest()
    name = shard_name("train", 0, digest)
    (folder / name).write_bytes(content)
    shards = [
        Shard(name=name, split=split, num_samples=1, num_bytes=len(content), sha256=digest)
        for split in ("train", "val")
    ]
    subjects = {"train": ("t",), "val": ("v",)}
    index = Index(tool_version="0", options={}, mean=0, std=1, subjects=subjects, shards=tuple(shards))
    (folder / INDEX).write_bytes(index.to_bytes())
    store = open_store(str(folder))
    list(read_samples(store, read_index(store), "train"))


def index(folder, payload):
    (folder / INDEX).write_bytes(payload)
    read_index(open_store(str(folder)))


def volume(ending):
    def read(folder, payload):
        path = folder / f"x.{ending}"
        path.write_bytes(gzip.compress(payload) if ending == "nii.gz" else payload)
        load_volume(path)

    return read


def photograph(folder, payload):
    path = folder / "x.png"
    path.write_bytes(payload)
    load_luminance(path)


def folder_to_prepare(kind, name):
    def read(folder, payload):
        for number in range(2):
            path = folder / "in" / f"p{number}" / name.format(number)
            path.parent.mkdir(parents=True)
            path.write_bytes(payload)
        options = PrepareConfig(kind=kind, modality="t1ce" if kind == "volumes" else "")
        prepare(folder / "in", open_store(str(folder / "store")), options, lambda line: None)

    return read


def vgg(name):
    def read(folder, payload):
        (folder / name).write_bytes(payload)
        load_vgg("vgg19", "relu1_1", folder / name)

    return read


def public_weights(folder, payload):
    (folder / "authors.pth").write_bytes(payload)
    load_public_weights(folder / "authors.pth")


def bundle(name):
    """Return a reader of a bundle whose manifest vouches for the payload, if it is not the payload itself."""

    def read(folder, payload):
        save_bundle(folder / "b", build_generator(CONFIG.model), CONFIG, IDENTITY, step=1, metrics={})
        plant_sealed(folder / "b", "bundle", name, payload)
        load_bundle(folder / "b", CPU)

    return read


def checkpoint(name):
    def read(folder, payload):
        (folder / "c").mkdir()
        state = TrainingState.initial(CONFIG, CPU, mean=0.0, std=1.0)
        state.save(folder / "c", CONFIG, IDENTITY)
        plant_sealed(folder / "c", "checkpoint", name, payload)
        state.load(folder / "c")

    return read


def plant_sealed(folder, kind, name, payload):
    about = manifest.unseal(folder, kind)
    (folder / manifest.MANIFEST).unlink()
    (folder / name).write_bytes(payload)
    if name != manifest.MANIFEST:
        manifest.seal(folder, kind, about)


def ledger(folder, payload):
    store = open_store(str(folder))
    RunCheckpoints(store, "run").claim(1)
    (path,) = (folder / "run").glob("*.json")
    path.write_bytes(payload)
    RunCheckpoints(store, "run").entries()


def recipe(folder, payload):
    (folder / "r.yaml").write_bytes(payload)
    resolve(JobConfig, [recipe_layer(str(folder / "r.yaml"), folder)])


REFUSE = {
    "shard, image": shard("npy"),
    "shard, description": shard("json"),
    "shard, .pyd": shard("pyd"),
    "shard, .pickle": shard("pickle"),
    "shard, .pth": shard("pth"),
    "shard, .pkl and .cls": shard("pkl", "cls"),
    "shard": read_planted,
    "index": index,
    "volume": volume("nii"),
    "volume, compressed": volume("nii.gz"),
    "photograph": photograph,
    "volumes to prepare": folder_to_prepare("volumes", "p{}_t1ce.nii.gz"),
    "photographs to prepare": folder_to_prepare("photos", "x.jpg"),
    "VGG, .pth": vgg("mine.pth"),
    "VGG, of the published name": vgg(published("vgg19").name),
    "VGG, .pt": vgg("mine.pt"),
    "VGG, .safetensors": vgg("mine.safetensors"),
    "weights of the authors": public_weights,
    "bundle, weights": bundle(BUNDLE_WEIGHTS),
    "bundle, manifest": bundle(manifest.MANIFEST),
    "checkpoint, tensors": checkpoint(STATE_WEIGHTS),
    "checkpoint, manifest": checkpoint(manifest.MANIFEST),
    "list of checkpoints": ledger,
    "recipe": recipe,
}


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("place", REFUSE)
def test_a_pickle_is_refused_and_does_nothing(tmp_path, place, kind):
    folder, sprung = tmp_path / "input", tmp_path / "sprung"
    folder.mkdir()
    with pytest.raises(MetaSRError):
        REFUSE[place](folder, PAYLOADS[kind](Trap(sprung)))
    assert not sprung.exists()


def test_a_shard_without_a_pickle_is_read(tmp_path):
    shard()(tmp_path, b"")


# What is not refused, because it is not read, or is read as nothing but text


@pytest.mark.parametrize("kind", PAYLOADS)
@pytest.mark.parametrize("code", ["pypickle", "eval", "dicom", "comment"])
def test_a_pickle_between_header_and_voxels_does_nothing(tmp_path, kind, code):
    payload = PAYLOADS[kind](Trap(tmp_path / "sprung"))
    path = write(
        tmp_path / "x.nii", edit=lambda image: image.header.extensions.append(Nifti1Extension(code, payload))
    )
    assert payload in path.read_bytes()
    assert load_volume(path).data.any()
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_pickle_beside_the_files_of_a_bundle_or_a_checkpoint_does_nothing(tmp_path, kind):
    payload = PAYLOADS[kind](Trap(tmp_path / "sprung"))
    for read in (bundle("generator.pth"), checkpoint("state.pkl")):
        read(tmp_path, payload)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_as_the_log_of_a_checkpoint_is_text(tmp_path):
    payload = pickle.dumps(Trap(tmp_path / "sprung"), 0)
    checkpoint(LOG)(tmp_path, payload)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_pickle_in_the_journal_of_a_preparation_counts_as_none(tmp_path, kind):
    store = open_store(str(tmp_path / "store"))
    payload = PAYLOADS[kind](Trap(tmp_path / "sprung"))
    for split in ("train", "val"):
        store.put(f"{FOLDER}/inputs/{split}-000000.json", payload)
    assert Journal(store, "inputs").read(print, print) == []
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_pickle_among_the_copies_of_shards_is_fetched_again(tmp_path, kind):
    digest = hashlib.sha256(b"whole").hexdigest()
    (tmp_path / digest).write_bytes(PAYLOADS[kind](Trap(tmp_path / "sprung")))
    assert ShardCache(tmp_path, 2**20).get(digest, lambda: b"whole") == b"whole"
    assert not (tmp_path / "sprung").exists()


# YAML that names what Python shall call


def yaml_of(trap):
    return f"!!python/object/apply:os.mkdir ['{trap.folder}']"


def test_the_trap_in_yaml_works(tmp_path):
    yaml.load(yaml_of(Trap(tmp_path / "sprung")), yaml.UnsafeLoader)  # noqa: S506
    assert (tmp_path / "sprung").is_dir()


@pytest.mark.parametrize("place", ["{}", "train: {}", "train:\n  steps: {}", "? {}\n: 1", "- {}"])
def test_a_recipe_that_names_what_to_call_is_refused(tmp_path, place):
    text = place.format(yaml_of(Trap(tmp_path / "sprung")))
    with pytest.raises(ConfigError, match=r"r\.yaml"):
        recipe(tmp_path, text.encode())
    assert not (tmp_path / "sprung").exists()


def test_flags_that_name_what_to_call_are_text(tmp_path):
    text = yaml_of(Trap(tmp_path / "sprung"))
    for _, field in leaves(JobConfig):
        assert "os.mkdir" in "".join(parse_flag(field, text))
    assert not (tmp_path / "sprung").exists()
