"""What a data set is like, from its volumes to the bundle that was trained on it, and to the warnings of that."""

import numpy as np
import pytest

from cluster.config import PrepareConfig
from cluster.recipes import Resolved
from cluster.shards import Index
from cluster.store import open_store
from cluster.stream import read_index
from cluster.training.identify import RunSpec, identify
from cluster.training.traits import traits
from metasr.config import ExperimentConfig, ModelConfig
from metasr.inference.bundle import load_bundle, save_bundle
from metasr.inference.suitability import TrainedOn, findings
from metasr.models import build_generator
from tests.cluster.patients import brain, run_prepare, write_volume
from tests.unit.nifti import in_memory

HEAD = brain(1) + 50 + np.random.default_rng(0).integers(0, 40, brain(1).shape).astype(np.int16)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """The index of heads and brains of 1 x 0.8 mm, T1 and FLAIR."""
    folder = tmp_path_factory.mktemp("mixed")
    for number, data in enumerate((brain(0), HEAD, brain(2), brain(3))):
        for contrast in ("T1w", "FLAIR"):
            write_volume(folder / f"sub-{number}" / f"sub-{number}_{contrast}.nii.gz", data, np.diag([1, 0.8, 2, 1]))
    store = open_store(str(tmp_path_factory.mktemp("store")))
    run_prepare(folder, store, PrepareConfig(modality="T1w,FLAIR", crop_px=32, val_subjects=("sub-0",)))
    return read_index(store)


def test_an_index_says_what_its_volumes_are_like(mixed, original):
    assert traits(mixed) == {
        "kind": "volumes",
        "spacing_mm": [0.8, 1.0],
        "skull_stripped": False,  # one is not
        "contrasts": ["flair", "t1"],
        "mean": pytest.approx(mixed.mean, abs=1e-4),
        "std": pytest.approx(mixed.std, abs=1e-4),
    }
    stripped = traits(read_index(open_store(str(original))))
    assert (stripped["skull_stripped"], stripped["contrasts"]) == (True, ["t1ce"])


def test_an_older_index_keeps_its_identity_and_says_what_it_knows(mixed):
    older = mixed.model_dump(exclude_unset=True, exclude={"skull_stripped", "sha256", "contrasts", "modality"})
    index = Index.model_validate(older)
    assert b"skull" not in index.to_bytes()
    assert traits(index).keys() == {"kind", "spacing_mm", "mean", "std"}


@pytest.mark.usefixtures("one_thread")
def test_a_run_writes_it_into_its_bundles_and_an_input_that_is_unlike_it_is_told(job, tmp_path):
    identity = identify(RunSpec(Resolved(job, {}), "smoke.yaml"))
    assert identity.trained_on["contrasts"] == ["t1ce"]
    config = ExperimentConfig(model=ModelConfig(num_features=4, num_blocks=1))
    save_bundle(tmp_path / "bundle", build_generator(config.model), config, identity, step=1, metrics={})
    about = load_bundle(tmp_path / "bundle", device="cpu").about

    def told(volume, **changes):
        said = about | {"trained_on": {**about["trained_on"], **changes}}
        return [one.about for one in findings(volume, "volume", (2.0, 2.0, 1.0), said)]

    head = in_memory(HEAD.astype(float))
    assert told(head) == ["skull"]
    assert told(head, skull_stripped=False) == []
    assert told(head, skull_stripped=False, spacing_mm=[0.05, 0.06]) == ["spacing"]
    assert told(head, kind="photos") == ["kind"]
    assert [one.about for one in findings(head, "picture", (2.0, 2.0, 1.0), about)] == ["kind"]
    assert TrainedOn.of({}) == TrainedOn()  # bundles of before say nothing
