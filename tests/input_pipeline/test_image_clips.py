"""Clips made of images: views, their targets by task, and the share of each task in a mixture."""

import collections
import dataclasses
import itertools

import cv2
import numpy as np
import pytest

from input_pipeline import batches, image_clips, mixture, readers
from input_pipeline.config import DataConfig, dataset_config
from tests.input_pipeline import panoptic_files

SMALL = {"min_dims": (64, 68, 72), "buckets": ((64, 64),), "max_instances": 4}
PLAIN = {"view_scale": (1.0, 1.0), "view_rotations": (), "hue_saturation": 0, "brightness": 0, "contrast": (1.0, 1.0)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return panoptic_files.workspace(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def record(tree):
    """A Cityscapes record (its images are PNGs, so that pixels are exact)."""
    return readers.training_videos(dataset_config("CITYSCAPES"), str(tree))[0]


def make(record, task="panoptic", seed=0, **settings):
    config = dataset_config("CITYSCAPES", **{**SMALL, **settings})
    return image_clips.make_clip(record, record.load_frame(0), config, task, 3, np.random.default_rng(seed))


def test_without_augmentation_views_are_the_image(record):
    height, width = panoptic_files.SIZE
    settings = {**PLAIN, "min_dims": (height,), "buckets": ((64, 128),), "flip_probability": 0.0}
    views = make(record, **settings)
    assert views.clip.images.shape == (3, height, width, 3)
    classes, numbers = panoptic_files.layout()
    for t in range(3):
        np.testing.assert_array_equal(views.clip.images[t], panoptic_files.picture(0))
        np.testing.assert_array_equal(views.clip.semantic[t], np.array([7, 23, 26] + [255] * 253)[classes])
    masks = sorted(mask.tobytes() for mask in views.clip.masks.to_bool()[:, 0])
    assert masks == sorted((numbers == n).tobytes() for n in (1, 2)) and views.classes.tolist() == [27, 27]
    flipped = make(record, **settings | {"flip_probability": 1.0})
    np.testing.assert_array_equal(flipped.clip.images, views.clip.images[:, :, ::-1])
    np.testing.assert_array_equal(flipped.clip.semantic, views.clip.semantic[:, :, ::-1])


def test_targets_move_with_their_pixels(record):
    """Things are red, and nothing else is; what lies beyond the image is black and ignored."""
    for seed in range(20):
        clip = make(record, seed=seed).clip
        assert clip.size == (64, 64) and clip.images.dtype == np.uint8
        things = clip.masks.to_bool().any(0)
        np.testing.assert_array_equal(things, clip.semantic == 26)
        inside = np.stack([cv2.erode(each.astype(np.uint8), np.ones((5, 5))) for each in things]) > 0
        outside = np.stack([cv2.dilate(each.astype(np.uint8), np.ones((5, 5))) for each in things]) == 0
        red = clip.images[..., 0].astype(int) - clip.images[..., 2]
        assert (red[inside] > 100).mean() > 0.97 and (red[outside] < 150).mean() > 0.99
        black = np.stack([cv2.erode(each.astype(np.uint8), np.ones((3, 3))) for each in (clip.images == 0).all(-1)]) > 0
        assert (clip.semantic[black] == 255).all() and not things[black].any()
        assert (clip.images[0] != clip.images[1]).any()


def test_views_are_turned_and_scaled_as_told(record):
    """The matrix of a view, found again from where its two things went."""
    settings = PLAIN | {"min_dims": (480,), "buckets": ((960, 960),), "flip_probability": 0.0}
    _, numbers = panoptic_files.layout()
    centers = np.stack([np.argwhere(numbers == n).mean(0) for n in (1, 2)])
    before = np.subtract(*centers) * 10  # resized from 48 to 480 pixels
    found = []
    for seed in range(40):
        views = make(record, seed=seed, **settings | {"view_scale": (0.8, 1.2), "view_rotations": (20.0, 10.0)})
        order = np.argsort(views.instances)
        for t in range(3):
            masks = views.clip.masks.to_bool()[order, t]
            if masks[:, 0].any() or masks[:, -1].any() or masks[..., 0].any() or masks[..., -1].any():
                continue  # cut off
            after = np.subtract(*(np.argwhere(mask).mean(0) for mask in masks))
            angle = np.degrees(np.arctan2(*after) - np.arctan2(*before))
            found.append((np.linalg.norm(after) / np.linalg.norm(before), angle))
    scales, angles = np.array(found).T
    # Ids map to 26 + number or the reverse: a half turn at most is between the two orders.
    angles = (angles + 90) % 180 - 90
    assert len(found) > 50 and 0.77 < scales.min() < 0.9 and 1.1 < scales.max() < 1.23
    assert 20 < np.abs(angles).max() < 30.5 and abs(angles.mean()) < 4
    # The sum of two uniform angles.
    assert angles.std() == pytest.approx(np.sqrt((20**2 + 10**2) / 3), rel=0.2)


def test_sizes_and_places_of_views(record):
    still = PLAIN | {"flip_probability": 0.0, "min_dims": (64,)}
    same = make(record, **still, same_view_crop=True).clip.images
    assert (same == same[0]).all()
    other = make(record, **still, same_view_crop=False).clip.images
    assert (other != other[0]).any()
    # 48 x 72 pixels: at most 80 wide means 53 high.
    assert make(record, max_dim=80).clip.size == (53, 64)


def test_large_images_are_shrunk_first(record):
    still = PLAIN | {"flip_probability": 0.0, "min_dims": (24,), "buckets": ((64, 64),)}
    shrunk = make(record, **still, image_min_dim=24).clip
    assert shrunk.size == (24, 36)
    expected = cv2.resize(panoptic_files.picture(0), (36, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk.images[0].astype(int) - expected).mean() < 12
    classes = np.array([7, 23, 26] + [255] * 253)[panoptic_files.layout()[0]]
    assert (shrunk.semantic[0] == classes[::2, ::2]).mean() > 0.97


def test_exemplars(record):
    orders, references = set(), set()
    for seed in range(40):
        views = make(record, "exemplar", seed)
        assert views.clip.semantic is None and not views.classes.any()
        assert views.clip.masks.of_frame(views.reference).any((1, 2)).all()
        orders.add(views.instances)
        references.add(views.reference)
    assert references == {0, 1, 2}
    assert {order for order in orders if len(order) == 2} == set(itertools.permutations(record.instances))
    one = make(record, "exemplar", max_exemplars=1)
    assert len(one.classes) == one.clip.masks.count == 1


def test_more_instances_than_slots_keep_the_largest(record):
    views = make(record, max_instances=1, **PLAIN, flip_probability=0.0)
    both = make(record, **PLAIN, flip_probability=0.0)
    areas = both.clip.masks.areas().sum(1)
    assert views.instances == (both.instances[int(areas.argmax())],)


def test_an_image_without_a_thing_in_view(record, tree):
    config = dataset_config("CITYSCAPES", **SMALL)
    empty = readers.training_videos(config, str(tree))[0]
    empty = dataclasses.replace(empty, read_panoptic=lambda *_: (np.zeros(panoptic_files.SIZE, np.uint8),) * 2)
    assert image_clips.make_clip(empty, empty.load_frame(0), config, "panoptic", 3, np.random.default_rng(0)) is None


def pretraining(tree, **values) -> DataConfig:
    names = ("COCO", "ADE20K", "CITYSCAPES", "MAPILLARY")
    datasets = tuple(dataset_config(name, **SMALL, max_exemplars=2) for name in names)
    settings = {"datasets": datasets, "workspace": str(tree), "batch_size": 2, "chunk_steps": 1, "num_parallel": 1}
    return DataConfig(**{**settings, **values})


def test_tasks_and_datasets_are_drawn_apart(tree):
    config = pretraining(tree, chunk_steps=4)
    videos = [readers.training_videos(dataset, config.workspace) for dataset in config.datasets]
    whole = mixture.Mixture(config, videos)
    plans = [whole.plan(4 * chunk) for chunk in range(3000)]
    counts = collections.Counter((config.datasets[plan.pool.dataset].name, plan.pool.task) for plan in plans)
    weights = {"COCO": 0.55, "ADE20K": 0.2, "CITYSCAPES": 0.05, "MAPILLARY": 0.2}
    shares = {"instance": 0.3, "panoptic": 0.3, "exemplar": 0.4}
    for (name, weight), (task, share) in itertools.product(weights.items(), shares.items()):
        assert counts[name, task] / len(plans) == pytest.approx(weight * share, abs=0.02)
    assert [whole.plan(step).pool.task for step in range(8)] == [plans[0].pool.task] * 4 + [plans[1].pool.task] * 4


def test_batches_of_every_task(tree):
    config = pretraining(tree, seed=3)
    by_name = {dataset.name: dataset for dataset in config.datasets}
    seen = set()
    for info, batch in itertools.islice(batches.train_batches(config), 12):
        seen.add(info.task)
        shapes = batches.batch_shapes(config, by_name[info.dataset], (64, 64), info.task)
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            key: (shape, np.dtype(dtype)) for key, (shape, dtype) in shapes.items()
        }
        assert shapes["classes"][0][1] == (2 if info.task == "exemplar" else 4)
        assert batch["classes"].any() == (info.task != "exemplar") and batch["valid_instances"].any(1).all()
    assert seen == {"instance", "panoptic", "exemplar"}


@pytest.mark.parametrize(
    "message, name, values",
    [
        ("task_weights: expected exemplar, each once, found instance", "DAVIS", {"task_weights": (("instance", 1.0),)}),
        ("task_weights: expected a weight above 0", "COCO", {"task_weights": (("instance", 0.0),)}),
        ("each once, found instance, instance", "COCO", {"task_weights": (("instance", 1.0), ("instance", 1.0))}),
        (r"task_weights\[0\]\[0\]: expected one of", "COCO", {"task_weights": (("vis", 1.0),)}),
        ("image_clips: expected a panoptic dataset with one bucket", "COCO", {"buckets": ((64, 64), (64, 128))}),
        ("image_clips: expected a panoptic dataset with one bucket", "COCO", {"min_dims": ()}),
        ("image_clips: expected a panoptic dataset", "OVIS", {"image_clips": True, "buckets": ((64, 64),)}),
        (r"view_scale: expected .least, most., found \(1.1, 0.9\)", "COCO", {"view_scale": (1.1, 0.9)}),
        ("category_ids: expected 133 different numbers, found .1, 2.", "COCO", {"category_ids": (1, 2)}),
    ],
)
def test_impossible_settings(message, name, values):
    with pytest.raises(ValueError, match=message):
        dataset_config(name, **values)
