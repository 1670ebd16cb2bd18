"""Masks, label maps and segmentations: told from images by their names, and by what they hold."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

INTENT_LABEL = 1002  # NIFTI_INTENT_LABEL
MAX_LABELS = 32  # an image has more values than that
SAMPLED = 4096
_WORDS = (
    r"[a-z]*masks?\d*|labels?|labelmap|[dt]?seg|probseg|segm|segmentations?|[a-z]*aseg|aparc(?:[+.]a\d*s\w*)?|wmparc"
    r"|parc(?:ellation)?|[gcpi]tvs?\d*|rois?|lesions?|lesionsmoothed\w*|gt|ground[_-]?truth|annotations?|ribbon"
    r"|glistrboost(?:[_-]manuallycorrected)?"
)
LABELS = re.compile(rf"(?:.*[_\-. ])?(?:{_WORDS})(?:[_-](?:label|stx)?\d*)?", re.IGNORECASE)
FOLDER = re.compile(r"labels(?:tr|ts|val)?|masks?|(?:.*[_-])?segmentations?|segs?|annotations?|rois?", re.IGNORECASE)


def is_label_name(folders: Sequence[str], name: str) -> bool:
    """Return whether a file is named as a label map, or lies in a folder for them.

    Args:
        folders: Names of the folders that it lies in.
        name: Its own, without its ending.
    """
    return bool(LABELS.fullmatch(name)) or any(map(FOLDER.fullmatch, folders))


def label_reason(voxels: NDArray[np.float64], intent_code: int) -> str:
    """Return by what a volume is seen to hold labels instead of intensities; empty where it does not.

    Args:
        voxels: Of the volume, in any shape.
        intent_code: That of its NIfTI header.
    """
    if intent_code == INTENT_LABEL:
        return "its header says that it holds labels"
    values = np.unique(voxels.ravel()[:: max(1, voxels.size // SAMPLED)])
    if len(values) > MAX_LABELS or (values % 1).any():  # true of nearly every image, and costs next to nothing
        return ""
    low, high = float(voxels.min()), float(voxels.max())
    if high - low >= 2**16 or (voxels % 1).any():
        return ""
    found = np.flatnonzero(np.bincount((voxels.ravel() - low).astype(np.int64)))
    if not 1 < len(found) <= MAX_LABELS:
        return ""
    return f"it holds {len(found)} whole numbers, as a mask or a label map does"
