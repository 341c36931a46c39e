"""The benchmarks whose official scores are computed here, one module each (docs/evaluation.md).

A module of this folder reads the official files of its benchmark and offers two names:

    CASE = {"results": "results.json", "gt": "annotations.json"}

where the files lie in a folder that holds both, and

    def evaluate(results: pathlib.Path, gt: pathlib.Path) -> dict[str, Any]

which returns nested dictionaries that JSON can hold: "expected" has the published numbers and further keys the details
(per category, object, frame, ...). It raises ValueError for files that are absent or not as they should be, with the
file and the record in the message.

Nothing here needs JAX or the model, so the results of any program can be scored.
"""

import importlib
import types

# Name on the command line -> what it is.
BENCHMARKS = {
    "ytvis": "YouTube-VIS: track AP and AR",
    "ovis": "OVIS: track AP and AR, also by occlusion",
    "davis2017": "DAVIS 2017, objects given by mask: J&F",
    "burst": "BURST, objects given in one frame: HOTA, track AP",
    "kitti_step": "KITTI-STEP: STQ, AQ, SQ",
    "cityscapes_vps": "Cityscapes-VPS: VPQ",
    "vipseg": "VIPSeg: VPQ, STQ",
    "vspw": "Video semantic segmentation (VSPW): mIoU, VC8, VC16",
}


def benchmark(name: str) -> types.ModuleType:
    """The module of a benchmark.

    Raises:
      ValueError: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return importlib.import_module(f"{__name__}.{name}")
