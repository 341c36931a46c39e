"""An export of a tiny model, run by its loader in a process that has JAX and NumPy only, against the predictor."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tarvis_jax.export import loader as export_loader
from tarvis_jax.export import write as export
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.targets import ExemplarInputs
from tests import tiny

T, H, W = 2, 64, 64
CONFIG = export.ExportConfig(clip_length=T, height=H, width=W, num_objects=4)
# Runs in an empty folder: a finder refuses whatever an export may not need.
RUN = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tarvis_jax", "kernels", "flax", "torch", "cv2", "optax"):
            raise ImportError(f"the loader imports {name}")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, sys.argv[1])
import numpy as np, loader
model = loader.load(sys.argv[1])
given = np.load(sys.argv[2])
classes = model.classes("KITTI_STEP", given["images"])
objects = model.objects(given["images"], given["masks"], given["points_yx"], given["point_frames"])
np.savez(sys.argv[3], objects=objects["mask_logits"], **classes)
"""


@pytest.fixture(scope="module")
def model():
    return tiny.make_model()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("export")
    export.export_model(model, folder, CONFIG)
    return folder


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    masks = np.zeros((2, T, H, W), bool)
    masks[0, 0, :20, :20] = masks[1, 1, 30:50, 10:30] = True
    return {
        "images": np.random.default_rng(0).integers(0, 256, (T, H, W, 3), dtype=np.uint8),
        "masks": masks,
        "points_yx": np.float32([[0.3, 0.8]]),
        "point_frames": np.int32([1]),
    }


def test_parity_with_the_predictor(model, exported, given, tmp_path):
    np.savez(tmp_path / "given.npz", **given)
    arguments = [sys.executable, "-c", RUN, str(exported), str(tmp_path / "given.npz"), str(tmp_path / "found.npz")]
    run = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "found.npz")

    predictor: Predictor = model.predictor
    clip = predictor.segment_classes(given["images"], "KITTI_STEP")
    inputs = ExemplarInputs(
        ids=[1, 2, 3],
        masks=np.concatenate([given["masks"], np.zeros((1, T, H, W), bool)]),
        points_yx=np.float32([[0, 0], [0, 0], [0.3, 0.8]]),
        point_frames=np.int32([0, 0, 1]),
        is_point=np.array([False, False, True]),
        valid_frames=np.array([True, True]),
    )
    expected = {
        "class_logits": clip.class_logits,
        "mask_logits": clip.mask_logits,
        "semantic_logits": clip.semantic_logits,
        "objects": predictor.segment_objects(given["images"], inputs),
    }
    assert found["class_logits"].shape == (12, 20) and found["objects"].shape == (3, T, H // 4, W // 4)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_what_is_written(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"]
    assert sorted(manifest["functions"]) == ["classes_19", "classes_25", "classes_40", "objects"]
    for function in manifest["functions"].values():
        assert function["custom_calls"] == []  # nothing but StableHLO
        assert (exported / function["file"]).stat().st_size > 0
        assert (exported / function["stablehlo"]).read_bytes()[:4] == b"ML\xefR"  # MLIR bytecode
    ovis = manifest["datasets"]["OVIS"]
    assert (ovis["function"], ovis["rows"], ovis["class_names"][24]) == ("classes_25", [20, 45], "Vehicle")
    with np.load(exported / "weights.npz") as weights:
        assert sorted(weights.files) == manifest["variables"]


def test_lowered_for_every_platform(exported):
    from jax import export as jax_export

    for file in exported.glob("*.jaxexport"):
        assert jax_export.deserialize(file.read_bytes()).platforms == ("cpu", "cuda", "tpu")


def test_kernels_of_the_platforms(model, tmp_path):
    """With the back end left to each platform, the manifest says which calls are not plain StableHLO."""
    config = dataclasses.replace(CONFIG, datasets=("OVIS",), platforms=("cpu", "tpu"), num_objects=0, backend="auto")
    manifest = export.export_model(model, tmp_path, config)
    assert manifest["functions"]["classes_25"]["custom_calls"] == ["tpu_custom_call"]


def test_some_datasets_and_platforms(model, tmp_path):
    config = dataclasses.replace(CONFIG, datasets=("OVIS",), platforms=("tpu",), num_objects=0)
    manifest = export.export_model(model, tmp_path, config)
    assert (sorted(manifest["functions"]), sorted(manifest["datasets"])) == (["classes_25"], ["OVIS"])


@pytest.mark.parametrize(
    "message, changes",
    [
        ("size 65x64: expected multiples of 32", {"height": 65}),
        (r"platforms\[0\]: expected one of 'cpu', 'cuda', 'tpu', found 'metal'", {"platforms": ("metal",)}),
        ("dataset COCO: expected one of", {"datasets": ("COCO",)}),
        ("dataset DAVIS: has no classes", {"datasets": ("DAVIS",)}),
        ("clip_length: expected 1..10000, found 0", {"clip_length": 0}),
    ],
)
def test_bad_configs(model, tmp_path, message, changes):
    with pytest.raises(ValueError, match=message):
        export.export_model(model, tmp_path, dataclasses.replace(CONFIG, **changes))


def test_bad_inputs(exported, given):
    loaded = export_loader.load(exported)
    with pytest.raises(ValueError, match="images: expected uint8 .*, found float32"):
        loaded.classes("OVIS", given["images"].astype(np.float32))
    with pytest.raises(ValueError, match="dataset: expected one of .* found 'COCO'"):
        loaded.classes("COCO", given["images"])
    with pytest.raises(ValueError, match=r"expected 1\.\.4 masks and points, found 0"):
        loaded.objects(given["images"])
    with pytest.raises(ValueError, match="expected at most 64x64"):
        loaded.pad(np.zeros((T, 65, 64, 3), np.uint8))
    padded = loaded.pad(np.zeros((T, 50, 61, 3), np.uint8))
    assert padded.shape == (T, H, W, 3) and (padded[:, 50:] == 128).all() and tiny.MODEL.size_divisor == 32


def test_command_line(tmp_path):
    root = pathlib.Path(__file__).resolve().parents[2]
    tiny.make_model().save_pretrained(tmp_path / "shared")
    flags = ["--export_clip=1,32,32", "--export_objects=0", "--export_datasets=OVIS", "--export_platforms=cpu"]
    command = [sys.executable, "main.py", "--mode=export", f"--checkpoint={tmp_path / 'shared'}", *flags]
    run = subprocess.run([*command, f"--output={tmp_path / 'out'}"], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = export_loader.load(tmp_path / "out")
    assert loaded.classes("OVIS", np.zeros((1, 32, 32, 3), np.uint8))["class_logits"].shape == (12, 26)
