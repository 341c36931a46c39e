"""Files of torch, read and written without it, against torch itself."""

import collections
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from tarvis_jax.weights.pytorch.files import read_torch_file, tensors, write_torch_file

CONTENT = {
    "model": collections.OrderedDict(
        matrix=torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        transposed=torch.arange(20.0).reshape(4, 5).t(),
        part=torch.arange(20.0)[3:9],
        integers=torch.tensor([[1, -2], [3, 2**40]]),
        small=torch.tensor([1, 255], dtype=torch.uint8),
        flags=torch.tensor([True, False]),
        half=torch.tensor([0.5, -2.0], dtype=torch.float16),
        brain=torch.tensor([0.5, -2.0], dtype=torch.bfloat16),
        complex=torch.tensor([1 + 2j]),
        number=torch.tensor(7.0),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(torch.ones(2)),
    ),
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]},
    "step": 10**12,
    "note": None,
}


def _save(path, kind):
    if kind == "pickle":
        path.write_bytes(pickle.dumps(CONTENT))
    else:
        torch.save(CONTENT, path, _use_new_zipfile_serialization=kind == "zip")


@pytest.mark.parametrize("kind", ["zip", "stream", "pickle"])
def test_reads_what_torch_wrote(tmp_path, kind):
    _save(tmp_path / "a.pth", kind)
    content = read_torch_file(tmp_path / "a.pth")
    assert content.keys() == CONTENT.keys() and list(content["model"]) == list(CONTENT["model"])
    for name, expected in CONTENT["model"].items():
        found = content["model"][name]
        assert found.shape == tuple(expected.shape), name
        assert str(found.dtype) == str(expected.dtype).removeprefix("torch."), name
        assert found.nbytes == expected.nbytes and found.ndim == expected.ndim
        value = np.asarray(found)
        assert value.dtype == found.dtype and value.shape == found.shape
        expected = expected.detach()
        if expected.dtype == torch.bfloat16:
            value, expected = value.view(np.int16), expected.view(torch.int16)
        assert value.tobytes() == expected.contiguous().numpy().tobytes(), name
    assert content["optimizer"]["groups"] == [{"lr": 1e-4, "betas": (0.9, 0.999)}]
    assert (content["step"], content["note"]) == (10**12, None)
    names = [name for name, _ in tensors(content)]
    assert len(names) == len(CONTENT["model"]) + 1 and "optimizer.state.0.step" in names


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_pickles_of_numpy_arrays(tmp_path, protocol):
    values = {
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
        "number": np.array(3),
        "empty": np.zeros((0, 2), np.float32),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": values, "score": np.float32(0.5)}, protocol=protocol))
    content = read_torch_file(tmp_path / "a.pkl")
    for name, expected in values.items():
        value = np.asarray(content["model"][name])
        assert value.dtype == expected.dtype and value.shape == expected.shape, name
        np.testing.assert_array_equal(value, expected)
    assert content["score"] == 0.5


@pytest.mark.parametrize("options", [{"weights_only": True}, {"weights_only": True, "mmap": True}, {}])
def test_torch_reads_what_we_wrote(tmp_path, options):
    values = {
        name: np.asarray(value) if value.dtype != torch.bfloat16 else value.float().numpy()
        for name, value in ((name, value.detach()) for name, value in CONTENT["model"].items())
    }
    write_torch_file(tmp_path / "a.pth", values)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    content = torch.load(tmp_path / "a.pth", **options)
    assert list(content) == ["model"] and isinstance(content["model"], collections.OrderedDict)
    assert list(content["model"]) == list(values)
    for name, value in content["model"].items():
        assert value.is_contiguous() and value.numpy().dtype == values[name].dtype
        assert value.numpy().tobytes() == values[name].tobytes() and value.shape == values[name].shape, name
    for name, value in read_torch_file(tmp_path / "a.pth")["model"].items():
        np.testing.assert_array_equal(np.asarray(value), values[name])


def test_a_failed_write_leaves_the_old_file(tmp_path):
    class Fails:
        shape, dtype = (1,), np.dtype(np.float32)

        def __array__(self, dtype=None, copy=None):
            raise ValueError("cannot be read")

    write_torch_file(tmp_path / "a.pth", {"x": np.ones(1, np.float32)})
    with pytest.raises(ValueError, match="cannot be read"):
        write_torch_file(tmp_path / "a.pth", {"x": Fails()})
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
    np.testing.assert_array_equal(np.asarray(read_torch_file(tmp_path / "a.pth")["model"]["x"]), [1])


def test_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import tarvis_jax.convert.commands"
    subprocess.run([sys.executable, "-c", code], check=True)
