"""What every parity comparison shares: a row of the report, the error measure, the files and the seeded weights.

A case folder is either full, as in the parity data, or compact, as in tests/parity/reference: the same files and keys,
where a large array is replaced by its values at fixed positions and its norm (`Sampled`).

A kind of case folder (backbone, losses, train_step, e2e) has a module here with
`run(case_dir: Path, seed: int, backbone: str) -> list[Row]`;
`tests/tools/parity_report.py` finds it by the folder's files.
"""

import dataclasses
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

from tarvis_jax.config import from_mapping
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model, flatten
from tarvis_jax.weights.pytorch.reference import from_reference_state_dict
from tests.parity.seeded_weights import draw_state_dict

SHARED = pathlib.Path(os.environ.get("TARVIS_SHARED_DIR", pathlib.Path(__file__).resolve().parents[3] / "shared"))

REFERENCE = pathlib.Path(__file__).parent / "reference"  # the compact cases, committed

OWN_E2E_SEED = 3  # of the weights of reference/own_e2e: masks neither empty nor full in all four tasks

# Tolerances of the parity data's README, on float32 with the highest matmul precision.
# Where sums over pixels are compared, or points are chosen by small differences: programs without LLVM's optimizations
# (tests/conftest.py) add in another order and are less exact.
AS_USERS_COMPILE = {"xla_backend_optimization_level": 3}
BACKBONE_TOLERANCE = 1e-5
NECK_TOLERANCE = 1e-5
DECODER_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Row:
    """One compared tensor.

    Attributes:
      stage: part of the computation: "instance/backbone", "second_clip", "gradients", ...
      tensor: name inside the stage.
      error: relative L2 error, or 1 - IoU, or whatever the tolerance is about; 0 is perfect.
      tolerance: largest error that passes.
    """

    stage: str
    tensor: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """False also when the error is NaN."""
        return bool(self.error <= self.tolerance)


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What a compact file keeps of a large array.

    Attributes:
      shape: of the whole array.
      values: float32 [P], at `positions(shape)` of the flattened array.
      norm: L2 norm of the whole array.
    """

    shape: tuple[int, ...]
    values: np.ndarray
    norm: float

    NUM_POSITIONS = 1024
    _STEP = 1_000_003  # a prime, so that the positions differ and fall on all indices of every axis

    @classmethod
    def positions(cls, shape: tuple[int, ...]) -> np.ndarray:
        """Indices into the flattened array; the shape alone decides them."""
        return np.arange(cls.NUM_POSITIONS) * cls._STEP % math.prod(shape)

    @classmethod
    def of(cls, array: np.ndarray) -> "Sampled":
        """`array` has more than NUM_POSITIONS values."""
        values = np.asarray(array, np.float32).ravel()[cls.positions(array.shape)]
        return cls(array.shape, values, float(np.linalg.norm(np.asarray(array, np.float64))))


def relative_l2(ours, reference) -> float:
    """||ours - reference|| / ||reference|| in float64; infinite where ours is not finite; ||ours|| if reference is 0.

    Of a `Sampled` reference it is the larger of two errors: that of the values at its positions, and that of the norm.

    Raises:
      ValueError: when the shapes differ.
    """
    ours = np.asarray(ours, np.float64)
    if not isinstance(reference, Sampled):
        reference = np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        raise ValueError(f"shapes differ: ours {ours.shape}, reference {reference.shape}")
    if not np.isfinite(ours).all():
        return float("inf")
    if isinstance(reference, Sampled):
        of_norm = abs(float(np.linalg.norm(ours)) - reference.norm) / (reference.norm or 1.0)
        return max(of_norm, relative_l2(ours.ravel()[Sampled.positions(ours.shape)], reference.values))
    norm = float(np.linalg.norm(reference))
    return float(np.linalg.norm(ours - reference)) / (norm or 1.0)


def compare(stage: str, tensor: str, ours, reference, tolerance: float) -> Row:
    """The row of one tensor; a difference of shapes is an error that names the tensor."""
    try:
        return Row(stage, tensor, relative_l2(ours, reference), tolerance)
    except ValueError as error:
        raise ValueError(f"{stage}: {tensor}: {error}") from error


def format_table(rows: Iterable[Row]) -> str:
    """stage | tensor | relative L2 | tolerance | ok."""
    lines = [f"{'stage':<24} {'tensor':<40} {'relative L2':>12} {'tolerance':>10}  ok"]
    lines += [
        f"{row.stage:<24} {row.tensor:<40} {row.error:>12.2e} {row.tolerance:>10.0e}  {'yes' if row.ok else 'NO'}"
        for row in rows
    ]
    return "\n".join(lines)


def load_npz(path: pathlib.Path) -> dict[str, np.ndarray | Sampled]:
    """All arrays of a file, decompressed; those that a compact file has only samples of, as `Sampled`."""
    with np.load(path) as arrays:
        stored = dict(arrays)
    return {
        key.removesuffix("@values"): value
        if not key.endswith("@values")
        else Sampled(
            tuple(int(n) for n in stored[key.replace("@values", "@shape")]),
            value,
            float(stored[key.replace("@values", "@norm")]),
        )
        for key, value in stored.items()
        if not key.endswith(("@shape", "@norm"))
    }


def save_npz(path: pathlib.Path, arrays: Mapping[str, np.ndarray | Sampled]) -> None:
    """The inverse of `load_npz`; the same arrays give the same bytes."""
    stored = {}
    for key, value in arrays.items():
        if isinstance(value, Sampled):
            stored[f"{key}@shape"], stored[f"{key}@norm"] = np.int64(value.shape), np.float64(value.norm)
            stored[f"{key}@values"] = value.values
        else:
            stored[key] = value
    np.savez_compressed(path, **stored)


def find_manifest(case_dir: pathlib.Path, backbone: str) -> pathlib.Path:
    """The names and shapes of a case's weights: its manifest.json, else manifests/<backbone>.json.

    The latter lies in a folder above `case_dir`, in the parity data or among the compact cases.
    """
    own = case_dir / "manifest.json"
    folders = [*case_dir.resolve().parents, SHARED / "parity", REFERENCE]
    for path in (own, *(folder / "manifests" / f"{backbone}.json" for folder in folders)):
        if path.is_file():
            return path
    raise ValueError(f"{own}: no such file, and no manifests/{backbone}.json in {list(map(str, folders))}")


def seeded_state_dict(case_dir: pathlib.Path, seed: int, backbone: str) -> dict[str, np.ndarray]:
    """Weights of the case by their reference names.

    Args:
      case_dir: see `find_manifest`.
      seed: of the weights.
      backbone: reference name, such as "ResNet50".
    """
    return draw_state_dict(json.loads(find_manifest(case_dir, backbone).read_text()), seed)


def is_own(case_dir: pathlib.Path) -> bool:
    """Whether the case was recorded by ourselves (tests/tools/record_own_cases.py), in our names."""
    return (case_dir / "model.json").is_file()


def model_config(case_dir: pathlib.Path, backbone: str) -> ModelConfig:
    """The case's architecture: the reference's with `backbone`; of a case of our own what its model.json says."""
    if not is_own(case_dir):
        return ModelConfig(backbone=backbone)
    path = case_dir / "model.json"
    return from_mapping(ModelConfig, json.loads(path.read_text()), str(path))


def seeded_variables(case_dir: pathlib.Path, seed: int, config: ModelConfig) -> dict[str, np.ndarray]:
    """The case's weights by our paths: through the converter, or, in a case of our own, drawn by these paths."""
    if not is_own(case_dir):
        return from_reference_state_dict(seeded_state_dict(case_dir, seed, config.backbone), config)
    shapes = {path: variable.shape for path, variable in flatten(abstract_model(config)).items()}
    # The reference's way to write a name decides how its weights are scaled.
    names = {path: re.sub(r"\b(kernel|scale)$", "weight", path.replace("/", ".")) for path in shapes}
    drawn = draw_state_dict({names[path]: (shape, "float32") for path, shape in shapes.items()}, seed)
    return {path: drawn[name] for path, name in names.items()}
