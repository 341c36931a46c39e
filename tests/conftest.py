"""Shared fixtures: where the parity data lies, and a CPU-only, quiet JAX."""

import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED = pathlib.Path(os.environ.get("TARVIS_SHARED_DIR", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared_dir() -> pathlib.Path:
    """Folder with parity files and sample videos; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the parity and sample data, not found at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """The parity cases: the full ones where the parity data is there, else the compact ones of this repository."""
    full = SHARED / "parity" / "golden"
    return full if full.is_dir() else ROOT / "tests" / "parity" / "reference"
