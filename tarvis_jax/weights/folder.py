"""The folder that models are shared in: `model.safetensors` (the variables) and `config.json` (what they mean).

The tensors are our variables under their flat names ("decoder/layers/0/ffn/linear1/kernel"); config.json has the
architecture (ModelConfig) and a table of the datasets whose classes the model knows (DatasetInfo by name).
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np

from tarvis_jax.config import from_mapping, read_json, to_plain
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import EXEMPLAR
from tarvis_jax.fields import Length, OneOf, Text, check_fields, raise_problems, shown
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.weights import safetensors as safetensors_file

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
FORMAT = "tarvis_jax"
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """What such a folder holds.

    Attributes:
      config: the architecture.
      datasets: by name.
      variables: flat dict, read-only views of the mapped file; not yet compared with the architecture
        (`model.variables.fill` does that).
    """

    config: ModelConfig
    datasets: dict[str, DatasetInfo]
    variables: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class _ConfigFile:
    """Content of config.json."""

    format: Annotated[str, OneOf((FORMAT,))]
    format_version: Annotated[int, OneOf((FORMAT_VERSION,))]
    model: ModelConfig
    datasets: Annotated[dict[Annotated[str, Text(100, 1)], DatasetInfo], Length(0, 1000)]

    def __post_init__(self) -> None:
        check_fields(self)
        counts = dict(self.model.semantic_classes)
        absent = sorted(set(counts) - set(self.datasets))
        problems = [
            f"datasets.{name}: missing, expected the {counts[name]} classes of model.semantic_classes"
            for name in absent
        ]
        for name, info in self.datasets.items():
            if info.spec.task != EXEMPLAR and info.spec.num_classes != counts.get(name):
                problems.append(
                    f"datasets.{name}: expected {counts.get(name, 0)} classes as in model.semantic_classes, "
                    f"found {info.spec.num_classes}"
                )
        raise_problems(problems[:10])


def save_safetensors(
    variables: Mapping[str, Any],
    config: ModelConfig,
    folder: str | pathlib.Path,
    datasets: Mapping[str, DatasetInfo] | None = None,
) -> int:
    """Writes a model to `folder` (made if absent), one tensor at a time.

    Args:
      variables: flat name -> array (numpy, jax, or anything with shape and dtype that `np.asarray` reads when asked).
      config: the architecture.
      folder: where to; files of a model that is there are replaced.
      datasets: what to say of the datasets; None takes the table of datasets (`default_datasets`).

    Returns:
      Size of the weights in bytes.

    Raises:
      ValueError: `datasets` is None and the table does not know all datasets of `config.semantic_classes`.
    """
    if datasets is None:
        datasets = default_datasets(config.semantic_classes)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = _ConfigFile(FORMAT, FORMAT_VERSION, config, dict(datasets))
    size = safetensors_file.write(folder / WEIGHTS_FILE, variables, {"format": FORMAT})
    (folder / CONFIG_FILE).write_text(json.dumps(to_plain(content), indent=2) + "\n")
    return size


def load(folder: str | pathlib.Path) -> Pretrained:
    """Reads what `save_safetensors` wrote; the weights are mapped, not read.

    Raises:
      ValueError: a file is absent or is not what it should be; names the file and the key or tensor.
    """
    folder = pathlib.Path(folder)
    path = folder / CONFIG_FILE
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise ValueError(f'{path}: expected the config of a shared model ("format": "{FORMAT}"), found another file')
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format_version {FORMAT_VERSION}, found {shown(content.get('format_version'))}"
        )
    config = from_mapping(_ConfigFile, content, str(path))
    return Pretrained(config.model, config.datasets, safetensors_file.read(folder / WEIGHTS_FILE))


def is_pretrained_folder(path: str | pathlib.Path) -> bool:
    """Whether a path is a folder of this kind, broken ones included (a run's workdir has no `model.safetensors`)."""
    return pathlib.Path(path).is_dir() and os.path.lexists(pathlib.Path(path) / WEIGHTS_FILE)
