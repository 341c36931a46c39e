"""docs/data.md adds a dataset by one row and one reader: it is trained on, segmented and scored."""

import dataclasses
import importlib
import itertools
import sys

import cv2
import jax
import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.batches import train_batches
from tarvis_jax.api import Model
from tarvis_jax.config import from_mapping
from tarvis_jax.datasets import DATASETS
from tarvis_jax.evaluation.scores import evaluate
from tarvis_jax.inference.predictor import ClassClip, ClipPlace
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.parallel.mesh import make_mesh, put_batch
from tarvis_jax.run_config import Config
from tarvis_jax.tasks import objectives
from tarvis_jax.train.step import make_gradients
from tests import tiny
from tests.docs.snippets import run_page

FRAMES, SIZE = 4, (64, 96)


def animals(t: int) -> np.ndarray:
    """uint8 [H, W]: a zebra (class 1) that walks and a giraffe (class 2) that comes in frame 1."""
    ids = np.zeros(SIZE, np.uint8)
    ids[8:32, 8 * t : 8 * t + 24] = 11
    if t:
        ids[40:60, 48:72] = 20
    return ids


def see_animals(images: np.ndarray, dataset: str, place: ClipPlace | None = None) -> ClassClip:
    """In place of the network: a query per gray level of `write_zoo`'s frames, and one that finds nothing."""
    levels = images[:, 2::4, 2::4, 0].astype(np.float32)
    masks = np.stack([np.sign(20 - abs(levels - level)) for level in (110, 200, 255)])
    classes = np.asarray([[0, 9, 0], [0, 0, 9], [9, 0, 0]], np.float32)
    return ClassClip(classes, masks, np.zeros((2, *levels.shape), np.float32), len(images))


def write_zoo(root):
    for split, video in (("train", "morning"), ("train", "noon"), ("val", "evening")):
        for kind in ("frames", "masks"):
            (root / "zoo" / split / kind / video).mkdir(parents=True)
        for t in range(FRAMES):
            frame = np.repeat(animals(t)[..., None] * 10, 3, axis=-1)
            cv2.imwrite(str(root / "zoo" / split / "frames" / video / f"{t}.jpg"), frame)
            cv2.imwrite(str(root / "zoo" / split / "masks" / video / f"{t}.png"), animals(t))


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """The run's config that the page makes, for a workspace with a small zoo."""
    monkeypatch.setitem(DATASETS, "ZOO", None)  # restored afterwards, whatever the page puts there
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path / "input_pipeline" / "readers")])
    write_zoo(tmp_path)
    names = run_page("docs/data.md", tmp_path, {'"min_dims": (256,)': '"min_dims": (64,)'})
    importlib.invalidate_caches()
    config = from_mapping(Config, names["config"])
    assert sorted(dict(config.model.semantic_classes)) == ["YOUTUBE_VIS", "ZOO"]
    dataset = next(dataset for dataset in config.data.datasets if dataset.name == "ZOO")
    data = dataclasses.replace(
        config.data, datasets=(dataset,), workspace=str(tmp_path), batch_size=2, clip_length=2, num_parallel=1
    )
    model = dataclasses.replace(tiny.MODEL, semantic_classes=(("ZOO", 2),))
    yield dataclasses.replace(config, data=data, model=model)
    sys.modules.pop(f"{readers.__name__}.zoo", None)  # its file goes with the test


def test_a_dataset_is_one_row_and_one_reader(zoo, monkeypatch):
    (dataset,) = zoo.data.datasets
    videos = readers.training_videos(dataset, zoo.data.workspace)
    assert [video.id for video in videos] == ["morning", "noon"] and videos[0].instances == {11: 1, 20: 2}
    for t in range(FRAMES):
        np.testing.assert_array_equal(videos[0].id_map(t), animals(t))

    ((info, batch),) = itertools.islice(train_batches(zoo.data, videos=[videos]), 1)
    assert info.dataset == "ZOO" and set(np.unique(batch["classes"])) <= {0, 1, 2} and batch["bit_planes"].any()
    structure = ModelStructure(zoo.model)
    batch = put_batch(batch, 1, make_mesh(jax.devices()[:1]))
    key, step = jax.eval_shape(lambda: (jax.random.key(0), np.int32(0)))
    gradients = make_gradients(structure, objectives(zoo)["ZOO", "instance"])
    _, loss, _ = jax.eval_shape(gradients, structure.params, structure.frozen, batch, key, step)
    assert loss.shape == ()

    model = Model(zoo.model, tiny.variables(zoo.model), zoo.dataset_infos())
    truth = readers.ground_truth_videos(dataset, "val", zoo.data.workspace)
    monkeypatch.setattr(model.predictor, "segment_classes", see_animals)
    session = model.session("vis", min_dim=None)  # the only dataset with classes of this task
    assert session.dataset == "ZOO" and session.config.clip_length == 8
    frames = list(session.run([truth[0].load_frame(t) for t in range(FRAMES)]))
    assert {each.class_name for each in frames[3].objects if each.mask.any()} == {"zebra", "giraffe"}
    scores = evaluate({"evening": session.result()}, truth, dataset.spec)
    assert scores.summary["AP"] == pytest.approx(1.0)


def test_what_is_wrong_with_the_files_is_said(zoo):
    (dataset,) = zoo.data.datasets
    strict = dataclasses.replace(dataset, num_classes=1, class_names=("zebra",))
    with pytest.raises(ValueError, match=r"masks.morning: classes \[2\] are not in 1..1"):
        readers.training_videos(strict, zoo.data.workspace)
