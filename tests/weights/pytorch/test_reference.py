"""Conversion of the reference's checkpoints: strict, both ways, with errors that say what is wrong."""

import dataclasses
import importlib.util
import json
import pickle

import numpy as np
import pytest
import torch
import yaml

from tarvis_jax.dataset_info import default_datasets
from tarvis_jax.datasets import class_counts
from tarvis_jax.inference.config import InferenceConfig, default_inference
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import fill, flatten
from tarvis_jax.weights.pytorch import reference as checkpoint
from tarvis_jax.weights.pytorch import rules

_SMALL = ModelConfig(neck_layers=1, decoder_layers=1, object_encoder_layers=1, cross_attention="soft_masked")
_REFERENCE_CONFIG = {
    "MODEL": {
        "BACKBONE": "ResNet50",
        "CROSS_ATTENTION_TYPE": "hard_masked",
        "NUM_BACKGROUND_QUERIES": 1,
        "NUM_OBJECT_QUERIES": 128,
        "NUM_VOS_QUERIES_PER_OBJECT": 4,
    },
    "TRAINING": {"DATASET_LIST": ["YOUTUBE_VIS", "OVIS", "KITTI_STEP", "CITYSCAPES_VPS", "VIPSEG", "BURST", "DAVIS"]},
}


@pytest.fixture(scope="module")
def seeded_weights(shared_dir):
    spec = importlib.util.spec_from_file_location("seeded_weights", shared_dir / "parity" / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def small_variables():
    """Variables of a small model, distinct integers within each, without drawing random numbers."""
    shapes = flatten(checkpoint.abstract_model(_SMALL))
    return {path: np.arange(v.size, dtype=v.dtype).reshape(v.shape) for path, v in shapes.items()}


@pytest.fixture
def small_state_dict(small_variables):
    return checkpoint.to_reference_state_dict(small_variables, _SMALL)


def _manifest(shared_dir, path):
    return json.loads((shared_dir / "parity" / path).read_text())


def test_round_trip_of_variables(small_variables, small_state_dict):
    back = checkpoint.from_reference_state_dict(small_state_dict, _SMALL)
    assert back.keys() == small_variables.keys()
    for path, value in back.items():
        np.testing.assert_array_equal(value, small_variables[path], err_msg=path)


def test_round_trip_of_the_reference_resnet50_through_files(shared_dir, seeded_weights, tmp_path):
    weights = seeded_weights.state_dict(_manifest(shared_dir, "manifests/ResNet50.json"))
    torch.save({"model": {k: torch.from_numpy(v) for k, v in weights.items()}}, tmp_path / "checkpoint.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_REFERENCE_CONFIG))
    config, variables = checkpoint.load_reference_checkpoint(tmp_path / "checkpoint.pth")
    assert config == ModelConfig()
    model = fill(checkpoint.abstract_model(config), variables)
    np.testing.assert_array_equal(model.pixel_mean[...], np.float32([123.675, 116.28, 103.53]))
    back = checkpoint.to_reference_state_dict(flatten(model), config)
    assert back.keys() == weights.keys()
    for name, value in back.items():
        assert value.dtype == weights[name].dtype and value.shape == weights[name].shape, name
        assert value.tobytes() == weights[name].tobytes(), name


def test_soft_masked_attention_is_converted(shared_dir, seeded_weights):
    manifest = _manifest(shared_dir, "golden/ResNet50_soft_masked/manifest.json")
    special = {k: v for k, v in manifest.items() if "float" not in v[1] or k.startswith("pixel_")}
    # All-zero arrays without memory stand for the large tensors: only names, shapes and dtypes matter here.
    weights = {k: np.broadcast_to(np.float32(0), v[0]) for k, v in manifest.items()}
    weights.update(seeded_weights.state_dict(special))
    config = dict(_REFERENCE_CONFIG)
    config["MODEL"] = config["MODEL"] | {"CROSS_ATTENTION_TYPE": "soft_masked"}
    config = checkpoint.model_config_from_reference(config, weights)
    assert config.cross_attention == "soft_masked"
    variables = checkpoint.from_reference_state_dict(weights, config)
    num_derived = sum("int" in dtype for _, dtype in manifest.values())
    assert len(variables) == len(manifest) - num_derived


def test_all_faults_in_one_message(small_state_dict):
    state_dict = dict(small_state_dict)
    del state_dict["decoder.decoder_norm.bias"]
    state_dict["decoder.extra"] = np.zeros(3, np.float32)
    state_dict["decoder.transformer_ffn_layers.7.norm.bias"] = np.zeros(256, np.float32)
    state_dict["embedding_container._instance_queries"] = np.zeros((101, 256), np.float32)
    state_dict["decoder.scale_embed.weight"] = state_dict["decoder.scale_embed.weight"].astype(np.float16)
    state_dict["backbone.backbone.stem.conv1.weight"] = np.zeros((64, 3), np.float32)
    state_dict["vos_query_extractor.bg_grid_size"] = np.array([2, 2])
    with pytest.raises(ValueError) as error:
        checkpoint.from_reference_state_dict(state_dict, _SMALL)
    lines = str(error.value).splitlines()
    expected = [
        ("missing", "decoder.decoder_norm.bias", "decoder/norm/bias"),
        ("unexpected", "decoder.extra", "float32[3]"),
        ("unexpected", "decoder.transformer_ffn_layers.7.norm.bias", "decoder/layers/7/ffn/norm/bias"),
        ("embedding_container._instance_queries", "queries/instance", "float32[129, 256]", "float32[101, 256]"),
        ("decoder.scale_embed.weight", "decoder/scale_embed", "float32[3, 256]", "float16[3, 256]"),
        ("backbone.backbone.stem.conv1.weight", "backbone/stem/0/kernel", "float32[7, 7, 3, 64]", "float32[64, 3]"),
        ("vos_query_extractor.bg_grid_size", "derive"),
    ]
    for words in expected:
        assert any(all(word in line for word in words) for line in lines), f"{words} not in {lines}"
    assert len(lines) == 1 + len(expected)


def test_missing_derived_tensor_is_named(small_state_dict):
    state_dict = {k: v for k, v in small_state_dict.items() if not k.endswith("bg_grid_size")}
    with pytest.raises(ValueError, match="missing tensor vos_query_extractor.bg_grid_size"):
        checkpoint.from_reference_state_dict(state_dict, _SMALL)


@pytest.mark.parametrize("name", ["ResNet101", "SwinSmall", "SwinBase", "ConvNextSmall", "ConvNextLarge"])
def test_a_checkpoint_of_another_backbone_is_recognized(shared_dir, name):
    manifest = _manifest(shared_dir, f"manifests/{name}.json")
    weights = {k: np.broadcast_to(np.float32(0), v[0]) for k, v in manifest.items()}
    with pytest.raises(ValueError, match=f"expected ResNet50, but it looks like {name}"):
        checkpoint.from_reference_state_dict(weights, ModelConfig())


def test_variable_that_the_reference_lacks_cannot_be_exported():
    with pytest.raises(ValueError, match="decoder/new"):
        checkpoint.to_reference_state_dict({"decoder/new": np.zeros(2, np.float32)}, _SMALL)


class _RunsCode:
    def __reduce__(self):
        return print, ("code from the checkpoint ran",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": _RunsCode()}}, "refused"),
        ({"state_dict": {}}, "under 'model', found .'state_dict'"),
        ({"model": {"a": [torch.zeros(2)]}}, "found something else: 'a': list"),
    ],
    ids=["code", "no model", "no tensor"],
)
def test_bad_files_are_refused(tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "checkpoint.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_REFERENCE_CONFIG))
    with pytest.raises(ValueError, match=message):
        checkpoint.read_torch_checkpoint(tmp_path / "checkpoint.pth")
    assert "code from the checkpoint ran" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_plain_pickle_is_refused(tmp_path, capsys):
    (tmp_path / "checkpoint.pth").write_bytes(pickle.dumps({"model": _RunsCode()}))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(_REFERENCE_CONFIG))
    with pytest.raises(ValueError, match="refused"):
        checkpoint.read_torch_checkpoint(tmp_path / "checkpoint.pth")
    assert "code from the checkpoint ran" not in capsys.readouterr().out


def test_config_must_lie_beside_the_checkpoint(tmp_path):
    torch.save({"model": {}}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="config.yaml"):
        checkpoint.read_torch_checkpoint(tmp_path / "checkpoint.pth")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("MODEL", "BACKBONE", None, "expected MODEL.BACKBONE"),
        ("MODEL", "BACKBONE", "VGG", "found 'VGG'"),
        ("TRAINING", "DATASET_LIST", ["OVIS", "NEW"], "DATASET_LIST.*found .'NEW'"),
        ("TRAINING", "DATASET_LIST", ["OVIS"], "expected 26 rows.*found 228"),
    ],
)
def test_bad_reference_config_is_an_error(section, key, value, message):
    config = {name: dict(values) for name, values in _REFERENCE_CONFIG.items()}
    config[section][key] = value
    if value is None:
        del config[section][key]
    with pytest.raises(ValueError, match=message):
        checkpoint.model_config_from_reference(
            config, {"embedding_container._semantic_queries": np.zeros((228, 256), np.float32)}
        )


def test_pretraining_config_has_the_image_datasets():
    config = _REFERENCE_CONFIG | {"TRAINING": {"DATASET_LIST": ["COCO", "ADE20K", "CITYSCAPES", "MAPILLARY"]}}
    classes = checkpoint.model_config_from_reference(config, {}).semantic_classes
    assert classes == (("ADE20K", 150), ("CITYSCAPES", 34), ("COCO", 133), ("MAPILLARY", 65))


VIDEO_DATASETS = default_datasets(class_counts(["YOUTUBE_VIS", "OVIS", "KITTI_STEP", "CITYSCAPES_VPS", "VIPSEG"]))


def info_of(dataset, **settings):
    config = {"DATASETS": {dataset: {"INFERENCE": settings, "TYPE": "vos"}}}
    return checkpoint.inference_from_reference(config, VIDEO_DATASETS)[dataset]


def inference_of(dataset, **settings):
    return info_of(dataset, **settings).inference


def test_settings_of_inference():
    resize = {"MODE": "min_dim", "MIN_DIMS": [360], "MAX_DIM": 1000, "TARGET_PIXEL_AREA": 300_000}
    assert inference_of(
        "OVIS",
        CLIP_LENGTH=8,
        FRAME_OVERLAP=2,
        IMAGE_RESIZE=resize,
        MAX_TRACKS_PER_CLIP=20,
        TRACK_SCORE_THRESHOLD=0,
        SPLIT="val",
    ) == InferenceConfig(
        8, 2, min_dim=360, max_dim=1000, size_table=True, max_tracks=20, score_threshold=0.0, max_predictions=20
    )
    assert inference_of("BURST", IMAGE_RESIZE={"MODE": "none", "MIN_DIMS": 240}).min_dim is None
    assert inference_of("KITTI_STEP", IMAGE_RESIZE={"MIN_DIMS": 240}) == default_inference("KITTI_STEP")  # "none" there
    assert inference_of("DAVIS", CLIP_LENGTH=4, FRAME_OVERLAP=0) == InferenceConfig(4, 0)
    config = {"DATASETS": {"OVIS": {"TYPE": "instance_seg"}}}
    assert checkpoint.inference_from_reference(config, VIDEO_DATASETS) == VIDEO_DATASETS


def test_frames_and_objects_of_a_split():
    """Of other datasets the reference does not read these keys."""
    assert info_of("BURST", MODE="mask").split_exemplar == "mask"
    assert info_of("BURST", MODE="point", CLIP_LENGTH=8).split_exemplar == "point"
    assert info_of("BURST", CLIP_LENGTH=8).split_exemplar is None
    assert info_of("BURST", MODE="mask").spec == VIDEO_DATASETS["BURST"].spec
    assert info_of("CITYSCAPES_VPS", SPARSE_FRAMES=True).split_frame_step == 5
    assert info_of("CITYSCAPES_VPS", SPARSE_FRAMES=False).split_frame_step == 1
    assert info_of("CITYSCAPES_VPS", CLIP_LENGTH=10, FRAME_OVERLAP=5) == VIDEO_DATASETS["CITYSCAPES_VPS"]
    assert info_of("DAVIS", MODE="point", SPARSE_FRAMES=True) == VIDEO_DATASETS["DAVIS"]


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        ("BURST", {"MODE": "box"}, "MODE: expected one of mask, point, found 'box'"),
        ("BURST", {"MODE": ["mask"]}, r"MODE: expected one of mask, point, found \['mask'\]"),
        ("CITYSCAPES_VPS", {"SPARSE_FRAMES": 5}, "SPARSE_FRAMES: expected true or false, found 5"),
    ],
)
def test_bad_frames_and_objects_of_a_split(dataset, settings, message):
    with pytest.raises(ValueError, match=f"config.yaml: DATASETS.{dataset}.INFERENCE: {message}"):
        info_of(dataset, **settings)


def test_settings_of_inference_come_back():
    """Those of one dataset with classes and of one without; the reference knows no others of DAVIS."""
    given = {
        "KITTI_STEP": InferenceConfig(5, 1, min_dim=300, max_dim=999, max_tracks=7, score_threshold=0.25),
        "DAVIS": InferenceConfig(4, 2, min_dim=None, max_dim=999),
    }
    datasets = default_datasets((("COCO", 133), ("KITTI_STEP", 19)))
    for name, settings in given.items():
        datasets[name] = dataclasses.replace(datasets[name], inference=settings)
    datasets["BURST"] = dataclasses.replace(datasets["BURST"], split_exemplar="mask")
    written = checkpoint.reference_config(ModelConfig(), datasets)
    assert sorted(written["DATASETS"]) == ["BURST", "DAVIS", "KITTI_STEP"]
    assert sorted(written["DATASETS"]["DAVIS"]["INFERENCE"]) == ["CLIP_LENGTH", "FRAME_OVERLAP", "IMAGE_RESIZE"]
    of_table = default_datasets((("COCO", 133), ("KITTI_STEP", 19)))
    assert checkpoint.inference_from_reference(yaml.safe_load(yaml.safe_dump(written)), of_table) == datasets
    for step, is_sparse in ((1, False), (5, True)):
        info = dataclasses.replace(VIDEO_DATASETS["CITYSCAPES_VPS"], split_frame_step=step)
        written = checkpoint.reference_config(ModelConfig(), {"CITYSCAPES_VPS": info})
        assert written["DATASETS"]["CITYSCAPES_VPS"]["INFERENCE"]["SPARSE_FRAMES"] is is_sparse


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"CLIP_LENGTH": 6, "FRAME_OVERLAP": 6}, "overlap: expected 0..5 .*found 6"),
        ({"CLIP_LENGTH": "long"}, "clip_length: expected int, found 'long'"),
        ({"TRACK_SCORE_THRESHOLD": 2.0}, "score_threshold: expected .*found 2.0"),
        ({"IMAGE_RESIZE": {"MODE": "pixel_area", "TARGET_PIXEL_AREA": 300_000}}, "MODE: expected .*'pixel_area'"),
        ({"IMAGE_RESIZE": {"MODE": "min_dim", "MIN_DIMS": [448, 512]}}, "MIN_DIMS: expected one number, found .448"),
        ({"IMAGE_RESIZE": {"MODE": "min_dim", "MIN_DIMS": None}}, "MIN_DIMS: expected one number, found None"),
        ({"IMAGE_RESIZE": 512}, "IMAGE_RESIZE: expected a section of settings, found 512"),
    ],
)
def test_bad_settings_of_inference(settings, message):
    with pytest.raises(ValueError, match=f"config.yaml: DATASETS.OVIS.INFERENCE.*{message}"):
        inference_of("OVIS", **settings)


def test_rules_read_both_ways():
    rule = rules.TensorRule("a.{i}.b_{name}.weight", "x/{name}/{i}", rules.LINEAR)
    assert rule.jax_path("a.3.b_c.weight") == "x/c/3"
    assert rule.torch_name("x/c/3") == "a.3.b_c.weight"
    assert rule.jax_path("a.3.4.b_c.weight") is None
    assert rule.jax_path("a.3.b_c.weight.more") is None


@pytest.mark.parametrize("layout", [rules.LINEAR, rules.CONV, rules.COPY])
def test_layouts_are_inverted_bit_for_bit(layout):
    shape = {rules.LINEAR: (3, 4), rules.CONV: (2, 3, 5, 5)}.get(layout, (7,))
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    back = layout.to_torch(layout.to_jax(x))
    assert back.shape == x.shape and back.tobytes() == x.tobytes()
