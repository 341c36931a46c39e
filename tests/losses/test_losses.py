"""Losses against the reference's recorded values, and what the recordings do not cover."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.exemplar import exemplar_loss
from tarvis_jax.losses.instance import InstanceDraws, draw_instance, instance_loss
from tarvis_jax.losses.panoptic import draw_panoptic, panoptic_loss
from tarvis_jax.losses.points import PointDraws, draw_points, sample_channels
from tarvis_jax.losses.semantic import instance_semantic_loss, instances_to_class_map, semantic_loss
from tests.parity import losses_case
from tests.parity.common import format_table

CASES = [
    "instance_seg",
    "panoptic_seg_dense",
    "panoptic_seg_dense_full_res",
    "panoptic_seg_sparse",
    "semantic_seg",
    "semantic_seg_null_reg",
    "vos",
]
L, B, N, Q, T, H, W, K, P = 1, 2, 3, 5, 2, 4, 6, 4, 16
CONFIG = LossConfig(num_points=P, num_points_semantic=P)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_with_padded_targets(golden_dir, name):
    """Values and gradients; the recordings have 2 and 3 targets, here padded to 5 slots of arbitrary content."""
    rows = losses_case.run_case(golden_dir / "losses" / f"{name}.npz", num_targets=5)
    assert len(rows) >= 3
    assert all(row.ok for row in rows), "\n" + format_table(rows)


@pytest.fixture(scope="module")
def sample():
    """Predictions and targets of two clips; the second one has two targets fewer."""
    rng = np.random.default_rng(0)
    return {
        "mask": rng.normal(size=(L, B, Q, T, H, W)).astype(np.float32),
        "class": rng.normal(size=(L, B, Q, 1 + K)).astype(np.float32),
        "masks": rng.random((B, N, T, 4 * H, 4 * W)) < 0.4,
        "classes": np.array([[1, 4, 2], [3, 0, 0]], np.int32),
        "valid": np.array([[True, True, True], [True, False, False]]),
        "matching": rng.random((L, B, P, 2)).astype(np.float32),
        "candidates": rng.random((L, B, N, T, 3 * P, 2)).astype(np.float32),
        "random": rng.random((L, B, N, T, P // 4, 2)).astype(np.float32),
    }


@jax.jit
def _instance(s, targets_per_clip):
    draws = InstanceDraws(s["matching"], PointDraws(s["candidates"], s["random"]))
    return instance_loss(s["mask"], s["class"], s["masks"], s["classes"], s["valid"], draws, CONFIG, targets_per_clip)


def _keys(seed, num_clips):
    return jax.random.split(jax.random.key(seed, impl="rbg"), num_clips)  # rbg compiles faster


def _clip(sample, i):
    """Clip i alone, as a microbatch of one."""
    axis = {"masks": 0, "classes": 0, "valid": 0}
    return {name: np.take(value, [i], axis.get(name, 1)) for name, value in sample.items()}


def test_microbatches_average_to_the_whole_batch(sample):
    whole, whole_terms = _instance(sample, 4.0 / 2)
    parts = [_instance(_clip(sample, i), 4.0 / 2) for i in range(B)]
    assert float(whole) == pytest.approx(np.mean([float(loss) for loss, _ in parts]), rel=1e-6)
    for name, value in whole_terms.items():
        np.testing.assert_allclose(value, np.mean([terms[name] for _, terms in parts], 0), rtol=1e-6)


def test_clip_without_targets_is_all_background(sample):
    clip = _clip(sample, 1) | {"valid": np.zeros((1, N), bool), "classes": np.zeros((1, N), np.int32)}
    _, terms = _instance(clip, 0.0)
    log_probs = np.asarray(jax.nn.log_softmax(clip["class"], -1))
    assert float(terms["class_ce"][0]) == pytest.approx(-log_probs[..., 0].mean(), rel=1e-6)
    assert float(terms["mask_ce"][0]) == float(terms["mask_dice"][0]) == 0.0


def test_a_bad_prediction_of_any_query_makes_the_loss_nan(sample):
    for query in range(Q):  # unmatched ones too
        clip = _clip(sample, 1)
        clip["mask"][:, :, query] = np.nan
        assert np.isnan(_instance(clip, 1.0)[0]), query
    assert np.isfinite(_instance(_clip(sample, 1), 1.0)[0])


def test_small_instances_are_painted_on_top():
    rng = np.random.default_rng(1)
    masks = rng.random((2, 5, T, 6, 7)) < rng.random((2, 5, 1, 1, 1))
    masks[0, 3] = masks[0, 1]  # equally large: the later one wins
    classes = rng.integers(1, 9, (2, 5)).astype(np.int32)
    valid = np.array([[True] * 5, [True, True, False, True, False]])
    expected = np.zeros((2, T, 6, 7), np.int32)
    for i in range(2):
        for n in sorted(np.flatnonzero(valid[i]), key=lambda n: -masks[i, n].sum()):
            expected[i][masks[i, n]] = classes[i, n]
    np.testing.assert_array_equal(instances_to_class_map(masks, classes, valid), expected)


def test_absent_classes_are_suppressed_and_logit_norms_counted():
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(1, 1, 1 + K, 1, H, W)).astype(np.float32)
    logits[:, :, 3] -= 50  # never predicted, never labeled
    logits[:, :, 4] -= 50  # never predicted, but labeled
    masks = np.zeros((1, 1, 1, 4 * H, 4 * W), bool)
    masks[..., : 2 * W] = True
    classes, valid = np.array([[4]], np.int32), np.array([[True]])
    rows, columns = rng.integers(0, H, P), rng.integers(0, W, P)
    points = np.stack([(columns + 0.5) / W, (rows + 0.5) / H], -1).astype(np.float32)  # centers of cells
    config = LossConfig(
        num_points=P,
        importance_ratio=0.0,
        suppress_absent_classes=True,
        logit_norm_weight=0.01,
        instance_semantic_weight=3,
    )
    draws = PointDraws(jnp.zeros((1, 1, 1, 3 * P, 2)), jnp.asarray(points[None, None, None]))
    _, terms = instance_semantic_loss(logits, masks, classes, valid, draws, config)
    sampled = logits[0, 0, :, 0][:, rows, columns].T.astype(np.float64)
    sampled[:, 3] = -1000
    labels = np.where(columns < W // 2, 4, 0)
    log_probs = sampled - sampled.max(1, keepdims=True)
    log_probs -= np.log(np.exp(log_probs).sum(1, keepdims=True))
    cross_entropy, norm = -log_probs[np.arange(P), labels].mean(), np.linalg.norm(sampled, axis=1).mean()
    assert float(terms["ce"][0]) == pytest.approx(cross_entropy, rel=1e-5)
    assert float(terms["logit_norm"][0]) == pytest.approx(norm, rel=1e-5)
    assert float(terms["total"][0]) == pytest.approx(3 * cross_entropy + 0.01 * norm, rel=1e-5)


@pytest.mark.parametrize(("interpolate", "label"), [(True, 2), (False, 4)])
def test_label_on_a_border(interpolate, label):
    """A point nearer to class 4 than to background: halfway ids truncate to another class unless the pixel decides."""
    logits = np.random.default_rng(4).normal(size=(1, 1, 1 + K, 1, H, W)).astype(np.float32)
    masks = np.zeros((1, 1, 1, 4 * H, 4 * W), bool)
    masks[..., 8:] = True
    point = np.array([8.2 / (4 * W), 8.5 / (4 * H)], np.float32)  # 0.7 of class 4, 0.3 of class 0: 2.8
    config = LossConfig(num_points=1, importance_ratio=0.0, interpolate_class_ids=interpolate)
    draws = PointDraws(jnp.zeros((1, 1, 1, 3, 2)), jnp.asarray(point[None, None, None, None]))
    _, terms = instance_semantic_loss(logits, masks, np.array([[4]], np.int32), np.array([[True]]), draws, config)
    sampled = sample_channels(np.moveaxis(logits[0, 0], 0, -1), point[None, None])[0, 0]
    assert float(terms["ce"][0]) == pytest.approx(-float(jax.nn.log_softmax(sampled)[label]), rel=1e-5)


def test_map_that_is_all_ignored_costs_nothing():
    logits = np.random.default_rng(3).normal(size=(1, 1, K, T, H, W)).astype(np.float32)
    semantic_map, ignored = np.full((1, T, 4 * H, 4 * W), 255, np.int32), np.ones((1, T, 4 * H, 4 * W), bool)
    draws = draw_points(_keys(0, 1), 1)

    def loss(logits):
        return semantic_loss(logits, semantic_map, ignored, draws, CONFIG)[0]

    value, gradient = jax.value_and_grad(loss)(logits)
    assert float(value) == 0.0
    assert np.all(np.asarray(gradient) == 0.0)


def test_draws_from_keys(sample):
    """Keys give finite losses of the documented shapes, the same for the same key, others for another."""
    semantic_map = np.zeros((B, T, 4 * H, 4 * W), np.int32)
    semantic_map[..., :W] = 1
    ignored = np.zeros(semantic_map.shape, bool)

    @jax.jit
    def both(keys):
        targets = sample["masks"], sample["classes"], sample["valid"]
        things = sample["mask"], sample["class"], sample["mask"][:, :, :K]
        panoptic = panoptic_loss(*things, *targets, semantic_map, ignored, draw_panoptic(keys, L), CONFIG)
        points = draw_points(keys, L)
        exemplar = exemplar_loss(sample["mask"][:, :, : 1 + N], targets[0], targets[2], points, CONFIG)
        return panoptic, exemplar

    first, again, other = (both(_keys(seed, B)) for seed in (0, 0, 1))
    for (total, terms), (same, _), (different, _) in zip(first, again, other, strict=True):
        assert all(value.shape == (L,) and np.isfinite(value).all() for value in terms.values())
        assert float(total) == float(same) != float(different)
        assert float(total) == pytest.approx(float(terms["total"].sum()), rel=1e-6)


def test_wrong_input_is_named(sample):
    draws = draw_instance(_keys(0, B), L)
    targets = sample["masks"], sample["classes"], sample["valid"]
    with pytest.raises(ValueError, match="at most 2 targets.*found 3"):
        instance_loss(sample["mask"][:, :, :2], sample["class"][:, :, :2], *targets, draws, CONFIG)
    semantic_map = np.zeros((B, T, 4 * H, 4 * W), np.int32)
    with pytest.raises(ValueError, match="at least 2 classes"):
        semantic_loss(sample["mask"][:, :, :1], semantic_map, semantic_map > 0, draws.masks, CONFIG)
    with pytest.raises(ValueError, match="expected a map of 16x24, found"):
        semantic_loss(sample["mask"], semantic_map[..., 1:], semantic_map[..., 1:] > 0, draws.masks, CONFIG)
    with pytest.raises(ValueError, match="needs draws"):
        semantic_loss(sample["mask"], semantic_map, semantic_map > 0, None, CONFIG)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"panoptic_semantic": "full"}, "panoptic_semantic"),
        ({"num_points": 0}, "num_points"),
        ({"oversample_ratio": 0.5}, "oversample_ratio"),
        ({"importance_ratio": 1.5}, "importance_ratio"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**wrong)
