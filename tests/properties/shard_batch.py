"""Reads damaged shards in a process of little memory and prints what came of them, as JSON.

python -W error -m tests.properties.shard_batch SEED FIRST COUNT FOLDER
"""

import hashlib
import io
import json
import resource
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from cluster.shards import Index, Shard
from cluster.store import open_store
from cluster.stream import read_samples
from cluster.stream.decode import decode
from metasr.errors import DataError
from tests.properties.shard_mutations import hostile

MEMORY_BYTES = 2**27  # beside what the process has when it begins
NAME = "train-000000.tar"


def main(seed, first, count, folder):
    outcomes, kinds, wrong, slowest = Counter(), Counter(), [], 0.0
    outcome_of(folder, hostile(seed, first).content)  # what is imported late is there before memory is counted
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    for number in range(first, first + count):
        tar = hostile(seed, number)
        began = time.process_time()
        try:
            outcome = outcome_of(folder, tar.content)
        except Exception as error:
            outcome = "wrong"
            wrong.append(f"hostile({seed}, {number}) {tar.kind}: {type(error).__name__} {str(error)[:300]}")
        slowest = max(slowest, time.process_time() - began)
        outcomes[outcome] += 1
        kinds.update(tar.kind.split("+"))
    print(json.dumps({"outcomes": outcomes, "kinds": kinds, "wrong": wrong, "slowest_s": slowest}))


def outcome_of(folder, content):
    """Return whether a shard was `read` or `refused`; whatever else happens is an error."""
    try:
        samples = decode(content)
    except ValueError:
        samples = None
    try:
        found = read_from_store(folder, content, samples or [])
    except DataError as error:
        check_refusal(error)
        unknown = any(not sample.subject.isprintable() for sample in samples or [])
        assert not samples or unknown, "what can be decoded is refused"
        return "refused"
    assert samples is not None, "what cannot be decoded is read"
    check(found, content)
    return "read"


def read_from_store(folder, content, samples):
    """Read the content as the shard of a store whose index vouches for it, but for subjects that do not print."""
    (folder / NAME).write_bytes(content)
    shard = Shard(
        name=NAME,
        split="train",
        num_samples=len(samples),
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    subjects = {"train": tuple(sample.subject for sample in samples if sample.subject.isprintable()), "val": ("v",)}
    index = Index(tool_version="0", options={}, mean=0, std=1, subjects=subjects, shards=(shard,))
    return list(read_samples(open_store(str(folder)), index, "train"))


def check_refusal(error):
    message = str(error)
    assert NAME in message, f"the shard is not named in {message}"
    assert error.why, "no reason is given"
    assert message.isprintable(), f"a message that does not print: {message!r}"
    assert len(message) < 500, f"a message of {len(message)} characters"


def check(samples, content):
    """Compare samples with what tarfile and NumPy see in the same bytes."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        infos = tar.getmembers()
        assert all(info.isreg() and not info.issparse() for info in infos), "more than files"
        files = {info.name: tar.extractfile(info).read() for info in infos}
    assert len(files) == len(infos) == 2 * len(samples), f"{len(infos)} files in {len(samples)} samples"
    keys = dict.fromkeys(name.rpartition(".")[0] for name in files)
    for key, sample in zip(keys, samples, strict=True):
        meta = json.loads(files[f"{key}.json"].decode())
        assert (sample.subject, sample.slice) == (meta["subject"], meta["slice"])
        assert type(sample.subject) is str
        assert sample.subject
        assert type(sample.slice) is int
        assert sample.slice >= 0
        image = np.load(io.BytesIO(files[f"{key}.npy"]), allow_pickle=False)
        assert sample.image.dtype == image.dtype == np.float16
        assert sample.image.ndim == 2
        assert np.isfinite(sample.image).all()
        assert np.array_equal(sample.image, image)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
