"""Masks and label maps are no images: by their names, and by what they hold."""

import numpy as np
import pytest

from metasr.data.labels import INTENT_LABEL, is_label_name, label_reason

LABELS = """
    A_seg A-seg seg A_mask A_brain_mask brainmask A_tumorMask A_mask1 A_label A_labels A_dseg A_segmentation
    A_labelmap A_segmentations A_segm A_aseg A_aparc A_aparc+aseg A_gtv A_GTV1 A_ctv A_roi A_lesion A_lesion_mask gt
    consensus_gt A_wmparc A_ribbon A_GlistrBoost A_GlistrBoost_ManuallyCorrected BraTS_tumor_seg A_seg_label_1
    flair_seg_label1 P1_T1_MASK sub-01_label-lesion_mask sub-01_desc-aparcaseg_dseg A_groundtruth
"""
IMAGES = """
    A_t1ce A_masked_t1 maskell_t1 A_segovia A_t1 labelle A_T1_unmasked sub-01_desc-preproc_T1w lesions_clinic_07
    A_tumor_t1c mask_clinic_t1 A_gt3
"""


def test_names_of_masks_and_label_maps_are_known_and_names_like_them_are_not():
    assert [name for name in LABELS.split() if not is_label_name((), name)] == []
    assert [name for name in IMAGES.split() if is_label_name((), name)] == []


@pytest.mark.parametrize("folder", ["labelsTr", "labels", "masks", "Segmentations", "HD-GLIO-AUTO-segmentation"])
def test_what_is_in_a_folder_of_labels_is_one(folder):
    assert is_label_name((folder, "registered"), "case_0001")
    assert not is_label_name((f"un{folder}x",), "case_0001")


@pytest.mark.parametrize("values", [[0, 1], [0, 1, 2, 4], range(20), [0, 1000, 1035]])
def test_few_integers_are_labels(values):
    voxels = np.random.default_rng(0).choice(np.array(values, np.float64), (20, 20, 20))
    assert "distinct values" in label_reason(voxels, 0)


@pytest.mark.parametrize(
    "voxels",
    [
        np.random.default_rng(0).integers(0, 200, (20, 20, 20)).astype(np.float64),
        np.random.default_rng(0).choice([0.0, 0.5, 1.0], (20, 20, 20)),
        np.where(np.indices((30, 30, 30)).sum(0) == 40, np.linspace(0, 1, 27000).reshape(30, 30, 30), 0.0),
        np.where(np.arange(1_200_000.0) < 2000, np.arange(1_200_000.0), 0.0),
        np.zeros((9, 9, 9)),
    ],
    ids=["many integers", "few that are no integers", "few and not integers", "mostly background", "constant"],
)
def test_intensities_are_no_labels(voxels):
    assert label_reason(voxels, 0) == ""
    assert "labels" in label_reason(voxels, INTENT_LABEL)
