import collections
import itertools

import numpy as np
import pytest

from input_pipeline import batches, mixture, samples, targets
from input_pipeline import readers as datasets
from tests.input_pipeline import official_files

STEPS = 12


def take(config, count, **options):
    return list(itertools.islice(batches.train_batches(config, **options), count))


def assert_same(left, right):
    assert left[0] == right[0] and left[1].keys() == right[1].keys()
    for key in left[1]:
        np.testing.assert_array_equal(left[1][key], right[1][key], err_msg=key)


def masks_of(batch):
    """bool [B, N, T, H, W]."""
    return targets.unpack_masks(batch, batch["classes"].shape[1])


@pytest.fixture(scope="module")
def run(make_config):
    """(config, the first batches of a mixture)."""
    config = make_config(seed=1)
    return config, take(config, STEPS)


def test_batches_keep_the_contract(run):
    config, taken = run
    by_name = {dataset.name: dataset for dataset in config.datasets}
    assert {info.task for info, _ in taken} == {"instance", "panoptic", "exemplar"}
    assert [info.step for info, _ in taken] == list(range(STEPS))
    for first, second in zip(taken[::2], taken[1::2], strict=True):
        assert first[0].dataset == second[0].dataset  # chunks
    for info, batch in taken:
        dataset = by_name[info.dataset]
        bucket = batch["images"].shape[2:4]
        assert bucket in dataset.buckets
        shapes = batches.batch_shapes(config, dataset, bucket)
        if "id_map" in batch:
            shapes["id_map"] = (batch["images"].shape[:-1], shapes.pop("bit_planes")[1])
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            key: (shape, np.dtype(dtype)) for key, (shape, dtype) in shapes.items()
        }
        valid, masks = batch["valid_instances"], masks_of(batch)
        assert valid.any(1).all()
        assert not masks[~valid].any() and not batch["classes"][~valid].any()
        assert masks.any((2, 3, 4))[valid].all()
        if info.task == "exemplar":
            assert len(set(valid.sum(1).tolist())) == 1 and not batch["classes"].any()
            for b, n in np.argwhere(valid):
                reference = masks[b, n, batch["reference_frame"][b]]
                y, x = (batch["points_yx"][b, n] * reference.shape).astype(int)
                assert reference[y, x]
        else:
            assert batch["classes"][valid].min() >= 1 and batch["classes"].max() <= dataset.num_classes
        if info.task == "panoptic":
            ignored = batch["class_map"] == 255
            things = masks & (batch["classes"][..., None, None, None] == 14)
            agree = batch["class_map"][things.any(1) & ~ignored] == 13
            assert agree.mean() > 0.9
            assert batch["class_map"][~ignored].max() < 19
            assert (batch["images"][ignored] == 128).any()


def test_targets_lie_on_their_objects(run):
    """After every augmentation the pixels of object 1 are red and those of object 2 green."""
    _, taken = run
    checked = 0
    for _, batch in taken:
        images, masks = batch["images"].astype(int), masks_of(batch)
        for b, n, t in np.argwhere(masks.any((3, 4))):
            red, green, _ = images[b, t][masks[b, n, t]].mean(0)
            assert abs(red - green) > 60
            checked += 1
    assert checked > 50


def test_a_run_that_starts_later_gives_the_same_batches(run):
    config, taken = run
    for step in (1, 5):
        for expected, found in zip(taken[step:], take(config, 3, start_step=step), strict=False):
            assert_same(expected, found)


def test_hosts_partition_the_batch(run):
    config, taken = run
    shares = [0, 2], [1, 3]  # two microbatches, each of both hosts
    parts = [take(config, 4, rows=rows) for rows in shares]
    for expected, *found in zip(taken, *parts, strict=False):
        for rows, (info, batch) in zip(shares, found, strict=True):
            assert info == expected[0]
            for key in expected[1]:
                np.testing.assert_array_equal(batch[key], expected[1][key][rows])


def test_another_seed_gives_other_batches(run, make_config):
    _, taken = run
    other = take(make_config(seed=2), 4)
    assert any(
        a[1]["images"].shape != b[1]["images"].shape or (a[1]["images"] != b[1]["images"]).any()
        for a, b in zip(taken, other, strict=False)
    )


def test_cache_changes_nothing(run, make_config):
    _, taken = run
    for megabytes in (1, 0):
        for expected, found in zip(
            taken[:3], take(make_config(seed=1, cache_records=True, cache_megabytes=megabytes), 3), strict=True
        ):
            assert_same(expected, found)


def test_mixture_follows_weights_and_epochs(make_config, make_dataset, workspace):
    config = make_config(
        datasets=(make_dataset("YOUTUBE_VIS", weight=3.0), make_dataset("BURST", weight=1.0)),
        chunk_steps=1,
        batch_size=3,
    )
    videos = [datasets.training_videos(dataset, config.workspace) for dataset in config.datasets]
    first = mixture.Mixture(config, videos)
    plans = [first.plan(step) for step in range(1200)]
    share = np.mean([plan.pool.dataset == 0 for plan in plans])
    assert abs(share - 0.75) < 0.005
    counts = collections.Counter(plan.pool.num_objects for plan in plans if plan.pool.dataset == 1)
    assert set(counts) == {1, 2} and abs(counts[1] / sum(counts.values()) - 0.5) < 0.02
    for plan in plans[:40]:
        if plan.pool.dataset == 0:  # a batch of 3 is an epoch of the 3 videos
            assert sorted(plan.items[:, 0].tolist()) == [0, 1, 2]
    again = mixture.Mixture(config, videos)
    for step in (700, 3):  # any order
        np.testing.assert_array_equal(again.plan(step).items, plans[step].items)
        assert again.plan(step).bucket == plans[step].bucket
    assert {plan.min_dim for plan in plans} == {48, 64}
    assert {plan.bucket for plan in plans} == {(64, 96)}
    names = ("YOUTUBE_VIS", "instance"), ("BURST", "exemplar")
    for steps in (range(3, 4), range(1200)):
        expected = {(*names[plans[step].pool.dataset], plans[step].bucket) for step in steps}
        assert again.shapes(steps) == expected and len(expected) == min(len(steps), 2)


def test_masks_that_stay_in_their_maps(make_config, make_dataset):
    config = make_config(datasets=(make_dataset("VIPSEG"),))
    for info, batch in take(config, 2):
        assert info.task == "panoptic"
        masks = masks_of(batch) & (batch["class_map"] != 255)[:, None]
        for b, n in np.argwhere(batch["valid_instances"]):
            assert (batch["class_map"][b][masks[b, n]] == batch["classes"][b, n] - 1).mean() > 0.9


def test_exemplar_clips_start_at_the_reference(make_config, make_dataset):
    from input_pipeline import clips

    config = make_config()
    video = datasets.training_videos(make_dataset("DAVIS"), config.workspace)[0]
    assert clips.exemplar_references(video, 3) == [(0, 1), (1, 2), (2, 2), (3, 2)]
    rng = np.random.default_rng(0)
    for _ in range(30):
        instances = clips.choose_objects(video, 1, 1, rng)
        choice = clips.choose_exemplar_clip(video, 1, instances, 3, 1.0, rng)
        assert choice.frames[0] == 1 and choice.frames == (1, 2, 3) and choice.reference == 0
        choice = clips.choose_clip(video, 3, 1.0, False, rng)
        assert len(set(choice.frames)) == 3 and list(choice.frames) == sorted(choice.frames)
        assert max(abs(t - choice.frames[choice.reference]) for t in choice.frames) <= 3
        choice = clips.choose_clip(video, 3, 1.0, True, rng)
        assert choice.frames == tuple(range(choice.frames[0], choice.frames[0] + 3))
    assert len(clips.choose_clip(video, 9, 7.5, False, rng).frames) == 9  # more than the video has


def test_more_instances_than_slots_keep_the_largest(make_config, make_dataset):
    config = make_config(datasets=(make_dataset("YOUTUBE_VIS", max_instances=1, crop=(1.0, 1.0)),))
    _, batch = take(config, 1)[0]
    areas = masks_of(batch).sum((1, 2, 3, 4))
    assert batch["classes"].shape[1] == 1 and batch["valid_instances"].all() and (areas > 100).all()


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "gone", "size"])
def test_an_unreadable_frame_is_named(damage, own_workspace, make_config, make_dataset):
    config = make_config(workspace=str(own_workspace), datasets=(make_dataset("DAVIS"),))
    videos = [datasets.training_videos(config.datasets[0], str(own_workspace))]
    for path in videos[0][0].frame_paths + videos[0][1].frame_paths:
        raw = path.read_bytes()
        if damage == "gone":
            path.unlink()
        elif damage == "size":
            import cv2

            cv2.imwrite(str(path), official_files.frame(0, 0)[:20])
        else:
            path.write_bytes({"cut": raw[: len(raw) * 2 // 3], "text": b"not an image", "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"dataset DAVIS, video '000[01]', frame \d: .*\.jpg: "):
        next(batches.train_batches(config, videos=videos))


def test_impossible_settings(make_config, make_dataset, workspace):
    with pytest.raises(ValueError, match="rows: expected numbers from 0 to 3, found .3, 4."):
        batches.train_batches(make_config(), rows=[3, 4])
    with pytest.raises(ValueError, match="at least one dataset with a weight"):
        batches.train_batches(make_config(datasets=()))
    with pytest.raises(ValueError, match="start_step"):
        batches.train_batches(make_config(), start_step=-1)
    with pytest.raises(ValueError, match="none of its 2 videos has an object .*clips of 9"):
        batches.train_batches(make_config(datasets=(make_dataset("DAVIS"),), clip_length=9))
    with pytest.raises(ValueError, match="found twice: \\['DAVIS'\\]"):
        make_config(datasets=(make_dataset("DAVIS"),) * 2)
    with pytest.raises(ValueError, match=r"^dataset DAVIS: min_dims\[0\]: expected .*; crop\[0\]: expected 0\.\.1 "):
        make_dataset("DAVIS", crop=(0.0, 1.0), min_dims=(0,))
    with pytest.raises(ValueError, match="dataset DAVIS: reader: expected the name of a module .*found '../davis'"):
        make_dataset("DAVIS", reader="../davis")


def test_a_dataset_whose_objects_vanish_is_an_error(make_config, make_dataset):
    """Objects of 10 pixels shrink to less than half a pixel."""
    config = make_config(
        datasets=(make_dataset("YOUTUBE_VIS", min_dims=(2,), buckets=((64, 64),), crop=(1.0, 1.0)),), max_attempts=3
    )
    videos = [datasets.training_videos(config.datasets[0], config.workspace)]
    for video in videos[0]:
        for masks in video.segmentations:
            for instance in masks:
                masks[instance] = official_files.coco_mask.encode(
                    np.asfortranarray(official_files.rectangle(3, 3, 2, 2))
                )
    loader = samples.SampleLoader(config, videos)
    with pytest.raises(ValueError, match="no target was left after augmentation, in this and the 2 samples"):
        loader.load(mixture.Mixture(config, videos).plan(0), 0)
