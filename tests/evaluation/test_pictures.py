"""The picture of a held-out video: above what is there, below what was found."""

import dataclasses

import cv2
import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.config import dataset_config
from input_pipeline.synthetic import INSTANCE_CLASSES, PANOPTIC_CLASSES, write_synthetic_workspace
from tarvis_jax.evaluation.pictures import write_comparison
from tarvis_jax.results.target import Target
from tarvis_jax.visualize import overlay
from tests.evaluation.test_scores import SPECS, perfect

CLASS_NAMES = {"YOUTUBE_VIS": INSTANCE_CLASSES, "KITTI_STEP": PANOPTIC_CLASSES}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    names = ("YOUTUBE_VIS", "KITTI_STEP", "DAVIS")
    root = write_synthetic_workspace(
        tmp_path_factory.mktemp("pictures") / "data", num_train=1, num_val=1, num_frames=4, datasets=names
    )
    return {
        name: readers.ground_truth_videos(
            dataset_config(name, num_classes=SPECS[name].num_classes, thing_classes=SPECS[name].thing_classes),
            "val",
            str(root),
        )[0]
        for name in names
    }


@pytest.mark.parametrize("name", ["YOUTUBE_VIS", "KITTI_STEP", "DAVIS"])
def test_truth_above_result_below(tmp_path, monkeypatch, videos, name):
    record, spec = videos[name], SPECS[name]
    texts = []
    write = overlay._write_labels
    monkeypatch.setattr(
        overlay,
        "_write_labels",
        lambda image, plates, *more: texts.append({text for text, *_ in plates}) or write(image, plates, *more),
    )
    names = dict(enumerate(CLASS_NAMES.get(name, ()), start=1))
    targets = [Target(0, i, mask=record.instance_mask(0, i)) for i in record.visible_ids(0)] if name == "DAVIS" else []
    differences = []
    result = perfect(record, spec)
    for tracks in (result.tracks, []):
        path = tmp_path / "a" / f"{len(tracks)}.jpg"
        found = dataclasses.replace(result, tracks=tracks)
        write_comparison(path, record, found, spec, class_names=names, score_threshold=0.5, targets=targets)
        image = cv2.imread(str(path)).astype(int)
        assert image.shape == (2 * 256 + 4, 3 * 384 + 2 * 4, 3), "two rows of three enlarged frames"
        objects = (record.id_map(0) > 0).repeat(4, 0).repeat(4, 1)
        differences.append(np.abs(image[:256, :384] - image[260:, :384])[objects].mean())
    assert differences[0] < 0.4 * differences[1], "a perfect result looks like the truth"
    above, below = texts[0], texts[1]
    if name == "DAVIS":
        assert above == below == {str(i) for i in record.visible_ids(0)}
    else:
        assert above and all(text.split()[0] in CLASS_NAMES[name] and text.split()[1].isdigit() for text in above)
        assert below == {f"{text}  .99" for text in above}
