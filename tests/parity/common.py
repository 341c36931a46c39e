"""What every parity comparison shares: a row of the report, the error measure and the seeded weights.

A kind of case folder (backbone, losses, train_step, e2e) has a module here with
`run(case_dir: Path, seed: int, backbone: str) -> list[Row]`;
`tests/tools/parity_report.py` finds it by the folder's files.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
from collections.abc import Iterable

import numpy as np

SHARED = pathlib.Path(os.environ.get("TARVIS_SHARED_DIR", pathlib.Path(__file__).resolve().parents[3] / "shared"))

# Tolerances of the parity data's README, on float32 with the highest matmul precision.
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


def relative_l2(ours, reference) -> float:
    """||ours - reference|| / ||reference|| in float64; infinite where ours is not finite; ||ours|| if reference is 0.

    Raises:
      ValueError: when the shapes differ.
    """
    ours = np.asarray(ours, np.float64)
    reference = np.asarray(reference, np.float64)
    if ours.shape != reference.shape:
        raise ValueError(f"shapes differ: ours {ours.shape}, reference {reference.shape}")
    if not np.isfinite(ours).all():
        return float("inf")
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


def load_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    """All arrays of a file, decompressed."""
    with np.load(path) as arrays:
        return dict(arrays)


def find_parity_root(case_dir: pathlib.Path) -> pathlib.Path:
    """The folder that holds seeded_weights.py: above `case_dir`, else `parity` of the shared data (see conftest.py)."""
    folders = [case_dir.resolve(), *case_dir.resolve().parents, SHARED / "parity"]
    for folder in folders:
        if (folder / "seeded_weights.py").is_file():
            return folder
    raise ValueError(
        f"no seeded_weights.py in {case_dir}, a folder above it or {folders[-1]}: the case cannot draw its weights"
    )


def seeded_state_dict(
    case_dir: pathlib.Path, seed: int, backbone: str, parity_root: pathlib.Path | None = None
) -> dict[str, np.ndarray]:
    """Weights of the case by their reference names, drawn as the shared seeded_weights.py does.

    Args:
      case_dir: its manifest.json is taken; without one, manifests/<backbone>.json of `parity_root`.
      seed: of the weights.
      backbone: reference name, such as "ResNet50".
      parity_root: folder of seeded_weights.py; see `find_parity_root` for the default.
    """
    parity_root = parity_root or find_parity_root(case_dir)
    spec = importlib.util.spec_from_file_location("seeded_weights", parity_root / "seeded_weights.py")
    seeded_weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded_weights)
    manifest = case_dir / "manifest.json"
    if not manifest.is_file():
        manifest = parity_root / "manifests" / f"{backbone}.json"
    return seeded_weights.state_dict(json.loads(manifest.read_text()), seed)
