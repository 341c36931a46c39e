"""What is checked of each backbone, as a table; minutes and gigabytes, so a script and not a test.

python -m tests.tools.backbone_report SHARED [NAME ...]

SHARED has parity/manifests/<name>.json and parity/seeded_weights.py.
"""

import gc
import importlib.util
import json
import pathlib
import sys
import time

import jax
import numpy as np
from flax import nnx

from tarvis_jax.model.backbones import backbone_config
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.frozen import Frozen
from tarvis_jax.model.variables import abstract_model, fill
from tarvis_jax.weights.pytorch.reference import from_reference_state_dict, to_reference_state_dict
from tests.model.backbones import peers

SIZE = (64, 128)


def check_weights(name: str, parity: pathlib.Path) -> tuple[int, int, bool, float]:
    """(tensors loaded, tensors equal after the way back, finite outputs of the whole model, seconds to load)."""
    spec = importlib.util.spec_from_file_location("seeded_weights", parity / "seeded_weights.py")
    seeded_weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded_weights)
    weights = seeded_weights.state_dict(json.loads((parity / "manifests" / f"{name}.json").read_text()))
    is_soft = any(key.endswith("scaling_factors") for key in weights)
    config = ModelConfig(backbone=name, cross_attention="soft_masked" if is_soft else "hard_masked")
    start = time.monotonic()
    variables = from_reference_state_dict(weights, config)
    seconds = time.monotonic() - start
    back = to_reference_state_dict(variables, config)
    assert back.keys() == weights.keys()
    equal = sum(np.asarray(back[key]).tobytes() == np.asarray(weights[key]).tobytes() for key in weights)
    count = len(weights)
    del weights, back

    graph, params, frozen = nnx.split(fill(abstract_model(config), variables), nnx.Param, Frozen)

    @jax.jit
    def forward(params, frozen, images):
        model = nnx.merge(graph, params, frozen)
        return model.decode(model.features(images), model.class_query_set("YOUTUBE_VIS", 1), all_layers=False)

    images = np.random.default_rng(0).integers(0, 256, (1, 2, *SIZE, 3), np.uint8)
    predictions = forward(params, frozen, images)
    finite = all(bool(np.isfinite(x).all()) for x in (predictions.mask_logits, predictions.class_logits))
    return count, equal, finite, seconds


def main(shared: str, *names: str) -> None:
    """Prints the table."""
    parity = pathlib.Path(shared) / "parity"
    names = names or sorted(path.stem for path in (parity / "manifests").glob("*.json"))
    print("| backbone | strict load (s) | round trip, equal tensors | worst layer (of) | whole model, 2x64x128 |")
    print("|---|---|---|---|---|")
    for name in names:
        count, equal, finite, seconds = check_weights(name, parity)
        gc.collect()
        errors = peers.compare(backbone_config(name), peers.image_size(name))
        worst = max(errors, key=lambda layer: layer.error)
        print(
            f"| {name} | {count} ({seconds:.1f}) | {equal} / {count} | {worst.error:.1e}, {worst.name} ({len(errors)}) "
            f"| {'finite' if finite else 'NOT FINITE'} |",
            flush=True,
        )
        gc.collect()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
