"""Conversion from file to file, in either direction, with one tensor in memory at a time."""

import dataclasses
import pathlib
import shutil

import yaml

from tarvis_jax.weights import folder
from tarvis_jax.weights.open import open_model
from tarvis_jax.weights.pytorch.files import read_torch_file, write_torch_file
from tarvis_jax.weights.pytorch.mapping import export_weights
from tarvis_jax.weights.pytorch.reference import reference_config
from tarvis_jax.weights.pytorch.rules import model_rules
from tarvis_jax.weights.report import Report

# Beside our own files: the reference's whole config.yaml, for the way back.
REFERENCE_CONFIG = "reference_config.yaml"


def to_jax(source: str | pathlib.Path, destination: str | pathlib.Path) -> Report:
    """A checkpoint of the reference, or the newest one of a run -> `model.safetensors` + `config.json`.

    Args:
      source: the `.pth` file with its config.yaml beside it, the folder of a release, or the workdir of a run.
      destination: folder, made if absent.

    Raises:
      ValueError: the source is none of these, or a tensor does not fit or is not finite; nothing is written then.
    """
    opened = open_model(source)
    destination = pathlib.Path(destination)
    folder.save_safetensors(opened.variables, opened.config, destination, opened.datasets)
    if opened.path.suffix != ".pth":
        return opened.report
    shutil.copyfile(opened.path.parent / "config.yaml", destination / REFERENCE_CONFIG)
    others = [str(key) for key in read_torch_file(opened.path) if key != "model"]
    notes = (f"of the file, not of the model, and left out: {', '.join(others)}",) if others else ()
    return dataclasses.replace(opened.report, notes=notes)


def to_pytorch(source: str | pathlib.Path, destination: str | pathlib.Path) -> Report:
    """Weights of ours -> a `.pth` file, and the config.yaml beside it that the reference needs.

    Args:
      source: a folder with `model.safetensors`, or the workdir of a run (its newest checkpoint).
      destination: the `.pth` file; its folder is made if absent.

    Raises:
      ValueError: the source is no such folder, its weights do not fit its architecture, the reference has no such
        architecture, or another config.yaml is in the way.
    """
    destination = pathlib.Path(destination)
    if destination.suffix != ".pth":
        raise ValueError(f"{destination}: expected a file name that ends in .pth")
    opened = open_model(source)
    text = yaml.safe_dump(reference_config(opened.config, opened.datasets), sort_keys=False)
    kept = pathlib.Path(source) / REFERENCE_CONFIG
    if kept.is_file():
        text = kept.read_text()
    config_file = destination.parent / "config.yaml"
    if config_file.is_file() and config_file.read_text() != text:
        raise ValueError(f"{config_file}: expected none or that of this model, found another: choose another folder")
    tensors = export_weights(opened.variables, model_rules(opened.config))
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_torch_file(destination, tensors)
    config_file.write_text(text)
    return opened.report
