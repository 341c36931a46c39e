"""The compiled functions, on a tiny model with random weights."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tarvis_jax import datasets
from tarvis_jax.inference import network as forward
from tarvis_jax.inference.clips import plan_geometry
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.predictor import ClassClip, ClipPlace, FrameMemory, Predictor, mask_bucket, object_bucket
from tarvis_jax.inference.session import Session
from tarvis_jax.inference.targets import ExemplarInputs
from tarvis_jax.model.queries import SEMANTIC_TABLE, semantic_rows
from tarvis_jax.model.variables import abstract_model, fill, flatten
from tests import tiny

TINY = dataclasses.replace(tiny.MODEL, semantic_classes=(("KITTI_STEP", 5), ("YOUTUBE_VIS", 4)))
SIZE = (50, 60)


@pytest.fixture(scope="module")
def predictor():
    rng = np.random.default_rng(0)
    abstract = flatten(abstract_model(TINY))  # running its initializers takes longer
    variables = {
        name: np.ones(v.shape, np.float32) if "var" in name else rng.normal(0, 0.2, v.shape).astype(np.float32)
        for name, v in abstract.items()
    }
    return Predictor(TINY, variables)


def _video(num_frames, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (num_frames, *SIZE, 3), dtype=np.uint8))


def _mask(start):
    mask = np.zeros(SIZE, bool)
    mask[10:40, start : start + 15] = True
    return mask


def test_no_compilation_after_the_first_video(predictor):
    config = InferenceConfig(clip_length=3, overlap=1, max_tracks=9)
    spec = datasets.DatasetSpec(datasets.PANOPTIC, 5, thing_classes=(3,))

    def classes(seed):
        session = Session(predictor, "KITTI_STEP", spec, config)
        list(session.run(_video(7, seed)))
        return session.result()

    result = classes(0)
    assert len(result.tracks) >= 9 and result.num_frames == 7 and len(result.semantic) == 7
    assert all(3 not in frame for frame in result.semantic)
    compiled = predictor.programs.num_compilations
    assert 0 < compiled <= 6
    classes(1)
    assert predictor.programs.num_compilations == compiled
    assert predictor.model_seconds > 0 and predictor.programs.compile_seconds > 0


def test_objects_up_to_the_next_bucket_share_a_compilation(predictor):
    config = InferenceConfig(clip_length=3, overlap=1)

    def exemplar(num_objects, seed):
        session = Session(predictor, "DAVIS", config=config)
        for index in range(num_objects):
            session.add_target(0, index + 1, mask=_mask(10 * index))
        return list(session.run(_video(3, seed)))

    exemplar(3, 0)
    compiled = predictor.programs.num_compilations
    exemplar(4, 1)
    assert predictor.programs.num_compilations == compiled
    assert [object_bucket(n) for n in (0, 1, 2, 3, 4, 5, 9, 17, 24, 25)] == [4, 4, 4, 4, 4, 8, 16, 24, 24, 32]
    assert [mask_bucket(n) for n in (1, 2, 3, 4, 5, 9, 17, 24, 25)] == [1, 2, 4, 4, 8, 16, 24, 24, 32]


def _objects(num_frames: int, size: tuple[int, int]) -> ExemplarInputs:
    """Two mask objects and a point object, in frames of `size` or larger ones."""
    masks = np.zeros((3, num_frames, *size), bool)
    masks[0, 0, :20, :20] = masks[1, :2, 30:50, 10:30] = True
    return ExemplarInputs(
        ids=[1, 2, 3],
        masks=masks,
        points_yx=np.float32([[0, 0], [0, 0], [19.5 / size[0], 50.5 / size[1]]]),
        point_frames=np.int32([0, 0, 1]),
        is_point=np.array([False, False, True]),
        valid_frames=np.arange(num_frames) < 2,
    )


def test_padding_changes_nothing(predictor):
    """Three frames of 64x64 with three objects, in arrays of five frames of 64x96 with four slots of objects.

    The oracle is a program for exactly the clip.
    """
    size, array_size = (64, 64), (64, 96)
    array = np.random.default_rng(0).integers(0, 256, (3, *array_size, 3), dtype=np.uint8)
    images = array[:, :64, :64]

    @jax.jit
    def exactly(variables, images, queries, *objects):
        model = fill(abstract_model(TINY), variables)
        pyramid = forward.clip_features(model, images)
        classes = [each[0] for each in forward.decode_classes(model, pyramid, queries)]
        return classes, forward.decode_objects(model, pyramid, *objects)

    given = _objects(3, size)
    objects = (given.masks, given.points_yx, given.point_frames, given.is_point, np.ones(3, bool), given.valid_frames)
    rows = slice(*semantic_rows(TINY.semantic_classes)["KITTI_STEP"])
    classes, expected = exactly(predictor.variables, images, predictor.variables[SEMANTIC_TABLE][rows], *objects)

    place = ClipPlace(first=0, length=5, overlap=2, extent=size, memory=FrameMemory())
    found = predictor.segment_objects(array, _objects(3, array_size), place)
    assert found.shape == (3, 3, 16, 24) and np.abs(expected).max() < 1e4
    np.testing.assert_allclose(found[..., :16], expected, rtol=1e-3, atol=1e-3)
    assert (found[..., 16:] == -1e4).all()
    clip = predictor.segment_classes(array, "KITTI_STEP", dataclasses.replace(place, memory=FrameMemory()))
    np.testing.assert_allclose(clip.class_logits, classes[0], rtol=1e-3, atol=1e-3)
    masks = predictor.take_masks(clip, np.arange(12))
    np.testing.assert_allclose(masks[..., :16], classes[1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.asarray(clip.semantic_logits)[:, :3, :, :16], classes[2], rtol=1e-3, atol=1e-3)
    assert (masks[..., 16:] == -1e4).all()
    larger = predictor.upsample_masks(found, size)
    np.testing.assert_array_equal(larger[..., :64], predictor.upsample_masks(np.array(expected)))
    assert not larger[..., 64:].any()


def test_frames_that_two_clips_share_are_seen_once(predictor):
    """The second clip's first frame is not looked at again; that of a clip elsewhere in the video is."""
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    first = ClipPlace(first=0, length=3, overlap=1, extent=None, memory=FrameMemory())
    second = dataclasses.replace(first, first=2)

    def logits(images, place):
        clip = predictor.segment_classes(images, "KITTI_STEP", place)
        return np.array(clip.mask_logits)

    alone = logits(frames[2:], dataclasses.replace(second, memory=FrameMemory()))
    without = np.concatenate([np.zeros_like(frames[:1]), frames[3:]])
    assert np.abs(logits(without, dataclasses.replace(second, memory=FrameMemory())) - alone).max() > 1e-2
    logits(frames[:3], first)
    np.testing.assert_allclose(logits(without, second), alone, atol=1e-4)
    logits(frames[:3], dataclasses.replace(first, first=7))  # the next clip begins at frame 9
    np.testing.assert_allclose(logits(frames[2:], second), alone, atol=1e-4)


def test_programs_of_videos_of_many_sizes_and_lengths(monkeypatch):
    """Two programs for each padded size and number of clips that go at once, and none after the first video of each;
    the network is a quick stand-in."""
    programs = []

    def features(model, images, shared, num_shared, extent):
        programs.append(("features", images.shape))
        length, num_shared = len(extent.times), shared[4].shape[1]
        firsts = range(0, len(images) - num_shared, length - num_shared)
        frames = images[:, 2::4, 2::4, :1].astype(np.float32)
        return {4: jax.numpy.stack([frames[first : first + length] for first in firsts])}, shared

    def classes(model, pyramid, queries, extent):
        """Where a frame is bright, there is the object."""
        logits = pyramid[4][:, None, ..., 0] - 128  # [B, 1, T, h, w]
        programs.append(("classes", logits.shape))
        logits = jax.numpy.where(extent.clip_inside(*logits.shape[2:]), logits, -1e4)
        return jax.numpy.zeros((len(logits), 1, 1 + len(queries))), logits, logits

    monkeypatch.setattr(forward, "next_clips_features", features)
    monkeypatch.setattr(forward, "decode_classes", classes)
    predictor = Predictor(TINY, tiny.variables(TINY))
    config = InferenceConfig(clip_length=4, overlap=2, min_dim=32, max_dim=100, size_table=True)
    spec = datasets.DatasetSpec(datasets.INSTANCE, 4)

    def segment(num_frames, height, width, clip_batch=1):
        video = np.zeros((num_frames, height, width, 3), np.uint8)
        video[:, : height // 2, : width // 2] = 255
        results = list(Session(predictor, "YOUTUBE_VIS", spec, config, clip_batch=clip_batch).run(video))
        assert len(results) == num_frames
        for result in results:
            assert abs(result.objects[0].mask.mean() - 0.25) < 0.02
        return len(programs)

    assert [segment(9, 72, 128), segment(1, 128, 72), segment(6, 40, 120)] == [2, 4, 6]
    others = [(1, 108, 192), (2, 36, 64), (3, 48, 64), (5, 64, 64), (7, 96, 72), (8, 50, 120)]
    assert {segment(*video) for video in others} == {6}
    # 4, 2 and one at a time: 14 frames are six whole clips, 15 frames another short one.
    sizes = [(15, 72, 128), (14, 128, 72), (15, 40, 120)]
    assert [segment(*video, clip_batch=4) for video in sizes] == [10, 14, 18]
    assert {segment(*video, clip_batch=4) for video in others} == {18}


def test_pixels_against_torch(predictor):
    geometry = plan_geometry(SIZE, 40, 1333, 64)
    logits = np.random.default_rng(0).standard_normal((11, 16, 16)).astype(np.float32)
    x = F.interpolate(torch.from_numpy(logits)[None], scale_factor=4.0, mode="bilinear", align_corners=False)
    expected_x4 = x[0].numpy()
    x = x[..., : geometry.resized[0], : geometry.resized[1]]
    expected = F.interpolate(x, SIZE, mode="bilinear", align_corners=False)[0].numpy()
    rows, columns = geometry.upsampling()
    np.testing.assert_allclose(rows @ logits @ columns.T, expected, atol=1e-5)
    masks = predictor.upsample_masks(logits[:, None])[:, 0]
    assert ((masks == (expected_x4 > 0)) | (np.abs(expected_x4) < 1e-4)).all()


def test_take_masks(predictor):
    logits = np.random.default_rng(0).standard_normal((12, 2, 4, 4)).astype(np.float32)
    clip = ClassClip(np.zeros((12, 3), np.float32), jax.numpy.asarray(logits), jax.numpy.zeros((2, 2, 4, 4)), 2)
    indices = np.array([11, 0, 5, 7, 1, 2, 3, 4, 6])
    np.testing.assert_array_equal(predictor.take_masks(clip, indices), logits[indices])
    assert predictor.take_masks(clip, indices[:0]).shape == (0, 2, 4, 4)


def test_variables_of_another_model_are_refused():
    with pytest.raises(ValueError, match="missing: .*"):
        Predictor(TINY, {})


def test_bfloat16_activations_give_float32_logits():
    config = dataclasses.replace(TINY, compute_dtype="bfloat16")
    abstract = abstract_model(config)

    def classes(variables, images, queries):
        model = fill(abstract, variables)
        return forward.decode_classes(model, forward.clip_features(model, images), queries)

    outputs = jax.eval_shape(
        classes, flatten(abstract), np.zeros((2, 64, 64, 3), np.uint8), np.zeros((4, TINY.hidden_size), np.float32)
    )
    assert {output.dtype for output in outputs} == {np.dtype("float32")}
    assert [output.shape for output in outputs] == [(1, 12, 5), (1, 12, 2, 16, 16), (1, 4, 2, 16, 16)]


def test_clips_of_a_batch_are_those_of_one_at_a_time(predictor, monkeypatch):
    """With frames of the clip before, and without; the next clip alone takes the batch's last frames."""
    frames = np.random.default_rng(0).integers(0, 256, (11, 64, 64, 3), dtype=np.uint8)

    def clips(sizes):
        place, first = ClipPlace(0, 3, 1, None, FrameMemory()), 0
        for size in sizes:
            images = frames[first : first + 1 + 2 * size]
            yield from predictor.segment_clips(images, "KITTI_STEP", dataclasses.replace(place, first=first))
            first += 2 * size

    alone = list(clips((1,) * 5))
    limit = 10**12
    monkeypatch.setattr("tarvis_jax.inference.predictor.memory_of", lambda device: limit)
    assert predictor.most_clips == 8
    place = ClipPlace(4, 3, 1, None, FrameMemory())
    assert predictor.has_room(2, (64, 64), "KITTI_STEP", place)
    compiled = predictor.programs.num_compilations
    for found, expected in zip(clips((2, 2, 1)), alone, strict=True):
        assert found.num_frames == expected.num_frames == 3
        np.testing.assert_allclose(found.class_logits, expected.class_logits, rtol=1e-5, atol=1e-5)
        for name in ("mask_logits", "semantic_logits"):
            a, b = (np.asarray(getattr(clip, name)) for clip in (found, expected))
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
            assert (np.abs(b[(a > 0) != (b > 0)]) < 1e-5).all()
    assert predictor.programs.num_compilations == compiled  # what was asked about is what runs
    limit = 10**5
    predictor._has_room.clear()  # or it would not ask again
    assert not predictor.has_room(2, (64, 64), "KITTI_STEP", place)
