"""Makes the compact parity cases of tests/parity/reference from the full ones.

    python tests/tools/make_compact_parity.py PARITY_DIR

PARITY_DIR is the folder with golden/ and manifests/. A compact case has the files and keys of the full one; of a large
array it has values at fixed positions and the norm (tests/parity/common.py). The frames of the full cases are other
people's pictures, which may not be copied here: the network's case begins from the reference's own backbone features.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.parity.common import REFERENCE, Sampled, load_npz, save_npz  # noqa: E402

BACKBONE_CASE = "ResNet50"  # the one with all four tasks
KEPT_WHOLE = 4096  # arrays of at most so many values are kept as they are


def compact(array: np.ndarray) -> np.ndarray | Sampled:
    """What is committed of a recorded output."""
    return array if array.size <= KEPT_WHOLE or array.dtype.kind != "f" else Sampled.of(array)


def compact_backbone_case(golden: pathlib.Path, out: pathlib.Path) -> None:
    """Features whole, as the input; neck, decoder and outputs sampled."""
    for path in sorted(golden.glob("*.npz")):
        arrays = load_npz(path)
        if path.name == "input.npz":
            continue
        if path.name.endswith("_input.npz"):
            save_npz(out / path.name, arrays)
            continue
        features = {key.partition("/")[2]: x for key, x in arrays.items() if key.startswith("backbone/")}
        if features:
            save_npz(out / "features.npz", features)
        save_npz(out / path.name, {key: compact(x) for key, x in arrays.items() if not key.startswith("backbone/")})


def compact_losses(golden: pathlib.Path, out: pathlib.Path) -> None:
    """Predictions, targets and draws are inputs and stay whole; gradients are sampled."""
    for path in sorted(golden.glob("*.npz")):
        arrays = load_npz(path)
        save_npz(out / path.name, {key: compact(x) if key.startswith("grad_") else x for key, x in arrays.items()})


def make(parity: pathlib.Path, out: pathlib.Path) -> None:
    """Writes all compact cases of `parity` under `out`."""
    for folder in ("manifests", BACKBONE_CASE, "losses"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    manifest = json.loads((parity / "manifests" / f"{BACKBONE_CASE}.json").read_text())
    (out / "manifests" / f"{BACKBONE_CASE}.json").write_text(json.dumps(manifest, indent=0) + "\n")
    compact_backbone_case(parity / "golden" / BACKBONE_CASE, out / BACKBONE_CASE)
    compact_losses(parity / "golden" / "losses", out / "losses")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    make(pathlib.Path(sys.argv[1]), REFERENCE)
