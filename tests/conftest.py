"""Shared fixtures: where the parity data lies, and a quiet JAX on the CPU whose programs do not pile up."""

import ctypes
import gc
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests compile much and compute little. This skips LLVM's optimizations, not XLA's own, and only on CPUs.
if os.environ["JAX_PLATFORMS"] == "cpu":
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path(os.environ.get("TARVIS_SHARED_DIR", ROOT.parent / "shared"))

# The files that take longest come first, so that no worker is left with one of them at the end (seconds on one core).
LONGEST_FIRST: tuple[str, ...] = ()


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """Folder with parity files and sample videos; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the parity and sample data, not found at {SHARED}")
    return SHARED


@pytest.fixture(scope="module", autouse=True)
def drop_what_a_module_compiled():
    """Compiled programs are kept by JAX for the life of the process: gigabytes over the whole suite."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.location[0], len(rank)))  # stable: the order within a file stays


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """The parity cases: the full ones where the parity data is there, else the compact ones of this repository."""
    full = SHARED / "parity" / "golden"
    return full if full.is_dir() else ROOT / "tests" / "parity" / "reference"
