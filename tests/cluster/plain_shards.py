"""Shards and an index written with nothing of ours."""

import hashlib
import io
import json
import tarfile

import numpy as np
import xxhash

from cluster.shards import INDEX


def write_shard(folder, name, images, subject, first_slice=0):
    """Write images as a shard, with nothing of ours, and return what the index says of it."""
    with tarfile.open(folder / name, "w") as tar:
        for number, image in enumerate(images, first_slice):
            npy = io.BytesIO()
            np.save(npy, image)
            meta = json.dumps({"subject": subject, "slice": number}).encode()
            for ending, content in (("json", meta), ("npy", npy.getvalue())):
                info = tarfile.TarInfo(f"{subject}-{number:04d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    data = (folder / name).read_bytes()
    digests = {"sha256": hashlib.sha256(data).hexdigest(), "xxh3_128": xxhash.xxh3_128_hexdigest(data)}
    about = {"name": name, "split": name.partition("-")[0], "num_samples": len(images), "num_bytes": len(data)}
    return about | digests


def write_index(folder, shards):
    about = {"format": 1, "tool_version": "", "options": {}, "mean": 0.5, "std": 0.3}
    subjects = {"train": ["one"], "val": ["two", "three"]}
    (folder / INDEX).write_text(json.dumps({**about, "subjects": subjects, "shards": shards}))
