"""The variable type of what is never trained."""

from flax import nnx


class Frozen(nnx.Variable):
    """A value that is saved with the model but never trained (frozen batch norm, pixel mean)."""
