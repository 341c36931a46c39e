"""Where a run starts if not from nothing: `--finetune_from`, `--restore_weights` and `--restore_session` of main.py.

The three are options of the reference's training script; docs/migrating.md has its commands beside ours.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from tarvis_jax.model.config import ModelConfig
from tarvis_jax.parallel import distributed
from tarvis_jax.run_config import Config, settle
from tarvis_jax.train.loop import train
from tarvis_jax.weights.backbone_files import is_default
from tarvis_jax.weights.open import open_model, saved_config

# Fields of ModelConfig that say how a run computes or what it trains on; they are never taken from another run.
_OF_THIS_RUN = ("semantic_classes", "exemplar_gradient", "drop_path", "compute_dtype", "remat", "attention_mib")
_ARCHITECTURE = tuple(
    field.name
    for field in dataclasses.fields(ModelConfig)
    if field.name not in _OF_THIS_RUN and not field.name.startswith(("ms_deform_attn", "attention_backend"))
)


def run_training(
    config: Config | None = None,
    workdir: str | None = None,
    finetune_from: str | None = None,
    restore_weights: str | None = None,
    restore_session: str | None = None,
    **processes: str | int,
) -> None:
    """Trains by the flags of main.py: `config` in `workdir`, or the session of another run.

    `processes`: arguments of `parallel.distributed.start`, by which this process finds the others of its run.

    Raises:
      ValueError: flags that do not go together, or see `finetuning`, `with_weights`, `saved_session` and `train`.
    """
    try:
        _run(config, workdir, finetune_from, restore_weights, restore_session, processes)
    except Exception as error:
        if not distributed.is_lost(error):
            raise
        raise distributed.ProcessLostError(
            f"process {jax.process_index()} cannot go on without the others, one of which has ended: see its log for "
            f"the cause ({str(error).partition(chr(10))[0]}); the same command goes on from the last checkpoint"
        ) from error


def _run(
    config: Config | None,
    workdir: str | None,
    finetune_from: str | None,
    restore_weights: str | None,
    restore_session: str | None,
    processes: Mapping[str, Any],
) -> None:
    sources = {
        "--finetune_from": finetune_from,
        "--restore_weights": restore_weights,
        "--restore_session": restore_session,
    }
    given = [flag for flag, value in sources.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)}: expected one of them at most")
    if restore_session is not None:
        if config is not None or workdir is not None:
            raise ValueError("--restore_session takes config and workdir of the run it names; give neither")
        distributed.start(**processes)
        train(saved_session(restore_session), restore_session)
        return
    missing = [flag for flag, value in (("--config", config), ("--workdir", workdir)) if value is None]
    if missing:
        raise ValueError(f"--mode=train needs {', '.join(missing)} (--help lists the flags)")
    distributed.start(**processes)  # before anything reads weights: that touches a device
    if finetune_from is not None:
        config = finetuning(config, finetune_from)
    elif restore_weights is not None:
        config = with_weights(config, restore_weights)
    train(config, workdir)


def finetuning(config: Config, source: pathlib.Path | str) -> Config:
    """`config`, to start from the newest checkpoint of a pretraining run and with its architecture.

    Every architectural setting that `config` leaves at its default takes the pretraining run's value; with
    `train.adopt_architecture`, all of them do. Datasets, losses, optimizer and number format are those of `config`.
    Class queries carry over as `weights/start.py` describes.

    Args:
      config: of the run to start.
      source: what `open_model` takes, or a folder of the reference with several .pth files and config.yaml.

    Raises:
      ValueError: no checkpoint there, a backbone other than the config's, or `config` names other weights, which are
        not those that shipped configs name.
    """
    source = newest_checkpoint(source)
    try:
        pretrained = open_model(source).config
    except ValueError as error:
        raise ValueError(f"--finetune_from={source}: {error}") from None
    ours, default = config.model, ModelConfig()
    adopts = config.train.adopt_architecture
    if ours.backbone != pretrained.backbone and not adopts:
        # Not inherited: config files choose other settings by backbone, as configs/finetune.py does for Swin-L.
        raise ValueError(
            f"--finetune_from={source}: its backbone is {pretrained.backbone}, that of the config is {ours.backbone}; "
            f"give the config file the same, as in configs/finetune.py:backbone={pretrained.backbone}"
        )
    inherited = {
        name: getattr(pretrained, name)
        for name in _ARCHITECTURE
        if adopts or getattr(ours, name) == getattr(default, name)
    }
    return _starting_from(dataclasses.replace(config, model=dataclasses.replace(ours, **inherited)), source)


def with_weights(config: Config, source: pathlib.Path | str) -> Config:
    """`config`, to start from the weights of another run (workdir or .pth file) of the very same architecture.

    Raises:
      ValueError: the architectures or their classes differ, or `config` names other weights (see `finetuning`).
    """
    theirs = open_model(source).config
    names = (*_ARCHITECTURE, "semantic_classes")
    different = [
        f"{name}: {getattr(theirs, name)} there, {getattr(config.model, name)} here"
        for name in names
        if getattr(theirs, name) != getattr(config.model, name)
    ]
    if different:
        raise ValueError(
            f"--restore_weights={source}: another architecture or other classes ({'; '.join(different)}); "
            f"--finetune_from carries over what fits"
        )
    return _starting_from(config, source)


def saved_session(workdir: pathlib.Path | str) -> Config:
    """The config of a run that was interrupted; training with it in the same workdir goes on where it stopped.

    It is the config that the newest checkpoint was saved with, as wherever a run is opened: the values that training
    goes on from and the settings that they belong to come from the same place. Settings that a later command changed
    without reaching its first checkpoint (they are in the workdir's config.json) are given again by that command.

    Raises:
      ValueError: there is no run in `workdir`, or it has not saved a checkpoint.
    """
    try:
        return settle(saved_config(workdir))
    except ValueError as error:
        raise ValueError(f"--restore_session={workdir}: expected a run with a checkpoint: {error}") from None


def newest_checkpoint(source: pathlib.Path | str) -> pathlib.Path | str:
    """Of a folder of .pth files, the one of the last step; anything else as it is (of a run, the newest is opened)."""
    files = list(pathlib.Path(source).glob("*.pth"))
    if not files:
        return source
    return max(files, key=lambda file: ([int(number) for number in re.findall(r"\d+", file.stem)], file.name))


def _starting_from(config: Config, source: pathlib.Path | str) -> Config:
    given = config.train.init_from
    if not is_default(given):  # "random" and backbones from ImageNet are what configs say for want of better weights
        raise ValueError(f"weights to start from are given twice: {source} and train.init_from={given}")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, init_from=str(source)))
