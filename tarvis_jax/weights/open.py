"""Opens a model, wherever it lies: the one way from a path to an architecture and its values."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from tarvis_jax.config import from_mapping
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model, compare, flatten
from tarvis_jax.run_config import Config
from tarvis_jax.weights import folder, hub
from tarvis_jax.weights.checkpoints import FOLDER, Checkpoints
from tarvis_jax.weights.pytorch.reference import open_reference_checkpoint


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A whole model: what it is and its values.

    Attributes:
      path: the file or folder.
      config: the architecture.
      variables: flat name -> anything with shape and dtype that `np.asarray` reads; exactly those of the architecture.
      datasets: by name, what is known of the datasets whose classes it has.
      run: the whole config of the run, if it is one.
    """

    path: pathlib.Path
    config: ModelConfig
    variables: Mapping[str, Any]
    datasets: dict[str, DatasetInfo]
    run: Config | None = None


def open_model(source: str | pathlib.Path) -> OpenedModel:
    """Opens a model.

    Args:
      source: one of
        - the workdir of a training run: its newest checkpoint (the moving average of the weights if it has one), with
          the config that the checkpoint was written with;
        - a folder with `model.safetensors` and `config.json` (`tarvis_jax.Model.save_pretrained`);
        - a checkpoint of the PyTorch reference (.pth, its config.yaml beside it), or the folder with one;
        - an id on the Hugging Face hub, "owner/name" or "owner/name@revision", if there is no such local path.

    Raises:
      ValueError: nothing of that kind there, or its files are broken or do not fit each other; says which and why.
    """
    path = pathlib.Path(source)
    if not path.exists():
        if not hub.is_hub_id(str(source)):
            raise ValueError(f"{source}: no such file or folder, and not an id on the hub (owner/name)")
        path = hub.download(str(source))
    if path.is_dir() and (path / FOLDER).is_dir():
        opened = _open_run(path)
    elif folder.is_pretrained_folder(path):
        content = folder.load(path)
        opened = OpenedModel(path, content.config, content.variables, content.datasets)
    else:
        config, variables, _ = open_reference_checkpoint(_reference_file(path))
        opened = OpenedModel(path, config, variables, default_datasets(config.semantic_classes))
    expected = flatten(abstract_model(opened.config))
    problems = compare(
        {name: (tuple(v.shape), str(v.dtype)) for name, v in expected.items()},
        {name: (tuple(v.shape), str(v.dtype)) for name, v in opened.variables.items()},
    )
    if problems:
        raise ValueError(f"{source}: the weights do not fit their own architecture:\n  " + "\n  ".join(problems))
    return opened


def _open_run(workdir: pathlib.Path) -> OpenedModel:
    checkpoints = Checkpoints(workdir)
    config = from_mapping(Config, checkpoints.restore_config(), f"{workdir}: config of the checkpoint")
    params, frozen = checkpoints.restore_weights()
    checkpoints.close()
    return OpenedModel(workdir, config.model, params | frozen, config.dataset_infos(), config)


def _reference_file(path: pathlib.Path) -> pathlib.Path:
    files = sorted(path.glob("*.pth")) if path.is_dir() else [path]
    if len(files) != 1 or files[0].suffix != ".pth":
        found = ", ".join(file.name for file in files) or "none of these"
        raise ValueError(
            f"{path}: expected one .pth file or its folder, a folder with {folder.WEIGHTS_FILE}, or the workdir of a "
            f"run; found {found}"
        )
    return files[0]
