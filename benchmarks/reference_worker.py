"""Runs the original TarViS (PyTorch) in a process of its own, for ratios of speed: no weights, no accuracy.

`model.py` starts it as `python reference_worker.py FOLDER ...`; the folder is what `prepare_peers.sh` makes. Protocol:
one line of JSON when the model is ready; then, for every line read from stdin, a line with the wall and the processor
seconds of one clip; and after stdin closes one with the peak of memory.
"""

import argparse
import importlib.abc
import importlib.machinery
import json
import os
import resource
import sys
import tempfile
import time
import types


class _AnyMember(type):
    """Classes of which every attribute exists, as its own name."""

    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Placeholder(types.ModuleType):
    """A module of which every attribute exists and is of no use: detectron2 and timm import torchvision, a ResNet
    needs none of it."""

    __path__: list[str] = []
    __version__ = "0.20.0"

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyMember(name, (), {})


class _PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision and all of its modules."""

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec):
        return _Placeholder(spec.name)

    def exec_module(self, module):
        pass


def _prepare_imports(folder: str, has_cuda_op: bool) -> None:
    """Puts the reference on the path and takes out what it wants at import and does not need for timing."""
    sys.path[:0] = [folder, os.path.join(folder, "site"), os.path.join(folder, "cuda_op")]
    os.environ.setdefault("TARVIS_WORKSPACE_DIR", tempfile.mkdtemp())
    if not has_cuda_op:
        # An op that is there by name only: calling it fails, and the reference falls back to grid_sample.
        sys.modules["MultiScaleDeformableAttention"] = types.ModuleType("MultiScaleDeformableAttention")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # absent, or built for another torch
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.meta_path.insert(0, _PlaceholderFinder())
    import detectron2.checkpoint

    class NoCheckpointer:
        """Loads nothing: speed does not depend on the weights."""

        def __init__(self, model):
            self.logger = types.SimpleNamespace(setLevel=lambda level: None)

        def resume_or_load(self, *args, **kwargs):
            return {}

    detectron2.checkpoint.DetectionCheckpointer = NoCheckpointer


def _build(dataset: str, backbone: str):
    """The reference's inference model in the published fine-tuning's configuration."""
    import torch
    from tarvis.config import cfg

    torch.manual_seed(0)
    folder = os.path.dirname(os.path.dirname(sys.modules["tarvis"].__path__[0] + "/"))
    cfg.merge_from_file(os.path.join(folder, "configs", "finetune_resnet50_swin-tiny.yaml"))
    cfg.MODEL.update_param("BACKBONE", backbone)
    from tarvis.inference.tarvis_inference_model import TarvisInferenceModel

    return TarvisInferenceModel(dataset).eval()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--autocast", choices=("none", "bfloat16", "float16"), default="none")
    args = parser.parse_args()

    out = sys.stdout
    sys.stdout = sys.stderr  # what the reference prints is no part of the protocol
    import torch

    torch.set_num_threads(args.threads)
    has_cuda_op = args.device == "cuda" and os.path.isdir(os.path.join(args.folder, "cuda_op"))
    _prepare_imports(args.folder, has_cuda_op)
    model = _build(args.dataset, args.backbone).to(args.device)
    images = 255 * torch.rand(1, args.frames, 3, args.height, args.width, device=args.device)

    @torch.inference_mode()
    def run() -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        with (
            torch.autocast(args.device, getattr(torch, args.autocast), enabled=True)
            if args.autocast != "none"
            else (torch.inference_mode())
        ):
            model(images)
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - wall, time.process_time() - processor

    run()
    num_parameters = sum(p.numel() for p in model.parameters())
    ready = {"torch": torch.__version__, "cuda_op": has_cuda_op, "parameters": num_parameters}
    print(json.dumps(ready), file=out, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": run()}), file=out, flush=True)
    peak = (
        torch.cuda.max_memory_allocated()
        if args.device == "cuda"
        else (1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    )
    print(json.dumps({"peak_bytes": peak}), file=out, flush=True)


if __name__ == "__main__":
    main()
