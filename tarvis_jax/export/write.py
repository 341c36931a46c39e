"""Writes clip inference as StableHLO for CPU, CUDA and TPU, to be run without this project (loader.py)."""

import dataclasses
import json
import pathlib
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from absl import logging
from jax import export

from kernels.ms_deform_attn.backends import BACKENDS
from tarvis_jax.api import Model
from tarvis_jax.config import to_plain
from tarvis_jax.datasets import EXEMPLAR
from tarvis_jax.export import loader as export_loader
from tarvis_jax.fields import Length, OneOf, Range, Text, check_fields
from tarvis_jax.inference import network as forward
from tarvis_jax.model.queries import SEMANTIC_TABLE, semantic_rows
from tarvis_jax.model.variables import abstract_model, fill

FORMAT_VERSION = 1
PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS_FILE = "weights.npz"

# Kernels that are not plain StableHLO and that jax.export does not promise to keep running in later releases of JAX
# (those of TPU kernels it does). They only occur with another back end than "xla", or where attention takes a library's
# kernel; the manifest lists what each function calls.
_UNSTABLE_CALLS = ("__gpu$xla.gpu.triton", "__cudnn$fmhaSoftmax", "tarvis_msda_forward")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What to export.

    Attributes:
      clip_length: T, frames per clip.
      height, width: of the padded frames in pixels, multiples of the model's size_divisor.
      num_objects: N, object slots of VOS and PET; 0 leaves these tasks out.
      datasets: whose classes to export; () takes all of the model. Datasets with as many classes share a function.
      platforms: to lower for, of "cpu", "cuda" and "tpu"; no such device is needed.
      backend: of attention. "xla" runs everywhere with JAX alone; "auto" takes each platform's kernels.
    """

    clip_length: Annotated[int, Range(1, 10_000)] = 12
    height: Annotated[int, Range(1, 65_536)] = 448
    width: Annotated[int, Range(1, 65_536)] = 832
    num_objects: Annotated[int, Range(0, 10_000)] = 4
    datasets: Annotated[tuple[Annotated[str, Text(100, 1)], ...], Length(0, 1000)] = ()
    platforms: Annotated[tuple[Annotated[str, OneOf(PLATFORMS)], ...], Length(1, 3)] = PLATFORMS
    backend: Annotated[str, OneOf(("auto", *BACKENDS))] = "xla"

    def __post_init__(self) -> None:
        check_fields(self)


def export_model(model: Model, folder: str | pathlib.Path, config: ExportConfig) -> dict[str, Any]:
    """Writes to `folder`:

    - `weights.npz`: the variables by their flat names;
    - `<function>.jaxexport`, for `jax.export.deserialize`, and `<function>.stablehlo`, the same program as a portable
      StableHLO artifact for other runtimes: `classes_<K>` (VIS and VPS with K classes) and `objects` (VOS and PET).
      Weights are arguments: first all variables in the order of their sorted names, then the function's inputs;
    - `manifest.json`: shapes, dtypes, platforms, datasets with their rows in the table of class queries;
    - `loader.py`: runs all that with JAX and NumPy alone.

    Returns:
      The manifest.

    Raises:
      ValueError: a size, dataset or platform that does not fit.
    """
    _check(model, config)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    backend = None if config.backend == "auto" else config.backend
    architecture = dataclasses.replace(
        model.config, ms_deform_attn_backend=backend, attention_backend="xla" if backend == "xla" else None
    )
    variables = {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for name, v in sorted(model.variables.items())}
    chosen = config.datasets or [name for name, _ in model.config.semantic_classes]
    rows = {name: semantic_rows(model.config.semantic_classes)[name] for name in chosen}
    functions: dict[str, dict[str, Any]] = {}
    for num_classes in sorted({end - first for first, end in rows.values()}):
        functions[f"classes_{num_classes}"] = _write_function(
            folder / f"classes_{num_classes}",
            _with_model(architecture, lambda *args: tuple(each[0] for each in forward.decode_classes(*args))),
            variables,
            _image_input(config)
            | {"semantic_queries": jax.ShapeDtypeStruct((num_classes, architecture.hidden_size), np.float32)},
            ("class_logits", "mask_logits", "semantic_logits"),
            config.platforms,
        )
    if config.num_objects:
        functions["objects"] = _write_function(
            folder / "objects",
            _with_model(architecture, lambda *args: (forward.decode_objects(*args),)),
            variables,
            _image_input(config) | _object_inputs(config),
            ("mask_logits",),
            config.platforms,
        )
    _write_npz(folder / WEIGHTS_FILE, model.variables)
    manifest = {
        "format": "tarvis_jax export",
        "format_version": FORMAT_VERSION,
        "jax_version": jax.__version__,
        "platforms": list(config.platforms),
        "weights": WEIGHTS_FILE,
        "variables": list(variables),
        "semantic_table": SEMANTIC_TABLE,
        "clip": {
            "length": config.clip_length,
            "height": config.height,
            "width": config.width,
            "num_objects": config.num_objects,
        },
        "functions": functions,
        "datasets": {
            name: {
                "function": f"classes_{end - first}",
                "rows": [first, end],
                "task": model.datasets[name].spec.task,
                "thing_classes": list(model.datasets[name].spec.thing_classes),
                "class_names": list(model.datasets[name].class_names),
            }
            for name, (first, end) in rows.items()
        },
        "model": to_plain(model.config),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.copyfile(export_loader.__file__, folder / "loader.py")
    return manifest


def _check(model: Model, config: ExportConfig) -> None:
    problems = []
    divisor = model.config.size_divisor
    if config.height % divisor or config.width % divisor:
        problems.append(f"size {config.height}x{config.width}: expected multiples of {divisor}")
    known = [name for name, _ in model.config.semantic_classes]
    for name in config.datasets:
        if name not in known:
            is_exemplar = name in model.datasets and model.datasets[name].spec.task == EXEMPLAR
            reason = "has no classes: num_objects is for its task" if is_exemplar else f"expected one of {known}"
            problems.append(f"dataset {name}: {reason}")
    if not known and not config.num_objects:
        problems.append("nothing to export: the model has no classes and num_objects is 0")
    if problems:
        raise ValueError("export: " + "; ".join(problems))


def _with_model(architecture: Any, decode: Callable) -> Callable:
    """(variables, images, ...) -> decode(model, pyramid, ...) as a pure function."""
    abstract = abstract_model(architecture)

    def clip(variables: Mapping[str, jax.Array], images: jax.Array, *inputs: jax.Array):
        model = fill(abstract, variables)
        return decode(model, forward.clip_features(model, images), *inputs)

    return clip


def _image_input(config: ExportConfig) -> dict[str, jax.ShapeDtypeStruct]:
    return {"images": jax.ShapeDtypeStruct((config.clip_length, config.height, config.width, 3), np.uint8)}


def _object_inputs(config: ExportConfig) -> dict[str, jax.ShapeDtypeStruct]:
    N, T = config.num_objects, config.clip_length
    return {
        "masks": jax.ShapeDtypeStruct((N, T, config.height, config.width), np.bool_),
        "points_yx": jax.ShapeDtypeStruct((N, 2), np.float32),
        "point_frames": jax.ShapeDtypeStruct((N,), np.int32),
        "is_point": jax.ShapeDtypeStruct((N,), np.bool_),
        "valid_objects": jax.ShapeDtypeStruct((N,), np.bool_),
        "valid_frames": jax.ShapeDtypeStruct((T,), np.bool_),
    }


def _write_function(
    path: pathlib.Path,
    function: Callable,
    variables: Mapping[str, jax.ShapeDtypeStruct],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    output_names: Sequence[str],
    platforms: Sequence[str],
) -> dict[str, Any]:
    """Lowers a function for all platforms, writes both files and returns its entry in the manifest."""
    checks = [export.DisabledSafetyCheck.custom_call(target) for target in _UNSTABLE_CALLS]
    exported = export.export(jax.jit(function), platforms=platforms, disabled_checks=checks)(
        dict(variables), *inputs.values()
    )
    files = {"file": path.with_suffix(".jaxexport"), "stablehlo": path.with_suffix(".stablehlo")}
    files["file"].write_bytes(exported.serialize())
    files["stablehlo"].write_bytes(exported.mlir_module_serialized)
    custom_calls = sorted(set(re.findall(r"custom_call @([\w.$]+)", exported.mlir_module())))
    logging.info("exported %s for %s; custom calls: %s", path, ", ".join(platforms), custom_calls or "none")
    return {
        **{key: file.name for key, file in files.items()},
        "inputs": [_describe(name, value) for name, value in inputs.items()],
        "outputs": [_describe(name, value) for name, value in zip(output_names, exported.out_avals, strict=True)],
        "custom_calls": custom_calls,
    }


def _describe(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "shape": list(value.shape), "dtype": str(value.dtype)}


def _write_npz(path: pathlib.Path, variables: Mapping[str, jax.Array]) -> None:
    """What `np.savez` writes, with one variable on the host at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in variables.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)
