"""The variables of a model as a flat dict: {"decoder/layers/0/norm/scale": array}."""

from collections.abc import Mapping

import jax
from flax import nnx, traverse_util

from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.tarvis import TarViS


class Keys:
    """Random keys for initial weights, in place of `nnx.Rngs` where a model is made under a trace.

    The keys are those of `nnx.Rngs`, which counts its draws in a variable. Under a trace, each count costs time in
    proportion to what was traced so far: 6 s for all of TarViS, against 0.7 s with a plain Python counter.
    """

    def __init__(self, key: jax.Array):
        self._key = key
        self._count = 0

    def params(self) -> jax.Array:
        """A new key."""
        key = jax.random.fold_in(self._key, self._count)
        self._count += 1
        return key


def abstract_model(config: ModelConfig) -> TarViS:
    """The model with shapes and dtypes in place of arrays."""
    return nnx.eval_shape(lambda: TarViS(config, rngs=Keys(jax.random.key(0))))


def flatten(model: nnx.Module) -> dict[str, jax.Array]:
    """All variables of `model` by slash-separated path; abstract ones for a model made with `nnx.eval_shape`."""
    pure = traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model)))
    return {"/".join(map(str, path)): value for path, value in pure.items()}


def fill(model: nnx.Module, variables: Mapping[str, jax.Array]) -> nnx.Module:
    """A copy of `model` (it may be abstract) that holds `variables`, a flat dict as `flatten` gives.

    Raises:
      ValueError: names every missing, unexpected and misshapen variable.
    """
    expected = flatten(model)
    problems = compare(
        {path: (tuple(v.shape), str(v.dtype)) for path, v in expected.items()},
        {path: (tuple(v.shape), str(v.dtype)) for path, v in variables.items()},
    )
    if problems:
        raise ValueError("The variables do not fit the model:\n  " + "\n  ".join(problems))
    graph, state = nnx.split(model)
    paths = {"/".join(map(str, path)): path for path in traverse_util.flatten_dict(nnx.to_pure_dict(state))}
    pure = traverse_util.unflatten_dict({paths[path]: jax.numpy.asarray(v) for path, v in variables.items()})
    nnx.replace_by_pure_dict(state, pure)
    return nnx.merge(graph, state)


def compare(expected: Mapping[str, tuple], found: Mapping[str, tuple]) -> list[str]:
    """One line for every name that is on one side only or whose (shape, dtype) differs."""
    problems = [f"missing: {name} {expected[name]}" for name in expected if name not in found]
    problems += [f"unexpected: {name} {found[name]}" for name in found if name not in expected]
    problems += [
        f"different: {name}: expected {expected[name]}, found {found[name]}"
        for name in expected
        if name in found and expected[name] != found[name]
    ]
    return problems
