"""The temporal neck (paper section 3.1): mixes the backbone's maps over scales, space and time.

Strides 32, 16 and 8 are projected to C channels, flattened and concatenated to S tokens a frame, and pass through pairs
of a deformable layer (all cells of one frame and all three scales; Zhu et al., 2021) and a temporal layer (one image
patch, all scales, all frames). A feature pyramid step then adds stride 4.
"""

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kernels.attention import cudnn
from kernels.attention.biases import AttentionBias, FirstKeysBias, KeyPaddingBias
from kernels.attention.limits import under_limit
from kernels.ms_deform_attn.operator import ms_deform_attn
from tarvis_jax.model.attention import FeedForward, MultiHeadAttention, layer_norm, linear
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.extent import Extent, clear_outside, inside_mask, repeat_border
from tarvis_jax.model.position_encoding import sine_2d, sine_3d
from tarvis_jax.model.remat import rematerialize

LEVEL_STRIDES = (32, 16, 8)
FINEST_STRIDE = 4

LevelShapes = tuple[tuple[int, int], ...]


class ConvNorm(nnx.Module):
    """Convolution and GroupNorm with PyTorch's epsilon of 1e-5 and float32 statistics."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        num_groups: int,
        use_bias: bool,
        kernel_init: nnx.Initializer,
        rngs: nnx.Rngs,
        dtype: jnp.dtype,
    ):
        self.conv = nnx.Conv(
            in_channels,
            out_channels,
            (kernel_size, kernel_size),
            use_bias=use_bias,
            kernel_init=kernel_init,
            dtype=dtype,
            rngs=rngs,
        )
        self.norm = nnx.GroupNorm(
            out_channels, num_groups, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """[N, h, w, C_in] -> [N, h, w, C]."""
        x = self.conv(clear_outside(x, extent))
        mask = inside_mask(x, extent)
        return self.norm(x, mask=None if mask is None else jnp.broadcast_to(mask, x.shape))


def _rotated_offsets(num_heads: int, num_levels: int, num_points: int) -> nnx.Initializer:
    """Bias of the sampling offsets: head m looks along the angle 2 pi m / M, its point p at p + 1 pixels."""
    angles = np.arange(num_heads) * (2 * math.pi / num_heads)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    directions /= np.abs(directions).max(axis=-1, keepdims=True)  # onto the square, so that points fall on pixels
    offsets = directions[:, None, None, :] * np.arange(1, num_points + 1)[:, None]  # [M, 1, P, 2]
    offsets = np.broadcast_to(offsets, (num_heads, num_levels, num_points, 2)).reshape(-1)
    return lambda key, shape, dtype: jnp.asarray(offsets, dtype).reshape(shape)


class DeformableLayer(nnx.Module):
    """Deformable self-attention over the scales of one frame, then a feed-forward network; post-norm.

    Where it looks, and how much each place counts, is computed in float32 whatever the compute dtype: bfloat16 has 8
    bits, which around column 100 cannot tell positions closer than half a cell apart.

    Differs from the reference, which computes the whole layer in float32 always.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        hidden_size = config.hidden_size
        self.dtype = dtype = jnp.dtype(config.compute_dtype)
        self.num_heads = config.num_heads
        self.num_points = config.neck_points
        self.backend = config.ms_deform_attn_backend
        self.is_deterministic = config.ms_deform_attn_deterministic
        num_samples = config.num_heads * len(LEVEL_STRIDES) * config.neck_points
        self.sampling_offsets = nnx.Linear(
            hidden_size,
            num_samples * 2,
            kernel_init=nnx.initializers.zeros_init(),
            bias_init=_rotated_offsets(config.num_heads, len(LEVEL_STRIDES), config.neck_points),
            rngs=rngs,
        )
        self.attention_weights = nnx.Linear(
            hidden_size, num_samples, kernel_init=nnx.initializers.zeros_init(), rngs=rngs
        )
        self.value_proj = linear(hidden_size, hidden_size, rngs=rngs, dtype=dtype)
        self.output_proj = linear(hidden_size, hidden_size, rngs=rngs, dtype=dtype)
        self.norm = layer_norm(hidden_size, rngs=rngs, dtype=dtype)
        self.ffn = FeedForward(hidden_size, config.neck_ffn_size, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: jax.Array, position: jax.Array, level_shapes: LevelShapes, extent: Extent | None = None
    ) -> jax.Array:
        """Args: x [N, S, C] of frames, float32 position [S, C], static (h, w) per level. Returns [N, S, C]."""
        x = x.astype(self.dtype)
        query = x.astype(jnp.float32) + position
        samples = (*x.shape[:2], self.num_heads, len(level_shapes), self.num_points)  # [N, S, M, L, P]
        value = self.value_proj(x)
        if extent is not None and extent.size is not None:  # outside it reads zeros, as beyond a map's border
            value = jnp.where(_tokens_inside(level_shapes, extent)[:, None], value, 0)
        attended = ms_deform_attn(
            value.reshape(*x.shape[:2], self.num_heads, -1),
            self.sampling_offsets(query).reshape(*samples, 2),
            self.attention_weights(query).reshape(samples),
            _cell_centers(level_shapes),
            level_shapes,
            backend=self.backend,
            deterministic=self.is_deterministic,
        )
        return self.ffn(self.norm(x + self.output_proj(attended)))


class TemporalLayer(nnx.Module):
    """Self-attention over all frames and scales of one image patch, then a feed-forward network; post-norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.compute_dtype)
        size = config.hidden_size
        self.dtype = dtype
        self.window = config.temporal_window
        self.max_logit_bytes = config.max_logit_bytes
        self.attention = MultiHeadAttention(
            size,
            config.num_heads,
            max_logit_bytes=config.max_logit_bytes,
            backend=config.attention_backend,
            rngs=rngs,
            dtype=dtype,
        )
        self.norm = layer_norm(size, rngs=rngs, dtype=dtype)
        self.ffn = FeedForward(size, config.neck_ffn_size, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: jax.Array, position: jax.Array, level_shapes: LevelShapes, extent: Extent | None = None
    ) -> jax.Array:
        """Args: x [B, T, S, C], position [T, S, C], static (h, w) per level. Returns [B, T, S, C] of the dtype."""
        num_frames = x.shape[1]
        windows = to_windows(x.astype(self.dtype), level_shapes, self.window)  # [B, N, K, C]
        positions = to_windows(position[None].astype(self.dtype), level_shapes, self.window)[0]  # [N, K, C]
        frames = _frames_of_tokens(num_frames, level_shapes, self.window)
        # Flash attention has no logits: all windows at once.
        windows = cudnn.where_possible(
            functools.partial(self._flash, frames),
            functools.partial(self._under_limit, frames),
            windows,
            positions,
            extent,
            dtype=self.dtype,
            head_size=windows.shape[-1] // self.attention.num_heads,
            num_queries=windows.shape[2],
            num_keys=windows.shape[2],
            backend=self.attention.backend,
        )
        return from_windows(windows, num_frames, level_shapes, self.window)

    # No patch lies on the border of an extent, so that only frames are left out. `frames` [K] says whose the tokens
    # are.

    def _flash(self, frames: np.ndarray, windows: jax.Array, positions: jax.Array, extent: Extent | None) -> jax.Array:
        """As `_all_at_once`; flash attention leaves out keys at the end alone, so tokens go in the order of frames."""
        if extent is None:
            return self._all_at_once(windows, positions, None)
        order = np.argsort(frames, kind="stable")
        keys = FirstKeysBias(extent.num_frames * (len(frames) // (frames.max() + 1)))
        return self._all_at_once(windows[:, :, order], positions[:, order], keys)[:, :, np.argsort(order)]

    def _all_at_once(self, windows: jax.Array, positions: jax.Array, keys: AttentionBias | None) -> jax.Array:
        """The layer on all patches of all clips: [B, N, K, C], positions [N, K, C] -> [B, N, K, C]."""
        merged = windows.reshape(-1, *windows.shape[2:])
        positions = jnp.broadcast_to(positions, windows.shape).reshape(merged.shape)
        return self._window(merged, positions, keys).reshape(windows.shape)

    def _under_limit(
        self, frames: np.ndarray, windows: jax.Array, positions: jax.Array, extent: Extent | None
    ) -> jax.Array:
        """`_all_at_once`, or in turn if that many attention logits may not exist."""
        num_windows, num_tokens = windows.shape[1:3]
        window_bytes = 4 * self.attention.num_heads * num_tokens**2

        keys = None if extent is None else KeyPaddingBias((frames < extent.num_frames)[None])

        def under(limit: int, windows: jax.Array, positions: jax.Array, keys: KeyPaddingBias | None) -> jax.Array:
            if num_windows * window_bytes <= limit:
                return self._all_at_once(windows, positions, keys)
            # In turn over windows, not over clips: the batch may be sharded. Recomputing keeps the backward pass as
            # small.
            window = jax.checkpoint(lambda args: self._window(args[0], args[1][None], keys))
            args = windows.swapaxes(0, 1), positions
            return jax.lax.map(window, args, batch_size=max(1, limit // window_bytes)).swapaxes(0, 1)

        num_bytes = num_windows * window_bytes
        return under_limit(under, windows, positions, keys, num_bytes=num_bytes, max_bytes=self.max_logit_bytes)

    def _window(self, x: jax.Array, position: jax.Array, keys: AttentionBias | None) -> jax.Array:
        """The layer on patches of one size: [B, K, C], position [B or 1, K, C] -> [B, K, C]."""
        return self.ffn(self.norm(x + self.attention(x + position, x, position, keys)))


class NeckLayer(nnx.Module):
    """A deformable and a temporal layer."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.deformable = DeformableLayer(config, rngs=rngs)
        self.temporal = TemporalLayer(config, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        position_2d: jax.Array,
        position_3d: jax.Array,
        level_shapes: LevelShapes,
        extent: Extent | None = None,
    ) -> jax.Array:
        """Args: x [B, T, S, C], position_2d [S, C], position_3d [T, S, C]. Returns [B, T, S, C]."""
        frames = x.reshape(-1, *x.shape[2:])
        frames = self.deformable(frames, position_2d, level_shapes, extent)
        return self.temporal(frames.reshape(x.shape), position_3d, level_shapes, extent)


class TemporalNeck(nnx.Module):
    """Backbone maps in, four maps of C channels out (the last of which makes the mask logits)."""

    def __init__(self, in_channels: Mapping[int, int], config: ModelConfig, *, rngs: nnx.Rngs):
        """Args: in_channels: stride -> channels of the backbone's map, for strides 4, 8, 16 and 32."""
        expected = {FINEST_STRIDE, *LEVEL_STRIDES}
        if set(in_channels) != expected:
            raise ValueError(f"in_channels: expected the strides {sorted(expected)}, found {sorted(in_channels)}")
        hidden_size = config.hidden_size
        dtype = jnp.dtype(config.compute_dtype)
        self.config = config
        xavier = nnx.initializers.xavier_uniform()
        lecun = nnx.initializers.lecun_uniform()
        norm = {"num_groups": config.neck_groups, "rngs": rngs, "dtype": dtype}
        self.input_proj = nnx.List(
            [
                ConvNorm(in_channels[stride], hidden_size, 1, use_bias=True, kernel_init=xavier, **norm)
                for stride in LEVEL_STRIDES
            ]
        )
        self.level_embed = nnx.Param(jax.random.normal(rngs.params(), (len(LEVEL_STRIDES), hidden_size)))
        self.level_embed_3d = nnx.Param(jax.random.normal(rngs.params(), (len(LEVEL_STRIDES), hidden_size)))
        self.layers = nnx.List([NeckLayer(config, rngs=rngs) for _ in range(config.neck_layers)])
        self.adapter = ConvNorm(in_channels[FINEST_STRIDE], hidden_size, 1, use_bias=False, kernel_init=lecun, **norm)
        self.output_conv = ConvNorm(hidden_size, hidden_size, 3, use_bias=False, kernel_init=lecun, **norm)
        self.mask_features = nnx.Conv(hidden_size, hidden_size, (1, 1), kernel_init=lecun, dtype=dtype, rngs=rngs)

    def __call__(self, res: Mapping[int, jax.Array], extent: Extent | None = None) -> dict[int, jax.Array]:
        """Runs the neck.

        Args:
          res: stride -> [B, T, H/stride, W/stride, C_i] for strides 4, 8, 16, 32; H and W are multiples of
            `config.size_divisor`.
          extent: what of the arrays is the clips.

        Returns:
          {32, 16, 8, 4: [B, T, H/stride, W/stride, C]} of `config.compute_dtype`.
        """
        return self.mix(self.project(res, extent), extent)

    def project(self, res: Mapping[int, jax.Array], extent: Extent | None = None) -> dict[int, jax.Array]:
        """The part that sees one frame at a time: as `__call__`, with maps that are not mixed yet."""
        _check_sizes(res, self.config)
        projections = {FINEST_STRIDE: self.adapter} | dict(zip(LEVEL_STRIDES, self.input_proj, strict=True))
        maps = {stride: project(_merge_frames(res[stride]), extent) for stride, project in projections.items()}
        return {stride: x.reshape(*res[stride].shape[:-1], -1) for stride, x in maps.items()}

    def mix(self, maps: Mapping[int, jax.Array], extent: Extent | None = None) -> dict[int, jax.Array]:
        """The part that sees the clip: what `project` gives -> what `__call__` gives."""
        batch, num_frames = maps[FINEST_STRIDE].shape[:2]
        level_shapes = tuple(maps[stride].shape[2:4] for stride in LEVEL_STRIDES)
        x = _flatten_levels([_merge_frames(maps[stride]) for stride in LEVEL_STRIDES])
        x = x.reshape(batch, num_frames, *x.shape[1:])  # [B, T, S, C]
        position_2d, position_3d = self._positions(num_frames, level_shapes, extent)
        for layer in self.layers:
            run = lambda x, p2, p3, layer=layer: layer(x, p2, p3, level_shapes, extent)  # noqa: E731
            x = rematerialize(run, self.config.remat)(x, position_2d, position_3d)

        out = {}
        for stride, (height, width), tokens in zip(
            LEVEL_STRIDES, level_shapes, split_levels(x, level_shapes), strict=True
        ):
            out[stride] = tokens.reshape(batch, num_frames, height, width, -1)

        finest = _merge_frames(maps[FINEST_STRIDE])
        coarser = repeat_border(_merge_frames(out[LEVEL_STRIDES[-1]]).astype(finest.dtype), extent)
        finest = nnx.relu(self.output_conv(finest + jax.image.resize(coarser, finest.shape, "bilinear"), extent))
        finest = self.mask_features(finest)
        out[FINEST_STRIDE] = finest.reshape(batch, num_frames, *finest.shape[1:])
        return out

    def _positions(
        self, num_frames: int, level_shapes: LevelShapes, extent: Extent | None
    ) -> tuple[jax.Array, jax.Array]:
        """Position of every token for the deformable [S, C] and the temporal layers [T, S, C], float32."""
        channels = self.config.hidden_size
        times = None if extent is None else extent.times
        axes = [None if extent is None else extent.axes(h, w) for h, w in level_shapes]
        position_2d = [
            sine_2d(h, w, channels, axes=axes[l]) + self.level_embed[l] for l, (h, w) in enumerate(level_shapes)
        ]
        position_3d = [
            sine_3d(num_frames, h, w, channels, times=times, axes=axes[l]) + self.level_embed_3d[l]
            for l, (h, w) in enumerate(level_shapes)
        ]
        return _flatten_levels([p[None] for p in position_2d])[0], _flatten_levels(position_3d)


def to_windows(x: jax.Array, level_shapes: LevelShapes, window: int) -> jax.Array:
    """Groups tokens by image patch.

    Args:
      x: [B, T, S, C], levels from coarse to fine, each twice the size of the one before.
      level_shapes: (h, w) per level.
      window: side of a patch in cells of the coarsest level.

    Returns:
      [B, N, K, C]: N patches in row order, each of the K tokens of all frames and levels within it.
    """
    batch, num_frames, _, channels = x.shape
    parts = []
    for level, ((height, width), tokens) in enumerate(zip(level_shapes, split_levels(x, level_shapes), strict=True)):
        side = window * 2**level
        rows, columns = height // side, width // side
        tokens = tokens.reshape(batch, num_frames, rows, side, columns, side, channels)
        tokens = tokens.transpose(0, 2, 4, 1, 3, 5, 6)  # [B, rows, columns, T, side, side, C]
        parts.append(tokens.reshape(batch, rows * columns, num_frames * side * side, channels))
    return jnp.concatenate(parts, axis=2)


def from_windows(x: jax.Array, num_frames: int, level_shapes: LevelShapes, window: int) -> jax.Array:
    """The inverse of `to_windows`: [B, N, K, C] -> [B, T, S, C]."""
    batch, _, _, channels = x.shape
    parts, start = [], 0
    for level, (height, width) in enumerate(level_shapes):
        side = window * 2**level
        rows, columns = height // side, width // side
        tokens = x[:, :, start : start + num_frames * side * side]
        start += num_frames * side * side
        tokens = tokens.reshape(batch, rows, columns, num_frames, side, side, channels)
        tokens = tokens.transpose(0, 3, 1, 4, 2, 5, 6)  # [B, T, rows, side, columns, side, C]
        parts.append(tokens.reshape(batch, num_frames, height * width, channels))
    return jnp.concatenate(parts, axis=2)


def _frames_of_tokens(num_frames: int, level_shapes: LevelShapes, window: int) -> np.ndarray:
    """int [K]: the frame of each token of a patch, in the order of `to_windows`."""
    sides = [window * 2**level for level in range(len(level_shapes))]
    return np.concatenate([np.repeat(np.arange(num_frames), side * side) for side in sides])


def _tokens_inside(level_shapes: LevelShapes, extent: Extent) -> jax.Array:
    """bool [S]: the tokens of a frame inside the extent."""
    return jnp.concatenate([extent.inside(height, width).reshape(-1) for height, width in level_shapes])


def split_levels(x: jax.Array, level_shapes: LevelShapes) -> list[jax.Array]:
    """[B, T, S, C] -> per level [B, T, h * w, C]."""
    ends = np.cumsum([height * width for height, width in level_shapes])
    return jnp.split(x, ends[:-1], axis=2)


def _flatten_levels(maps: Sequence[jax.Array]) -> jax.Array:
    """Maps [N, h, w, C] -> [N, S, C]."""
    return jnp.concatenate([m.reshape(m.shape[0], -1, m.shape[-1]) for m in maps], axis=1)


def _merge_frames(x: jax.Array) -> jax.Array:
    """[B, T, h, w, C] -> [B * T, h, w, C]."""
    return x.reshape(-1, *x.shape[2:])


def _cell_centers(level_shapes: LevelShapes) -> np.ndarray:
    """float32 [S, 2]: normalized (x, y) of every cell, the reference points of the deformable layers."""
    centers = []
    for height, width in level_shapes:
        y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
        centers.append(np.stack([x, y], axis=-1).reshape(-1, 2))
    return np.concatenate(centers).astype(np.float32)


def _check_sizes(res: Mapping[int, jax.Array], config: ModelConfig) -> None:
    """Raises one ValueError if the maps do not fit together."""
    shapes = {stride: tuple(x.shape[2:4]) for stride, x in res.items()}
    height, width = shapes[32]
    expected = {stride: (height * 32 // stride, width * 32 // stride) for stride in (FINEST_STRIDE, *LEVEL_STRIDES)}
    window = config.temporal_window
    if shapes != expected or height % window or width % window:
        raise ValueError(
            f"temporal neck: the sides of images must be multiples of {config.size_divisor} pixels, so that the map of "
            f"stride 32 is a multiple of {window} cells and each finer one twice as large; found (h, w) {shapes}"
        )
