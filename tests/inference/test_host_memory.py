"""Whether freed memory really serves the next run, told by the pages that the system has to clear."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from tarvis_jax.inference.host_memory import reuse_freed_memory
assert reuse_freed_memory() if sys.argv[1] == "reuse" else True
def faults():
    np.ones(2**24).sum()  # 128 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults()
print(-faults() + faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_serves_again():
    runs = {
        mode: subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True).stdout
        for mode in ("default", "reuse")
    }
    assert int(runs["reuse"]) < 100 < int(runs["default"])
