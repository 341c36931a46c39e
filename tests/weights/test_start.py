"""Class queries carried over to other datasets."""

import numpy as np

from tarvis_jax.datasets import DATASETS
from tarvis_jax.weights.start import transfer_class_queries


def test_class_queries_of_other_datasets():
    old_classes = {"COCO": 3, "CITYSCAPES": 34, "OVIS": 2}
    new_classes = {"OVIS": 2, "KITTI_STEP": 19, "YOUTUBE_VIS": 2}
    old = np.arange(1 + 39)[:, None] + np.zeros((1, 4))  # rows: embedding, CITYSCAPES 1..34, COCO 35..37, OVIS 38..39
    new = -np.ones((1 + 23, 4))
    found = transfer_class_queries(old, old_classes, new, new_classes)[:, 0]
    assert found[0] == 0
    np.testing.assert_array_equal(found[1:20], 1 + np.array(DATASETS["KITTI_STEP"].class_origin.classes))
    np.testing.assert_array_equal(found[20:22], [38, 39])
    np.testing.assert_array_equal(found[22:], -1)  # YOUTUBE_VIS starts afresh


def test_another_set_of_classes_starts_from_the_seed():
    """Names alone decide nothing: 7 classes of KITTI-STEP are not those that Cityscapes has."""
    new = -np.ones((1 + 7, 4))
    found = transfer_class_queries(np.zeros((1 + 34, 4)), {"CITYSCAPES": 34}, new, {"KITTI_STEP": 7})
    np.testing.assert_array_equal(found[1:], -1)
    found = transfer_class_queries(np.zeros((1 + 8, 4)), {"CITYSCAPES": 8}, -np.ones((1 + 19, 4)), {"KITTI_STEP": 19})
    np.testing.assert_array_equal(found[1:], -1)
