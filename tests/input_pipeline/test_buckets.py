"""Padded sizes found from the videos, and the pools of cropped and of whole exemplar clips; no pixel is read."""

import collections
import dataclasses
import functools
import itertools
import pathlib

import numpy as np
import pytest

from input_pipeline import augment, buckets, clips, mixture, samples
from input_pipeline.config import DataConfig, dataset_config
from input_pipeline.records import VideoRecord
from tarvis_jax.masks import rle

# Frames (height, width) of the datasets, with roughly how often they come.
FRAMES = {
    "YOUTUBE_VIS": {(720, 1280): 80, (1080, 1920): 4, (480, 640): 8, (1280, 720): 5, (720, 406): 2, (360, 480): 1},
    "OVIS": {(1080, 1920): 85, (720, 1280): 10, (1920, 1080): 4, (864, 1536): 1},
    "KITTI_STEP": {(375, 1242): 15, (370, 1224): 2, (376, 1241): 3, (370, 1226): 1},
    "CITYSCAPES_VPS": {(1024, 2048): 1},
    "VIPSEG": {(720, 1280): 80, (720, 960): 6, (720, 1706): 3, (1280, 720): 5, (720, 1152): 3, (720, 540): 3},
    "BURST": {(720, 1280): 50, (480, 640): 20, (1080, 1920): 15, (720, 406): 3, (480, 854): 6, (1200, 1920): 6},
    "DAVIS": {(480, 854): 54, (480, 910): 5, (480, 1152): 1},
}


def record(size, boxes, dataset="DAVIS", number=0, frames=6) -> VideoRecord:
    """A video whose frames all have rectangular objects, given by (top, left, bottom, right) in shares of a frame."""
    height, width = size
    masks = {}
    for i, (top, left, bottom, right) in enumerate(boxes, 1):
        mask = np.zeros(size, np.uint8)
        mask[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = 1
        masks[i] = rle.encode(mask)
    return VideoRecord(
        dataset=dataset,
        id=number,
        source="made",
        frame_paths=tuple(pathlib.Path(f"{number}/{t}.jpg") for t in range(frames)),
        height=height,
        width=width,
        instances={i: 0 for i in masks},
        segmentations=(masks,) * frames,
        annotated_frames=tuple(range(frames)),
    )


SMALL, WIDE, LEFT, RIGHT = (0.3, 0.3, 0.6, 0.6), (0.2, 0.05, 0.9, 0.95), (0.4, 0.0, 0.6, 0.2), (0.4, 0.8, 0.6, 1.0)


def make_mixture(name, videos, **overrides):
    dataset = dataset_config(name, **overrides)
    config = DataConfig(datasets=(dataset,), workspace="none", batch_size=4, chunk_steps=1)
    return mixture.Mixture(config, [videos])


@pytest.mark.parametrize("name", FRAMES)
def test_clips_fill_their_canvas_as_in_the_reference(name):
    """The reference pads each clip to the next multiples of 64; ours may lose 3 points more, with few programs."""
    objects = ([SMALL], [SMALL, LEFT], [WIDE], [SMALL, LEFT, RIGHT])  # half of the exemplar clips can be cropped
    videos = [
        record(size, objects[i % 4], name, i, frames=4)
        for i, size in enumerate(size for size, count in FRAMES[name].items() for _ in range(count))
    ]
    plans = make_mixture(name, videos)
    shares = {True: [], False: []}  # by whether the bucket is ours or the reference's
    for step in range(300):
        plan = plans.plan(step)
        for v, _ in plan.items:
            size = buckets.clip_size(
                (videos[v].height, videos[v].width), plans.config.datasets[0], plan.min_dim, plan.pool.cropped
            )
            alone = [-(-side // 64) * 64 for side in size]
            assert size[0] <= plan.bucket[0] and size[1] <= plan.bucket[1]
            shares[True].append(np.prod(size) / np.prod(plan.bucket))
            shares[False].append(np.prod(size) / np.prod(alone))
    assert np.mean(shares[True]) > np.mean(shares[False]) - 0.03
    used = {bucket for pool in plans.pools for bucket in pool.buckets}
    assert used <= set(plans.config.datasets[0].buckets) and len(used) <= 7
    assert all(side % 64 == 0 for bucket in used for side in bucket)
    if dataset_config(name).task == "exemplar":
        assert {pool.cropped for pool in plans.pools} == {True, False}


@pytest.mark.parametrize("limit", [0.0, 0.02, 0.2])
def test_merged_buckets_hold_every_size_within_the_limit(limit):
    rng = np.random.default_rng(0)
    sizes = {tuple(size): float(weight) for size, weight in zip(rng.integers(100, 900, (40, 2)), rng.random(40))}  # noqa: B905
    found = buckets.find_buckets(sizes, 64, limit)
    rounded = {tuple(-(-side // 64) * 64 for side in size) for size in sizes}
    fill = lambda choose: np.average(  # noqa: E731
        [np.prod(size) / np.prod(choose(size)) for size in sizes], weights=list(sizes.values())
    )
    alone, merged = (fill(lambda size, of=of: buckets.smallest_bucket(size, of)) for of in (rounded, found))
    assert alone - limit - 1e-9 <= merged <= alone + 1e-9
    assert all(any(b[0] >= h and b[1] >= w for b in found) for h, w in sizes)
    assert max(h * w for h, w in found) <= max(h * w for h, w in rounded)
    assert (set(found) == rounded) if limit == 0 else len(found) < len(rounded)


def plain_sampling(videos, dataset):
    """Probability of (number of objects, video, frame, objects) as the reference draws them (and its last frame)."""
    frames = [(v, t) for v, video in enumerate(videos) for t in range(video.num_frames - 2)]
    most = min(max(len(videos[v].segmentations[t]) for v, t in frames), dataset.max_instances)
    result = {}
    for n in range(1, most + 1):
        able = [(v, t) for v, t in frames if len(videos[v].segmentations[t]) >= n]
        for v, t in able:
            subsets = list(itertools.combinations(sorted(videos[v].segmentations[t]), n))
            for subset in subsets:
                result[n, v, t, subset] = 1 / most / len(able) / len(subsets)
    return result


@functools.cache
def can_crop(video, frame, objects, crop=(0.75, 0.75)):
    union = np.any([rle.decode(video.segmentations[frame][i]) for i in objects], 0)
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    window = augment.crop_size(union.shape, crop)
    return rows[-1] + 1 - rows[0] < window[0] and columns[-1] + 1 - columns[0] < window[1]


def test_exemplar_clips_are_as_likely_as_in_plain_sampling():
    videos = [
        record((48, 80), [SMALL, LEFT, RIGHT, WIDE, (0.1, 0.1, 0.2, 0.2)], number=0),
        record((48, 80), [SMALL, LEFT], number=1, frames=9),
        record((60, 60), [LEFT, RIGHT, SMALL], number=2),
        record((80, 48), [WIDE], number=3),
    ]
    plans = make_mixture("DAVIS", videos, min_dims=(), max_padding=0.0)
    dataset = plans.config.datasets[0]
    loader = samples.SampleLoader(plans.config, [videos])
    expected = plain_sampling(videos, dataset)
    kinds = collections.Counter()
    for (n, v, t, subset), probability in expected.items():
        size = videos[v].height, videos[v].width
        cropped = can_crop(videos[v], t, subset)
        kinds[n, cropped, buckets.clip_size(size, dataset, None, cropped)] += probability
    # The pools: (number of objects, cropped or whole, size) have the probabilities of plain sampling.
    found = collections.Counter()
    for pool in plans.pools:
        found[pool.num_objects, pool.cropped, pool.buckets[0]] += pool.probability
    by_bucket = collections.Counter()
    for (n, cropped, size), probability in kinds.items():
        by_bucket[n, cropped, buckets.smallest_bucket(size, dataset.buckets)] += probability
    assert found.keys() == by_bucket.keys() and sum(found.values()) == pytest.approx(1)
    for key, probability in by_bucket.items():
        assert found[key] == pytest.approx(probability, abs=0.01), key
    # Within a pool, frames and objects too.
    drawn = collections.Counter()
    for pool in plans.pools:
        plan = dataclasses.replace(plans.plan(0), pool=pool)
        rng = np.random.default_rng(1)
        for _ in range(800):
            row = pool.items[rng.integers(len(pool.items))]
            video, choice = loader._choose(plan, dataset, row, rng)
            assert can_crop(video, choice.frames[0], choice.instances) == pool.cropped
            drawn[video.id, choice.frames[0], choice.instances] += pool.probability / 800
    exact = collections.Counter()
    for (_, v, t, subset), probability in expected.items():
        exact[v, t, subset] += probability
    assert drawn.keys() <= exact.keys()
    assert max(abs(exact[key] - drawn[key]) for key in exact) < 0.015
    assert sum(abs(exact[key] - drawn[key]) for key in exact) / 2 < 0.1


def test_boxes_of_objects_in_a_map(make_config, make_dataset):
    """Boxes are those of the masks, whether these are encoded or pixels of a map."""
    from input_pipeline import readers

    for name in ("DAVIS", "VIPSEG"):
        video = readers.training_videos(make_dataset(name), make_config().workspace)[0]
        for t in range(video.num_frames):
            for instance, box in clips.object_boxes(video, t).items():
                rows, columns = np.nonzero(video.instance_mask(t, instance))
                assert box.tolist() == [rows.min(), columns.min(), rows.max() + 1, columns.max() + 1]


def test_explicit_buckets_that_are_too_small_shrink_the_clip(make_config, make_dataset):
    dataset = make_dataset("DAVIS", min_dims=(128,), buckets=((32, 64),))
    config = make_config(datasets=(dataset,), size_divisor=32)
    from input_pipeline import readers

    videos = [readers.training_videos(dataset, config.workspace)]
    plans, loader = mixture.Mixture(config, videos), samples.SampleLoader(config, videos)
    for step in range(4):
        size = loader.draw(plans.plan(step), 0).clip.size
        assert size[0] <= 32 and size[1] <= 64 and (size[0] >= 31 or size[1] >= 63)


@pytest.mark.parametrize("name, is_cropped", [("KITTI_STEP", True), ("YOUTUBE_VIS", False)])
def test_a_clip_without_a_good_window_is_not_shrunk(make_config, make_dataset, monkeypatch, name, is_cropped):
    """It stays whole where crops have the aspect of the frame, as in the reference; else it takes the best window."""
    monkeypatch.setattr(augment, "containing_crop", lambda masks, size, rng: ((3, 5), False))
    dataset = make_dataset(name, min_dims=(64,), buckets=())
    config = make_config(datasets=(dataset,), size_divisor=32)
    from input_pipeline import readers

    videos = [readers.training_videos(dataset, config.workspace)]
    plans, loader = mixture.Mixture(config, videos), samples.SampleLoader(config, videos)
    for step in range(3):
        drawn = loader.draw(plans.plan(step), 0)
        assert drawn.cropped == is_cropped and min(drawn.clip.size) == 64
