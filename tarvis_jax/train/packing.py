"""Many small arrays as a few long vectors.

A program that takes and gives hundreds of arrays spends microseconds on each, and elementwise work on them is a kernel
for each. Where a step takes milliseconds, this is a good part of it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Packing:
    """Which arrays of a flat dict lie in which vector, one after the other.

    Attributes:
      vectors: name of each vector -> names of its arrays, in their order.
    """

    def __init__(self, shapes: Mapping[str, jax.ShapeDtypeStruct], vector_of: Mapping[str, str]):
        """`shapes` of the arrays, all of one dtype; `vector_of`: name of an array -> that of its vector.

        Raises:
          ValueError: arrays of several dtypes.
        """
        dtypes = {str(shape.dtype) for shape in shapes.values()}
        if len(dtypes) != 1:
            raise ValueError(f"arrays to pack: expected one dtype, found {sorted(dtypes)}")
        self._shapes = {name: shape.shape for name, shape in shapes.items()}
        self._dtype = dtypes.pop()
        self.vectors: dict[str, list[str]] = {}
        for name in shapes:
            self.vectors.setdefault(vector_of[name], []).append(name)

    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of the vectors."""
        sizes = {vector: sum(map(self._size, names)) for vector, names in self.vectors.items()}
        return {vector: jax.ShapeDtypeStruct((size,), self._dtype) for vector, size in sizes.items()}

    def pack(self, arrays: Mapping[str, Any], xp: Any = jnp) -> dict[str, Any]:
        """The vectors of a dict of arrays; `xp`: the module for it, jax.numpy or numpy."""
        return {
            vector: xp.concatenate([xp.ravel(arrays[name]) for name in names]) for vector, names in self.vectors.items()
        }

    def unpack(self, vectors: Mapping[str, Any]) -> dict[str, Any]:
        """The dict of arrays of `vectors`, which are JAX's or numpy's (then the arrays are views)."""
        found = {}
        for vector, names in self.vectors.items():
            start = 0
            for name in names:
                found[name] = vectors[vector][start : start + self._size(name)].reshape(self._shapes[name])
                start += self._size(name)
        return {name: found[name] for name in self._shapes}

    def pack_tree(self, tree: Any, pack: Callable[[dict[str, Any]], Any] | None = None) -> Any:
        """A tree, with each dict of these arrays in it (parameters, their moments) replaced by `pack` of it."""
        return _replace(tree, self._shapes.keys(), pack or self.pack)

    def unpack_tree(self, tree: Any, unpack: Callable[[dict[str, Any]], Any] | None = None) -> Any:
        """The inverse of `pack_tree`; a tree without vectors stays as it is."""
        return _replace(tree, self.vectors.keys(), unpack or self.unpack)

    def _size(self, name: str) -> int:
        return int(np.prod(self._shapes[name]))


def _replace(tree: Any, keys: Any, function: Callable[[dict[str, Any]], Any]) -> Any:
    def is_found(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == keys

    return jax.tree.map(lambda node: function(node) if is_found(node) else node, tree, is_leaf=is_found)
