"""What training carries from step to step, how it begins, and what of it a checkpoint holds."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from tarvis_jax.compiled import quick_compiler_options
from tarvis_jax.lowered import lower
from tarvis_jax.model.structure import Arrays, ModelStructure
from tarvis_jax.parallel.mesh import put
from tarvis_jax.parallel.sharding import shardings_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that a checkpoint must hold for a run to go on as if it had not stopped.

    Attributes:
      params: trained parameters by path, float32.
      frozen: variables that are never trained (frozen batch norm, pixel mean) by path.
      opt_state: the optimizer's own.
      ema: exponential moving average of `params`; empty when none is kept.
      step: int32 [], optimizer steps done.
      is_healthy: bool []; turns False at the first step with a tensor that is not finite, and from there on nothing
        else changes, so that the state can be examined.
    """

    params: Arrays
    frozen: Arrays
    opt_state: optax.OptState
    ema: Arrays
    step: jax.Array
    is_healthy: jax.Array


def new_state(params: Arrays, frozen: Arrays, optimizer: optax.GradientTransformation, keep_ema: bool) -> TrainState:
    """The state before the first step; pure."""
    return TrainState(
        params=params,
        frozen=frozen,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if keep_ema else {},
        step=jnp.zeros((), jnp.int32),
        is_healthy=jnp.ones((), bool),
    )


def initial_state(
    structure: ModelStructure,
    optimizer: optax.GradientTransformation,
    seed: int,
    keep_ema: bool,
    mesh: Mesh,
    shard: str = "none",
    origin: str | None = None,
) -> TrainState:
    """Draws the state from the seed, directly onto the mesh, split as `shard` says; `origin`: see `lowered.lower`."""
    leaves, treedef = jax.tree.flatten(abstract_state(structure, optimizer, keep_ema, mesh, shard))

    def initialize(seed: jax.Array) -> list[jax.Array]:
        state = new_state(*structure.initialize(jax.random.key(seed)), optimizer, keep_ema)
        return jax.tree.leaves(state)

    options = {
        "out_shardings": [leaf.sharding for leaf in leaves],
        "compiler_options": quick_compiler_options(mesh.devices.flat[0].platform),
    }
    lowered = lower(initialize, (jax.ShapeDtypeStruct((), np.uint32),), options, origin)
    return jax.tree.unflatten(treedef, lowered.compile()(np.uint32(seed)))


def abstract_state(
    structure: ModelStructure, optimizer: optax.GradientTransformation, keep_ema: bool, mesh: Mesh, shard: str = "none"
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without any array; `shard` as `partition_spec` takes it."""
    shapes = jax.eval_shape(
        lambda *weights: new_state(*weights, optimizer, keep_ema), structure.params, structure.frozen
    )

    def placed(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(placed, shapes, shardings_of(shapes, shard, mesh))


def replace_weights(state: TrainState, params: Mapping[str, Any], frozen: Mapping[str, Any]) -> TrainState:
    """The state with other weights (and the moving average started from them).

    Raises:
      ValueError: names or shapes differ; the message lists all differences.
    """
    problems = []
    for kind, have, given in (("parameter", state.params, params), ("frozen variable", state.frozen, frozen)):
        problems += [f"{kind} {name}: missing in the given weights" for name in have if name not in given]
        problems += [f"{kind} {name}: not part of this model" for name in given if name not in have]
        problems += [
            f"{kind} {name}: expected shape {have[name].shape}, found {np.shape(given[name])}"
            for name in have
            if name in given and have[name].shape != np.shape(given[name])
        ]
    if problems:
        raise ValueError("the given weights do not fit the model:\n  " + "\n  ".join(problems))

    def place(values: Mapping[str, Any], like: Arrays) -> Arrays:
        return {name: put(values[name], old.dtype, old.sharding) for name, old in like.items()}

    return dataclasses.replace(
        state,
        params=place(params, state.params),
        frozen=place(frozen, state.frozen),
        ema=place(params, state.ema) if state.ema else {},
    )


def to_items(state: TrainState) -> tuple[dict[str, Any], dict[str, Any]]:
    """(weights, progress) as a checkpoint holds them: nested dicts, without the optimizer library's classes.

    `state` may hold ShapeDtypeStructs in place of arrays.
    """
    weights = {"params": state.params, "frozen": state.frozen, "ema": state.ema}
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    optimizer = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return weights, {"optimizer": optimizer, "step": state.step, "is_healthy": state.is_healthy}


def from_items(like: TrainState, weights: Mapping[str, Any], progress: Mapping[str, Any]) -> TrainState:
    """The state of a checkpoint's items; `like` is any state of the same structure."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(like.opt_state)
    leaves = [progress["optimizer"][jax.tree_util.keystr(path)] for path, _ in paths]
    return TrainState(
        **weights,
        opt_state=jax.tree_util.tree_unflatten(treedef, leaves),
        step=progress["step"],
        is_healthy=progress["is_healthy"],
    )
