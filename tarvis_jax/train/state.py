"""What training carries from step to step, and how it begins.

Modules are taken apart once (`nnx.split`): the structure is static, the values are plain dicts from a path
("decoder/layers/0/ffn/kernel") to an array. Compiled functions see only those dicts, which keeps dispatch cheap, names
every tensor for error messages, and makes a checkpoint readable without the model's code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from tarvis_jax.compiled import quick_compiler_options
from tarvis_jax.model.config import Frozen, ModelConfig
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.model.variables import abstract_model
from tarvis_jax.parallel.mesh import replicated

Arrays = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that a checkpoint must hold for a run to go on as if it had not stopped.

    Attributes:
      params: trained parameters by path, float32.
      frozen: variables that are never trained (frozen batch norm, pixel mean) by path.
      opt_state: the optimiser's own.
      ema: exponential moving average of `params`; empty when none is kept.
      step: int32 [], optimiser steps done.
      is_healthy: bool []; turns False at the first step with a tensor that is not finite, and from there on nothing
        else changes, so that the state can be examined.
    """

    params: Arrays
    frozen: Arrays
    opt_state: optax.OptState
    ema: Arrays
    step: jax.Array
    is_healthy: jax.Array


class ModelStructure:
    """The model without its values: rebuilds the module from dicts of arrays inside compiled functions.

    Attributes:
      config: the architecture.
      params: shapes and dtypes of the trained parameters by path.
      frozen: those of the frozen variables.
    """

    def __init__(self, config: ModelConfig):
        """Traces the constructor once; no array is made."""
        self.config = config
        abstract = abstract_model(config)
        self._graphdef, self._state = nnx.split(abstract)
        self.params, self.frozen = self._values(abstract)

    def initialize(self, key: jax.Array) -> tuple[Arrays, Arrays]:
        """(params, frozen) drawn from a random key; pure, so it can be jitted with shardings."""
        return self._values(TarViS(self.config, rngs=nnx.Rngs(key)))

    def build(self, params: Mapping[str, jax.Array], frozen: Mapping[str, jax.Array]) -> TarViS:
        """The module with these values, as `initialize` returns them."""
        leaves = []
        for path, variable in nnx.to_flat_state(self._state):
            values = params if isinstance(variable, nnx.Param) else frozen
            leaves.append((path, variable.replace(values["/".join(map(str, path))])))
        return nnx.merge(self._graphdef, nnx.from_flat_state(leaves))

    @staticmethod
    def _values(model: TarViS) -> tuple[Arrays, Arrays]:
        params, frozen = {}, {}
        for path, variable in nnx.to_flat_state(nnx.state(model)):
            assert isinstance(variable, (nnx.Param, Frozen)), f"{path}: a {type(variable)}, not nnx.Param or Frozen"
            group = params if isinstance(variable, nnx.Param) else frozen
            group["/".join(map(str, path))] = variable.get_value()
        return params, frozen


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
    structure: ModelStructure, optimizer: optax.GradientTransformation, seed: int, keep_ema: bool, mesh: Mesh
) -> TrainState:
    """Draws the state from the seed, directly onto the mesh (every device holds the whole state)."""

    def make(key: jax.Array) -> TrainState:
        return new_state(*structure.initialize(key), optimizer, keep_ema)

    options = quick_compiler_options(mesh.devices.flat[0].platform)
    return jax.jit(make, out_shardings=replicated(mesh), compiler_options=options)(jax.random.key(seed))


def abstract_state(
    structure: ModelStructure, optimizer: optax.GradientTransformation, keep_ema: bool, mesh: Mesh
) -> TrainState:
    """Shapes, dtypes and shardings of the state, without any array."""
    shapes = jax.eval_shape(
        lambda *weights: new_state(*weights, optimizer, keep_ema), structure.params, structure.frozen
    )
    sharding = replicated(mesh)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def with_weights(state: TrainState, params: Mapping[str, Any], frozen: Mapping[str, Any]) -> TrainState:
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
        return {name: jax.device_put(jnp.asarray(values[name], old.dtype), old.sharding) for name, old in like.items()}

    return dataclasses.replace(
        state,
        params=place(params, state.params),
        frozen=place(frozen, state.frozen),
        ema=place(params, state.ema) if state.ema else {},
    )
