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
from tarvis_jax.inference.predictor import ClassClip, Predictor, object_bucket
from tarvis_jax.inference.session import Session
from tarvis_jax.inference.targets import ExemplarInputs
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
    assert 0 < compiled <= 5
    classes(1)
    assert predictor.programs.num_compilations == compiled
    assert predictor.model_seconds > 0 and predictor.programs.compile_seconds > 0


def test_objects_up_to_the_next_power_of_two_share_a_compilation(predictor):
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
    assert [object_bucket(n) for n in (1, 2, 3, 4, 5, 9)] == [1, 2, 4, 4, 8, 16]


def test_padded_object_slots_change_nothing(predictor):
    """Three objects (in four slots) give what a compilation for exactly three slots gives."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    masks = np.zeros((3, 3, 64, 64), bool)
    masks[0, 0, :20, :20] = masks[1, :2, 30:50, 10:30] = True
    inputs = ExemplarInputs(
        ids=[1, 2, 3],
        masks=masks,
        points_yx=np.float32([[0, 0], [0, 0], [0.3, 0.8]]),
        point_frames=np.int32([0, 0, 1]),
        is_point=np.array([False, False, True]),
        valid_frames=np.array([True, True, False]),
    )
    ours = predictor.segment_objects(images, inputs)

    def clip_objects(variables, images, *objects):
        model = fill(abstract_model(TINY), variables)
        return forward.decode_objects(model, forward.clip_features(model, images), *objects)

    exact = jax.jit(clip_objects)(
        predictor.variables,
        images,
        inputs.masks,
        inputs.points_yx,
        inputs.point_frames,
        inputs.is_point,
        np.ones(3, bool),
        inputs.valid_frames,
    )
    assert ours.shape == (3, 3, 16, 16) and np.abs(ours).max() < 1e4
    np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=1e-3)


def test_pixels_against_torch(predictor):
    geometry = plan_geometry(SIZE, 40, 1333, 64)
    logits = np.random.default_rng(0).standard_normal((11, 16, 16)).astype(np.float32)
    x = F.interpolate(torch.from_numpy(logits)[None], scale_factor=4.0, mode="bilinear", align_corners=False)
    expected_x4 = x[0].numpy()
    x = x[..., : geometry.resized[0], : geometry.resized[1]]
    expected = F.interpolate(x, SIZE, mode="bilinear", align_corners=False)[0].numpy()
    near = np.abs(expected) < 1e-4  # rounding may decide there
    assert ((predictor.pixel_masks(logits, geometry) == (expected > 0)) | near).all()
    assert np.mean(predictor.pixel_classes(logits, geometry) == expected.argmax(0)) > 0.999
    owner = np.where(expected.max(0) > 0, expected.argmax(0) + 1, 0)
    assert np.mean(predictor.pixel_objects(logits, geometry) == owner) > 0.999
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
    assert [output.shape for output in outputs] == [(12, 5), (12, 2, 16, 16), (4, 2, 16, 16)]
