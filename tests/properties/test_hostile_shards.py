"""Shards made to do harm, in a store that vouches for them: read as tarfile and NumPy do, or refused by name."""

import io
import json
import os
import subprocess
import sys
import tarfile
import time
import tracemalloc

import numpy as np
import pytest

from cluster.stream.decode import decode
from tests.properties.shard_mutations import BLOCK, hostile, with_checksum

NUM_FILES = int(os.environ.get("METASR_FUZZ_EXAMPLES", "500"))
MEGABYTE = 2**20


@pytest.mark.timeout(1800 + NUM_FILES // 20)
def test_damaged_shards_are_read_as_other_programs_do_or_refused(tmp_path):
    """Each tar of a sequence that is always the same; METASR_FUZZ_EXAMPLES says how many."""
    command = [sys.executable, "-W", "error", "-m", "tests.properties.shard_batch", "0", "0", str(NUM_FILES)]
    result = subprocess.run([*command, tmp_path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout)
    print({key: found[key] for key in ("outcomes", "slowest_s")})
    assert found["wrong"] == []
    assert min(found["outcomes"].get(outcome, 0) for outcome in ("read", "refused")) > NUM_FILES / 10
    assert found["slowest_s"] < 1


def header(name, size, kind=b"0"):
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = b"%011o\0" % size
    return bytes(with_checksum(block))


def member(name, content, kind=b"0"):
    return header(name, len(content), kind) + content + bytes(-len(content) % BLOCK)


def npy(shape):
    """An image that claims a shape and has no pixels."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f2", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


END = bytes(2 * BLOCK)
META = member("a.json", b'{"subject": "a", "slice": 0}')
DIGITS = member("x", b"1" * MEGABYTE, b"x")
BAD = {
    "PAX header of a million digits": DIGITS + META + END,
    "PAX headers one after the other": member("x", b"9 path=a\n", b"x") * 10_000 + END,
    "PAX record of negative length": member("x", b"-11 path=a\n", b"x") + META + END,
    "PAX size below zero": member("x", b"14 size=-1024\n", b"x") + META + END,
    "long name of megabytes": member("x", b"a" * 8 * MEGABYTE, b"L") + META + END,
    "a claim of 8 GiB": header("a.npy", 8**11 - 1) + META + END,
    "many empty files": header("a.npy", 0) * 10_000 + END,
    "zeros without an end": META + bytes(64 * MEGABYTE - 1) + b"x",
    "pixels of gigabytes": member("a.npy", npy((30_000, 30_000))) + META + END,
    "pixels beyond every number": member("a.npy", npy((10**30, 10**30))) + META + END,
    "JSON of megabytes": member("a.npy", npy((1, 1)) + bytes(2)) + member("a.json", b"[0," * 4 * MEGABYTE) + END,
    "a number of many digits": member("a.npy", npy((1, 1)) + bytes(2)) + member("a.json", b"1" * 60_000) + END,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_shard_that_would_take_time_or_memory_is_refused_at_once(kind):
    content = BAD[kind]
    began = time.thread_time()
    with pytest.raises(ValueError, match=r"\w"):
        decode(content)
    assert time.thread_time() - began < 1
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"\w"):
        decode(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(content) + MEGABYTE


def test_a_damaged_shard_can_be_made_again_from_its_number():
    assert hostile(0, 17) == hostile(0, 17)
