"""Binary cross-entropy and dice of binary masks on uncertain points, computed for real pairs alone.

Batches have many more slots than targets: 64 for 5 are common. The pairs of all layers and clips make one list, which a
loop takes in blocks, as often as there are blocks; each device has a list and a loop of its own. JAX cannot
differentiate a loop whose length is decided while it runs. The loop therefore computes the gradient together with the
loss and keeps it for the backward pass.
"""

import functools

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.points import PointDraws, of_slots, sample_points, uncertain_points
from tarvis_jax.parallel.clips import map_devices

BLOCK_SIZE = 8  # pairs at once: enough points for a GPU, and little is left over in the last block


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the last axis of the binary cross-entropy; logits and labels (0..1) float32 [..., P]."""
    return (jax.nn.softplus(logits) - logits * labels).mean(-1)


def dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 - soft dice coefficient over the last axis, smoothed by 1 in numerator and denominator (V-Net; Mask2Former)."""
    probs = jax.nn.sigmoid(logits)
    return 1 - (2 * (probs * labels).sum(-1) + 1) / (probs.sum(-1) + labels.sum(-1) + 1)


def mask_terms(
    mask_logits: jax.Array, masks: jax.Array, draws: PointDraws, config: LossConfig
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and dice of each mask on its own uncertain points.

    Args:
      mask_logits: [*batch, h, w].
      masks: bool [*batch, H, W], pixel resolution.
      draws: draws of `num_points` points per mask: keys [batch[0]] or numbers [*batch, ...].
      config: number of points and their choice.

    Returns:
      (cross-entropy, dice), float32 [*batch] each.
    """
    mask_logits = mask_logits.astype(jnp.float32)
    batch_shape = mask_logits.shape[:-2]

    def uncertainty(points_xy):  # close to the decision threshold = uncertain
        return -jnp.abs(sample_points(jax.lax.stop_gradient(mask_logits), points_xy))

    points_xy = uncertain_points(uncertainty, batch_shape, config.num_points, draws, config)
    labels = sample_points(masks, points_xy)
    logits = sample_points(mask_logits, points_xy)
    return sigmoid_cross_entropy(logits, labels), dice(logits, labels)


@jax.named_scope("mask_losses")
def pair_losses(
    mask_logits: jax.Array,
    masks: jax.Array,
    queries: jax.Array,
    targets: jax.Array,
    is_pair: jax.Array,
    draws: PointDraws,
    config: LossConfig,
    weights: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Cross-entropy and dice of N slots for pairs of a query and a target, of which some are real.

    Args:
      mask_logits: [L, B, Q, T, h, w].
      masks: bool [B, N', T, H, W], pixel resolution.
      queries: int32 [L, B, N], the query of each pair; the queries of a clip's real pairs differ.
      targets: int32 [L, B, N], the target of each pair, 0..N'-1.
      is_pair: bool [L, B, N], which slots are real.
      draws: of all layers: keys [L, B], or numbers [L, B, N, T, ..., 2].
      config: number of points and their choice.
      weights: of cross-entropy and dice in their sum.

    Returns:
      (weighted sum, cross-entropy, dice), float32 [L, B, N], means over frames; 0 where there is no pair. Only the
      first has a gradient, with regard to `mask_logits`.
    """
    inputs = masks, queries, targets, is_pair, draws
    total, cross_entropy, dice_loss = _pair_losses(config, weights, mask_logits, inputs)
    return total, *jax.lax.stop_gradient((cross_entropy, dice_loss))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _pair_losses(config, weights, mask_logits, inputs):
    return _in_blocks(config, weights, False, mask_logits, *inputs)


def _losses_and_gradient(config, weights, mask_logits, inputs):
    *losses, gradient = _in_blocks(config, weights, True, mask_logits, *inputs)
    _, queries, _, is_pair, _ = inputs
    return tuple(losses), (gradient, queries, is_pair)


def _scale_gradient(config, weights, saved, cotangents):
    """The gradient of each pair lies in the map of its query, which no other pair has."""
    gradient, queries, is_pair = saved
    is_query = (queries[..., None] == jnp.arange(gradient.shape[2])) & is_pair[..., None]  # [L, B, N, Q]
    of_queries = jnp.where(is_query, cotangents[0][..., None], 0).sum(2)
    return gradient * of_queries[..., None, None, None].astype(gradient.dtype), None


_pair_losses.defvjp(_losses_and_gradient, _scale_gradient)


def _in_blocks(config, weights, with_gradient, mask_logits, *inputs):
    """The losses of `pair_losses`, and if asked for the gradient of the sum of the first, shaped like the logits."""
    run = functools.partial(_on_device, config, weights, with_gradient)
    out_axes = (1,) * (4 if with_gradient else 3)
    return map_devices(run, (1, 0, 1, 1, 1, 1), out_axes)(mask_logits, *inputs)


def _on_device(config, weights, with_gradient, mask_logits, masks, queries, targets, is_pair, draws):
    num_layers, num_clips, num_slots = is_pair.shape
    size, block_size = is_pair.size, min(BLOCK_SIZE, is_pair.size)
    num_pairs = is_pair.sum()
    places = jnp.argsort(~is_pair.reshape(-1), stable=True).astype(jnp.int32)  # pairs first
    places = jnp.pad(places, (0, -size % block_size))

    def losses_of_block(logits, labels, draws):
        cross_entropy, dice_loss = (x.mean(-1) for x in mask_terms(logits, labels, draws, config))  # [S]
        total = weights[0] * cross_entropy + weights[1] * dice_loss
        return total.sum(), (total, cross_entropy, dice_loss)

    def add_block(i, results):
        losses, gradient = results
        place = jax.lax.dynamic_slice_in_dim(places, i * block_size, block_size)
        row, slot = jax.lax.div(place, num_slots), jax.lax.rem(place, num_slots)
        index = layer, clip, _ = jax.lax.div(row, num_clips), jax.lax.rem(row, num_clips), slot
        query = queries[index]
        block = mask_logits[layer, clip, query], masks[clip, targets[index]], of_slots(draws, *index)
        number = i * block_size + jnp.arange(block_size)
        is_filled = number < num_pairs  # what is left over in the last block is written outside of the arrays
        place = jnp.where(is_filled, place, size + number)
        if with_gradient:
            of_logits, of_block = jax.grad(losses_of_block, has_aux=True)(*block)
            layer = jnp.where(is_filled, layer, num_layers + number)
            gradient = gradient.at[layer, clip, query].set(of_logits, mode="drop", unique_indices=True)
        else:
            _, of_block = losses_of_block(*block)
        losses = tuple(
            x.at[place].set(new, mode="drop", unique_indices=True) for x, new in zip(losses, of_block, strict=True)
        )
        return losses, gradient

    losses = tuple(jnp.zeros(size, jnp.float32) for _ in range(3))
    gradient = jnp.zeros_like(mask_logits) if with_gradient else None
    losses, gradient = jax.lax.fori_loop(0, -(-num_pairs // block_size), add_block, (losses, gradient))
    losses = tuple(x.reshape(is_pair.shape) for x in losses)
    return (*losses, gradient) if with_gradient else losses
