"""The CUDA back end: its own kernels run on a CPU by an emulation, on a GPU where there is one, and their machine code.

The emulation (cuda_emulation.h) runs the very kernels, lane by lane, through jax.ffi and through the C interface; it
refuses accesses out of bounds and lanes that miss a shuffle.
"""

import ctypes
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from kernels.ms_deform_attn.cuda import backend, build, torch_op

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import cases  # noqa: E402
import cuda_tools  # noqa: E402

# Sizes that TarViS uses: they have kernels of their own.
_USUAL = cases.Case("spread", heads=8, head_size=32, num_points=4, batch=1, level_shapes=((2, 3), (4, 6), (8, 12)))
_NUM_CELLS = 6 + 24 + 96
CASES = cases.CASES | {
    "usual": _USUAL,
    "usual, query per cell": dataclasses.replace(_USUAL, num_queries=_NUM_CELLS),
    "usual, whole pixels": dataclasses.replace(
        _USUAL, offsets="whole pixels", num_queries=_NUM_CELLS, reference_on_centers=True, has_kinks=True
    ),
    "usual, borders": dataclasses.replace(_USUAL, offsets="borders", reference_on_centers=True, has_kinks=True),
    "usual, huge": dataclasses.replace(_USUAL, offsets="huge"),
    "usual, weights given": dataclasses.replace(_USUAL, softmax=False),
    "usual, bfloat16 values": dataclasses.replace(_USUAL, value_dtype="bfloat16"),
    "usual, bfloat16 offsets": dataclasses.replace(_USUAL, offsets_dtype="bfloat16"),
    "usual, bfloat16": dataclasses.replace(_USUAL, value_dtype="bfloat16", offsets_dtype="bfloat16"),
    "usual, a level of one row": dataclasses.replace(_USUAL, level_shapes=((1, 3), (4, 6), (8, 12))),
    "query per cell": cases.Case("spread", level_shapes=((3, 5), (11, 13)), num_queries=158),
    "head size 16": cases.Case("spread", head_size=16, heads=4, num_points=4),
    "head size 24, bfloat16": cases.Case("spread", head_size=24, value_dtype="bfloat16"),
    "head size 36": cases.Case("spread", head_size=36, heads=2),
    "head size 128": cases.Case("spread", head_size=128, heads=1, batch=1),
    "head size 256": cases.Case("spread", head_size=256, heads=1, batch=1),
    "large batch": cases.Case("spread", batch=7, num_queries=2, heads=1),  # along the grid's third dimension
    "most points": cases.Case("spread", batch=1, heads=1, num_points=8, level_shapes=((2, 3),) * 16),
}


@pytest.fixture(scope="module")
def emulated_library(tmp_path_factory):
    """Path of the library compiled for the CPU, its handlers registered there."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++ for the emulation of the CUDA kernels")
    if "cpu" not in os.environ.get("JAX_PLATFORMS", "cpu"):
        pytest.skip("the emulation needs JAX's CPU platform: put cpu into JAX_PLATFORMS")
    path = cuda_tools.build_emulation(tmp_path_factory.mktemp("emulation"))
    backend.register(path, platform="cpu", devices=[0])
    return path


@pytest.fixture
def emulation(emulated_library, monkeypatch):
    """The emulated library in place of the real one; returned as ctypes sees it."""
    monkeypatch.setattr(backend, "_register", lambda: None)
    library = torch_op.load(str(emulated_library))
    monkeypatch.setattr(torch_op, "load", lambda: library)
    with jax.default_device(jax.devices("cpu")[0]):
        yield library


@pytest.fixture(scope="module")
def gpu():
    """Skips without a GPU that can build and run the real library."""
    if jax.default_backend() != "gpu":
        pytest.skip("needs JAX on a GPU (JAX_PLATFORMS=cuda,cpu)")
    if reason := build.why_not():
        pytest.skip(f"needs the CUDA library: {reason}")


# ---- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_emulated_kernels_match_the_oracle(emulation, name):
    cases.assert_matches_oracle("cuda", CASES[name])


_BAD_CASES = cases.BAD_CASES | {
    f"usual, {name}": dataclasses.replace(_USUAL, offsets="inside", batch=2, bad=case.bad)
    for name, case in cases.BAD_CASES.items()
}


@pytest.mark.parametrize("name", _BAD_CASES)
def test_emulated_kernels_keep_bad_numbers_local(emulation, name):
    cases.assert_bad_numbers_stay_local("cuda", _BAD_CASES[name])


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_kernels_match_the_oracle(gpu, name):
    cases.assert_matches_oracle("cuda", CASES[name])


@pytest.mark.gpu
@pytest.mark.parametrize("name", _BAD_CASES)
def test_kernels_keep_bad_numbers_local(gpu, name):
    cases.assert_bad_numbers_stay_local("cuda", _BAD_CASES[name])


@pytest.mark.gpu
def test_real_size_equals_the_xla_back_end(gpu):
    """T 3 at 512x896, bfloat16 values: too large for the oracle."""
    case = dataclasses.replace(
        _USUAL,
        offsets="between pixels",
        reference_on_centers=True,
        batch=3,
        num_queries=9408,
        level_shapes=((16, 28), (32, 56), (64, 112)),
        value_dtype="bfloat16",
    )
    inputs = cases.make_inputs(case)
    out, grads = cases.run_backend("cuda", case, inputs)
    expected, expected_grads = cases.run_backend("xla", case, inputs)
    np.testing.assert_allclose(out.astype(np.float32), expected.astype(np.float32), rtol=2**-7, atol=1e-4)
    for name, grad in grads.items():
        wanted = expected_grads[name].astype(np.float32)
        np.testing.assert_allclose(grad.astype(np.float32), wanted, rtol=2**-6, atol=2e-3 * np.abs(wanted).max())


# ---- bounds and errors ----------------------------------------------------------------------------------------------


def _hostile_tensors(shapes: tuple[tuple[int, int], ...], queries: int, heads: int, points: int, depth: int, dtype):
    generator = torch.Generator().manual_seed(0)
    cells = sum(h * w for h, w in shapes)
    samples = (2, queries, heads, len(shapes), points)
    extremes = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e9, -3e9, 1e38, -1.0, 0.0, 1.0, 5.0, -5.5, 2**31])
    offsets = extremes[torch.randint(len(extremes), (*samples, 2), generator=generator)]
    return {
        "value": torch.randn(2, cells, heads, depth, generator=generator).to(dtype),
        "offsets": offsets.to(dtype),
        "scores": extremes[torch.randint(len(extremes), samples, generator=generator)].to(dtype),
        "reference": torch.rand(queries, len(shapes), 2, generator=generator),
    }


def _run_with_bounds(library: ctypes.CDLL, tensors, shapes, shorten: str | None = None) -> None:
    """Forward and backward with only the arrays themselves accessible, one of them shortened by a byte."""
    call = torch_op.make_call(level_shapes=shapes, **tensors)
    call.softmax = 1
    batch, queries, heads = tensors["scores"].shape[:3]
    value = tensors["value"]
    out = torch.empty(batch, queries, heads, value.shape[-1], dtype=value.dtype)
    arrays = tensors | {
        "out": out,
        "out_grad": torch.ones_like(out),
        "value_grad": torch.empty(value.shape),
        "offsets_grad": torch.empty_like(tensors["offsets"]),
        "scores_grad": torch.empty_like(tensors["scores"]),
    }
    library.emulation_allow.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    try:
        for name, array in arrays.items():
            library.emulation_allow(array.data_ptr(), array.nbytes - (name == shorten))
        torch_op.run("msda_forward", torch.device("cpu"), ctypes.byref(call), out.data_ptr())
        names = ("out_grad", "value_grad", "offsets_grad", "scores_grad")
        pointers = (arrays[name].data_ptr() for name in names)
        torch_op.run("msda_backward", torch.device("cpu"), ctypes.byref(call), *pointers)
    finally:
        library.emulation_allow_all()


_HOSTILE = {
    "usual": (((2, 3), (4, 6), (8, 12)), 126, 8, 4, 32),
    "general": (((1, 1), (3, 1), (1, 5), (4, 3)), 13, 3, 3, 12),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", _HOSTILE)
def test_no_access_out_of_bounds(emulation, sizes, dtype):
    shapes, *rest = _HOSTILE[sizes]
    _run_with_bounds(emulation, _hostile_tensors(shapes, *rest, dtype), shapes)


@pytest.mark.parametrize("array", ["value", "offsets", "scores", "reference", "out", "value_grad", "scores_grad"])
def test_the_emulation_sees_accesses_out_of_bounds(emulation, array):
    shapes, *rest = _HOSTILE["general"]
    tensors = _hostile_tensors(shapes, *rest, torch.float32)
    tensors["offsets"].zero_()  # so that the last cell is certainly read and added to
    tensors["scores"].zero_()
    tensors["reference"][:] = 0.999
    with pytest.raises(RuntimeError, match="out of bounds"):
        _run_with_bounds(emulation, tensors, shapes, shorten=array)


def test_handlers_refuse_wrong_arrays(emulation):
    inputs = {name: jnp.asarray(x) for name, x in cases.make_inputs(_USUAL).items()}
    shapes = _USUAL.level_shapes

    def run(**changed):
        arrays = inputs | changed
        names = ("value", "offsets", "scores", "reference")
        backend.forward(*(arrays[name] for name in names), shapes, softmax=True).block_until_ready()

    with pytest.raises(Exception, match=r"offsets: expected shape \[1, 6, 8, 3, 4, 2\], found \[1, 6, 8, 3, 3, 2\]"):
        run(offsets=inputs["offsets"][..., :3, :])
    with pytest.raises(Exception, match="value: expected float32 or bfloat16"):
        run(value=inputs["value"].astype(jnp.float16))
    with pytest.raises(Exception, match="S: expected the levels' 126 cells, found 125"):
        run(value=inputs["value"][:, 1:])
    with pytest.raises(Exception, match="D: expected a multiple of 4 up to 256, found 30"):
        run(value=inputs["value"][..., :30])


def test_every_kernel_is_loaded_when_registered(emulation, emulated_library):
    """The emulation refuses to launch what is not loaded, so that all tests above say so too."""
    assert emulation.emulation_loaded(0) == 32
    assert emulation.emulation_loaded(1) == 0
    backend.register(emulated_library, platform="cpu", devices=[1])
    assert emulation.emulation_loaded(1) == 32
    assert emulation.emulation_device() == 0  # as before
    with pytest.raises(RuntimeError, match="cannot load the kernels onto device 7: no such device"):
        backend.register(emulated_library, platform="cpu", devices=[7])
    assert emulation.emulation_device() == 0


@pytest.mark.gpu
def test_first_launches_inside_cuda_graphs(gpu):
    """In a process of its own: XLA records even a program of one call, and nothing has launched the kernels before."""
    flags = "--xla_gpu_enable_command_buffer=FUSION,CUSTOM_CALL --xla_gpu_graph_min_graph_size=1"
    script = (
        "from tests.kernels.ms_deform_attn import cases; cases.assert_matches_oracle('cuda', cases.CASES['odd sizes'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=build.FOLDER.parents[2],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags},
    )
    assert run.returncode == 0, run.stderr[-3000:]


def test_no_queries(emulation):
    case = dataclasses.replace(_USUAL, num_queries=0)
    out, grads = cases.run_backend("cuda", case, cases.make_inputs(case))
    assert out.shape == (1, 0, 8, 32)
    assert not grads["value"].any()


def test_supports_says_why_not(monkeypatch):
    def why_not(dtype=jnp.float32, head_size=32, platform="cuda", levels=3, points=4):
        return backend.supports(dtype, head_size, platform=platform, level_shapes=((2, 2),) * levels, num_points=points)

    monkeypatch.setattr(build, "device_architectures", lambda: (90,))
    monkeypatch.setattr(build, "find_nvcc", lambda: "nvcc")
    assert why_not() is None
    assert "not for cpu" in why_not(platform="cpu")
    assert "float16" in why_not(dtype=jnp.float16)
    assert "not 30" in why_not(head_size=30)
    assert "17 levels" in why_not(levels=17)
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    assert "nvcc" in why_not()
    monkeypatch.setattr(build, "device_architectures", lambda: (75,))
    assert "7.5" in why_not()
    monkeypatch.setattr(build, "device_architectures", lambda: ())
    assert "no NVIDIA GPU" in why_not()
    monkeypatch.setenv(build.ENVIRONMENT_VARIABLE, "90,80")
    monkeypatch.setattr(build, "find_nvcc", lambda: "nvcc")
    assert why_not() is None and build.target_architectures() == (80, 90)
    monkeypatch.setenv(build.ENVIRONMENT_VARIABLE, "sm_90")
    with pytest.raises(ValueError, match="found 'sm_90'"):
        build.target_architectures()


def test_lowers_for_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setattr(backend, "_register", lambda: None)
    arrays = [jnp.asarray(x) for x in cases.make_inputs(_USUAL).values()]

    def both(value, offsets, scores, reference, out_grad):
        out = backend.forward(value, offsets, scores, reference, _USUAL.level_shapes, softmax=True)
        grads = backend.backward(value, offsets, scores, reference, _USUAL.level_shapes, out_grad, softmax=True)
        return out, grads

    text = jax.jit(both).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert "@tarvis_msda_forward" in text and "@tarvis_msda_backward" in text


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def _assert_torch_op_equals_grid_sample(device: str) -> None:
    case = dataclasses.replace(_USUAL, softmax=False, num_queries=21)
    arrays = {name: torch.from_numpy(x) for name, x in cases.make_inputs(case).items()}
    sizes_wh = torch.tensor([(w, h) for h, w in case.level_shapes])[:, None]
    locations = arrays["reference"][None, :, None, :, None] + arrays["offsets"] / sizes_wh
    ours = [x.clone().to(device).requires_grad_() for x in (arrays["value"], locations, arrays["scores"])]
    shapes = torch.tensor(case.level_shapes, device=device)
    out = torch_op.MSDeformAttnFunction.apply(ours[0], shapes, None, ours[1], ours[2], 64)
    assert out.shape == (1, 21, 8 * 32)
    out.backward(arrays["out_grad"].flatten(2).to(device))

    theirs = [x.double().requires_grad_() for x in (arrays["value"], locations, arrays["scores"])]
    zeros = torch.zeros_like(arrays["reference"], dtype=torch.float64)
    expected = cases.torch_forward(case, theirs[0], theirs[1] * sizes_wh, theirs[2], zeros)
    expected.backward(arrays["out_grad"].double())
    torch.testing.assert_close(out.cpu().double(), expected.flatten(2), rtol=1e-5, atol=1e-5)
    for found, wanted in zip(ours, theirs, strict=True):
        scale = wanted.grad.abs().max().item()
        torch.testing.assert_close(found.grad.cpu().double(), wanted.grad, rtol=1e-4, atol=1e-5 * scale)


def test_torch_op_equals_grid_sample(emulation):
    _assert_torch_op_equals_grid_sample("cpu")


@pytest.mark.gpu
def test_torch_op_equals_grid_sample_on_a_gpu(gpu):
    _assert_torch_op_equals_grid_sample("cuda")


def test_torch_op_refuses_wrong_shapes(emulation):
    value, weights = torch.zeros(1, 4, 1, 4), torch.zeros(1, 2, 1, 1, 1)
    with pytest.raises(
        ValueError, match=r"sampling_locations: expected \(1, 2, 1, 1, 1, 2\).*found \(1, 3, 1, 1, 1, 2\)"
    ):
        torch_op.MSDeformAttnFunction.apply(value, [(2, 2)], None, torch.zeros(1, 3, 1, 1, 1, 2), weights, 64)


# ---- building -------------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_nvcc(tmp_path, monkeypatch):
    """A compiler that writes a line per build into a log and takes its time; `fail` makes it fail."""
    folder = tmp_path / "cuda" / "bin"
    folder.mkdir(parents=True)
    script = folder / "nvcc"
    log, fail = tmp_path / "builds", tmp_path / "fail"
    script.write_text(f"""#!/bin/sh
if [ "$1" = --version ]; then echo 1.0; exit; fi
echo "$@" >> {log}
sleep 0.2
if [ -e {fail} ]; then echo "msda.cuh(1): error: no"; exit 1; fi
while [ "$1" != -o ]; do shift; done
echo library > "$2"
""")
    script.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return log, fail


def test_processes_that_ask_at_once_build_once(fake_nvcc):
    log, _ = fake_nvcc
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(build.library_path([90]))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 1 and paths[0].read_text() == "library\n"
    assert len(log.read_text().splitlines()) == 1
    assert "arch=compute_90,code=sm_90" in log.read_text()
    assert build.library_path([80]) != paths[0]  # a library per set of architectures
    assert len(log.read_text().splitlines()) == 2


def test_a_failed_build_shows_what_the_compiler_said_and_leaves_nothing(fake_nvcc):
    _, fail = fake_nvcc
    fail.touch()
    with pytest.raises(build.BuildError, match=r"nvcc .*\n.*msda.cuh\(1\): error: no"):
        build.library_path([90])
    fail.unlink()
    assert build.library_path([90]).read_text() == "library\n"


def test_no_compiler_and_no_gpu_are_clear_errors(monkeypatch):
    monkeypatch.setattr(build, "find_nvcc", lambda: None)
    with pytest.raises(build.BuildError, match="nvcc is neither on the PATH nor in"):
        build.library_path([90])
    monkeypatch.setattr(build, "device_architectures", lambda: ())
    with pytest.raises(build.BuildError, match="no NVIDIA GPU here"):
        build.library_path()


@pytest.mark.slow
def test_the_library_builds(tmp_path, monkeypatch):
    """With the real compiler where there is one: all kernels and both interfaces."""
    if build.find_nvcc() is None:
        pytest.skip("needs CUDA's compiler nvcc")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-m", "kernels.ms_deform_attn.cuda.build", "--arch", "80"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    symbols = pathlib.Path(run.stdout.strip()).read_bytes()
    for name in (b"msda_load", b"msda_forward", b"msda_backward", b"msda_ffi_forward", b"msda_ffi_backward"):
        assert b"\0" + name + b"\0" in symbols


# ---- machine code ---------------------------------------------------------------------------------------------------

_ITEMS_PER_WARP = 8
# Instructions a warp may issue per item (query and head) and registers per thread, nvcc 13.0 for sm_90a; by the types
# of values and of offsets and scores. Some room is left: what grows beyond has become slower.
_CEILINGS = {
    "forward bfloat16 float32": (165, 64),
    "forward bfloat16 bfloat16": (166, 64),
    "forward float32 float32": (121, 80),
    "forward float32 bfloat16": (122, 80),
    "backward bfloat16 float32": (306, 80),
    "backward bfloat16 bfloat16": (308, 80),
    "backward float32 float32": (260, 128),
    "backward float32 bfloat16": (262, 128),
}


def _label(mangled: str) -> str:
    direction, types = re.fullmatch(r"_ZN4msda\d+(\w+)_kernelINS_10UsualShapeE(.*?)Li4E.*", mangled).groups()
    # "f" is float; Bfloat16 is spelled out once and then abbreviated.
    names = ["float32" if code == "f" else "bfloat16" for code in re.findall(r"f|NS_8Bfloat16E|S2_", types)]
    return f"{direction} {names[0]} {names[1]}"


@pytest.fixture(scope="module")
def compiled_usual_kernels(tmp_path_factory):
    """(cubin, resources by label) of the kernels for the usual sizes, on Hopper."""
    if build.find_nvcc() is None:
        pytest.skip("needs CUDA's compiler nvcc")
    cubin = tmp_path_factory.mktemp("cubin") / "usual.cubin"
    resources = cuda_tools.compile_cubin(cuda_tools.USUAL_KERNELS, "sm_90a", cubin)
    return cubin, {_label(name): found for name, found in resources.items()}


@pytest.mark.parametrize("label", _CEILINGS)
def test_registers_and_no_spills(compiled_usual_kernels, label):
    found = compiled_usual_kernels[1][label]
    assert found["registers"] <= _CEILINGS[label][1]
    assert found["stack"] == found["spill_stores"] == found["spill_loads"] == 0


@pytest.mark.parametrize("label", _CEILINGS)
def test_instructions(compiled_usual_kernels, label):
    if cuda_tools.find_cuobjdump() is None:
        pytest.skip("needs cuobjdump (CUDA toolkit, or pip install nvidia-cuda-cuobjdump)")
    kernels = cuda_tools.disassemble(compiled_usual_kernels[0])
    (instructions,) = [code for name, code in kernels.items() if _label(name) == label]
    names = {instruction.name for instruction in instructions}
    # Barriers, fences, results of atomics (compare-and-swap loops), shuffles in branches, local memory.
    for banned in ("BAR", "MEMBAR", "ATOM", "CCTL", "ENDCOLLECTIVE", "LDL", "STL"):
        assert not [name for name in names if name.startswith(banned)]
    counts = cuda_tools.executed(instructions, loop_trips=3)
    additions = {name: count for name, count in counts.items() if name.startswith("RED")}
    if label.startswith("backward"):  # 12 points, 4 cells, 2 additions of 4 channels a lane
        assert list(additions.values()) == [96] and "F32x4" in list(additions)[0]
    else:
        assert not additions
    assert sum(counts.values()) / _ITEMS_PER_WARP <= _CEILINGS[label][0]


@pytest.mark.slow
def test_all_kernels_for_ampere(tmp_path):
    """Without vector additions, and every general kernel: still no spills, fences or compare-and-swap loops."""
    if build.find_nvcc() is None:
        pytest.skip("needs CUDA's compiler nvcc")
    if cuda_tools.find_cuobjdump() is None:
        pytest.skip("needs cuobjdump (CUDA toolkit, or pip install nvidia-cuda-cuobjdump)")
    cubin = tmp_path / "all.cubin"
    resources = cuda_tools.compile_cubin(build.FOLDER / "api.cu", "sm_80", cubin)
    assert len(resources) == 32
    assert not [name for name, found in resources.items() if found["spill_stores"] or found["spill_loads"]]
    for instructions in cuda_tools.disassemble(cubin).values():
        names = {instruction.name for instruction in instructions}
        assert not [name for name in names if name.startswith(("MEMBAR", "ATOM", "BAR"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["microbench", "sanitize"])
def test_programs_for_the_gpu_compile(tmp_path, name):
    if build.find_nvcc() is None:
        pytest.skip("needs CUDA's compiler nvcc")
    source = pathlib.Path(__file__).parents[3] / "benchmarks" / "cuda" / f"{name}.cu"
    command = [build.find_nvcc(), "-std=c++17", "-arch=sm_90", "-I", str(build.FOLDER), str(source)]
    command += ["-o", str(tmp_path / name)]
    subprocess.run(command, check=True)
    found = subprocess.run([str(tmp_path / name)], capture_output=True, text=True)
    if not build.device_architectures():
        assert found.returncode == 1 and f"{name}: " in found.stderr  # no device: said so
