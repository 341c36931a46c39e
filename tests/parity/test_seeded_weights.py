"""Our drawn weights against those that the parity data was made with, and what a bare clone can check of them."""

import importlib.util
import json

import numpy as np
import pytest

from tests.parity.common import REFERENCE
from tests.parity.seeded_weights import draw, draw_state_dict


@pytest.fixture(scope="module")
def shared_weights(shared_dir):
    spec = importlib.util.spec_from_file_location("shared_weights", shared_dir / "parity" / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifests(parity):
    return sorted([*(parity / "manifests").glob("*.json"), *parity.glob("golden/*/manifest.json")])


def fewer_rows(name, shape):
    """The same tensor with at most three rows: quick to draw, and scaled alike."""
    return shape if name.endswith("relative_position_index") or len(shape) < 2 else [min(3, shape[0]), *shape[1:]]


@pytest.mark.parametrize("seed", [0, 3])
def test_the_same_bits_for_every_name(shared_dir, shared_weights, seed):
    paths = manifests(shared_dir / "parity")
    assert len(paths) >= 12
    for path in paths:
        manifest = json.loads(path.read_text())
        manifest = {name: (fewer_rows(name, shape), dtype) for name, (shape, dtype) in manifest.items()}
        ours, theirs = draw_state_dict(manifest, seed), shared_weights.state_dict(manifest, seed)
        assert list(ours) == list(theirs)
        for name, value in ours.items():
            assert (value.dtype, value.shape) == (theirs[name].dtype, theirs[name].shape), name
            assert value.tobytes() == theirs[name].tobytes(), name


def test_tensors_do_not_depend_on_each_other():
    manifest = json.loads((REFERENCE / "manifests/ResNet50.json").read_text())
    names = ["decoder.scale_embed.weight", "backbone.backbone.res2.0.conv1.norm.running_var"]
    drawn = draw_state_dict({name: manifest[name] for name in names}, seed=1)
    for name in names:
        np.testing.assert_array_equal(drawn[name], draw(name, manifest[name][0], seed=1))
        assert not np.array_equal(drawn[name], draw(name, manifest[name][0], seed=2))
    assert (drawn[names[1]] >= 1).all()


def test_weights_keep_the_scale_of_what_they_multiply():
    weight = draw("decoder.transformer_ffn_layers.0.linear1.weight", (64, 400))
    assert weight.std() == pytest.approx(1 / 20, rel=0.05)
    np.testing.assert_array_equal(
        draw_state_dict({"relative_position_index": ([4, 4], "int64")})["relative_position_index"],
        [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]],
    )
