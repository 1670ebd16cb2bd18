"""Tell masks, label maps and segmentations from images, by their names and by their voxels."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

INTENT_LABEL = 1002  # NIFTI_INTENT_LABEL
MAX_LABELS = 32  # images have more distinct values
SAMPLED = 4096
_WORDS = (
    r"[a-z]*masks?\d*|labels?|labelmap|[dt]?seg|probseg|segm|segmentations?|[a-z]*aseg|aparc(?:[+.]a\d*s\w*)?|wmparc"
    r"|parc(?:ellation)?|[gcpi]tvs?\d*|rois?|lesions?|lesionsmoothed\w*|gt|ground[_-]?truth|annotations?|ribbon"
    r"|glistrboost(?:[_-]manuallycorrected)?"
)
LABELS = re.compile(rf"(?:.*[_\-. ])?(?:{_WORDS})(?:[_-](?:label|stx)?\d*)?", re.IGNORECASE)
FOLDER = re.compile(r"labels(?:tr|ts|val)?|masks?|(?:.*[_-])?segmentations?|segs?|annotations?|rois?", re.IGNORECASE)


def is_label_name(folders: Sequence[str], name: str) -> bool:
    """Return whether a file is named as a label map, or is in a folder for label maps.

    Args:
        folders: Names of the folders on the way to the file.
        name: Name of the file, without suffix.
    """
    return bool(LABELS.fullmatch(name)) or any(map(FOLDER.fullmatch, folders))


def label_reason(voxels: NDArray[np.float64], intent_code: int) -> str:
    """Return why a volume holds labels and not intensities; an empty string if it does not.

    Args:
        voxels: Voxels of the volume, in any shape.
        intent_code: Intent code of its NIfTI header.
    """
    if intent_code == INTENT_LABEL:
        return "its header says that its voxels are labels"
    values = np.unique(voxels.ravel()[:: max(1, voxels.size // SAMPLED)])
    if len(values) > MAX_LABELS or (values % 1).any():  # settles nearly every image at no cost
        return ""
    low, high = float(voxels.min()), float(voxels.max())
    if high - low >= 2**16 or (voxels % 1).any():
        return ""
    found = np.flatnonzero(np.bincount((voxels.ravel() - low).astype(np.int64)))
    if not 1 < len(found) <= MAX_LABELS:
        return ""
    return f"it has {len(found)} distinct values, all integers, as a mask or label map has"
