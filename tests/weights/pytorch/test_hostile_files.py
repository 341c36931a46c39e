"""Hostile and broken files: nothing of them runs, and one message says which file, which tensor, what was expected."""

import collections
import io
import json
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from tarvis_jax.command_line import run
from tarvis_jax.convert.__main__ import main
from tarvis_jax.convert.commands import to_pytorch
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.weights import folder as pretrained
from tarvis_jax.weights.pytorch.backbones import open_backbone
from tarvis_jax.weights.pytorch.files import read_torch_file, tensors, write_torch_file
from tarvis_jax.weights.pytorch.reference import read_torch_checkpoint
from tests.weights.pytorch import mini

PAYLOAD = "touch payload_ran"  # in the current folder, which is the test's own


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class RawStorage:
    """A storage as a persistent id describes it."""

    def __init__(self, key="0", size=6, kind=torch.FloatStorage):
        self.description = ("storage", kind, key, "cpu", size)


def tensor(storage=None, offset=0, shape=(2, 3), strides=(3, 1)):
    """A tensor with whatever metadata."""
    args = (storage or RawStorage(), offset, shape, strides, False, collections.OrderedDict())
    return Calls(torch._utils._rebuild_tensor_v2, *args)


def pickled(content) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.description if isinstance(value, RawStorage) else None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def archive(path, content, records=None, compression=zipfile.ZIP_STORED):
    """A zip archive as torch.save makes it, with a storage "0" of six floats."""
    data = content if isinstance(content, bytes) else pickled(content)
    records = {"a/data/0": bytes(24), **(records or {})}
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", data)
        for name, value in records.items():
            file.writestr(name, value)


def twice(path):
    archive(path, {"model": {"x": tensor()}})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr("a/data/0", bytes(24))


def flipped_bit(path):
    write_torch_file(path, {"x": np.arange(1000, dtype=np.float32)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path, fraction=0.5, **kwargs):
    torch.save({"model": {"x": torch.zeros(1000)}}, path, **kwargs)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * fraction)])


def numpy_objects(path):
    values = np.empty(1, object)
    values[0] = Calls(os.system, PAYLOAD)
    path.write_bytes(pickle.dumps({"model": {"x": values}}))


def tar(path):
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def nested(path):
    content = tensor()
    for _ in range(100):
        content = [content]
    archive(path, {"model": {"x": content}})


def deep_key(path):
    key = b"(" * 0 + b")" + b"\x85" * 100_000  # a tuple in a tuple in a tuple ...
    path.write_bytes(b"\x80\x02}" + key + b"K\x01s.")


def polluting(path):
    """Sets an attribute on what `collections.OrderedDict` stands for."""
    path.write_bytes(b"\x80\x02ccollections\nOrderedDict\nN}X\x08\x00\x00\x00functionK\x01s\x86b.")


# name -> (maker of the file, words of the message). All are read as "checkpoint.pth" by `read_torch_file`.
FILES = {
    "os.system in a zip archive": (
        lambda path: torch.save({"model": {"x": Calls(os.system, PAYLOAD)}}, path),
        ["refused, nothing of it was run", "tensors only", "posix.system"],
    ),
    "eval in a zip archive": (
        lambda path: torch.save({"model": Calls(eval, f"__import__('os').system('{PAYLOAD}')")}, path),
        ["refused", "__builtin__.eval"],
    ),
    "a process beside the model": (
        lambda path: torch.save({"model": {}, "extra": Calls(subprocess.Popen, ["touch", "payload_ran"])}, path),
        ["refused", "commands.Popen"],
    ),
    "a loader of torch as a gadget": (
        lambda path: torch.save({"model": Calls(torch.load, "other.pth")}, path),
        ["refused", "torch.serialization.load"],
    ),
    "os.system in an old stream": (
        lambda path: torch.save(
            {"model": {"x": Calls(os.system, PAYLOAD)}}, path, _use_new_zipfile_serialization=False
        ),
        ["refused", "posix.system"],
    ),
    "os.system in a plain pickle": (
        lambda path: path.write_bytes(pickle.dumps(Calls(os.system, PAYLOAD))),
        ["refused", "posix.system"],
    ),
    "os.system in a storage's own stream": (
        lambda path: path.write_bytes(
            pickle.dumps(
                Calls(
                    torch.storage._load_from_bytes,
                    pickle.dumps(0x1950A86A20F9469CFC6C, 2)
                    + pickle.dumps(1001, 2)
                    + pickle.dumps({"little_endian": True}, 2)
                    + pickle.dumps(Calls(os.system, PAYLOAD), 2),
                )
            )
        ),
        ["refused", "posix.system"],
    ),
    "numpy array of objects": (numpy_objects, ["refused", "expected numbers", "'O8'"]),
    "attribute set on a class": (polluting, ["damaged pickle", "BUILD", "expected Buildable"]),
    "opcode for instances": (
        lambda path: path.write_bytes(b"\x80\x02(S'touch payload_ran'\nios\nsystem\n."),
        ["refused", "no file of tensors needs"],
    ),
    "opcode for extensions": (lambda path: path.write_bytes(b"\x80\x02\x82\x01."), ["refused", "EXT1"]),
    "pickle in letters": (
        lambda path: path.write_bytes(b"cos\nsystem\n(S'touch payload_ran'\ntR."),
        ["expected a file of torch.save or a pickle", "begins with"],
    ),
    "record outside of the archive": (
        lambda path: archive(path, {"model": {"x": tensor()}}, {"../../etc/passwd": b"x"}),
        ["refused", "'../../etc/passwd'", "outside"],
    ),
    "record at an absolute path": (
        lambda path: archive(path, {"model": {"x": tensor()}}, {"/etc/passwd": b"x"}),
        ["refused", "'/etc/passwd'"],
    ),
    "record twice": (twice, ["refused", "'a/data/0' twice"]),
    "compressed bomb": (
        lambda path: archive(path, {"model": {}}, {"a/data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED),
        ["expected it as it is, found it compressed"],
    ),
    "two archives in one": (
        lambda path: archive(path, {"model": {}}, {"b/data.pkl": pickled({})}),
        ["one data.pkl", "b/data.pkl"],
    ),
    "storage larger than its record": (
        lambda path: archive(path, {"model": {"x": tensor(RawStorage(size=10**12))}}),
        ["tensor model.x", "expected 1000000000000 values of float32", "found 24 bytes"],
    ),
    "storage of a negative size": (
        lambda path: archive(path, {"model": {"x": tensor(RawStorage(size=-6))}}),
        ["tensor model.x", "size of its storage", "found -6"],
    ),
    "storage without a record": (
        lambda path: archive(path, {"model": {"x": tensor(RawStorage("7"))}}),
        ["tensor model.x", "storage is missing"],
    ),
    "storage of two types": (
        lambda path: archive(path, {"model": {"x": tensor(), "y": tensor(RawStorage(kind=torch.LongStorage, size=3))}}),
        ["storage '0' is described in two ways"],
    ),
    "negative strides": (
        lambda path: archive(path, {"model": {"x": tensor(strides=(-3, 1))}}),
        ["tensor model.x", "strides", "not negative", "-3"],
    ),
    "negative size": (
        lambda path: archive(path, {"model": {"x": tensor(shape=(2, -3))}}),
        ["tensor model.x", "shape", "-3"],
    ),
    "shape that is no numbers": (
        lambda path: archive(path, {"model": {"x": tensor(shape=("2", 3))}}),
        ["tensor model.x", "shape", "'2'"],
    ),
    "more strides than axes": (
        lambda path: archive(path, {"model": {"x": tensor(strides=(3, 1, 1))}}),
        ["tensor model.x", "as many strides as axes", "(3, 1, 1)"],
    ),
    "offset beyond the end": (
        lambda path: archive(path, {"model": {"x": tensor(offset=4)}}),
        ["tensor model.x", "[2, 3]", "from value 4 on", "storage of 6 values"],
    ),
    "strides beyond the end": (
        lambda path: archive(path, {"model": {"x": tensor(strides=(2**40, 1))}}),
        ["tensor model.x", "does not lie in its storage of 6 values"],
    ),
    "one value expanded to a terabyte": (
        lambda path: archive(path, {"model": {"x": tensor(shape=(2**20, 2**20), strides=(0, 0))}}),
        ["tensor model.x", "[1048576, 1048576]", "storage of 6 values"],
    ),
    "other byte order": (
        lambda path: archive(path, {"model": {"x": tensor()}}, {"a/byteorder": b"big"}),
        ["expected little-endian"],
    ),
    "keys that are tuples": (
        lambda path: path.write_bytes(pickle.dumps({("a", 1): 2})),
        ["damaged pickle", "expected a string as key, found tuple"],
    ),
    "key nested 100000 deep": (deep_key, ["damaged pickle", "found tuple"]),
    "tensor nested 100 deep": (nested, ["nested at most 20 deep"]),
    "value missing on the stack": (lambda path: path.write_bytes(b"\x80\x02}K\x01s."), ["damaged pickle", "SETITEM"]),
    "unknown opcode": (lambda path: path.write_bytes(b"\x80\x02\xff"), ["damaged pickle", "unknown"]),
    "bytes of an announced exabyte": (
        lambda path: path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"x"),
        ["damaged pickle"],
    ),
    "zip archive cut in half": (cut, ["damaged or truncated zip archive"]),
    "old stream cut in its values": (
        lambda path: cut(path, _use_new_zipfile_serialization=False),
        ["truncated", "expected 1000 values of float32", "found"],
    ),
    "old stream cut in its pickle": (
        lambda path: cut(path, 0.02, _use_new_zipfile_serialization=False),
        ["damaged pickle"],
    ),
    "pickle cut in half": (
        lambda path: path.write_bytes(pickle.dumps({"model": np.zeros(100)})[:400]),
        ["damaged pickle"],
    ),
    "zip archive of something else": (
        lambda path: zipfile.ZipFile(path, "w").writestr("readme.txt", "hello"),
        ["one data.pkl", "readme.txt"],
    ),
    "empty file": (lambda path: path.touch(), ["found an empty file"]),
    "text": (lambda path: path.write_text("not weights"), ["begins with b'not weights'"]),
    "folder": (lambda path: path.mkdir(), ["found a folder"]),
    "pipe": (os.mkfifo, ["found a device or pipe"]),
    "pointer of git-lfs": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"),
        ["git-lfs", "git lfs pull"],
    ),
    "web page": (lambda path: path.write_text("\n<!DOCTYPE html><html>Sign in</html>"), ["web page"]),
    "tar archive": (tar, ["tar archive", "save it again"]),
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "payload_ran").exists(), "code of the file ran"


def assert_says(error: str, path, words):
    assert str(path) in error
    for word in words:
        assert word in error, f"{word!r} is not in: {error}"
    assert len(error) < 1500


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")
def test_file(tmp_path, name):
    make, words = FILES[name]
    path = tmp_path / "checkpoint.pth"
    make(path)
    with pytest.raises(ValueError) as error:
        read_torch_file(path)
    assert_says(str(error.value), path, words)


def test_links_that_lead_nowhere(tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.symlink_to("nowhere.pth")
    with pytest.raises(FileNotFoundError, match="checkpoint.pth"):
        read_torch_file(path)
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(OSError, match="checkpoint.pth"):
        read_torch_file(path)


def test_damaged_values_are_noticed_when_read(tmp_path):
    flipped_bit(tmp_path / "a.pth")
    content = read_torch_file(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="a.pth: record 'a/data/0': its checksum is wrong"):
        np.asarray(content["model"]["x"])


@pytest.mark.parametrize("kind", ["zip", "stream", "pickle"])
def test_any_damage_is_a_value_error(tmp_path, kind):
    """400 files with a few wrong bytes each: each is read, or refused with the file's name."""
    path = tmp_path / "a.pth"
    content = {"model": collections.OrderedDict(x=torch.arange(6.0).reshape(2, 3), y=torch.ones(1)), "step": 3}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    num_refused = 0
    for _ in range(400):
        data = bytearray(good)
        for position in rng.integers(0, len(data), rng.integers(1, 4)):
            data[position] = rng.integers(256)
        path.write_bytes(data)
        try:
            for _, value in tensors(read_torch_file(path)):
                np.asarray(value)
        except ValueError as error:
            assert str(path) in str(error)
            num_refused += 1
    assert num_refused > 100


def test_tensors_that_share_a_storage_are_read(tmp_path):
    """Torch writes tied weights and views so; overlapping within the storage harms nobody."""
    values = torch.arange(6.0)
    torch.save({"model": {"x": values, "y": values[2:5], "z": values.reshape(2, 3).t()}}, tmp_path / "a.pth")
    model = read_torch_file(tmp_path / "a.pth")["model"]
    np.testing.assert_array_equal(model["y"], [2, 3, 4])
    np.testing.assert_array_equal(model["z"], [[0, 3], [1, 4], [2, 5]])


# Tensors that are read but do not fit the model: (change of a good state dict, words of the message).
TENSORS = {
    "integers": (lambda s: s.update({"norm0.bias": np.zeros(6, np.int64)}), ["norm0.bias int64[6]", "float32[6]"]),
    "complex numbers": (
        lambda s: s.update({"norm0.bias": np.zeros(6, np.complex64)}),
        ["norm0.bias complex64[6]", "expected float32[6]"],
    ),
    "booleans": (lambda s: s.update({"norm0.bias": np.zeros(6, bool)}), ["norm0.bias bool[6]", "expected float32[6]"]),
    "half precision": (
        lambda s: s.update({"norm0.bias": np.zeros(6, np.float16)}),
        ["norm0.bias float16[6]", "expected float32[6]"],
    ),
    "wrong rank": (
        lambda s: s.update({"patch_embed.proj.weight": np.zeros((6, 48), np.float32)}),
        ["patch_embed.proj.weight float32[6, 48]", "expected float32[4, 4, 3, 6]"],
    ),
    "wrong size": (
        lambda s: s.update({"norm1.bias": np.zeros(13, np.float32)}),
        ["norm1.bias float32[13]", "expected float32[12]"],
    ),
    "missing": (lambda s: s.pop("layers.1.downsample.norm.bias"), ["missing tensor", "layers.1.downsample.norm.bias"]),
    "extra": (lambda s: s.update(surprise=np.zeros(3, np.float32)), ["unexpected tensor surprise float32[3]"]),
    "wrong derived values": (
        lambda s: s.update({"layers.0.blocks.0.attn.relative_position_index": np.zeros((9, 9), np.int64)}),
        ["layers.0.blocks.0.attn.relative_position_index int64[9, 9]", "its values differ"],
    ),
    "NaN": (
        lambda s: s.update({"norm0.bias": np.float32([1, np.nan, 2, 3, 4, np.inf])}),
        ["norm0.bias", "expected finite values", "2 of 6"],
    ),
    "a list": (lambda s: s.update({"norm0.bias": [1.0]}), ["named tensors", "'norm0.bias': list"]),
    "a number as name": (lambda s: s.update({3: s.pop("norm0.bias")}), ["named tensors", "3: "]),
    "one tensor under two names": (
        lambda s: s.update({"backbone.norm0.bias": s["norm0.bias"]}),
        ["two names", "norm0.bias"],
    ),
}


@pytest.fixture(scope="module")
def swin():
    with pytest.MonkeyPatch.context() as monkeypatch:
        mini.register(monkeypatch)
        return mini.reference_names("SwinMini", mini.variables("SwinMini"))


@pytest.mark.parametrize("name", TENSORS)
def test_tensors(tmp_path, swin, monkeypatch, name):
    mini.register(monkeypatch)
    change, words = TENSORS[name]
    state_dict = dict(swin)
    change(state_dict)
    path = tmp_path / "swin.pth"
    torch.save({k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state_dict.items()}, path)
    with pytest.raises(ValueError) as error:
        for value in open_backbone(path, "SwinMini")[0].values():
            np.asarray(value)
    if name != "NaN":  # found while reading; the commands add the path
        assert_says(str(error.value), path, words)
    assert all(word in str(error.value) for word in words)


CONFIGS = {
    "missing": (None, ["config.yaml", "expected a checkpoint of the reference with its config.yaml"]),
    "code": ("!!python/object/apply:os.system ['touch payload_ran']", ["config.yaml", "cannot be read as YAML"]),
    "no mapping": ("[1, 2]", ["config.yaml", "expected a mapping, found list"]),
    "no YAML": ("a: [", ["config.yaml", "cannot be read as YAML"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_beside_the_checkpoint(tmp_path, name):
    text, words = CONFIGS[name]
    torch.save({"model": {"x": torch.zeros(3)}}, tmp_path / "checkpoint.pth")
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError) as error:
        read_torch_checkpoint(tmp_path / "checkpoint.pth")
    assert_says(str(error.value), tmp_path, words)


def header(entries, announced=None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if announced is None else announced) + text


def floats(start, end):
    return {"dtype": "F32", "shape": [(end - start) // 4], "data_offsets": [start, end]}


SAFETENSORS = {
    "header of an exabyte": (header(b"{}", 2**60), ["header of 1152921504606846976 bytes"]),
    "header beyond the end": (header(b"{}", 100), ["header of 100 bytes"]),
    "no header": (b"\x01", ["first 8 bytes"]),
    "header that is no JSON": (header(b"{not JSON}"), ["header is not JSON"]),
    "header that is no mapping": (header([1]), ["found list"]),
    "name twice": (header(b'{"a": 1, "a": 2}'), ["the name 'a' occurs twice"]),
    "unknown dtype": (
        header({"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        ["tensor a", "'OBJ'"],
    ),
    "negative offsets": (
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}) + bytes(4),
        ["tensor a", "data_offsets", "-4"],
    ),
    "overlapping tensors": (header({"a": floats(0, 8), "b": floats(4, 12)}) + bytes(12), ["tensor b", "8..", "4..12"]),
    "tensor beyond the end": (header({"a": floats(0, 400)}) + bytes(8), ["tensor a", "found 0..400"]),
    "shape against offsets": (
        header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}}) + bytes(4),
        ["tensor a", "found 0..4"],
    ),
    "bytes of no tensor": (header({"a": floats(0, 4)}) + bytes(100), ["expected 4 bytes of tensors"]),
    "missing and extra tensors": (
        header({"a": floats(0, 4)}) + bytes(4),
        ["unexpected: a ((1,), 'float32')", "missing: decoder/norm/bias ((256,), 'float32')"],
    ),
    "pointer of git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", ["not a safetensors file"]),
}


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    pretrained.save_safetensors({"decoder/norm/bias": np.zeros(256, np.float32)}, ModelConfig(), folder)
    return folder


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors(tmp_path, shared_folder, name):
    data, words = SAFETENSORS[name]
    (shared_folder / pretrained.WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(ValueError) as error:
        to_pytorch(shared_folder, tmp_path / "out.pth")
    assert str(shared_folder) in str(error.value)
    assert all(word in str(error.value) for word in words), error.value
    assert not (tmp_path / "out.pth").exists()


def test_command_prints_one_line_and_fails(tmp_path, capsys):
    FILES["os.system in a zip archive"][0](tmp_path / "checkpoint.pth")
    (tmp_path / "config.yaml").write_text("a: 1")
    assert run(main, ["to-jax", str(tmp_path), str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path}/checkpoint.pth: refused") and captured.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
