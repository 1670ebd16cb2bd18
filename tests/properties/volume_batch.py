"""Loads damaged volumes in a process of little memory and prints what came of them, as JSON.

python -W error -m tests.properties.volume_batch SEED FIRST COUNT FOLDER
"""

import json
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

from metasr.data.volume import load_volume, save_volume
from metasr.errors import DataError
from tests.properties.nifti_mutations import by_hand, hostile

MEMORY_BYTES = 2**29  # beside what the process has when it begins


def main(seed, first, count, folder):
    outcomes, kinds, wrong, slowest = Counter(), Counter(), [], 0.0
    load_volume_of(folder, hostile(seed, first))  # what is imported late is there before memory is counted
    before = peak_bytes()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES,) * 2)
    for number in range(first, first + count):
        file = hostile(seed, number)
        began = time.perf_counter()
        try:
            outcome = load_volume_of(folder, file)
        except Exception as error:
            outcome = "wrong"
            wrong.append(f"hostile({seed}, {number}) {file.kind}: {type(error).__name__} {str(error)[:300]}")
        slowest = max(slowest, time.perf_counter() - began)
        outcomes[outcome] += 1
        kinds.update(file.kind.split("+"))
    grown = peak_bytes() - before
    print(json.dumps({"outcomes": outcomes, "kinds": kinds, "wrong": wrong, "grown": grown, "slowest_s": slowest}))


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def load_volume_of(folder, file):
    """Return whether a file was `read` or `refused`; whatever else happens is an error."""
    path = folder / file.name
    path.write_bytes(file.content)
    try:
        volume = load_volume(path)
    except DataError as error:
        check_refusal(error, path.name)
        return "refused"
    finally:
        path.unlink()
    assert not file.cut, "it was read, though its end is gone"
    check(volume, file)
    save_and_load(volume, path)
    return "read"


def check_refusal(error, name):
    assert name in str(error), f"the file is not named in {error}"
    assert error.why, "no reason is given"
    assert not isinstance(error.__cause__, MemoryError), "it took memory"


def check(volume, file):
    shape, dtype, data = by_hand(file.raw)
    assert volume.data.shape == shape, f"{volume.data.shape} instead of {shape}"
    assert np.array_equal(volume.data, data), f"other intensities than the {dtype} in the file"
    kind = nib.Nifti2Image if volume.header.sizeof_hdr == 540 else nib.Nifti1Image
    with warnings.catch_warnings(action="ignore"):
        reference = kind.from_bytes(without_notes(file.raw, kind.header_class))
    said = "; ".join(volume.warnings)
    if "taken as" not in said:  # of an axis of no length nibabel reads nothing
        assert np.array_equal(volume.data, reference.get_fdata().reshape(shape)), "nibabel reads something else"
    if "its sform is no affine" not in said:
        assert np.array_equal(volume.affine, reference.affine), "nibabel sees it elsewhere"
    assert np.isfinite(volume.data).all()
    assert np.isfinite(volume.affine).all()
    assert min(volume.spacing_mm) > 0
    assert np.array_equal(volume.from_slices(volume.slices()), volume.data)


def without_notes(raw, header_class):
    """Return the bytes of a file that announces no notes after its header: nibabel refuses broken ones."""
    size = header_class.sizeof_hdr
    begins = header_class(raw[:size], check=False).get_data_offset()
    return raw[:size] + bytes(4) + raw[size + 4 :] if begins >= size + 4 else raw


def save_and_load(volume, path):
    path = path.with_name("again.nii")
    save_volume(path, volume.data, volume)
    again = load_volume(path)
    stored = volume.data.astype(volume.header.get_data_dtype())
    assert np.array_equal(again.data, stored), "other intensities after saving"
    assert np.array_equal(again.affine, volume.affine), "elsewhere after saving"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), Path(sys.argv[4]))
