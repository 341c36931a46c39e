"""Shared folders that a stranger made: each is refused by one ValueError that says where and why, soon and cheaply."""

import copy
import json
import os
import resource
import struct
import time

import numpy as np
import pytest

import tarvis_jax
from tarvis_jax.config import MAX_JSON_BYTES
from tarvis_jax.weights import folder as shared
from tests import tiny

MAX_SECONDS = 5.0
MAX_MEGABYTES = 256


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder that loads: (path, content of its config.json)."""
    path = tmp_path_factory.mktemp("good")
    tiny.make_model().save_pretrained(path)
    assert tarvis_jax.load(path).config == tiny.MODEL
    return path, json.loads((path / shared.CONFIG_FILE).read_text())


def assert_refused(path, *words):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(ValueError) as error:
        tarvis_jax.load(path)
    message = str(error.value)
    assert time.monotonic() - start < MAX_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MAX_MEGABYTES
    assert str(path) in message and all(word in message for word in words), message[:2000]
    assert len(message) < 200_000


def model(**changes):
    return lambda content: content["model"].update(changes)


def dataset(section, **changes):
    def edit(content):
        place = content["datasets"]["KITTI_STEP"]
        (place[section] if section else place).update(changes)

    return edit


def many_datasets(content):
    content["datasets"] = {f"D{i}": {} for i in range(10**5)}


def deep(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


K = 19  # classes of KITTI_STEP

# What config.json says -> words of the refusal, which names the key.
CONFIGS = {
    "hidden size 0": (model(hidden_size=0), ["model: hidden_size", "4..8192, found 0"]),
    "hidden size below 0": (model(hidden_size=-256), ["hidden_size", "found -256"]),
    "hidden size beyond memory": (model(hidden_size=10**9), ["hidden_size", "found 1000000000"]),
    "hidden size of another model": (model(hidden_size=32), ["model.safetensors", "different: decoder/norm/scale"]),
    "hidden size against heads": (model(num_heads=3), ["hidden_size", "multiple of 3 (num_heads)", "found 16"]),
    "hidden size against groups": (model(neck_groups=5), ["hidden_size", "multiple of 5 (neck_groups)"]),
    "no heads": (model(num_heads=0), ["num_heads", "1..256, found 0"]),
    "no groups": (model(neck_groups=0), ["neck_groups", "found 0"]),
    "10^9 neck layers": (model(neck_layers=10**9), ["neck_layers", "0..100, found 1000000000"]),
    "10^9 decoder layers": (model(decoder_layers=10**9), ["decoder_layers", "found 1000000000"]),
    "layers below 0": (model(object_encoder_layers=-1), ["object_encoder_layers", "found -1"]),
    "layers without tensors": (
        model(neck_layers=100, decoder_layers=100, object_encoder_layers=100),
        ["model.safetensors", "model.neck_layers: expected at most 1", "found 100", "model.decoder_layers"],
    ),
    "10^12 queries": (model(num_instance_queries=10**12), ["num_instance_queries", "found 1000000000000"]),
    "no queries": (model(num_instance_queries=0), ["num_instance_queries", "found 0"]),
    "feed-forward of 10^12": (model(decoder_ffn_size=10**12), ["decoder_ffn_size", "1..65536"]),
    "sampling points": (model(neck_points=10**6), ["neck_points", "1..64"]),
    "unknown dtype": (model(compute_dtype="float3"), ["compute_dtype", "'float32', 'bfloat16'", "found 'float3'"]),
    "integer dtype": (model(compute_dtype="int32"), ["compute_dtype", "found 'int32'"]),
    "stride that the pyramid lacks": (model(decoder_strides=[64]), ["decoder_strides[0]", "one of 32, 16, 8, 4"]),
    "no strides": (model(decoder_strides=[]), ["decoder_strides", "1..100 entries, found 0"]),
    "10^5 strides": (model(decoder_strides=[16] * 10**5), ["decoder_strides", "found 100000"]),
    "unknown backbone": (model(backbone="ResNet51"), ["backbone", "'ResNet50'", "found 'ResNet51'"]),
    "unknown attention": (model(cross_attention="soft"), ["cross_attention", "found 'soft'"]),
    "unknown back end": (model(ms_deform_attn_backend="x" * 10**6), ["ms_deform_attn_backend", "(1000002 characters)"]),
    "background grid 0": (model(background_grid=[0, 0]), ["background_grid[0]", "1..64, found 0"]),
    "background grid of three": (model(background_grid=[1, 2, 3]), ["background_grid", "found [1, 2, 3]"]),
    "temporal window 0": (model(temporal_window=0), ["temporal_window", "found 0"]),
    "NaN": (model(class_logit_scale=float("nan")), ["config.json", "found NaN"]),
    "infinity": (model(drop_path=float("inf")), ["config.json", "found Infinity"]),
    "a number that overflows": (model(drop_path="1e999"), ["drop_path", "0..1 (1 excluded)", "found inf"]),
    "a number of 400 digits": (model(drop_path=10**400), ["drop_path", "expected float"]),
    "text for a number": (model(hidden_size="256"), ["model.hidden_size", "expected int, found '256' of type str"]),
    "truth for a number": (model(num_heads=True), ["model.num_heads", "found True of type bool"]),
    "list for a section": (lambda c: c.update(model=[1]), ["config.json.model", "found [1] of type list"]),
    "unknown key": (model(**{"x\x1b[2J" * 1000: 1}), ["no such key", r"'x\x1b[2J"]),
    "10^5 unknown keys": (model(**{f"k{i}": 1 for i in range(10**5)}), ["model.k0: no such key"]),
    "missing section": (lambda c: c.pop("model"), ["config.json.model: missing"]),
    "dataset twice": (model(semantic_classes=[["A", 1], ["A", 1]]), ["semantic_classes", "found twice: ['A']"]),
    "10^9 classes": (model(semantic_classes=[["KITTI_STEP", 10**9]]), ["semantic_classes[0][1]", "found 1000000000"]),
    "10^5 datasets of the model": (model(semantic_classes=[["A", 1]] * 10**5), ["semantic_classes", "found 100000"]),
    "10^5 datasets": (many_datasets, ["config.json.datasets: expected 0..1000 entries, found 100000"]),
    "dataset without queries": (lambda c: c["model"].update(semantic_classes=[]), ["datasets.KITTI_STEP", "found 19"]),
    "dataset with a hostile name": (
        lambda c: c["datasets"].update({"a\nb": c["datasets"]["DAVIS"]}),
        ["datasets, name", "printable", r"'a\nb'"],
    ),
    "other number of classes": (dataset("spec", num_classes=18), ["config.json.datasets.KITTI_STEP", "19"]),
    "unknown task": (dataset("spec", task="vis"), ["KITTI_STEP.spec: task", "found 'vis'"]),
    "thing class that does not exist": (dataset("spec", thing_classes=[K]), ["thing_classes", "0..18, found (19,)"]),
    "thing class below 0": (dataset("spec", thing_classes=[-1]), ["thing_classes[0]", "found -1"]),
    "thing class twice": (dataset("spec", thing_classes=[1, 1]), ["thing_classes", "(1, 1)"]),
    "unknown exemplar": (dataset("spec", exemplar="box"), ["exemplar", "found 'box'"]),
    "class name twice": (dataset("", class_names=["a"] * K), ["class_names", "found twice: ['a']"]),
    "class name of two lines": (
        dataset("", class_names=["a\nb", *map(str, range(K - 1))]),
        ["class_names[0]", "printable", r"'a\nb'"],
    ),
    "class name of 10^6 letters": (
        dataset("", class_names=["a" * 10**6, *map(str, range(K - 1))]),
        ["class_names[0]", "(1000002 characters)"],
    ),
    "too many class names": (dataset("", class_names=list(map(str, range(10**5)))), ["class_names", "found 100000"]),
    "clip of 10^9 frames": (dataset("inference", clip_length=10**9), ["clip_length: expected 1..10000"]),
    "clip of no frames": (dataset("inference", clip_length=0), ["clip_length", "found 0"]),
    "overlap of whole clips": (dataset("inference", clip_length=4, overlap=4), ["overlap", "0..3", "found 4"]),
    "side of 10^9 pixels": (dataset("inference", min_dim=10**9), ["min_dim: expected 1..65536"]),
    "score beyond 1": (dataset("inference", score_threshold=2), ["score_threshold", "0..1, found 2"]),
    "10^12 tracks": (dataset("inference", max_tracks=10**12), ["max_tracks", "found 1000000000000"]),
    "deep nesting": (model(decoder_strides=deep(500)), ["decoder_strides[0]", "expected int"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_config(good, tmp_path, name):
    path, content = good
    edit, words = CONFIGS[name]
    content = copy.deepcopy(content)
    edit(content)
    (tmp_path / shared.CONFIG_FILE).write_text(json.dumps(content).replace('"1e999"', "1e999"))
    (tmp_path / shared.WEIGHTS_FILE).symlink_to(path / shared.WEIGHTS_FILE)  # as the hub's cache has its files
    assert_refused(tmp_path, *words)


def test_the_links_of_a_cache_are_followed(good, tmp_path):
    for name in (shared.CONFIG_FILE, shared.WEIGHTS_FILE):
        (tmp_path / name).symlink_to(good[0] / name)
    assert tarvis_jax.load(tmp_path).config == tiny.MODEL


def huge_json(path):
    with path.open("wb") as file:
        file.truncate(2**30)  # a gigabyte of zeros, without a disk block


# How a file is spoiled -> words of the refusal.
CONFIG_FILES = {
    "absent": (lambda path: path.unlink(), ["config.json: expected a JSON file, found none"]),
    "a gigabyte": (huge_json, ["config.json", f"at most {MAX_JSON_BYTES} bytes"]),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), ["config.json", "found something else"]),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), ["config.json", "found something else"]),
    "a device": (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), ["config.json", "found something else"]),
    "a link to itself": (lambda path: (path.unlink(), path.symlink_to(path)), ["config.json"]),
    "a link to a file that is no JSON": (lambda path: (path.unlink(), path.symlink_to(__file__)), ["config.json"]),
    "not UTF-8": (lambda path: path.write_bytes(b'{"format": "\xff"}'), ["config.json: cannot be read as JSON"]),
    "nested beyond the stack": (lambda path: path.write_text("[" * 10**6), ["config.json: cannot be read as JSON"]),
    "number of 10^6 digits": (lambda path: path.write_text("1" * 10**6), ["config.json: cannot be read as JSON"]),
    "name twice": (lambda path: path.write_text('{"a": 1, "a": 2}'), ["config.json", "'a' occurs twice"]),
    "a list": (lambda path: path.write_text("[]"), ["config.json: expected a JSON object, found list"]),
    "another program's": (lambda path: path.write_text('{"format": ["x"]}'), ["config.json", "found another file"]),
    "another version's": (
        lambda path: path.write_text('{"format": "tarvis_jax", "format_version": 99}'),
        ["config.json: expected format_version 1, found 99"],
    ),
}


@pytest.mark.parametrize("name", CONFIG_FILES)
def test_config_file(good, tmp_path, name):
    path, content = good
    spoil, words = CONFIG_FILES[name]
    (tmp_path / shared.CONFIG_FILE).write_text(json.dumps(content))
    (tmp_path / shared.WEIGHTS_FILE).symlink_to(path / shared.WEIGHTS_FILE)
    spoil(tmp_path / shared.CONFIG_FILE)
    assert_refused(tmp_path, *words)


def safetensors(path, header, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def tensor(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def without_file(change):
    """`change(path)` in place of the file."""
    return lambda path, variables: (path.unlink(), change(path))


def edited(change):
    """The file with the variables that `change(variables)` leaves."""

    def write(path, variables):
        change(variables)
        path.unlink()
        shared.safetensors_file.write(path, variables)

    return write


def value_at(name, value):
    def change(variables):
        variables[name] = variables[name].copy()
        variables[name].flat[-1] = value

    return edited(change)


WEIGHTS_FILES = {
    "a folder": (without_file(lambda path: path.mkdir()), ["model.safetensors", "found something else"]),
    "a pipe": (without_file(os.mkfifo), ["model.safetensors", "found something else"]),
    "a link to nothing": (without_file(lambda path: path.symlink_to("/nowhere")), ["model.safetensors"]),
    "empty": (without_file(lambda path: path.touch()), ["model.safetensors", "the file has 0 bytes"]),
    "header of an exabyte": (
        without_file(lambda path: path.write_bytes(struct.pack("<Q", 2**60))),
        ["model.safetensors", "header of 1152921504606846976 bytes"],
    ),
    "10^12 values": (
        without_file(lambda path: safetensors(path, {"a": tensor(shape=(10**12,))}, bytes(4))),
        ["model.safetensors: tensor a", "expected bytes 0..4000000000000"],
    ),
    "no values of a huge shape": (
        without_file(lambda path: safetensors(path, {"a": tensor(shape=(0, 2**61, 2**61), offsets=(0, 0))})),
        ["model.safetensors: tensor a"],
    ),
    "33 axes": (
        without_file(lambda path: safetensors(path, {"a": tensor(shape=(1,) * 33)}, bytes(4))),
        ["model.safetensors: tensor a: expected shape"],
    ),
    "20 000 tensors": (
        without_file(lambda path: safetensors(path, {f"t{i}": tensor("U8", (0,), (0, 0)) for i in range(20_000)})),
        ["model.safetensors", "missing: decoder/norm/scale", "more"],
    ),
    "name of 10^6 letters": (
        without_file(lambda path: safetensors(path, {"a" * 10**6: tensor()}, bytes(4))),
        ["model.safetensors", "1..500 printable"],
    ),
    "name that clears the screen": (
        without_file(lambda path: safetensors(path, {"\x1b[2J": tensor()}, bytes(4))),
        ["model.safetensors", r"'\x1b[2J'"],
    ),
    "variable of half precision": (
        edited(lambda v: v.update({"decoder/norm/scale": v["decoder/norm/scale"].astype(np.float16)})),
        ["model.safetensors", "different: decoder/norm/scale", "float16"],
    ),
    "variable of integers": (
        edited(lambda v: v.update({"decoder/norm/scale": v["decoder/norm/scale"].astype(np.int32)})),
        ["model.safetensors", "different: decoder/norm/scale", "int32"],
    ),
    "variable of another shape": (
        edited(lambda v: v.update({"decoder/norm/scale": np.ones((16, 1), np.float32)})),
        ["model.safetensors", "different: decoder/norm/scale", "(16, 1)"],
    ),
    "variable that is missing": (edited(lambda v: v.pop("pixel_mean")), ["model.safetensors", "missing: pixel_mean"]),
    "variable too many": (
        edited(lambda v: v.update(payload=np.ones(3, np.float32))),
        ["model.safetensors", "unexpected: payload"],
    ),
    "NaN": (
        value_at("decoder/norm/scale", np.nan),
        ["model.safetensors: tensor decoder/norm/scale", "found 1 of 16 NaN or infinite"],
    ),
    "infinity": (value_at("queries/semantic", -np.inf), ["model.safetensors: tensor queries/semantic", "found 1 of"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS_FILES)
def test_weights_file(good, tmp_path, name):
    path, content = good
    spoil, words = WEIGHTS_FILES[name]
    (tmp_path / shared.CONFIG_FILE).write_text(json.dumps(content))
    (tmp_path / shared.WEIGHTS_FILE).symlink_to(path / shared.WEIGHTS_FILE)
    spoil(tmp_path / shared.WEIGHTS_FILE, dict(shared.safetensors_file.read(path / shared.WEIGHTS_FILE)))
    assert_refused(tmp_path, *words)
