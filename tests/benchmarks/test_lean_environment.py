"""Nothing fails on a GPU machine for want of a package: what ours has beyond it is hidden in processes of their own."""

import os
import re
import subprocess
import sys

from tests import lean

HIDE = "import sys; sys.path.insert(0, '.'); from tests import lean; lean.hide_packages(); "
IMPORT_ALL = """
import importlib, pathlib
ONLY_WITH_THEIR_LIBRARY = "input_pipeline/shards/builder.py", "tarvis_jax/demo/page.py"
for folder in ("benchmarks", "configs", "input_pipeline", "kernels", "tarvis_jax"):
    for path in sorted(pathlib.Path(folder).rglob("*.py")):
        # The builder is a class of tensorflow-datasets, loaded only to prepare shards; the page needs Gradio.
        if path.stem != "__main__" and path.as_posix() not in ONLY_WITH_THEIR_LIBRARY:
            importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
importlib.import_module("main")
"""


def run(*command: str) -> str:
    process = subprocess.run(
        [sys.executable, "-P", *command],
        cwd=lean.ROOT,
        capture_output=True,
        text=True,
        # Plugins of pytest that the GPU machine lacks are not looked for.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )
    assert process.returncode == 0, (process.stdout + process.stderr)[-4000:]
    return process.stdout


def test_what_is_hidden():
    """Shards, TensorBoard files and video writing are not for a GPU machine; what runs there is not hidden."""
    hidden = lean.hidden_modules()
    assert {"av", "clu", "tensorflow"} <= set(hidden)
    assert not {"cv2", "flax", "jax", "ml_collections", "optax", "pycocotools", "pytest", "torch", "yaml"} & set(hidden)


def test_every_module_can_be_imported():
    run("-c", HIDE + IMPORT_ALL)


def test_the_gpu_tests_are_collected():
    """All test files are read for it, so that none imports what a GPU machine lacks."""
    script = (
        HIDE + "import pytest; sys.exit(pytest.main(['-q', '-m', 'gpu', '--collect-only', '-p', 'no:cacheprovider']))"
    )
    output = run("-c", script)
    assert int(re.search(r"^(\d+)/\d+ tests collected", output, re.MULTILINE)[1]) > 100
    for backend in ("test_cuda.py", "test_pallas_triton.py", "test_backends_agree.py"):
        assert f"/{backend}::" in output


def test_an_unknown_part_of_the_gpu_run():
    process = subprocess.run(
        ["benchmarks/run_gpu.sh", "--smoke", "kernel"], cwd=lean.ROOT, capture_output=True, text=True
    )
    assert process.returncode == 2
    assert "unknown part 'kernel'; parts: correct kernels clip train tests sanitizer" in process.stderr
