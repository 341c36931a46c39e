"""Opens a model, wherever it lies: the one way from a path to an architecture and its values.

Whatever is opened is checked: settings against their ranges, the tensors' names, shapes and dtypes against the
architecture, and values when they are read: NaN and infinities are refused. The work that is done before a refusal is
bounded by the size of the files.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tarvis_jax.config import from_mapping
from tarvis_jax.dataset_info import DatasetInfo
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model, compare, flatten
from tarvis_jax.run_config import CHECKPOINTS_FOLDER, Config
from tarvis_jax.weights import folder, hub
from tarvis_jax.weights.deferred import Deferred, deferred
from tarvis_jax.weights.pytorch.backbones import is_backbone_file, open_backbone
from tarvis_jax.weights.pytorch.reference import open_reference_checkpoint
from tarvis_jax.weights.report import Report, entry

if TYPE_CHECKING:
    from tarvis_jax.weights.checkpoints import Checkpoints

_MOST_LINES = 1000  # of tensors that do not fit, in one message
_FEW_LAYERS = 12  # a part of so many is laid out in a second or two


@dataclasses.dataclass(frozen=True)
class OpenedModel:
    """A whole model: what it is and its values.

    Attributes:
      path: the folder, or the file of a checkpoint of the reference.
      config: the architecture.
      variables: by flat name, read and checked by `np.asarray`; exactly those of the architecture.
      datasets: by name, what is known of the datasets whose classes it has.
      report: what became of each tensor of the source.
      run: the whole config of the run, if it is one.
      step: of the run's checkpoint.
    """

    path: pathlib.Path
    config: ModelConfig
    variables: Mapping[str, Deferred]
    datasets: Mapping[str, DatasetInfo]
    report: Report
    run: Config | None = None
    step: int | None = None


@dataclasses.dataclass(frozen=True)
class OpenedBackbone:
    """An image backbone of another project: it says nothing of the rest of a model.

    Attributes:
      path: the file.
      variables: "backbone/...", read and checked by `np.asarray`.
      report: what became of each tensor of the file.
    """

    path: pathlib.Path
    variables: Mapping[str, Deferred]
    report: Report


def open_model(source: str | pathlib.Path) -> OpenedModel:
    """Opens a whole model; its values are read when they are used.

    Args:
      source: one of
        - the workdir of a training run: its newest checkpoint (the moving average of the weights if it has one), with
          the config that was saved in the checkpoint. `config.json` of the workdir is not looked at: it belongs to the
          newest command, which may not have saved a checkpoint yet;
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
    if path.is_dir() and (path / CHECKPOINTS_FOLDER).is_dir():
        return _open_run(path)
    if folder.is_pretrained_folder(path):
        return _open_folder(path)
    return _open_reference(path)


def open_weights(
    source: str | pathlib.Path, backbone: str, *, new: Sequence[str] = (), leave_out: Sequence[str] = ()
) -> OpenedModel | OpenedBackbone:
    """Opens whatever training can start from.

    Args:
      source: what `open_model` takes, or a backbone of another project: a .pkl file, or a .pth file that is no
        checkpoint of the reference.
      backbone: which one such a file is taken to hold, a name in BACKBONES.
      new, leave_out: shell patterns for such a file, see `open_backbone`; a whole model is opened as a whole.

    Raises:
      ValueError: as `open_model` and `open_backbone`.
    """
    path = pathlib.Path(source)
    if path.suffix == ".pkl" or (path.suffix == ".pth" and path.exists() and is_backbone_file(path)):
        return OpenedBackbone(path, *open_backbone(path, backbone, new=new, leave_out=leave_out))
    return open_model(source)


def saved_config(workdir: str | pathlib.Path) -> Config:
    """The config that the newest checkpoint of a run was saved with.

    Raises:
      ValueError: there is no run with a checkpoint in `workdir`.
    """
    from tarvis_jax.weights.checkpoints import Checkpoints  # here, because it loads orbax

    checkpoints = Checkpoints(workdir)
    try:
        return _config_of(checkpoints, workdir, None)
    finally:
        checkpoints.close()


def _config_of(checkpoints: "Checkpoints", workdir: str | pathlib.Path, step: int | None) -> Config:
    return from_mapping(Config, checkpoints.restore_config(step), f"{workdir}: config of the checkpoint")


def _open_run(workdir: pathlib.Path) -> OpenedModel:
    from tarvis_jax.weights.checkpoints import Checkpoints  # here, because it loads orbax

    checkpoints = Checkpoints(workdir)
    try:
        step = checkpoints.latest_step  # read once: a run that goes on may save another meanwhile
        config = _config_of(checkpoints, workdir, step)
        shapes = checkpoints.saved_weights(step)
    finally:
        checkpoints.close()
    file = f"{workdir / CHECKPOINTS_FOLDER}/{step}"
    _check_fit(file, config.model, shapes)

    @functools.cache
    def values() -> dict:
        again = Checkpoints(workdir)
        try:
            params, frozen = again.restore_weights(step)
        finally:
            again.close()
        return params | frozen

    variables = {
        name: deferred(
            f"{file}: tensor {name}", shape, functools.partial(lambda name: np.asarray(values()[name]), name)
        )
        for name, shape in shapes.items()
    }
    infos, report = config.dataset_infos(), _all_loaded(workdir, shapes)
    return OpenedModel(workdir, config.model, variables, infos, report, config, step)


def _open_folder(path: pathlib.Path) -> OpenedModel:
    content = folder.load(path)
    file = path / folder.WEIGHTS_FILE
    _check_fit(file, content.config, content.variables)
    variables = {name: deferred(f"{file}: tensor {name}", value) for name, value in content.variables.items()}
    return OpenedModel(path, content.config, variables, content.datasets, _all_loaded(path, variables))


def _open_reference(path: pathlib.Path) -> OpenedModel:
    files = sorted(path.glob("*.pth")) if path.is_dir() else [path]
    if len(files) != 1 or files[0].suffix != ".pth":
        found = ", ".join(file.name for file in files) or "none of these"
        raise ValueError(
            f"{path}: expected one .pth file or its folder, a folder with {folder.WEIGHTS_FILE}, or the workdir of a "
            f"run; found {found}"
        )
    config, variables, datasets, report = open_reference_checkpoint(files[0])
    return OpenedModel(files[0], config, variables, datasets, report)


def _check_fit(file: str | pathlib.Path, config: ModelConfig, found: Mapping) -> None:
    """Raises ValueError unless `found` (by name, with shape and dtype) are the variables of the architecture."""
    problems = _layer_problems(config, found)  # first: the time to lay out a model grows with its layers
    if not problems:
        problems = compare(
            *(
                {name: (tuple(v.shape), str(v.dtype)) for name, v in variables.items()}
                for variables in (flatten(abstract_model(config)), found)
            )
        )
    if problems:
        more = [f"... and {len(problems) - _MOST_LINES} more"] if len(problems) > _MOST_LINES else []
        lines = "\n  ".join(problems[:_MOST_LINES] + more)
        raise ValueError(f"{file}: the weights do not fit their own architecture:\n  {lines}")


def _layer_problems(config: ModelConfig, names: Iterable[str]) -> list[str]:
    """Parts of the architecture with many layers that there are no tensors of."""
    matches = [re.match(r"(neck|decoder|object_encoder)/layers/(\d{1,9})/", name) for name in names]
    layers = {match.groups() for match in matches if match}
    problems = []
    for part in ("neck", "decoder", "object_encoder"):
        wanted, found = getattr(config, f"{part}_layers"), sum(p == part for p, _ in layers)
        if wanted > max(found, _FEW_LAYERS):
            problems.append(f"model.{part}_layers: expected at most {found}, as there are tensors of, found {wanted}")
    return problems


def _all_loaded(source: pathlib.Path, variables: Mapping) -> Report:
    return Report(str(source), tuple(entry(name, value) for name, value in variables.items()))
