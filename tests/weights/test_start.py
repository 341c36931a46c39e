"""Class queries carried over to other datasets."""

import numpy as np

from tarvis_jax.datasets import DATASETS
from tarvis_jax.weights.start import class_origins, transfer_class_queries


def test_class_queries_of_other_datasets():
    old_classes = {"COCO": 3, "CITYSCAPES": 34, "OVIS": 2}
    new_classes = {"OVIS": 2, "KITTI_STEP": 19, "YOUTUBE_VIS": 2}
    old = np.arange(1 + 39)[:, None] + np.zeros((1, 4))  # rows: embedding, CITYSCAPES 1..34, COCO 35..37, OVIS 38..39
    new = -np.ones((1 + 23, 4))
    origins = {name: class_origins(name, old_classes, count) for name, count in new_classes.items()}
    found = transfer_class_queries(old, old_classes, new, origins)[:, 0]
    assert found[0] == 0
    np.testing.assert_array_equal(found[1:20], 1 + np.array(DATASETS["KITTI_STEP"].class_origin.classes))
    np.testing.assert_array_equal(found[20:22], [38, 39])
    np.testing.assert_array_equal(found[22:], -1)  # YOUTUBE_VIS starts afresh


def test_another_set_of_classes_starts_from_the_seed():
    """Names alone decide nothing: 7 classes of KITTI-STEP are not those that Cityscapes has."""
    assert class_origins("KITTI_STEP", {"CITYSCAPES": 34}, 7) == [None] * 7
    assert class_origins("KITTI_STEP", {"CITYSCAPES": 8}, 19) == [None] * 19


def test_classes_are_known_by_their_names():
    """A list of classes that grew, shrank or came in another order keeps the queries of the names that both have."""
    old, new = {"LAB": ("ball", "box", "gone")}, {"LAB": ("ring", "box", "ball", "star")}
    origins = class_origins("LAB", {"LAB": 3, "OVIS": 1}, 4, old, new)
    assert origins == [None, ("LAB", 1), ("LAB", 0), None]
    table = np.arange(1 + 4)[:, None] + np.zeros((1, 2))  # rows: embedding, LAB 1..3, OVIS 4
    found = transfer_class_queries(table, {"LAB": 3, "OVIS": 1}, -np.ones((1 + 4, 2)), {"LAB": origins})
    np.testing.assert_array_equal(found[:, 0], [0, -1, 2, 1, -1])
    # Without names on one side, only an equal number says that the classes are the same.
    assert class_origins("LAB", {"LAB": 3}, 4, {}, new) == [None] * 4
    assert class_origins("LAB", {"LAB": 4}, 4, {}, new) == [("LAB", k) for k in range(4)]
