# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Inside the network
#
# A query is a vector that finds one object. In each layer of the decoder it looks at the features of the whole clip,
# takes what it needs, and so becomes a better description of its object. This notebook takes the query that finds an
# object and draws where it looks, layer by layer and frame by frame. [Architecture](../architecture.md) explains the
# parts.
#
# You need the model that the [quickstart](../quickstart.md) leaves in `runs/quickstart`, or any other checkpoint with
# classes.

# %%
import os
import pathlib
import sys

root = next(folder for folder in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents) if (folder / "configs").is_dir())
os.chdir(root)
sys.path.insert(0, str(root))

checkpoint, dataset = "runs/quickstart", "YOUTUBE_VIS"

# %% [markdown]
# ## The network and a clip
#
# `tarvis_jax.load` gives a model with everything around it. Here we want the bare network, a Flax module, with the
# model's values in it.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

import tarvis_jax
from input_pipeline.synthetic_scenes import draw_video
from tarvis_jax.model.variables import abstract_model, fill

model = tarvis_jax.load(checkpoint)
network = fill(abstract_model(model.config), model.variables)
frames = draw_video((9, 1), num_frames=6, height=64, width=128).frames  # uint8 [T, H, W, 3]
T, H, W, _ = frames.shape

# %% [markdown]
# ## Listening to attention
#
# `layer.cross_attention` is called with the queries, the features of one pyramid level in all frames (S cells), their
# positions, and a bias that says what each query may look at. The operator never keeps its weights, because that
# would cost memory and time. So we put a listener in its place. It computes the weights from the same arguments, by
# the definition of attention, and then calls the operator. The network itself stays as it is.


# %%
class Listener(nnx.Module):
    """Calls an attention and keeps its weights."""

    def __init__(self, attention):
        self.attention = attention

    def __call__(self, query, features, positions, bias):
        heads, size = self.attention.num_heads, query.shape[-1]
        kernel, offset = self.attention.in_proj.kernel[...], self.attention.in_proj.bias[...]
        q = query @ kernel[:, :size] + offset[:size]
        k = (features + positions) @ kernel[:, size : 2 * size] + offset[size : 2 * size]
        v = features @ kernel[:, 2 * size :] + offset[2 * size :]
        q, k, v = (x.reshape(*x.shape[:2], heads, -1) for x in (q, k, v))

        logits = jnp.einsum("bqmd,bkmd->bmqk", q, k) / jnp.sqrt(q.shape[-1])
        where = bias.of_keys(0, features.shape[1])  # 0 where a query may look, -inf where it may not
        may_look = jnp.isfinite(where).any(axis=-1, keepdims=True)
        weights = jax.nn.softmax(logits + jnp.where(may_look, where, 0.0), axis=-1)  # [B, heads, Q, S]

        result = self.attention(query, features, positions, bias)
        ours = self.attention.out_proj(jnp.einsum("bmqk,bkmd->bqmd", weights, v).reshape(query.shape))
        heard.append((weights.mean(axis=1)[0], jnp.abs(result - ours).max()))  # mean over the heads: [Q, S]
        return result


for layer in network.decoder.layers:
    layer.cross_attention = Listener(layer.cross_attention)
heard = []


# %% [markdown]
# One pass over the clip: features, a query set for the classes of a dataset, and the decoder. We take the predictions
# of every layer, not of the last one alone.


# %%
@nnx.jit
def look(network, images):
    heard.clear()
    pyramid = network.features(images[None])
    query_set = network.class_query_set(dataset, batch_size=1)
    predictions = network.decode(pyramid, query_set, all_layers=True)
    found = predictions.slice("instance")
    return predictions.class_logits[:, 0], predictions.mask_logits[:, 0, found], [(w[found], e) for w, e in heard]


class_logits, mask_logits, layers = jax.device_get(look(network, frames))
error = max(float(error) for _, error in layers)
print(f"{len(layers)} layers, {mask_logits.shape[1]} queries; definition and operator differ by {error:.1e} at most")

# %% [markdown]
# The listener heard right if its weights give what the operator gave.

# %%
assert error < 1e-3, error

# %% [markdown]
# ## The query that is most certain of its object
#
# `class_logits` has a column for "no object" and one for each class. The mask of the query has its own logit for each
# cell and frame; where it is above 0, there is the object. The first row shows the mask of the untouched query,
# before any layer: a query begins with a guess that does not depend on the video, and each row below is one layer
# later.

# %%
probabilities = jax.nn.softmax(class_logits[-1], axis=-1)
query = int(np.argmax(probabilities[:, 1:].max(axis=-1)))
best = int(np.argmax(probabilities[query, 1:]))
names = model.datasets[dataset].class_names
print(f"query {query}: {names[best]}, probability {probabilities[query, 1 + best]:.2f}")


def rows(images, labels, draw):
    """A grid with a row for each label and a column for each frame."""
    figure, axes = plt.subplots(len(labels), T, figsize=(1.9 * T, 1.15 * len(labels)), squeeze=False)
    for row, label in enumerate(labels):
        for t in range(T):
            axes[row, t].imshow(images[t])
            draw(axes[row, t], row, t)
            axes[row, t].set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(label, fontsize=8)
    figure.tight_layout()
    plt.show()


gray = frames.mean(axis=-1, keepdims=True).repeat(3, axis=-1).astype(np.uint8)
extent = (-0.5, W - 0.5, H - 0.5, -0.5)


def draw_mask(axis, row, t):
    mask = np.repeat(np.repeat(mask_logits[row, query, t] > 0, 4, axis=0), 4, axis=1)
    axis.imshow(np.where(mask[..., None], (0.9, 0.6, 0.0, 0.6), 0.0), extent=extent)


rows(gray, ["at first"] + [f"after layer {i + 1}" for i in range(len(layers))], draw_mask)

# %% [markdown]
# ## Where it looks
#
# The weights of the same query in each layer. They sum to one over all frames, so a bright frame is one that the
# query takes much from. A layer works on one level of the pyramid; the size of a cell is that of the level's stride.
# With hard masks, a query looks only where its own mask was after the layer before (or everywhere, if that mask was
# empty). That is what lets it keep to one object among many, and why an object that is hidden in a frame gets its
# description from the others.

# %%
strides = [model.config.decoder_strides[i % len(model.config.decoder_strides)] for i in range(len(layers))]
attention = [w[query].reshape(T, H // s, W // s) for (w, _), s in zip(layers, strides, strict=True)]


def draw_attention(axis, row, t):
    weights = attention[row]
    axis.imshow(weights[t], cmap="magma", vmin=0, vmax=weights.max(), alpha=0.75, extent=extent)
    axis.set_title(f"{weights[t].sum():.0%}", fontsize=7)


rows(gray, [f"layer {i + 1}\nstride {s}" for i, s in enumerate(strides)], draw_attention)

# %% [markdown]
# The percentages say how much of its attention the query gives to each frame. Things to try:
#
# - another query: `query = int(np.argsort(probabilities[:, 1:].max(axis=-1))[-2])`, and run the cells below it again;
# - a clip in which the object leaves or is covered: another seed in `draw_video`;
# - soft masks, where a query may look everywhere: a model with `cross_attention="soft_masked"`.
