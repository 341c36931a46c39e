"""The model taken apart: its structure is static, its values are plain dicts from a path to an array.

Modules are split once (`nnx.split`). Compiled functions see only the dicts ("decoder/layers/0/ffn/kernel" -> array).
This keeps dispatch cheap, names every tensor for messages, and makes a checkpoint readable without the model's code.
"""

from collections.abc import Mapping

import jax
from flax import nnx

from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.frozen import Frozen
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.model.variables import Keys, abstract_model

Arrays = dict[str, jax.Array]


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
        return self._values(TarViS(self.config, rngs=Keys(key)))

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
