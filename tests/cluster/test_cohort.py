"""A cohort shared among the workers of a Ray cluster: each volume once, whatever happens to the workers."""

import json
import os
import signal
import subprocess

import nibabel as nib
import numpy as np
import pytest

from cluster.store import open_store
from cluster.store.lease import Lease
from tests.cluster.ray_nodes import working
from tests.jobs.command import METASR
from tests.patience import PATIENCE_S

NUM_VOLUMES = 4


@pytest.fixture
def scans(tmp_path):
    (tmp_path / "scans").mkdir()
    for seed in range(NUM_VOLUMES):
        voxels = np.random.default_rng(seed).integers(100, 400, (24, 24, 6)).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scans" / f"{seed}.nii.gz")
    return tmp_path / "scans"


def begin(cluster, scans, bundles, *more):
    command = [METASR, "upscale", scans, scans.parent / "out", "--scale", "2", "--model", bundles[0], "--json", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), env=cluster[1], **pipes)


def finish(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def test_a_volume_whose_worker_dies_is_made_by_another_and_none_is_made_twice(cluster, scans, bundles):
    (scans / "bad.nii.gz").write_bytes(b"no volume")
    process = begin(cluster, scans, bundles)
    while not (victims := working(cluster[0])):
        assert process.poll() is None, finish(process)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    code, out, err = finish(process)
    assert code == 1, err
    said = json.loads(out)
    assert [result["input"]["name"] for result in said["results"]] == [f"{n}.nii.gz" for n in range(NUM_VOLUMES)]
    assert [failure["input"] for failure in said["failed"]] == ["bad.nii.gz"]
    results = {path: path.stat().st_mtime_ns for path in (scans.parent / "out").glob("*.nii.gz")}
    assert len(results) == NUM_VOLUMES

    code, out, _ = finish(begin(cluster, scans, bundles))
    assert code == 1
    assert (json.loads(out)["results"], len(json.loads(out)["skipped"])) == ([], NUM_VOLUMES)
    assert results == {path: path.stat().st_mtime_ns for path in results}


def test_two_commands_do_not_work_on_the_same_results(cluster, scans, bundles):
    with Lease.acquire(open_store(str(scans.parent / "out")), ".upscale", print):
        code, _, err = finish(begin(cluster, scans, bundles))
    assert code == 2
    assert "another driver is at work on it" in err
    assert "Traceback" not in err
