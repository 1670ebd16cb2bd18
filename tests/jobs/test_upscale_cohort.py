"""`metasr upscale` on a bucket: in and out of it, resumed, nothing done twice, one bad file that stops nobody."""

import json
import uuid

import nibabel as nib
import pytest

from cluster.store import open_store
from tests.jobs.command import assert_one_error
from tests.jobs.test_upscale_many import names, shape, write


@pytest.fixture
def bucket(s3_url):
    return open_store(f"{s3_url}/{uuid.uuid4().hex}")


@pytest.fixture
def upscale(metasr, places):
    def call(*arguments):
        return metasr("upscale", *map(str, arguments), "--scale", 2, "--model", places / "bundle")

    return call


def put(store, folder, *wanted):
    for number, name in enumerate(wanted):
        store.put(name, write(folder / name, number))


def errors(outcome):
    """The errors that it told, without lines of progress."""
    return [line for line in outcome.err.splitlines() if line.startswith("error: ")]


def versions(store):
    return {key: store.stat(key) for key in store.all_keys()}


def test_a_bucket_is_enlarged_into_another_and_nothing_is_done_twice(upscale, bucket, tmp_path):
    put(bucket, tmp_path, "in/p1/t1.nii.gz", "in/p2/t1.nii", "in/p2/t1_mask.nii.gz", "in/p3/t1.nii.gz")
    bucket.put("in/p3/t1.nii.gz", b"no volume" * 100)
    bucket.put("in/notes.txt", b"no image")
    source, target = f"{bucket.url}/in", open_store(f"{bucket.url}/out")
    outcome = upscale(source, target.url)
    assert outcome.code == 1
    assert len(errors(outcome)) == 1
    assert f"{source}/p3/t1.nii.gz" in errors(outcome)[0]
    assert "1 masks and label maps are left out" in outcome.out
    assert outcome.out.splitlines()[-1] == "2 made, 0 were there, 1 failed"
    made = versions(target)
    assert list(made) == ["p1/t1.metasr.json", "p1/t1.nii.gz", "p2/t1.metasr.json", "p2/t1.nii"]
    (tmp_path / "sr.nii.gz").write_bytes(target.get("p1/t1.nii.gz"))
    assert shape(tmp_path / "sr.nii.gz") == (20, 24, 4)

    put(bucket, tmp_path, "in/p3/t1.nii.gz")
    outcome = upscale(source, target.url, "--json")
    assert outcome.code == 0
    said = json.loads(outcome.out)
    assert said["skipped"] == ["p1/t1.nii.gz", "p2/t1.nii"]
    assert [result["output"]["name"] for result in said["results"]] == ["t1.nii.gz"]
    assert {key: version for key, version in versions(target).items() if key in made} == made


def test_a_result_that_was_made_otherwise_is_not_taken_for_this_one(upscale, bucket, tmp_path):
    put(bucket, tmp_path, "in/a.nii.gz", "in/b.nii.gz", "in/c.nii.gz", "in/d.nii.gz")
    out = open_store(f"{bucket.url}/out")
    assert upscale(f"{bucket.url}/in", out.url).code == 0
    before = versions(out)
    bucket.put("in/a.nii.gz", write(tmp_path / "other.nii.gz", seed=9))  # another input
    out.put("b.nii.gz", out.get("a.nii.gz"))  # another result
    out.delete("c.nii.gz")  # as when a worker dies between the two
    outcome = upscale(f"{bucket.url}/in", out.url)
    assert outcome.code == 1
    refused = [line.partition(": it exists")[0].rpartition("/")[2] for line in errors(outcome)]
    assert refused == ["a.nii.gz", "b.nii.gz"]
    assert outcome.out.splitlines()[-1] == "1 made, 1 were there, 2 failed"
    assert versions(out)["d.nii.gz"] == before["d.nii.gz"]
    assert upscale(f"{bucket.url}/in", out.url, "--skip-existing").code == 0
    outcome = upscale(f"{bucket.url}/in", out.url, "--force")
    assert outcome.out.splitlines()[-1] == "2 made, 2 were there"
    assert upscale(f"{bucket.url}/in", out.url, "--ensemble").code == 1


def test_files_go_to_a_bucket_and_from_it(upscale, bucket, tmp_path):
    write(tmp_path / "scans" / "p" / "t1.nii.gz")
    assert upscale(tmp_path / "scans", f"{bucket.url}/sr").code == 0
    assert bucket.all_keys() == ("sr/p/t1.metasr.json", "sr/p/t1.nii.gz")
    assert upscale(f"{bucket.url}/sr/p/t1.nii.gz", "twice.nii.gz").code == 0
    assert shape(tmp_path / "twice.nii.gz") == (40, 48, 4)
    assert_one_error(upscale(f"{bucket.url}/sr"), "Give OUT")
    assert_one_error(upscale(f"{bucket.url}/nothing", tmp_path / "new"), "no image that can be read")
    assert_one_error(upscale("s3://no-such-bucket/in", tmp_path / "new"), "no-such-bucket")


def test_a_bids_data_set_in_a_bucket_gets_derivatives_there(upscale, bucket, tmp_path):
    put(bucket, tmp_path, "sub-1/anat/sub-1_T1w.nii.gz", "sub-1/func/sub-1_bold.nii.gz")
    bucket.put("dataset_description.json", b'{"Name": "mine", "BIDSVersion": "1.9.0"}')
    assert upscale(bucket.url).code == 0
    assert [key for key in bucket.all_keys() if key.startswith("derivatives")] == [
        "derivatives/metasr/dataset_description.json",
        "derivatives/metasr/sub-1/anat/sub-1_res-x2_desc-metasr_T1w.json",
        "derivatives/metasr/sub-1/anat/sub-1_res-x2_desc-metasr_T1w.nii.gz",
    ]
    assert upscale(bucket.url).out.splitlines()[-1] == "0 made, 1 were there"


def test_with_trust_every_result_has_its_mask(metasr, calibrated, bucket, tmp_path):
    put(bucket, tmp_path, "in/p1/t1.nii.gz", "in/p2/t1.nii")
    out = open_store(f"{bucket.url}/out")
    command = "upscale", f"{bucket.url}/in", out.url, "--scale", 2, "--model", calibrated(0.05)
    assert metasr(*command).code == 0
    refused = metasr(*command, "--trust")  # what is there has no masks
    assert (refused.code, len(errors(refused))) == (1, 2)
    assert metasr(*command, "--trust", "--force").code == 0
    for folder, ending in (("p1", ".nii.gz"), ("p2", ".nii")):
        mask = tmp_path / f"mask{ending}"
        mask.write_bytes(out.get(f"{folder}/t1_trust{ending}"))
        assert shape(mask) == (20, 24, 4)
        said = json.loads(out.get(f"{folder}/t1.metasr.json"))["trust"]
        assert (said["file"], said["believed"]) == (f"t1_trust{ending}", 1)
    assert metasr(*command, "--trust").out.splitlines()[-1] == "0 made, 2 were there"


def test_workers_on_folders_leave_what_is_there_and_whole(upscale, metasr, tmp_path):
    for seed, name in enumerate("ab"):
        write(tmp_path / "in" / f"{name}.nii.gz", seed)
    assert upscale(tmp_path / "in", tmp_path / "out", "--workers", 1).code == 0
    kept = names(tmp_path / "out")
    assert [name for name in kept if not name.startswith(".")] == [
        "a.metasr.json",
        "a.nii.gz",
        "b.metasr.json",
        "b.nii.gz",
    ]
    (tmp_path / "out" / "b.nii.gz").unlink()
    outcome = upscale(tmp_path / "in", tmp_path / "out", "--workers", 1)
    assert outcome.out.splitlines()[-1] == "1 made, 1 were there"
    assert nib.load(tmp_path / "out" / "b.nii.gz").shape == (20, 24, 4)
    assert_one_error(upscale(tmp_path / "in", tmp_path / "out", "--workers", 0), "--workers 0")
