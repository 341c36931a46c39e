import json
import weakref

import ml_dtypes
import numpy as np
import pytest

from tarvis_jax.weights import safetensors as safetensors_file

TENSORS = {
    "a/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.float32(3).reshape(()),
    "empty": np.zeros((0, 3), np.float32),
    "half": np.arange(3).astype(ml_dtypes.bfloat16),
    "transposed": np.arange(6).reshape(2, 3).T,
    "flags": np.array([True, False, True]),
}


def test_against_the_package(tmp_path):
    """The public package reads what we write, and we read what it writes."""
    package = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "ours.safetensors"
    assert safetensors_file.write(path, TENSORS, {"format": "x"}) == path.stat().st_size
    package.save_file({name: np.ascontiguousarray(t) for name, t in TENSORS.items()}, tmp_path / "theirs.safetensors")
    found = [
        safetensors_file.read(path),
        package.load_file(path),
        safetensors_file.read(tmp_path / "theirs.safetensors"),
    ]
    for tensors in found:
        assert tensors.keys() == TENSORS.keys()
        for name, expected in TENSORS.items():
            assert tensors[name].dtype == expected.dtype
            np.testing.assert_array_equal(tensors[name], expected)


def test_one_tensor_is_on_the_host_at_a_time(tmp_path):
    made = []

    class OnDevice:
        shape, dtype = (1000,), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            assert all(reference() is None for reference in made)
            values = np.ones(self.shape, self.dtype)
            made.append(weakref.ref(values))
            return values

    safetensors_file.write(tmp_path / "x", {str(i): OnDevice() for i in range(10)})
    assert len(made) == 10
    assert all(value.all() for value in safetensors_file.read(tmp_path / "x").values())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    class Liar:
        shape, dtype = (2,), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            return np.zeros(2, np.float64)

    path = tmp_path / "x.safetensors"
    safetensors_file.write(path, {"a": np.ones(3, np.float32)})
    mapped = safetensors_file.read(path)["a"]
    with pytest.raises(ValueError, match=r"tensor b: declared float32 \(2,\), found float64"):
        safetensors_file.write(path, {"b": Liar()})
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]
    safetensors_file.write(path, {"a": np.zeros(3, np.float32)})
    assert (mapped == 1).all() and (safetensors_file.read(path)["a"] == 0).all()
    with pytest.raises(ValueError, match="tensor c: expected a dtype of .*complex64"):
        safetensors_file.write(path, {"c": np.zeros(1, np.complex64)})


def _file(header, data=b"", length=None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _tensor(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "its first 8 bytes announce"),
        (b"<!DOCTYPE html><html>", "its first 8 bytes announce"),
        (_file({}, length=2**63), "announce a header of 9223372036854775808 bytes"),
        (_file(b"{not json"), "its header is not JSON"),
        (_file(b"\xff\xfe{}"), "its header is not JSON"),
        (_file(b"[" * 100_000), "its header is not JSON"),
        (_file(b'{"a": {}, "a": {}}'), "the name 'a' occurs twice"),
        (_file([1]), "expected a header that maps names to tensors, found list"),
        (_file({"a": 3}), "tensor a: expected dtype, shape and data_offsets, found 3"),
        (_file({"a": _tensor("F31")}, bytes(8)), "tensor a: expected a dtype of .* found 'F31'"),
        (_file({"a": _tensor(["F32"])}, bytes(8)), "tensor a: expected a dtype of"),
        (_file({"a": _tensor(shape=(-2,))}, bytes(8)), "tensor a: expected shape of whole numbers >= 0"),
        (_file({"a": _tensor(shape=(2.0,))}, bytes(8)), "tensor a: expected shape of whole numbers"),
        (_file({"a": _tensor(offsets=(0, 8, 9))}, bytes(8)), "tensor a: expected data_offsets of whole numbers"),
        (_file({"a": _tensor(shape=(2**40, 2**21))}, bytes(8)), "tensor a .*: expected bytes 0"),
        (_file({"a": _tensor(offsets=(8, 0))}, bytes(8)), "tensor a .*: expected bytes 0..8 of the 8 there are"),
        (_file({"a": _tensor()}, bytes(7)), "tensor a .*: expected bytes 0..8 of the 7 there are"),
        (_file({"a": _tensor()}, bytes(9)), "expected 8 bytes of tensors, found 9"),
        (_file({"a": _tensor(), "b": _tensor(offsets=(4, 12))}, bytes(12)), "tensor b .*: expected bytes 8..16"),
        (_file({"a": _tensor(), "b": _tensor(offsets=(16, 24))}, bytes(24)), "tensor b .*: expected bytes 8..16"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"broken\.safetensors: .*{message}"):
        safetensors_file.read(path)


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="found no such file"):
        safetensors_file.read(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="found something else"):
        safetensors_file.read(tmp_path)
