"""Arrays that are read when they are used, and checked then: the values of every model and file that is opened."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Deferred:
    """An array whose shape and dtype are known and whose values are made, and checked, by `np.asarray`.

    Attributes:
      where: file and tensor that the values come from, for messages ("model.pth: tensor decoder.norm.weight").
      shape, dtype: of the values.
      make: gives them.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """The values.

        Raises:
          ValueError: some are not finite: with such weights every output would be NaN.
        """
        array = self.make()
        if array.dtype.kind in "fc" and not (is_finite := np.isfinite(array)).all():
            bad = array.size - np.count_nonzero(is_finite)
            raise ValueError(f"{self.where}: expected finite values, found {bad} of {array.size} NaN or infinite")
        return array if dtype is None else array.astype(dtype, copy=False)


def deferred(where: str, value: Any, make: Callable[[], np.ndarray] | None = None) -> Deferred:
    """A `Deferred` with the shape and dtype of `value`, whose values it has unless `make` gives them."""
    return Deferred(where, tuple(map(int, value.shape)), np.dtype(value.dtype), make or (lambda: np.asarray(value)))
