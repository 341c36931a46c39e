"""Batches in their small form become, on the device and in the step, exactly the arrays that losses take."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from input_pipeline import targets
from input_pipeline.augment import Clip
from input_pipeline.id_layers import IdLayers
from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.tasks.objective import Objective
from tarvis_jax.train.step import make_gradients
from tarvis_jax.train.transfer import expand, to_devices

T, H, W = 2, 8, 12
BUCKET = (16, 20)


def make_clip(count: int, overlapping: bool, seed: int = 0) -> Clip:
    """Random targets of every pixel; those of a clip without overlap share no pixel."""
    rng = np.random.default_rng(seed)
    if overlapping:
        masks = rng.random((count, T, H, W)) < 0.3
    else:
        masks = rng.integers(0, count + 1, (T, H, W)) == np.arange(count)[:, None, None, None]
    semantic = rng.choice([0, 3, 18, 255], (T, H, W)).astype(np.uint8)
    return Clip(rng.integers(0, 256, (T, H, W, 3), np.uint8), IdLayers.of_masks(masks), semantic)


def expected(clip: Clip, num_slots: int) -> dict[str, np.ndarray]:
    """The arrays written out, without any packing."""
    masks = np.zeros((num_slots, T, *BUCKET), bool)
    masks[: clip.masks.count, :, :H, :W] = clip.masks.to_bool()
    ignored = np.ones((T, *BUCKET), bool)
    ignored[:, :H, :W] = clip.semantic == 255
    semantic = np.zeros((T, *BUCKET), np.int32)
    semantic[:, :H, :W] = np.where(clip.semantic == 255, 0, clip.semantic)
    return {"masks": masks, "semantic_map": semantic, "ignore_mask": ignored}


@pytest.mark.parametrize("num_slots", [4, 8, 9, 32, 255, 300])
@pytest.mark.parametrize("overlapping", [(False, False), (True, True), (False, True)], ids=str)
def test_masks_come_back_on_the_device(num_slots, overlapping):
    clips = [make_clip(min(num_slots, 20) - i, has, i) for i, has in enumerate(overlapping)]
    samples = [
        targets.padded_targets(clip, np.ones(clip.masks.count, np.int32), BUCKET, num_slots, 19, "clip")
        for clip in clips
    ]
    batch = targets.stack_samples(samples)
    small = not any(overlapping) and 8 < num_slots < 256
    assert ("id_map" in batch, "bit_planes" in batch) == (small, not small)
    arrays = to_devices(batch, 2, make_mesh(jax.devices()[:1]))
    assert arrays["bit_planes"].shape == (2, 1, -(-num_slots // 8), T, *BUCKET)
    for i, clip in enumerate(clips):
        found = jax.jit(expand)({key: array[i] for key, array in arrays.items()})
        np.testing.assert_array_equal(found["masks"], targets.unpack_masks(batch, num_slots)[i : i + 1])
        for key, value in expected(clip, num_slots).items():
            assert found[key].dtype == value.dtype
            np.testing.assert_array_equal(found[key][0], value, err_msg=key)
        np.testing.assert_array_equal(found["images"][0], samples[i]["images"])


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_step_expands_one_microbatch_at_a_time(microbatches):
    seen = []

    def loss(model, batch, draw_key, model_key, statistics):
        seen.append({key: (array.shape, array.dtype.name) for key, array in batch.items()})
        return (model * batch["masks"].sum(axis=(1, 2, 3, 4))).sum() + batch["ignore_mask"].sum(), {}

    clips = [make_clip(10, False, i) for i in range(2)]
    ones = np.ones(10, np.int32)
    samples = [targets.padded_targets(clip, ones, BUCKET, 10, 19, "clip") for clip in clips]
    arrays = to_devices(targets.stack_samples(samples), microbatches, make_mesh(jax.devices()[:1]))
    structure = types.SimpleNamespace(build=lambda params, frozen: params["w"])
    gradients = make_gradients(structure, Objective(loss, lambda batch: ()))
    grads, total, _ = jax.jit(gradients)({"w": jnp.float32(2)}, {}, arrays, jax.random.key(0), jnp.int32(0))
    size = 2 // microbatches
    assert all(shapes["masks"] == ((size, 10, T, *BUCKET), "bool") for shapes in seen)
    assert all(shapes["semantic_map"] == ((size, T, *BUCKET), "int32") for shapes in seen)
    pixels = sum(expected(clip, 10)["masks"].sum() for clip in clips)
    ignored = sum(expected(clip, 10)["ignore_mask"].sum() for clip in clips)
    assert float(grads["w"]) == pixels / microbatches and float(total) == (2 * pixels + ignored) / microbatches
