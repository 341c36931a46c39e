"""Class queries carried over to other datasets."""

import numpy as np

from tarvis_jax.weights.start import CITYSCAPES_EVALUATED, transfer_class_queries


def test_class_queries_of_other_datasets():
    old_classes = {"COCO": 3, "CITYSCAPES": 34, "OVIS": 2}
    new_classes = {"OVIS": 2, "KITTI_STEP": 19, "YOUTUBE_VIS": 2}
    old = np.arange(1 + 39)[:, None] + np.zeros((1, 4))  # rows: embedding, CITYSCAPES 1..34, COCO 35..37, OVIS 38..39
    new = -np.ones((1 + 23, 4))
    found = transfer_class_queries(old, old_classes, new, new_classes)[:, 0]
    assert found[0] == 0
    np.testing.assert_array_equal(found[1:20], 1 + np.array(CITYSCAPES_EVALUATED))
    np.testing.assert_array_equal(found[20:22], [38, 39])
    np.testing.assert_array_equal(found[22:], -1)  # YOUTUBE_VIS starts afresh
    assert len(CITYSCAPES_EVALUATED) == 19
