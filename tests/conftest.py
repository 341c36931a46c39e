"""Shared fixtures: where the parity data lies, and a quiet JAX on the CPU whose programs do not pile up."""

import ctypes
import functools
import gc
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")  # commands under test leave the user's folder alone
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # see tests/xla_flags.py

import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path(os.environ.get("TARVIS_SHARED_DIR", ROOT.parent / "shared"))

# The files that take longest come first, so that no worker is left with one of them at the end.
LONGEST_FIRST = (
    "tests/rehearsal/test_training.py",
    "tests/parity/test_train_step.py",
    "tests/kernels/ms_deform_attn/test_pallas_tpu_aot.py",
    "tests/parity/test_backbone_cases.py",
    "tests/kernels/ms_deform_attn/test_pallas_triton.py",
    "tests/kernels/ms_deform_attn/test_pallas_tpu.py",
    "tests/rehearsal/test_migrating.py",
    "tests/rehearsal/test_inference.py",
    "tests/test_api.py",
    "tests/configs/test_configs.py",
    "tests/kernels/ms_deform_attn/test_cuda.py",
    "tests/train/test_resume.py",
    "tests/parallel/test_mesh.py",
    "tests/docs/test_tutorial.py",
    "tests/docs/test_own_data.py",
    "tests/docs/test_api.py",
    "tests/parity/test_e2e.py",
    "tests/parity/test_compact.py",
    "tests/model/backbones/test_peers.py",
    "tests/kernels/ms_deform_attn/test_plain_triton.py",
    "tests/train/test_compiled_ahead.py",
    "tests/model/test_tarvis.py",
)


# Files of programs that compute much; the others compile quickly instead (see tests/xla_flags.py).
COMPILED_FOR_SPEED = ("tests/parity/", "tests/parallel/", "tests/model/backbones/test_peers.py")


@pytest.fixture(scope="module", autouse=True)
def quick_programs(request):
    """What the tests compile for CPUs compiles faster, in most files."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["JAX_PLATFORMS"] == "cpu" and not request.node.nodeid.startswith(COMPILED_FOR_SPEED):
            from tests import xla_flags  # imports JAX, which reads the variables above

            xla_flags.compile_quickly(patch)
        yield


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """Folder with parity files and sample videos; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the parity and sample data, not found at {SHARED}")
    return SHARED


@pytest.fixture(scope="module", autouse=True)
def drop_what_a_module_keeps():
    """Compiled programs and cached arrays live as long as their process: gigabytes over the whole suite."""
    yield
    for name, module in list(sys.modules.items()):
        if name.startswith("tests."):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # pytest-xdist would put the files with the most tests first


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "long" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes many minutes: runs with `pytest -m long`"))
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.location[0], len(rank)))  # stable: the order within a file stays


@pytest.fixture
def programs_folder(tmp_path, monkeypatch):
    """Where programs are kept from one process to the next."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from tarvis_jax import lowered

    monkeypatch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)  # pytest's workers have none
    for name, module in list(sys.modules.items()):  # what earlier tests wrote, loaded and lost
        file = getattr(module, "__file__", None)
        if file and not os.path.exists(file):
            monkeypatch.delitem(sys.modules, name)
    lowered._code.cache_clear()
    changes = {"jax_enable_compilation_cache": True, "jax_compilation_cache_dir": str(tmp_path)}
    before = {name: getattr(jax.config, name) for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    code = lowered._code
    yield tmp_path
    code.cache_clear()
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """The parity cases: the full ones where the parity data is there, else the compact ones of this repository."""
    full = SHARED / "parity" / "golden"
    return full if full.is_dir() else ROOT / "tests" / "parity" / "reference"
